"""Speed of making masked batches on one core, compared with transformers' DataCollatorForLanguageModeling.

    python3 scripts/benchmark_loader.py
    python3 scripts/benchmark_loader.py --dataset_path dataset.pt --batch_size 32

Both run in this process on the same rows, alternately (A B A B). The results are medians of wall time and of CPU time;
CPU time is more reliable when other programs use the same cores. The collator gets its rows as lists in memory with
`special_tokens_mask` computed beforehand, which is the fastest way to use it; ours reads them from the memory-mapped
file in epoch order. Then it measures the time from opening a dataset to its first batch in a new process, without
imports, for a small and a large file. Prints tables, then one JSON line for each result.
"""

import dataclasses
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")  # before the imports
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _ranges import outside

from uer import cli
from uer.config import MaskingConfig, flag
from uer.data.loader import Loader, open_processor
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, TokenDataset, open_dataset, save_dataset

SPECIAL_IDS = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
VOCAB_SIZE = 21128


@dataclass(frozen=True)
class BenchmarkConfig:
    """The data, and the number of measurements."""

    dataset_path: str | None = flag(None, "A dynamically masked mlm dataset; random rows are made when there is none.",
                                    path="read")
    seq_length: int = flag(128, "Length of the rows that are made; 60% of them are full.")
    batch_size: int = flag(64, "Rows of a batch.")
    rounds: int = flag(5, "Number of measurements of each side.")
    small_rows: int = flag(20_000, "Rows of the small file.")
    large_rows: int = flag(1_000_000, "Rows of the large file.")

    def problems(self) -> list[str]:
        return outside(self, seq_length=(4, 1 << 16), batch_size=(1, 1 << 16), rounds=(1, 1000),
                       small_rows=(1, 10**9), large_rows=(1, 10**9))


def main() -> None:
    (config,) = cli.parse(__doc__, (BenchmarkConfig,))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        small = write_random(Path(folder) / "small.pt", config.small_rows, config.seq_length)
        large = write_random(Path(folder) / "large.pt", config.large_rows, config.seq_length)
        dataset = open_dataset(config.dataset_path or small)
        print(f"{len(dataset):,} rows of at most {dataset.info.seq_length}, batches of {config.batch_size}; "
              f"one core of {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
              f"torch {torch.__version__}, numpy {np.__version__}, {collator_version()}\n")
        report_rates(timed(sides(dataset, config), config.rounds))
        report_first_batches({path: [first_batch(path, config.batch_size) for _ in range(config.rounds)]
                              for path in (small, large)})


def write_random(path: Path, rows: int, seq_length: int) -> Path:
    """A dataset of random rows with [CLS], [SEP] and word starts."""
    generator = np.random.default_rng(7)
    lengths = np.where(generator.random(rows) < 0.6, seq_length, generator.integers(3, seq_length + 1, rows))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = generator.integers(200, VOCAB_SIZE, offsets[-1], dtype=np.uint16)
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = SPECIAL_IDS["cls"], SPECIAL_IDS["sep"]
    word_start = generator.integers(0, 5, len(tokens), dtype=np.uint8) < 3
    info = DatasetInfo(FORMAT_VERSION, "mlm", seq_length, {"src": Column(), "word_start": Column(dtype="uint8")},
                       {"src": seq_length}, {"src": VocabInfo("", VOCAB_SIZE, SPECIAL_IDS)},
                       dataclasses.asdict(MlmConfig()), dynamic_masking=True)
    save_dataset(path, info, {"src": tokens, "word_start": word_start}, {"src": offsets})
    return path


def sides(dataset: TokenDataset, config: BenchmarkConfig) -> dict[str, tuple[Callable[[], object], int]]:
    """What is timed: a call, and how many batches it makes."""
    settings = {"tokens": MaskingConfig(), "spans": MaskingConfig(span_masking=True),
                "whole words": MaskingConfig(whole_word_masking=True)}
    if "word_start" not in dataset.columns:
        del settings["whole words"]
    work: dict[str, tuple[Callable[[], object], int]] = {}
    for name, masking in settings.items():
        loader = Loader([dataset], open_processor([dataset], masking), batch_size=config.batch_size)
        steps = itertools.count()
        work[f"uer, {name}"] = (lambda loader=loader, steps=steps: advance(loader, steps), 256)
    collated = collator_batches(dataset, config.batch_size)
    work["transformers' collator"] = (lambda: [next(collated) for _ in range(16)], 16)
    return work


