"""Fine-tune classifiers with the original's finetune/run_classifier.py and with ours, and compare accuracy and time.

    python3 scripts/compare_finetuning.py --uer_path ../UER-py --pretrained_model_path tiny.bin \\
        --config_path models/bert/tiny_config.json --vocab_path models/google_zh_vocab.txt \\
        --task_dirs data/chnsenticorp data/book_review data/ocnli --length_task_path data/chnsenticorp/train.tsv \\
        --seeds 1 2 3 --learning_rate 3e-4

All sides get the same files, initial checkpoint, config, vocabulary and seeds; each run is a separate command, and the
sides alternate. With or without --uer_path, --variants compares settings of ours, such as "use_adv" or
"learning_rate=1e-3,warmup=0.2". --dropout 0 removes one source of randomness.

A folder of --task_dirs contains train and dev files: .tsv in UER-py's format, or .json / .jsonl lines in CLUE's, which
the original cannot read. Both sides read copies in which the labels are whole numbers.

--length_task_path makes a task from the texts of a classification file, in which the length of a text depends on its
class. A class is a label of the file together with one of five length groups, drawn from --task_seed: `label * 5 +
group`. Texts of a label are joined until they are long enough, and cut to N(m, 0.1) * (seq_length - 2) characters,
where m is 0.2, 0.35, 0.5, 0.65 or 0.8, depending on the group. The lengths of neighbouring groups overlap, so the group
can be predicted with an accuracy of 64% at most; the label depends on the text only.

The accuracy of a run is that of its best epoch on dev, as both scripts report it. Prints a table, then one JSON line
for each side of each task. A difference is our accuracy minus the other side's with the same seed.
"""

import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from uer import cli
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.files import prepare_file
from uer.finetuning.readers import Table, read_table
from uer.json_files import read_json_object

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = Path("finetune") / "run_classifier.py"
SUFFIXES = (".tsv", ".json", ".jsonl")
GROUPS = (0.2, 0.35, 0.5, 0.65, 0.8)
GROUP_SPREAD = 0.1
SHORTEST_TEXT = 2
ACCURACY = {"original": re.compile(r"Acc\. \(Correct/Total\): ([\d.]+) \((\d+)/(\d+)\)"),
            "ours": re.compile(r"Epoch \d+ of \d+: dev accuracy ([\d.]+) \((\d+)/(\d+)\)")}


@dataclass(frozen=True)
class CompareConfig:
    """The sides, the tasks and the settings of the trainings."""

    pretrained_model_path: str = flag(REQUIRED, "Checkpoint that every training starts from.", path="read")
    config_path: str = flag("models/bert/tiny_config.json", "JSON file of the model's settings.", path="read")
    vocab_path: str = flag("models/google_zh_vocab.txt", "Vocabulary file.", path="read")
    uer_path: str | None = flag(None, "A checkout of the original UER-py.", path="read")
    variants: tuple[str, ...] = flag((), "Other settings of ours: flags without dashes, such as "
                                         "use_adv or learning_rate=1e-3,warmup=0.2.")
    task_dirs: tuple[str, ...] = flag((), "Folders with train and dev files of a classification task.", path="read")
    length_task_path: str | None = flag(None, "Classification file for the task in which length depends on the class.",
                                        path="read")
    task_seed: int = flag(7, "Seed of that task, and of the choice of rows.")
    train_rows: int = flag(0, "Number of rows of a training file that are used; 0: all.")
    dev_rows: int = flag(0, "Number of rows of a dev file that are used; 0: all.")
    seeds: tuple[int, ...] = flag((1, 2, 3), "Seeds of the trainings; the paired difference needs two.")
    batch_size: int = flag(32, "Rows of an update.")
    seq_length: int = flag(128, "Maximum length of a row in tokens.")
    epochs_num: int = flag(3, "Passes over the training examples.")
    learning_rate: float = flag(3e-4, "Peak learning rate.")
    dropout: float | None = flag(None, "Dropout probability (default: the config file's).")
    records_path: str | None = flag(None, "Append the JSON lines to this file too.", path="write")

    def problems(self) -> list[str]:
        found = [f"--{name} must be at least 1" for name in ("batch_size", "epochs_num") if getattr(self, name) < 1]
        found += [f"--{name} must not be negative" for name in ("train_rows", "dev_rows") if getattr(self, name) < 0]
        if self.seq_length < 16:
            found.append("--seq_length must be at least 16")
        if not self.task_dirs and not self.length_task_path:
            found.append("--task_dirs or --length_task_path is needed")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            found.append("--seeds must be different numbers, not negative")
        if self.dropout is not None and not 0.0 <= self.dropout < 1.0:
            found.append("--dropout must lie in [0, 1)")
        return found


@dataclass(frozen=True)
class Rows:
    """Rows of a task: labels as numbers, texts, and second texts in a task of pairs."""

    labels: list[int]
    texts: list[str]
    seconds: list[str] | None = None

    def write(self, path: Path) -> None:
        """Write a TSV in UER-py's format."""
        columns: dict[str, list[str]] = {"label": list(map(str, self.labels)), "text_a": self.texts}
        if self.seconds is not None:
            columns["text_b"] = self.seconds
        lines = ["\t".join(columns), *map("\t".join, zip(*columns.values()))]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Run:
    """The result of one training."""

    accuracy: float
    last_accuracy: float
    seconds: float


