"""Stored instances as rows of tensors, from the mapped file or from a copy on the GPU."""

import warnings

import numpy as np
import torch
from torch import Tensor

from uer.data.store import TokenDataset
from uer.errors import UserError

INSTANCES_CHECKED_AT_ONCE = 1 << 20
SIGNED = {"uint8": np.uint8, "uint16": np.int16, "uint32": np.int32}


class TokenRows:
    """Fetches whole instances of one dataset.

    On the CPU rows are copied straight out of the mapped file; on another device the columns are loaded once and rows
    are gathered there, without the host.

    Args:
        dataset: an open dataset.
        columns: names of the columns to fetch besides the tokens; one value a token each.
        seq_length: S.
        device: where the rows are made.
        mapped: whether rows come out of the file; by default on the CPU.

    Raises:
        UserError: the file was damaged after it was written. On the CPU this is noticed when a damaged row is fetched,
            so that opening a dataset stays cheap; what is copied is checked as a whole.
    """

    def __init__(self, dataset: TokenDataset, columns: tuple[str, ...], seq_length: int, device: torch.device,
                 mapped: bool | None = None) -> None:
        self.dataset = dataset
        self.seq_length = seq_length
        self.mapped = device.type == "cpu" if mapped is None else mapped
        self.shift = dataset.offsets.shift
        self.block_starts = _tensor(dataset.offsets.block_starts).to(device)
        self.starts = _tensor(dataset.offsets.starts).to(device)
        if not self.mapped:
            _check_content(dataset)
        arrays = {"tokens": dataset.tokens, **{name: dataset.columns[name] for name in columns}}
        self.columns = {name: _tensor(array) if self.mapped else _copied(_tensor(array), device, seq_length)
                        for name, array in arrays.items()}

    def fetch(self, instances: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Fetch rows.

        Args:
            instances: (R,) int64.

        Returns:
            each column as (R, S), with whatever follows in the file behind a row's length, and the lengths (R,).
            Unsigned columns come in the signed type of their size: torch's kernels are made for these.
        """
        starts = self._offsets(instances)
        stops = self._offsets(instances + 1)
        if self.mapped:
            _check_bounds(self.dataset, starts.numpy(), stops.numpy())
        rows = {name: self._rows(column, starts) for name, column in self.columns.items()}
        if self.mapped:
            _check_ids(self.dataset, rows["tokens"])
        return rows, stops - starts

    def _offsets(self, instances: Tensor) -> Tensor:
        """Where instances begin; see `uer.data.packed_offsets` for how this is stored."""
        return self.block_starts[instances >> self.shift] + widened(self.starts[instances])

    def _rows(self, column: Tensor, starts: Tensor) -> Tensor:
        if not self.mapped:
            return column.unfold(0, self.seq_length, 1).index_select(0, starts)
        last = len(column) - self.seq_length
        if last < 0:
            return self._one_by_one(column, starts)
        rows = column.unfold(0, self.seq_length, 1).index_select(0, starts.clamp(max=last))
        at_the_end = (starts > last).nonzero().squeeze(1)
        if len(at_the_end):
            rows[at_the_end] = self._one_by_one(column, starts[at_the_end])
        return rows

    def _one_by_one(self, column: Tensor, starts: Tensor) -> Tensor:
        """Rows that may reach beyond the end of the column: its last value stands for what is not there."""
        return column[(starts[:, None] + torch.arange(self.seq_length)).clamp(max=len(column) - 1)]


def _check_content(dataset: TokenDataset) -> None:
    """Look at every offset and every token id of a dataset."""
    for first in range(0, len(dataset), INSTANCES_CHECKED_AT_ONCE):
        offsets = dataset.offsets[first:first + INSTANCES_CHECKED_AT_ONCE + 1]
        _check_bounds(dataset, offsets[:-1], offsets[1:])
        _check_ids(dataset, _tensor(dataset.tokens[offsets[0]:offsets[-1]]))


def _check_bounds(dataset: TokenDataset, starts: np.ndarray, stops: np.ndarray) -> None:
    lengths = stops - starts
    if starts.min() < 0 or stops.max() > len(dataset.tokens) or lengths.min() < 1 or (
            lengths.max() > dataset.info.seq_length):
        raise UserError(f"{dataset.path}: the dataset is damaged: an instance begins or ends where none can; run "
                        "preprocess.py again")


def _check_ids(dataset: TokenDataset, tokens: Tensor) -> None:
    """`tokens` come in the signed type of their size: ids from half of its range on are negative there."""
    low, high = (int(value) for value in tokens.aminmax())
    largest = int(widened(tokens[tokens < 0]).max()) if low < 0 else high
    if largest >= dataset.info.vocab_size:
        raise UserError(f"{dataset.path}: the dataset is damaged: token id {largest} in a vocabulary of "
                        f"{dataset.info.vocab_size} entries; run preprocess.py again")


def widened(tokens: Tensor) -> Tensor:
    """Token ids as int64: an id of 65535, -1 in the signed type of its size, becomes 65535 again."""
    bits = 8 * tokens.element_size()
    return tokens.to(torch.int64).bitwise_and_((1 << bits) - 1)


def _copied(column: Tensor, device: torch.device, more: int) -> Tensor:
    """A mapped column on a device, with `more` zeros behind it; the host never holds a copy of the whole."""
    copy = torch.zeros(len(column) + more, dtype=column.dtype, device=device)
    copy[:len(column)] = column
    return copy


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():  # torch warns of writing to a read-only file; nothing here writes
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array.view(SIGNED.get(array.dtype.name, array.dtype)))
