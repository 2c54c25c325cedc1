"""Time and memory of preprocess.py, compared with other programs on one corpus, and its memory on larger corpora.

    python3 scripts/benchmark_preprocess.py --corpus_path corpus.txt --vocab_path models/google_zh_vocab.txt

The sides run alternately (A B A B), and the results are medians: our preprocess.py; `tokenizers` (Hugging Face's Rust
library), which encodes the same lines with the same number of threads and writes the ids to a file; and with --uer_path
the original UER-py's preprocess.py. Then the corpus is repeated into temporary files of --sizes MB, and the peak memory
of our largest process is shown for each. Prints tables, then one JSON line for each result.
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from _ranges import outside

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.reading import require_regular

ROOT = Path(__file__).resolve().parent.parent
# This script imports nothing large, because a child process starts with the memory of its parent.
TOKENIZERS_SIDE = """
import sys
import numpy as np
from tokenizers import BertWordPieceTokenizer
corpus, vocab, target = sys.argv[1:]
tokenizer = BertWordPieceTokenizer(vocab)
with open(target, "wb") as file, open(corpus, encoding="utf-8", errors="replace", newline="\\n") as text:
    while lines := text.readlines(1 << 24):
        for encoding in tokenizer.encode_batch(lines):
            file.write(np.array(encoding.ids, np.uint16).data)
