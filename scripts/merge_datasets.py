"""Join datasets of the same settings into one.

    python3 scripts/merge_datasets.py a_dataset.pt b_dataset.pt --output_path ab_dataset.pt

Instances keep their order. `pretrain.py --dataset_path a_dataset.pt b_dataset.pt` trains on both without joining them.
"""

import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from uer import cli
from uer.config import REQUIRED, flag
from uer.data.store import Column, TokenDataset, open_dataset, write_dataset
from uer.errors import UserError

VALUES_AT_ONCE = 1 << 20
MUST_AGREE = ("processor", "seq_length", "vocab_fingerprint", "vocab_size", "tokenizer", "special_ids",
              "dynamic_masking", "dup_factor", "seed", "masking")


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
    print(f"{config.output_path}: {sum(map(len, datasets)):,} instances, "
          f"{sum(len(dataset.tokens) for dataset in datasets):,} tokens")


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
    columns = {"tokens": joined([dataset.tokens for dataset in datasets]),
               "offsets": Column(np.dtype(np.int64), sum(map(len, datasets)) + 1, shifted_offsets(datasets))}
    for name in first.columns:
        columns[name] = joined([dataset.columns[name] for dataset in datasets])
    write_dataset(output_path, replace(first.info, counts=dict(counts), command=command), columns)


def check_agreement(first: TokenDataset, other: TokenDataset) -> None:
    """Raise UserError where two datasets cannot be joined."""
    for name in MUST_AGREE:
        ours, theirs = getattr(first.info, name), getattr(other.info, name)
        if ours != theirs:
            raise UserError(f"{other.path}: its {name} is {theirs}, that of {first.path} is {ours}")
    if set(first.columns) != set(other.columns):
        raise UserError(f"{other.path}: its columns are {sorted(other.columns) or 'none'}, "
                        f"those of {first.path} are {sorted(first.columns) or 'none'}")


def joined(arrays: list[np.ndarray]) -> Column:
    """The concatenation of columns."""
    return Column(arrays[0].dtype, sum(map(len, arrays)), (piece for array in arrays for piece in pieces(array)))


def shifted_offsets(datasets: list[TokenDataset]) -> Iterator[np.ndarray]:
    """Offsets of the merged dataset: each dataset's offsets plus the number of tokens before it."""
    earlier = 0
    for dataset in datasets:
        for start in range(0, len(dataset), VALUES_AT_ONCE):
            yield dataset.offsets[start:min(start + VALUES_AT_ONCE, len(dataset))] + earlier
        earlier += len(dataset.tokens)
    yield np.array([earlier], np.int64)


def pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    """A memory-mapped column in pieces that fit into memory."""
    for start in range(0, len(array), VALUES_AT_ONCE):
        yield array[start:start + VALUES_AT_ONCE]


if __name__ == "__main__":
    cli.run(main)