def advance(loader: Loader, steps: Iterator[int]) -> None:
    for step in itertools.islice(steps, 256):
        loader.step(step)


def collator_version() -> str:
    import transformers  # slow to import, and not needed where the time to the first batch is taken

    return f"transformers {transformers.__version__}"


def collator_batches(dataset: TokenDataset, batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of the first rows of the dataset, again and again."""
    import tokenizers
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    ids = dataset.info.vocab.special_ids
    names = {ids["pad"]: "[PAD]", ids["unk"]: "[UNK]", ids["cls"]: "[CLS]", ids["sep"]: "[SEP]", ids["mask"]: "[MASK]"}
    vocab = {names.get(number, f"entry{number}"): number for number in range(dataset.info.vocab.size)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]")), unk_token="[UNK]",
        pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    rows = [{"input_ids": (row := dataset[number]).tolist(),
             "special_tokens_mask": np.isin(row, (ids["cls"], ids["sep"])).astype(int).tolist()}
            for number in range(min(len(dataset), 64 * batch_size))]
    for first in itertools.cycle(range(0, max(1, len(rows) - batch_size + 1), batch_size)):
        yield collator([dict(row) for row in rows[first:first + batch_size]])


def timed(work: dict[str, tuple[Callable[[], object], int]], rounds: int) -> dict[str, tuple[float, float]]:
    """Batches a second of wall time and of CPU time; each side is measured once in each round."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for round_number in range(rounds + 1):
        for name, (call, batches) in work.items():
            clock, busy = time.perf_counter(), time.process_time()
            call()
            if round_number:  # the first round warms up
                seconds[name].append(((time.perf_counter() - clock) / batches, (time.process_time() - busy) / batches))
    return {name: tuple(1 / statistics.median(column) for column in zip(*pairs)) for name, pairs in seconds.items()}


def first_batch(path: Path, batch_size: int) -> float:
    """Seconds from opening a dataset to its first batch, in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_first_batch, (str(path), batch_size))


def _first_batch(path: str, batch_size: int) -> float:
    torch.set_num_threads(1)
    start = time.perf_counter()
    datasets = [open_dataset(path)]
    Loader(datasets, open_processor(datasets, MaskingConfig()), batch_size=batch_size).step(0)
    return time.perf_counter() - start


def report_rates(rates: dict[str, tuple[float, float]]) -> None:
    base_clock, base_busy = rates["transformers' collator"]
    print(f"{'side':<26}{'batches/s':>12}{'ratio':>8}{'per CPU second':>18}{'ratio':>8}")
    figures = []
    for name, (clock, busy) in rates.items():
        print(f"{name:<26}{clock:>12,.0f}{clock / base_clock:>8.1f}{busy:>18,.0f}{busy / base_busy:>8.1f}")
        figures.append({"benchmark": "loader", "side": name, "batches_per_second": round(clock, 1),
                        "ratio_to_transformers": round(clock / base_clock, 2),
                        "batches_per_cpu_second": round(busy, 1), "cpu_ratio": round(busy / base_busy, 2)})
    print()
    for figure in figures:
        print(json.dumps(figure))


def report_first_batches(seconds: dict[Path, list[float]]) -> None:
    print(f"\n{'file, MB':<26}{'first batch, ms':>16}")
    figures = []
    for path, values in seconds.items():
        size, middle = path.stat().st_size / 1e6, statistics.median(values)
        print(f"{size:<26.1f}{1000 * middle:>16.1f}")
        figures.append({"benchmark": "first_batch", "file_mb": round(size, 1), "ms": round(1000 * middle, 1)})
    print()
    for figure in figures:
        print(json.dumps(figure))


if __name__ == "__main__":
    cli.run(main)
