"""Fetches stored instances as rows of tensors, from the mapped file or from a copy on the GPU.

    column src        2 7 8 3 | 2 9 3 | 2 5 6 3          three instances, which begin at 0, 4 and 7
    fetch([2, 1])     2 5 6 3                            rows of S = 4; behind an instance comes what follows it in the
                      2 9 3 2                            file, which the processor replaces by padding
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uer.data.packed_offsets import Offsets
from uer.data.schema import INSTANCE
from uer.data.store import TokenDataset
from uer.errors import UserError

CHECKED_AT_ONCE = 1 << 20  # instances or tokens
# torch has few kernels for unsigned types, so columns are read in the signed type of the same size (see `widened`).
SIGNED = {"uint8": np.uint8, "uint16": np.int16, "uint32": np.int32}


class RowFetcher:
    """Fetches whole instances of one dataset.

    On the CPU rows are copied from the mapped file. On another device the columns are copied there once, and rows are
    gathered on the device. Loaders of one dataset can share a fetcher (see `open_fetchers`).

    Args:
        dataset: an open dataset.
        columns: names of the columns to fetch; those that the dataset does not have are left out.
        device: where the rows are made.
        mapped: read rows from the file; by default so on the CPU.

    Attributes:
        device: where the rows are made.

    Raises:
        UserError: the file was damaged after it was written. With `mapped` only the rows that are fetched are checked,
            so that opening a dataset takes no time; a copied dataset is checked as a whole.
    """

    def __init__(self, dataset: TokenDataset, columns: Sequence[str], device: torch.device,
                 mapped: bool | None = None) -> None:
        self.dataset, self.device = dataset, device
        self.mapped = device.type == "cpu" if mapped is None else mapped
        self.lengths = dataset.info.lengths
        self.axes = {name: dataset.info.schema[name].axis for name in columns if name in dataset.info.schema}
        self._begins = {axis: _Begins(offsets, device) for axis, offsets in dataset.offsets.items()}
        self.columns = {name: _tensor(dataset.columns[name]) for name in self.axes}
        if not self.mapped:
            self.columns = {name: _copied(column, device, self.lengths.get(self.axes[name], 0))
                            for name, column in self.columns.items()}
            self._check_copy()

    def fetch(self, instances: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Fetch rows.

        Args:
            instances: (R,) int64, from 0 to len(dataset) - 1.

        Returns:
            columns: by name, (R, S) for a value per token, S the most tokens of an instance on the column's axis, with
                arbitrary values behind a row's length; (R,) for a value per instance. Unsigned columns have the signed
                type of their size (see `widened`).
            lengths: for each axis, (R,) int64.
        """
        starts = {axis: begins[instances] for axis, begins in self._begins.items()}  # (R,) offsets in the column
        stops = {axis: begins[instances + 1] for axis, begins in self._begins.items()}
        if self.mapped:
            for axis in starts:
                _check_bounds(self.dataset, axis, starts[axis], stops[axis])
        rows = {name: column[instances] if self.axes[name] == INSTANCE
                else self._rows(column, starts[self.axes[name]], self.lengths[self.axes[name]])
                for name, column in self.columns.items()}
        if self.mapped:
            for name, column in rows.items():
                _check_ids(self.dataset, name, column)
        return rows, {axis: stops[axis] - starts[axis] for axis in starts}

    def _check_copy(self) -> None:
        """Check every offset and every token id of the copy, on its device: the file is read once."""
        for axis, begins in self._begins.items():
            for instances in torch.arange(len(self.dataset), device=self.device).split(CHECKED_AT_ONCE):
                _check_bounds(self.dataset, axis, begins[instances], begins[instances + 1])
        for name, column in self.columns.items():
            for tokens in column.split(CHECKED_AT_ONCE):
                _check_ids(self.dataset, name, tokens)

    def _rows(self, column: Tensor, starts: Tensor, length: int) -> Tensor:
        """The `length` values from each start on: column (N,), starts (R,) -> (R, length)."""
        # `unfold` is a view (N - length + 1, length) whose row i is column[i:i + length]; its selected rows are copied.
        if not self.mapped:  # the copy has `length` zeros at its end
            return column.unfold(0, length, 1).index_select(0, starts)
        last = len(column) - length  # the last start of a whole row
        if last < 0:
            return _one_by_one(column, starts, length)
        rows = column.unfold(0, length, 1).index_select(0, starts.clamp(max=last))
        at_the_end = (starts > last).nonzero().squeeze(1)
        if len(at_the_end):
            rows[at_the_end] = _one_by_one(column, starts[at_the_end], length)
        return rows


