"""Join datasets of the same settings into one.

    python3 scripts/merge_datasets.py a_dataset.pt b_dataset.pt --output_path ab_dataset.pt

Instances keep their order. `pretrain.py --dataset_path a_dataset.pt b_dataset.pt` trains on both without joining them.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from uer import cli
from uer.config import REQUIRED, flag
from uer.data.schema import INSTANCE
from uer.data.store import (
    FORMAT_VERSION,
    DatasetInfo,
    StreamedColumn,
    TokenDataset,
    check_ids,
    check_instances,
    open_dataset,
    write_dataset,
)
from uer.errors import UserError
from uer.text import amount

VALUES_AT_ONCE = 1 << 20
MUST_AGREE = ("processor", "seq_length", "lengths", "dynamic_masking", "dup_factor", "seed")


@dataclass(frozen=True)
class MergeConfig:
    """The datasets, and the output file."""

    dataset_path: tuple[str, ...] = flag(REQUIRED, "Datasets made by preprocess.py.", positional=True, path="read")
    output_path: str = flag(REQUIRED, "Where the joined dataset is written.", path="write")

    def problems(self) -> list[str]:
        return ["--dataset_path needs two datasets or more"] if len(self.dataset_path) < 2 else []


def main() -> None:
    (config,) = cli.parse(__doc__, (MergeConfig,))
    datasets = [open_dataset(path) for path in config.dataset_path]
    merge(datasets, config.output_path, shlex.join(["merge_datasets.py", *config.dataset_path]))
    print(f"{config.output_path}: {amount(sum(map(len, datasets)), 'instance')}, "
          f"{sum(dataset.tokens_num for dataset in datasets):,} tokens")


def merge(datasets: list[TokenDataset], output_path: str, command: str) -> None:
    """Write the instances of all datasets, in order, in a bounded amount of memory.

    Raises:
        UserError: the datasets' settings or columns differ; names the first difference.
    """
    first = datasets[0]
    for other in datasets[1:]:
        check_agreement(first, other)
    counts: Counter[str] = Counter()
    for dataset in datasets:
        counts.update(dataset.info.counts)
    instances = sum(map(len, datasets))
    columns = {name: joined(datasets, name) for name in first.columns}
    offsets = {axis: StreamedColumn(np.dtype(np.int64), instances + 1,
                                    shifted_offsets(datasets, axis))
               for axis in first.offsets}
    info = replace(first.info, format_version=FORMAT_VERSION, counts=dict(counts), command=command)
    write_dataset(output_path, info, columns, offsets)


def facts(info: DatasetInfo) -> dict[str, Any]:
    """What joined datasets must have in common, beside their columns."""
    vocabs = {f"{name} vocabulary {fact}": value for name, vocab in info.vocabs.items()
              for fact, value in asdict(vocab).items()}
    return {**{name: getattr(info, name) for name in MUST_AGREE}, **vocabs, **info.processor_settings}


def check_agreement(first: TokenDataset, other: TokenDataset) -> None:
    """Raise UserError where two datasets cannot be joined."""
    ours, theirs = facts(first.info), facts(other.info)
    for name in dict.fromkeys([*ours, *theirs]):
        if ours.get(name) != theirs.get(name):
            raise UserError(f"{other.path}: its {name} is {theirs.get(name)}, that of {first.path} is {ours.get(name)}")
    if first.info.schema != other.info.schema:
        raise UserError(f"{other.path}: its columns are {described(other)}, those of {first.path} are "
                        f"{described(first)}")


def described(dataset: TokenDataset) -> str:
    """The columns for a message: "split (uint16, instance), src (ids)"."""
    return ", ".join(f"{name} ({column.dtype}{', ' + column.axis if column.axis == INSTANCE else ''})"
                     for name, column in sorted(dataset.info.schema.items()))


def joined(datasets: list[TokenDataset], name: str) -> StreamedColumn:
    """A column of all datasets, one after another."""
    arrays = [dataset.columns[name] for dataset in datasets]
    return StreamedColumn(arrays[0].dtype, sum(map(len, arrays)), pieces(datasets, name))


def shifted_offsets(datasets: list[TokenDataset], axis: str) -> Iterator[np.ndarray]:
    """Offsets of the whole: each dataset's own, moved by the tokens before it.

    Raises:
        UserError: a dataset is damaged.
    """
    earlier = 0
    for dataset in datasets:
        for start in range(0, len(dataset), VALUES_AT_ONCE):
            offsets = dataset.offsets[axis][start:start + VALUES_AT_ONCE + 1]
            check_instances(dataset, axis, offsets)
            yield offsets[:-1] + earlier
        earlier += len(dataset.columns[axis])
    yield np.array([earlier], np.int64)


def pieces(datasets: list[TokenDataset], name: str) -> Iterator[np.ndarray]:
    """The memory-mapped columns in pieces that fit into memory.

    Raises:
        UserError: a dataset is damaged.
    """
    for dataset in datasets:
        for start in range(0, len(dataset.columns[name]), VALUES_AT_ONCE):
            piece = dataset.columns[name][start:start + VALUES_AT_ONCE]
            check_ids(dataset, name, piece)
            yield piece


if __name__ == "__main__":
    cli.run(main)