"""


@dataclass(frozen=True)
class BenchmarkConfig:
    """The corpus, and the number of measurements."""

    corpus_path: str = flag(REQUIRED, "A plain text file in UTF-8, one document a line.", path="read")
    vocab_path: str = flag("models/google_zh_vocab.txt", "Vocabulary file.", path="read")
    processes_num: int = flag(2, "Worker processes, or threads, of each side.")
    rounds: int = flag(3, "Number of measurements of each side.")
    uer_path: str | None = flag(None, "A checkout of the original UER-py, to time it too (with this Python).",
                                path="read")
    sizes: tuple[int, ...] = flag((20, 200, 2000), "Corpora for the memory table, in MB.")
    work_path: str | None = flag(None, "Folder for temporary files; the system's when not given.", path="write_folder")

    def problems(self) -> list[str]:
        return outside(self, processes_num=(1, 1024), rounds=(1, 1000), sizes=(1, 1_000_000))


@dataclass(frozen=True)
class Run:
    """Time, peak memory and output of one command."""

    seconds: float
    peak_bytes: int
    """Of the largest of its processes."""
    output: str


def main() -> None:
    (config,) = cli.parse(__doc__, (BenchmarkConfig,))
    size = require_regular(config.corpus_path, "--corpus_path")
    if not size:
        raise UserError(f"--corpus_path {config.corpus_path}: the corpus is empty")
    if config.work_path and not Path(config.work_path).is_dir():
        raise UserError(f"--work_path {config.work_path}: no such folder")
    print(f"{config.corpus_path}: {size / 1e6:.1f} MB, {config.processes_num} processes, {os.cpu_count()} cores of "
          f"{platform.machine()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(dir=config.work_path) as folder:
        figures = time_sides(config, Path(folder), size) + measure_memory(config, Path(folder))
    print()
    for figure in figures:
        print(json.dumps(figure))


def time_sides(config: BenchmarkConfig, folder: Path, size: int) -> list[dict]:
    """Time all sides alternately; print the table."""
    corpus, vocab = os.path.abspath(config.corpus_path), os.path.abspath(config.vocab_path)
    ours = folder / "ours.pt"
    sides: dict[str, Callable[[], Run]] = {
        "uer": lambda: run(our_command(corpus, vocab, ours, config.processes_num)),
        "tokenizers": lambda: run([sys.executable, "-c", TOKENIZERS_SIDE, corpus, vocab, str(folder / "ids.bin")],
                                  RAYON_NUM_THREADS=str(config.processes_num), TOKENIZERS_PARALLELISM="true"),
    }
    if config.uer_path:
        script = Path(config.uer_path).resolve() / "preprocess.py"
        if not script.is_file():
            raise UserError(f"--uer_path {config.uer_path}: there is no preprocess.py")
        command = our_command(corpus, vocab, folder / "original.pt", config.processes_num)
        sides["original"] = lambda: run([command[0], str(script), *command[2:]], cwd=str(script.parent))
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for _ in range(config.rounds):
        for name, side in sides.items():
            runs[name].append(side())
    print(f"\n{'whole command':<16}{'seconds':>10}{'MB/s':>8}{'peak MB':>9}{'x uer time':>12}")
    figures = []
    base = statistics.median(one.seconds for one in runs["uer"])
    for name, done in runs.items():
        seconds = statistics.median(one.seconds for one in done)
        peak = max(one.peak_bytes for one in done)
        print(f"{name:<16}{seconds:>10.2f}{size / 1e6 / seconds:>8.1f}{peak / 1e6:>9.0f}{seconds / base:>12.2f}")
        figures.append({"figure": "preprocess_seconds", "side": name, "value": round(seconds, 3), "corpus_bytes": size,
                        "processes": config.processes_num, "peak_bytes": peak})
    tokens = int(re.search(r"tokens: ([\d,]+)", runs["uer"][0].output)[1].replace(",", ""))
    share = ours.stat().st_size / tokens
    print(f"\nours on disk: {share:.3f} bytes a token")
    return [*figures, {"figure": "bytes_per_token", "value": round(share, 4), "tokens": tokens}]


def measure_memory(config: BenchmarkConfig, folder: Path) -> list[dict]:
    """Peak memory on corpora of growing size, made by repeating the given one; print the table."""
    figures = []
    print(f"\n{'corpus MB':<16}{'seconds':>10}{'MB/s':>8}{'peak MB':>9}")
    for megabytes in config.sizes:
        corpus, dataset = folder / "repeated.txt", folder / "repeated.pt"
        size = repeat(Path(config.corpus_path), corpus, megabytes * 1_000_000)
        done = run(our_command(str(corpus), os.path.abspath(config.vocab_path), dataset, config.processes_num))
        print(f"{size / 1e6:<16.0f}{done.seconds:>10.2f}{size / 1e6 / done.seconds:>8.1f}{done.peak_bytes / 1e6:>9.0f}",
              flush=True)
        figures.append({"figure": "preprocess_peak_bytes", "value": done.peak_bytes, "corpus_bytes": size,
                        "seconds": round(done.seconds, 2)})
        corpus.unlink()
        dataset.unlink()
    return figures


def our_command(corpus: str, vocab: str, dataset: Path, processes: int) -> list[str]:
    """The command line; that of the original differs only in the script."""
    return [sys.executable, str(ROOT / "preprocess.py"), "--corpus_path", corpus, "--vocab_path", vocab,
            "--dataset_path", str(dataset), "--processes_num", str(processes), "--seq_length", "128",
            "--dynamic_masking", "--data_processor", "mlm"]


def run(command: list[str], cwd: str | None = None, **environment: str) -> Run:
    """Run a command to its end.

    Raises:
        UserError: it failed; holds the last line it wrote.
    """
    with tempfile.TemporaryFile("w+") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=cwd, stdout=output, stderr=output, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise UserError(f"{command[1]} failed: {(text.strip().splitlines() or ['no output'])[-1]}")
    return Run(seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), text)


def repeat(source: Path, target: Path, size: int) -> int:
    """Write the lines of `source` repeatedly until `size` bytes are reached; returns the number of bytes written."""
    written = 0
    with open(target, "wb") as out:
        while written < size:
            with open(source, "rb") as text:
                while written < size and (lines := text.readlines(1 << 20)):
                    block = b"".join(lines)
                    written += out.write(block if block.endswith(b"\n") else block + b"\n")
    return written


if __name__ == "__main__":
    cli.run(main)