def main() -> None:
    """Compare all sides on all tasks."""
    config, = cli.parse(__doc__, (CompareConfig,))
    sides = sides_of(config)
    check(config)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        model_config = write_config(config, Path(folder))
        for name, train, dev in tasks_of(config):
            train.write(Path(folder) / "train.tsv")
            dev.write(Path(folder) / "dev.tsv")
            print(f"{name}: {len(train.labels)} rows to train on, {len(dev.labels)} dev, "
                  f"{len(set(train.labels))} classes", flush=True)
            runs = run_all(config, sides, Path(folder), model_config)
            records += compare(name, config, runs)
    text = [json.dumps(record) for record in records]
    print("\n".join(["", *table(records), "", *text]))
    if config.records_path:
        with open(config.records_path, "a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in text)


def sides_of(config: CompareConfig) -> dict[str, list[str] | None]:
    """Name of each side -> what is added to our command line; None for the original."""
    sides: dict[str, list[str] | None] = {"ours": []}
    if config.uer_path:
        sides["original"] = None
    for variant in config.variants:
        words = []
        for setting in variant.split(","):
            name, equals, value = setting.strip().partition("=")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or (equals and not value):
                raise UserError(f"--variants {variant}: NAME or NAME=VALUE, with commas between, is needed")
            words += [f"--{name}", *value.split()]
        sides[variant] = words
    if len(sides) < 1 + bool(config.uer_path) + len(config.variants):
        raise UserError("--variants names a side twice")
    return sides


def check(config: CompareConfig) -> None:
    """Check the flags before the first training.

    Raises:
        UserError: a file is missing, or --uer_path is no checkout.
    """
    if config.uer_path and not (Path(config.uer_path) / SCRIPT).is_file():
        raise UserError(f"--uer_path {config.uer_path}: no checkout of UER-py, it has no {SCRIPT}")
    for name in ("pretrained_model_path", "config_path", "vocab_path"):
        if not Path(getattr(config, name)).is_file():
            raise UserError(f"--{name} {getattr(config, name)}: no such file")
    if config.records_path:
        prepare_file(config.records_path, "--records_path")


def write_config(config: CompareConfig, folder: Path) -> Path:
    """The model's settings with --dropout in them, which both sides read."""
    content = read_json_object(config.config_path, "--config_path")
    if config.dropout is not None:
        content["dropout"] = config.dropout
    path = folder / "config.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def tasks_of(config: CompareConfig) -> list[tuple[str, Rows, Rows]]:
    """(name, train, dev) of every task."""
    found = []
    for folder in config.task_dirs:
        train, dev = (read_table(find(folder, part), ("label", "text_a"), ("text_b",)) for part in ("train", "dev"))
        names = {label: number for number, label in enumerate(sorted(set(train["label"])))}
        found.append((Path(folder).resolve().name, rows_of(train, names, config.train_rows, config.task_seed),
                      rows_of(dev, names, config.dev_rows, config.task_seed)))
    if config.length_task_path:
        table = read_table(config.length_task_path, ("label", "text_a"), ("text_b",))
        found.append(("length", *length_task(table, config)))
    return found


def find(folder: str, part: str) -> str:
    """`train` -> the folder's train.tsv, train.json or train.jsonl."""
    for suffix in SUFFIXES:
        if (Path(folder) / f"{part}{suffix}").is_file():
            return str(Path(folder) / f"{part}{suffix}")
    raise UserError(f"--task_dirs {folder}: it has no {' or '.join(part + suffix for suffix in SUFFIXES)}")


def rows_of(table: Table, names: dict[str, int], count: int, seed: int) -> Rows:
    """The table's rows, or `count` of them; tabs and line ends in texts become spaces, which both sides read alike."""
    unknown = next((row for row, label in enumerate(table["label"]) if label not in names), None)
    if unknown is not None:
        raise table.error(unknown, f"label '{table['label'][unknown]}' is not in the training file")
    chosen = list(range(len(table)))
    if count and count < len(chosen):
        chosen = sorted(random.Random(seed).sample(chosen, count))
    seconds = [plain(table["text_b"][row]) for row in chosen] if "text_b" in table else None
    return Rows([names[table["label"][row]] for row in chosen], [plain(table["text_a"][row]) for row in chosen],
                seconds)


def plain(text: str) -> str:
    """One line without tabs."""
    return " ".join(text.split())


def length_task(table: Table, config: CompareConfig) -> tuple[Rows, Rows]:
    """Train and dev rows of the task that the module's docstring describes; a fifth is dev."""
    draw, room = random.Random(config.task_seed), config.seq_length - 2
    order = list(range(len(table)))
    draw.shuffle(order)
    names = {label: number for number, label in enumerate(sorted(set(table["label"])))}
    labels, texts, waiting = [], [], dict.fromkeys(names, "")
    for row in order:
        label = table["label"][row]
        waiting[label] += plain(table["text_a"][row])
        if len(waiting[label]) < room:
            continue
        group = draw.randrange(len(GROUPS))
        length = round(draw.gauss(GROUPS[group], GROUP_SPREAD) * room)
        labels.append(names[label] * len(GROUPS) + group)
        texts.append(waiting[label][:min(max(length, SHORTEST_TEXT), room)])
        waiting[label] = ""
    dev = min(config.dev_rows or len(labels), len(labels) // 5)
    train = min(config.train_rows or len(labels), len(labels) - dev)
    if dev < 1 or len(set(labels[dev:dev + train])) < len(names) * len(GROUPS):
        raise UserError(f"--length_task_path {table.path}: too few texts ({len(labels)} rows were made)")
    return Rows(labels[dev:dev + train], texts[dev:dev + train]), Rows(labels[:dev], texts[:dev])


def run_all(config: CompareConfig, sides: dict[str, list[str] | None], folder: Path,
            model_config: Path) -> dict[str, list[Run]]:
    """Run all sides alternately, once for each seed."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for seed in config.seeds:
        for name, words in sides.items():
            runs[name].append(train_once(config, words, seed, folder, model_config))
            print(f"  seed {seed}, {name}: {runs[name][-1].accuracy:.4f} ({runs[name][-1].seconds:.0f} s)", flush=True)
    return runs


def train_once(config: CompareConfig, words: list[str] | None, seed: int, folder: Path, model_config: Path) -> Run:
    """One training as a separate command, with flags that both sides have."""
    place = Path(config.uer_path).resolve() if words is None else ROOT
    command = [sys.executable, str(SCRIPT), "--pretrained_model_path", absolute(config.pretrained_model_path),
               "--config_path", str(model_config), "--vocab_path", absolute(config.vocab_path),
               "--train_path", str(folder / "train.tsv"), "--dev_path", str(folder / "dev.tsv"),
               "--output_model_path", str(folder / "model.bin"), "--batch_size", str(config.batch_size),
               "--seq_length", str(config.seq_length), "--epochs_num", str(config.epochs_num),
               "--learning_rate", str(config.learning_rate), "--seed", str(seed), *(words or [])]
    began = time.perf_counter()
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, errors="replace",
                          env={**os.environ, "PYTHONPATH": str(place)})
    seconds = time.perf_counter() - began
    if done.returncode:
        raise UserError(f"{place / SCRIPT} failed with status {done.returncode}: "
                        f"{last_line(done.stderr or done.stdout)}")
    found = ACCURACY["original" if words is None else "ours"].findall(done.stdout + done.stderr)
    accuracies = [int(right) / int(total) for _, right, total in found[:config.epochs_num]]
    if not accuracies:
        raise UserError(f"{place / SCRIPT} printed no accuracy; its last line is: {last_line(done.stdout)}")
    return Run(max(accuracies), accuracies[-1], seconds)


def absolute(path: str) -> str:
    """`path`, which is relative to this process's folder, for a command that runs in another."""
    return str(Path(path).resolve())


def last_line(output: str) -> str:
    """The last line of a program's output, where Python prints an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


def compare(task: str, config: CompareConfig, runs: dict[str, list[Run]]) -> list[dict[str, Any]]:
    """One record for each side: its accuracy in percent, and our accuracy minus it."""
    records = []
    ours = [100 * run.accuracy for run in runs["ours"]]
    for name, done in runs.items():
        accuracies = [100 * run.accuracy for run in done]
        record = {"task": task, "side": name, "accuracies": [round(value, 2) for value in accuracies],
                  "mean": round(statistics.mean(accuracies), 2), "low": round(min(accuracies), 2),
                  "high": round(max(accuracies), 2),
                  "last_epoch_mean": round(100 * statistics.mean(run.last_accuracy for run in done), 2),
                  "seconds": round(statistics.median(run.seconds for run in done), 1), "seeds": list(config.seeds),
                  "learning_rate": config.learning_rate, "batch_size": config.batch_size,
                  "seq_length": config.seq_length, "epochs_num": config.epochs_num}
        if name != "ours":
            gains = [mine - theirs for mine, theirs in zip(ours, accuracies)]
            record["ours_minus_this"] = round(statistics.mean(gains), 2)
            if len(gains) > 1:
                record["standard_error"] = round(statistics.stdev(gains) / math.sqrt(len(gains)), 2)
        records.append(record)
    return records


def table(records: list[dict[str, Any]]) -> list[str]:
    """The records as Markdown."""
    lines = ["| task | side | dev accuracy, mean | lowest to highest | ours minus this (standard error) | seconds |",
             "|---|---|---:|---|---:|---:|"]
    for record in records:
        gain = f"{record['ours_minus_this']:+.2f}" if "ours_minus_this" in record else ""
        error = f" ({record['standard_error']:.2f})" if "standard_error" in record else ""
        lines.append(f"| {record['task']} | {record['side']} | {record['mean']:.2f} | {record['low']:.2f} to "
                     f"{record['high']:.2f} | {gain}{error} | {record['seconds']:.1f} |")
    return lines


if __name__ == "__main__":
    cli.run(main)
