"""Batches as a pure function of the update's number.

    loader.step(12)   -> this rank's micro-batches of update 12

Update s uses the samples s * G to (s + 1) * G - 1 of the run, with G = batch_size * world_size * accumulation_steps;
micro-batch m of rank r uses those from s * G + (m * world_size + r) * batch_size on. With 2 of each:

    update 0    rank 0   samples 0 1   and  4 5          update 1    rank 0   samples  8  9   and  12 13
                rank 1   samples 2 3   and  6 7                      rank 1   samples 10 11   and  14 15

Which instance of which dataset a sample is, and how it is masked, depends on the number of the sample and the seed
alone. So the number of ranks or micro-batches changes nothing, every rank has the same number of batches, and resuming
needs only the number of the update.

The micro-batches of several updates (a group) are made as one large batch, which is then cut, and the order of several
groups is computed together: tensor operations of the size of one micro-batch would mostly be overhead.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from uer.config import MaskingConfig
from uer.data.batch import Batch, Packing, Rows
from uer.data.hashing import hash_words
from uer.data.packing import SAMPLED, Needs, choose_sizes, measured, smallest
from uer.data.processors import PROCESSORS, Processor
from uer.data.row_fetcher import RowFetcher, open_fetchers, widened
from uer.data.samples import DEV_MASKS, TrainPart, deal, held_out_instances, mixture_slots, split_order
from uer.data.schema import INSTANCE, Column
from uer.data.store import DatasetInfo, TokenDataset
from uer.errors import UserError
from uer.registry import choose

POSITIONS_AT_ONCE = 1 << 16
SAMPLES_ORDERED_AT_ONCE = 1 << 14


class Loader:
    """The training batches of one rank.

    Args:
        datasets: open datasets with the same vocabulary, processor and sequence length.
        processor: of `open_processor`; its `batch` makes batches of rows.
        batch_size: rows of a micro-batch.
        accumulation_steps: micro-batches of an update.
        rank, world_size: the number of this process, and how many there are.
        seed: of the order, the mixture and dynamic masks.
        weights: sampling weight of each dataset; when empty, an epoch is every sample of every dataset once.
        dev_fraction: fraction of each dataset that is held out (see `EvaluationLoader`).
        device: where batches are made.
        dataset_device: where the datasets are: on the CPU, which maps the files, or on `device`, which holds a copy.
        fetchers: of `open_fetchers`, to share one copy with other loaders; they say where the datasets are.
        trim: remove the positions that are padding in all rows of a batch (for CPUs; CUDA graphs need static shapes).
        pack: give each batch a size without padding (`Batch.packing`), for static shapes; see `uer.data.packing`.
        document_start: id of the token that each document of a row begins with, where attention stays inside of
            documents.

    Attributes:
        samples_per_step: rows of an update, over all ranks.
        samples_per_epoch, tokens_per_epoch: of all datasets, each sample counted once.
        sizes: with `pack`, the sizes that batches without padding get; [] where packing saves nothing.

    Raises:
        UserError: a dataset that is copied was damaged after it was written, or more is held out than there is.
    """

    def __init__(self, datasets: Sequence[TokenDataset], processor: Processor, *,
                 batch_size: int, accumulation_steps: int = 1, rank: int = 0, world_size: int = 1, seed: int = 7,
                 weights: Sequence[float] = (), dev_fraction: float = 0.0, device: torch.device | str = "cpu",
                 dataset_device: torch.device | str = "cpu", fetchers: Mapping[Path, RowFetcher] | None = None,
                 trim: bool = False, pack: bool = False, document_start: int | None = None) -> None:
        self._rows = _RowMaker(datasets, processor, device, dataset_device, fetchers)
        self.batch_size, self.accumulation_steps = batch_size, accumulation_steps
        self.rank, self.world_size = rank, world_size
        self.seed, self.trim = seed, trim
        self.samples_per_step = batch_size * world_size * accumulation_steps
        self._parts = [TrainPart(dataset, number, seed, dev_fraction) for number, dataset in enumerate(datasets)]
        # Where the slots of each dataset begin in a round, and the end: of 3 and 4 samples [0, 3, 7].
        self._bounds = mixture_slots(weights) if weights else [0, *accumulate(part.samples for part in self._parts)]
        self.samples_per_epoch = sum(part.samples for part in self._parts)
        self.tokens_per_epoch = sum(part.tokens for part in self._parts)
        rows = batch_size * accumulation_steps
        # A group is `_steps_made` updates; the order of `_groups_ordered` groups is computed together.
        self._steps_made = max(1, POSITIONS_AT_ONCE // (rows * sum(processor.batch_lengths().values())))
        self._groups_ordered = max(1, SAMPLES_ORDERED_AT_ONCE // (rows * self._steps_made))
        self._ordered: tuple[int, tuple[Tensor, ...]] | None = None  # the last result of `_order`, and its number
        self._made: dict[int, _Group] = {}  # the last results of `_make` by the numbers of their groups
        self._document_start, self.sizes = document_start, []
        if pack:
            self.sizes = self._choose_sizes()

    def step(self, step: int) -> list[Batch]:
        """This rank's micro-batches of update `step`, counted from 0: views of a larger batch, not to be changed."""
        number, index = divmod(step, self._steps_made)  # the update is number `index` of its group
        group = self._group(number)
        first = index * self.accumulation_steps
        batches = [group.batch.rows(number * self.batch_size, (number + 1) * self.batch_size)
                   for number in range(first, first + self.accumulation_steps)]
        if self.sizes:
            needs = group.needs.read()[first:first + self.accumulation_steps]
            batches = [replace(batch, packing=smallest(self.sizes, need)) for batch, need in zip(batches, needs)]
        return [batch.trimmed() for batch in batches] if self.trim else batches

    def _group(self, number: int) -> "_Group":
        """A group of updates. Where batches are measured on a GPU the next group is made too, so that its measures have
        come to the host when they are needed."""
        wanted = [number, number + 1] if self.sizes and self._rows.device.type == "cuda" else [number]
        self._made = {each: self._made[each] if each in self._made else self._make(each) for each in wanted}
        return self._made[number]

    def _make(self, number: int) -> "_Group":
        """The rows of a group's updates, number * _steps_made and those that follow, as one batch."""
        block, index = divmod(number, self._groups_ordered)  # the group is number `index` of those ordered together
        if self._ordered is None or self._ordered[0] != block:
            self._ordered = (block, self._order(block * self._groups_ordered * self._steps_made))
        columns = self._ordered[1]
        size = len(columns[0]) // self._groups_ordered  # rows of a group
        batch = self._rows.batch(*(column[index * size:(index + 1) * size] for column in columns))
        return _Group(batch, Needs(measured(batch, self.batch_size, self._document_start)) if self.sizes else None)

    def _choose_sizes(self) -> list[Packing]:
        """The sizes of batches without padding, from the run's first micro-batches."""
        micro_batches = self._steps_made * self.accumulation_steps  # of a group
        groups = [self._make(number).batch for number in range(-(-SAMPLED // micro_batches))]
        sample = [need for batch in groups for need in measured(batch, self.batch_size, self._document_start).tolist()]
        return choose_sizes(sample, self.batch_size * groups[0].src.seg.shape[1])

    def _order(self, first_step: int) -> tuple[Tensor, ...]:
        """This rank's rows of the groups that begin with update `first_step`: dataset, instance, key and sample number.

        With batch_size, world_size and accumulation_steps 2, `first_step` 1, one update and rank 1:

            micro      2 3            numbers of the micro-batches
            starts     10 14          (micro * 2 + 1) * 2, the first sample of each
            samples    10 11 14 15

        Returns:
            four int64 tensors (R,); R is rows of an update in this process * _steps_made * _groups_ordered.
        """
        device = self._rows.dataset_device
        micro = first_step * self.accumulation_steps + torch.arange(
            self._groups_ordered * self._steps_made * self.accumulation_steps, device=device)
        starts = (micro * self.world_size + self.rank) * self.batch_size  # (micro-batches,)
        samples = (starts[:, None] + torch.arange(self.batch_size, device=device)).view(-1)
        dataset, number = deal(samples, self._bounds, self.seed)
        # Every dataset computes instances for all rows, of which its own are kept: shapes do not depend on the values.
        stored, keys = torch.zeros_like(samples), torch.zeros_like(samples)
        for index, part in enumerate(self._parts):
            mine = dataset == index
            part_stored, part_keys = part.instances(torch.where(mine, number, 0))
            stored, keys = torch.where(mine, part_stored, stored), torch.where(mine, part_keys, keys)
        return dataset, stored, keys, samples


@dataclass(frozen=True)
class _Group:
    """The micro-batches of several updates."""

    batch: Batch
    needs: Needs | None
    """Of each micro-batch, where their sizes are wanted."""


class EvaluationLoader:
    """A rank's part of the held-out instances, or of whole datasets, with masks that are always the same.

    Every instance is in one batch of one rank. Every rank has the same number of batches: rows that only fill the last
    batches have no labels (-100 everywhere).

    Args:
        datasets, processor, batch_size, rank, world_size, device, dataset_device, fetchers, trim: as for `Loader`.
        dev_fraction: evaluate what a `Loader` of the same fraction leaves out; 0 evaluates everything.
    """

    def __init__(self, datasets: Sequence[TokenDataset], processor: Processor, *,
                 batch_size: int, rank: int = 0, world_size: int = 1, dev_fraction: float = 0.0,
                 device: torch.device | str = "cpu", dataset_device: torch.device | str = "cpu",
                 fetchers: Mapping[Path, RowFetcher] | None = None, trim: bool = False) -> None:
        self._rows = _RowMaker(datasets, processor, device, dataset_device, fetchers)
        self._lengths = [len(dataset) for dataset in datasets]
        self._held_out = [held_out_instances(dataset, dev_fraction) if dev_fraction else len(dataset)
                          for dataset in datasets]
        self.instances = sum(self._held_out)
        self.batch_size, self.rank, self.world_size, self.trim = batch_size, rank, world_size, trim

    def __len__(self) -> int:
        """Batches of each rank."""
        return -(-self.instances // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[Batch]:
        """Yield this rank's batches."""
        for number in range(len(self)):
            batch = self._batch((number * self.world_size + self.rank) * self.batch_size)
            yield batch.trimmed() if self.trim else batch

    def _batch(self, first: int) -> Batch:
        """The batch of the held-out instances `first` to `first` + batch_size - 1, counted over all datasets."""
        samples = first + torch.arange(self.batch_size, device=self._rows.dataset_device)  # (B,), like all below
        filling = samples >= self.instances
        numbers = samples.clamp(max=self.instances - 1)
        dataset, stored, begin = torch.zeros_like(numbers), torch.zeros_like(numbers), 0
        for index, (length, held_out) in enumerate(zip(self._lengths, self._held_out)):
            mine = (numbers >= begin) & (numbers < begin + held_out)
            own_numbers = torch.where(mine, numbers - begin, 0)
            stored = torch.where(mine, split_order(own_numbers, length), stored)
            dataset = torch.where(mine, index, dataset)
            begin += held_out
        batch = self._rows.batch(dataset, stored, hash_words(DEV_MASKS, dataset, stored), samples)
        return batch.without(filling.to(batch.samples.device))


class _RowMaker:
    """Fetches instances of several datasets and lets the processor make a batch of them."""

    def __init__(self, datasets: Sequence[TokenDataset], processor: Processor, device: torch.device | str,
                 dataset_device: torch.device | str, fetchers: Mapping[Path, RowFetcher] | None) -> None:
        self.processor = processor
        self.schema = processor.schema()
        shared = fetchers or open_fetchers(datasets, list(self.schema), dataset_device)
        self.fetchers = [shared[dataset.path] for dataset in datasets]
        self.device, self.dataset_device = torch.device(device), self.fetchers[0].device

    def batch(self, dataset: Tensor, stored: Tensor, keys: Tensor, samples: Tensor) -> Batch:
        """A batch of R rows.

        Args:
            dataset, stored: (R,) int64, the dataset of each row and its instance there.
            keys, samples: (R,) int64, see `Rows`.
        """
        # All datasets are asked for R rows, of which their own are kept: shapes do not depend on the mixture.
        columns, lengths = self.fetchers[0].fetch(torch.where(dataset == 0, stored, 0))
        for number, fetcher in enumerate(self.fetchers[1:], start=1):
            mine = dataset == number
            others, other_lengths = fetcher.fetch(torch.where(mine, stored, 0))
            columns = {name: torch.where(mine if rows.dim() == 1 else mine[:, None], others[name], rows)
                       for name, rows in columns.items()}
            lengths = {axis: torch.where(mine, other_lengths[axis], here) for axis, here in lengths.items()}
        rows = Rows({name: self._widened(name, self._moved(column)) for name, column in columns.items()},
                    {axis: self._moved(here) for axis, here in lengths.items()}, self._moved(keys),
                    self._moved(samples))
        return self.processor.batch(rows)

    def _widened(self, name: str, column: Tensor) -> Tensor:
        """Token ids and values per instance as int64; other values per token keep their small type."""
        declared = self.schema[name]
        return widened(column) if declared.dtype == "ids" or declared.axis == INSTANCE else column

    def _moved(self, tensor: Tensor) -> Tensor:
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)


def _check_columns(dataset: TokenDataset, schema: Mapping[str, Column]) -> None:
    for name in schema:
        if name not in dataset.columns:
            raise UserError(f"{dataset.path}: --whole_word_masking needs a dataset that preprocess.py made with "
                            "--whole_word_masking" if name == "word_start" else
                            f"{dataset.path}: the dataset has no column {name}; run preprocess.py again")


def open_processor(datasets: Sequence[TokenDataset], masking: MaskingConfig) -> Processor:
    """The processor that the datasets were made with.

    Args:
        datasets: open datasets.
        masking: the masking of datasets with dynamic masks; those with static masks contain their settings.

    Raises:
        UserError: a dataset is empty or has no word starts for whole-word masking, or the datasets differ in what a
            batch is made of.
    """
    info = _common_info(datasets)
    kind = choose(PROCESSORS, info.processor, f"{datasets[0].path}: processor")
    configs = [_processor_config(dataset, kind, masking) for dataset in datasets]
    for dataset, config in zip(datasets, configs):
        if masking_of(config) != masking_of(configs[0]):
            raise UserError(f"{dataset.path}: its masks are made otherwise than those of {datasets[0].path}: "
                            f"{masking_of(config)}")
    processor = kind(info.seq_length, configs[0], info.vocabs)
    if processor.lengths() != info.lengths:
        raise UserError(f"{datasets[0].path}: the dataset's metadata is damaged (rows of {info.lengths} tokens, but "
                        f"seq_length is {info.seq_length}); run preprocess.py again")
    for dataset in datasets:
        _check_columns(dataset, processor.schema())
    return processor


def _common_info(datasets: Sequence[TokenDataset]) -> DatasetInfo:
    first = datasets[0]
    for dataset in datasets:
        if not len(dataset):
            raise UserError(f"{dataset.path}: the dataset has no instances")
        for name, ours in _shared_facts(first.info).items():
            theirs = _shared_facts(dataset.info).get(name)
            if ours != theirs:
                raise UserError(f"{dataset.path}: its {name} ({theirs}) differs from that of {first.path} ({ours})")
    return first.info


def _shared_facts(info: DatasetInfo) -> dict[str, Any]:
    """What datasets must have in common to be mixed."""
    return {"processor": info.processor, "seq_length": info.seq_length, "lengths": info.lengths,
            **{f"vocabulary {name}": (vocab.fingerprint, vocab.size, vocab.special_ids)
               for name, vocab in info.vocabs.items()}}


def _processor_config(dataset: TokenDataset, kind: type[Processor], masking: MaskingConfig) -> Any:
    """The processor's own settings; for dynamic masks with this run's masking."""
    info = dataset.info
    try:
        config = kind.config_class(**info.processor_settings)
        problems = config.problems() if hasattr(config, "problems") else []
    except TypeError as error:
        problems = [str(error)]
    if problems:
        raise UserError(f"{dataset.path}: the dataset's metadata is damaged ({'; '.join(problems)}); run preprocess.py "
                        "again")
    if isinstance(config, MaskingConfig) and info.dynamic_masking:
        config = replace(config, **{known.name: getattr(masking, known.name) for known in fields(MaskingConfig)})
    return config


def masking_of(config: Any) -> MaskingConfig | None:
    """The masking part of a processor's settings; None for a processor without masks."""
    if not isinstance(config, MaskingConfig):
        return None
    return MaskingConfig(**{known.name: getattr(config, known.name) for known in fields(MaskingConfig)})