class _Begins:
    """The offsets of `uer.data.packed_offsets` as tensors on a device: (R,) instances -> (R,) int64 offsets."""

    def __init__(self, offsets: Offsets, device: torch.device) -> None:
        self.shift = offsets.shift
        self.block_starts = _tensor(offsets.block_starts).to(device)
        self.starts = _tensor(offsets.starts).to(device)

    def __getitem__(self, instances: Tensor) -> Tensor:
        return self.block_starts[instances >> self.shift] + widened(self.starts[instances])


def open_fetchers(datasets: Sequence[TokenDataset], columns: Sequence[str], device: torch.device | str,
                  mapped: bool | None = None) -> dict[Path, RowFetcher]:
    """A fetcher for each file: loaders that are given them share one copy of the datasets.

    Args:
        datasets, columns, device, mapped: see `RowFetcher`. Datasets of one path are the same.
    """
    return {path: RowFetcher(dataset, columns, torch.device(device), mapped)
            for path, dataset in {dataset.path: dataset for dataset in datasets}.items()}


def copied_bytes(datasets: Sequence[TokenDataset], columns: Sequence[str]) -> int:
    """Bytes that `open_fetchers` copies to a device: columns and offsets, each file's once."""
    total = 0
    for dataset in {dataset.path: dataset for dataset in datasets}.values():
        total += sum(offsets.nbytes for offsets in dataset.offsets.values())
        for name in set(columns).intersection(dataset.info.schema):
            behind = dataset.info.lengths.get(dataset.info.schema[name].axis, 0)  # zeros, see `_copied`
            total += (len(dataset.columns[name]) + behind) * dataset.columns[name].itemsize
    return total


def _one_by_one(column: Tensor, starts: Tensor, length: int) -> Tensor:
    """As `RowFetcher._rows`, for rows that may reach beyond the end of the column: its last value is repeated there."""
    return column[(starts[:, None] + torch.arange(length)).clamp(max=len(column) - 1)]


def _check_bounds(dataset: TokenDataset, axis: str, starts: Tensor, stops: Tensor) -> None:
    lengths = stops - starts  # (R,)
    if starts.min() < 0 or stops.max() > len(dataset.columns[axis]) or lengths.min() < 1 or (
            lengths.max() > dataset.info.lengths[axis]):
        raise UserError(f"{dataset.path}: the dataset is damaged: an instance begins or ends where none can; run "
                        "preprocess.py again")


def _check_ids(dataset: TokenDataset, name: str, tokens: Tensor) -> None:
    """Raise UserError if an id is not in the vocabulary. `tokens` have the signed type of their size, in which ids from
    the half of the range on are negative."""
    column = dataset.info.schema[name]
    if column.dtype != "ids":
        return
    size = dataset.info.vocabs[column.vocab].size
    low, high = (int(value) for value in tokens.aminmax())
    largest = int(widened(tokens[tokens < 0]).max()) if low < 0 else high
    if largest >= size:
        raise UserError(f"{dataset.path}: the dataset is damaged: token id {largest} in a vocabulary of "
                        f"{size} entries; run preprocess.py again")


def widened(tokens: Tensor) -> Tensor:
    """Unsigned values that were read in the signed type of their size, as int64 of the same shape.

    >>> widened(torch.tensor([5, -1, -32768], dtype=torch.int16)).tolist()
    [5, 65535, 32768]
    """
    bits = 8 * tokens.element_size()
    return tokens.to(torch.int64).bitwise_and_((1 << bits) - 1)


def _copied(column: Tensor, device: torch.device, more: int) -> Tensor:
    """A mapped column on a device, with `more` zeros behind it. The host holds no copy of the column."""
    copy = torch.zeros(len(column) + more, dtype=column.dtype, device=device)
    copy[:len(column)] = column
    return copy


def _tensor(array: np.ndarray) -> Tensor:
    with warnings.catch_warnings():  # torch warns of writing to a read-only file; nothing here writes
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array.view(SIGNED.get(array.dtype.name, array.dtype)))
