"""Speed of BERT tokenization on one core, compared with `tokenizers`, Hugging Face's Rust library, on the same text.

    python3 scripts/benchmark_tokenizer.py --corpus_path corpus.txt --vocab_path models/google_zh_vocab.txt

Both run in this process alternately (A B A B). The results are medians of wall time and of CPU time;
other programs on the machine change CPU time less. Ours is also timed without its cache of words ("cold": a new
tokenizer, as at the start of a command). Prints a table, then one JSON line for each result.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

os.environ.update(RAYON_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")  # before the imports
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import tokenizers
from _ranges import outside

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.reading import read_bytes
from uer.tokenizers import BertTokenizer, Vocab
from uer.tokenizers.fetch import ensure_vocab


@dataclass(frozen=True)
class BenchmarkConfig:
    """The text, and the number of measurements."""

    corpus_path: str = flag(REQUIRED, "A text file in UTF-8.", path="read")
    vocab_path: str = flag("models/google_zh_vocab.txt", "Vocabulary file.", path="read")
    do_lower_case: bool = flag(True, "Lower-case the text and strip accents.")
    rounds: int = flag(3, "Number of measurements of each side.")

    def problems(self) -> list[str]:
        return outside(self, rounds=(1, 1000))


def main() -> None:
    (config,) = cli.parse(__doc__, (BenchmarkConfig,))
    content = read_bytes(config.corpus_path, "--corpus_path")
    if not content.strip():
        raise UserError(f"--corpus_path {config.corpus_path}: the corpus is empty")
    text = content.decode("utf-8-sig", "replace")
    lines = text.removesuffix("\n").split("\n")
    vocab = Vocab.load(ensure_vocab(config.vocab_path))
    ours = BertTokenizer(vocab, config.do_lower_case)
    theirs = tokenizers.BertWordPieceTokenizer(vocab.ids, lowercase=config.do_lower_case)
    sides: dict[str, Callable[[], object]] = {
        "uer cold": lambda: BertTokenizer(vocab, config.do_lower_case).encode_lines(text),
        "uer warm": lambda: ours.encode_lines(text),
        "tokenizers encode_batch": lambda: theirs.encode_batch(lines, add_special_tokens=False),
    }
    ours.encode_lines(text)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(config.rounds):
        for name, work in sides.items():
            result = None  # the other side's millions of objects would slow down Python's garbage collection
            start, start_cpu = time.perf_counter(), time.process_time()
            result = work()
            seconds[name].append((time.perf_counter() - start, time.process_time() - start_cpu))
    report(config, len(content), seconds, share_of_equal_lines(ours.encode_lines(text), result))


def share_of_equal_lines(ours: tuple[np.ndarray, np.ndarray], theirs: list) -> float:
    """The part of lines with the same ids on both sides; they differ, for example, in words of over 100 characters."""
    ids, offsets = ours
    equal = sum(part.tolist() == other.ids for part, other in zip(np.split(ids, offsets[1:-1]), theirs))
    return equal / max(len(theirs), 1)


def report(config: BenchmarkConfig, size: int, seconds: dict[str, list[tuple[float, float]]], equal: float) -> None:
    """Print the table and the JSON lines; `seconds` holds (wall, CPU) of each round."""
    medians = {name: tuple(map(statistics.median, zip(*times))) for name, times in seconds.items()}
    base_wall, base_cpu = medians["tokenizers encode_batch"]
    print(f"{config.corpus_path}: {size / 1e6:.1f} MB, one core of {platform.processor() or platform.machine()}, "
          f"Python {platform.python_version()}, numpy {np.__version__}, tokenizers {tokenizers.__version__}")
    print(f"lines with equal ids on both sides: {equal:.4%}\n")
    print(f"{'side':<26}{'wall s':>9}{'MB/s':>8}{'ratio':>8}{'CPU s':>9}{'MB/s':>8}{'ratio':>8}")
    figures = []
    for name, (wall, cpu) in medians.items():
        print(f"{name:<26}{wall:>9.3f}{size / wall / 1e6:>8.1f}{base_wall / wall:>7.1f}x"
              f"{cpu:>9.3f}{size / cpu / 1e6:>8.1f}{base_cpu / cpu:>7.1f}x")
        figures.append({"benchmark": "tokenizer", "side": name, "bytes": size, "seconds": round(wall, 4),
                        "mb_per_s": round(size / wall / 1e6, 2), "ratio_to_tokenizers": round(base_wall / wall, 2),
                        "cpu_seconds": round(cpu, 4), "mb_per_cpu_s": round(size / cpu / 1e6, 2),
                        "cpu_ratio_to_tokenizers": round(base_cpu / cpu, 2), "rounds": len(seconds[name])})
    print()
    for figure in figures:
        print(json.dumps(figure))


if __name__ == "__main__":
    cli.run(main)
