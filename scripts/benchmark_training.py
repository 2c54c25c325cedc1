"""Speed of a training step, compared with transformers' BertForMaskedLM: alternately in one process, medians.

    python3 scripts/benchmark_training.py --sizes tiny mini --seq_lengths 128 --fills 1.0 0.5
    python3 scripts/benchmark_training.py --sizes tiny --profile_steps 8
    python3 scripts/benchmark_training.py --devices cuda --precisions bf16 --sizes tiny base --compile on

Both do the whole update: batch, forward, backward, AdamW. Ours takes its batches from its loader; transformers gets
batches that were made beforehand. With `--fills 0.5`, half of the positions are padding on average, as in a corpus of
short documents. With `--uer_path DIR`, a checkout of the original UER-py, its pretrain.py and ours also run as commands
on `--corpus_path`, alternately, and the tokens/s that they report are compared.

The floor of a step is the FLOPs of all its tokens, padding included, divided by the speed of a matrix product on this
device; a side that computes nothing for padding may be faster. `--profile_steps` shows which operations take how much
of a step on the CPU. Prints a table, then one JSON line for each result.
"""

import dataclasses
import itertools
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
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _ranges import outside

from uer import cli
from uer.checkpoint.saver import Saver
from uer.checkpoint.state import StateFolder
from uer.config import LogConfig, MaskingConfig, ModelConfig, OptimConfig, ParallelConfig, TrainConfig, flag
from uer.data.loader import Loader, open_processor
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, open_dataset, save_dataset
from uer.errors import UserError
from uer.flops import flops_per_token
from uer.model import build_model
from uer.optim import AdamW, parameter_groups
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import connect
from uer.runtime.precision import Precision
from uer.training.report import Reporter
from uer.training.run_summary import device_name
from uer.training.trainer import Trainer
from uer.training.update import Parts, StepModule

ROOT = Path(__file__).resolve().parent.parent
VOCAB_SIZE = 21128
SPECIAL_IDS = {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}

KINDS = {"_CpuAttention": "attention", "_BlockedCrossEntropy": "output layer and cross-entropy",
         "_CpuDropout": "dropout", "Optimizer.": "optimizer", "aten::mm": "matrix products of the layers",
         "aten::addmm": "matrix products of the layers", "aten::gelu": "gelu", "aten::native_layer_norm": "norm",
         "aten::embedding": "embedding"}
"""Beginning of an event's name in the profiler -> the name shown here."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """The models, and the number of measurements."""

    sizes: tuple[str, ...] = flag(("tiny", "mini"), "Names of models/bert/NAME_config.json.")
    seq_lengths: tuple[int, ...] = flag((128,), "Lengths of the rows.")
    fills: tuple[float, ...] = flag((1.0,), "Mean part of a row that is not padding, such as 0.5.")
    batch_size: int = flag(64, "Rows of a batch.")
    devices: tuple[str, ...] = flag(("cpu",), "Where to compute.", choices=("cpu", "cuda"))
    precisions: tuple[str, ...] = flag(("fp32",), "Precision.", choices=("fp32", "bf16", "fp16"))
    compile: str = flag("off", "torch.compile, for both.", choices=("on", "off"))
    rounds: int = flag(5, "Number of measurements of each side.")
    seconds: float = flag(2.0, "Approximate seconds of one measurement.")
    profile_steps: int = flag(0, "Number of updates to profile on the CPU afterwards; 0: none.")
    uer_path: str | None = flag(None, "A checkout of the original UER-py, for a comparison of commands.", path="read")
    corpus_path: str | None = flag(None, "Corpus for --uer_path.", path="read")
    vocab_path: str = flag("models/google_zh_vocab.txt", "Vocabulary for --uer_path.", path="read")
    command_steps: int = flag(30, "Steps of each command of --uer_path.")

    def problems(self) -> list[str]:
        found = outside(self, seq_lengths=(4, 1 << 16), batch_size=(1, 1 << 16), rounds=(1, 1000),
                        seconds=(0.001, 3600), profile_steps=(0, 10_000), command_steps=(1, 10**6))
        if not all(0.0 < fill <= 1.0 for fill in self.fills):
            found.append("--fills must lie between 0 and 1, and not be 0")
        return found


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    size: str
    seq_length: int
    fill: float
    device: str
    precision: str


Side = Callable[[int], None]
"""Does this number of updates and returns when they are done."""


def main() -> None:
    """Time every combination."""
    config, = cli.parse(__doc__, (BenchmarkConfig,))
    if config.uer_path:
        check_checkout(config)
    for size, length in itertools.product(config.sizes, config.seq_lengths):
        if length > read_model_config(size).max_seq_length:
            raise UserError(f"--seq_lengths {length}: {size} has {read_model_config(size).max_seq_length} positions")
    import transformers

    print(f"{device_name(torch.device('cpu'))} on {platform.processor() or platform.machine()}, Python "
          f"{platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}; "
          f"batches of {config.batch_size}, {config.rounds} rounds, medians\n")
    records = []
    for case in (Case(*values) for values in itertools.product(
            config.sizes, config.seq_lengths, config.fills, config.devices, config.precisions)):
        records.append(compare(case, config))
        print_row(records[-1], header=len(records) == 1)
    if config.uer_path:
        records += [compare_commands(size, config) for size in config.sizes]
    print()
    for record in records:
        print(json.dumps(record))


def compare(case: Case, config: BenchmarkConfig) -> dict[str, Any]:
    """Time both sides of a case alternately."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(case, config, Path(folder))
        theirs = transformers_side(case, config, trainer.parts.loader)
        sides: dict[str, Side] = {"uer": lambda steps: run_ours(trainer, steps), "transformers": theirs}
        seconds = timed(sides, config.rounds, config.seconds)
        kinds = profiled(trainer, config.profile_steps) if config.profile_steps else {}
    model_config = read_model_config(case.size)
    tokens = config.batch_size * case.seq_length
    flops = flops_per_token(model_config, VOCAB_SIZE, case.seq_length) * tokens
    ours, others = seconds["uer"], seconds["transformers"]
    return {**dataclasses.asdict(case), "batch_size": config.batch_size, "step_ms": 1000 * ours,
            "tokens_per_second": tokens / ours, "real_tokens_per_second": case.fill * tokens / ours,
            "transformers_step_ms": 1000 * others, "ratio": others / ours,
            "floor_ms": 1000 * flops / matmul_rate(case.device, case.precision),
            "memory_gib": torch.cuda.max_memory_allocated() / 2**30 if case.device == "cuda" else None,
            "profile_ms": kinds}


def print_row(record: dict[str, Any], header: bool) -> None:
    """A line of the table."""
    if header:
        print(f"{'size':>7} {'length':>6} {'fill':>5} {'device':>6} {'precision':>9} {'ours':>10} {'transformers':>13} "
              f"{'ratio':>6} {'tokens/s':>10} {'real/s':>10} {'floor':>9}")
    print(f"{record['size']:>7} {record['seq_length']:>6} {record['fill']:>5.2f} {record['device']:>6} "
          f"{record['precision']:>9} {record['step_ms']:>7.1f} ms {record['transformers_step_ms']:>10.1f} ms "
          f"{record['ratio']:>6.2f} {record['tokens_per_second']:>10.0f} {record['real_tokens_per_second']:>10.0f} "
          f"{record['floor_ms']:>6.1f} ms", flush=True)
    total = sum(record["profile_ms"].values())
    for kind, value in sorted(record["profile_ms"].items(), key=lambda item: -item[1]):
        print(f"{value:>12.1f} ms {value / total:>6.1%}  {kind}")


def read_model_config(size: str) -> ModelConfig:
    """The configuration of `models/bert/<size>_config.json`, with the mlm target."""
    path = ROOT / "models" / "bert" / f"{size}_config.json"
    if not path.is_file():
        raise UserError(f"--sizes: there is no {path.relative_to(ROOT)}")
    return cli.parse("", (TrainConfig, ModelConfig), ["--config_path", str(path), "--output_model_path", "none",
                                                      "--target", "mlm"])[1]


def our_trainer(case: Case, config: BenchmarkConfig, folder: Path) -> Trainer:
    """Our side: the trainer that pretrain.py runs, on random rows."""
    train = TrainConfig(output_model_path=str(folder / "model"), total_steps=10**6, batch_size=config.batch_size)
    world = connect(RankInfo(), ParallelConfig(device=case.device))
    precision = Precision(case.precision, world.device)
    torch.manual_seed(7)
    model = build_model(read_model_config(case.size), VOCAB_SIZE,
                        unpad="off" if config.compile == "on" else "auto").to(world.device)
    forward = StepModule(model)
    if config.compile == "on":
        forward.compile()
    optimizer = AdamW(parameter_groups(model), lr=1e-4)
    dataset = open_dataset(write_random(folder / "data.pt", 50 * config.batch_size, case.seq_length, case.fill))
    loader = Loader([dataset], open_processor([dataset], MaskingConfig()), batch_size=config.batch_size,
                    device=world.device, dataset_device=world.device, trim=case.device == "cpu")
    reporter = Reporter(LogConfig(), world, train.total_steps)
    saver = Saver(StateFolder(train.output_model_path, 1), model, optimizer, precision, world, "{}", reporter.say)
    learning_rate = OptimConfig().learning_rate
    parts = Parts(model, forward, loader, optimizer, lambda step: learning_rate, precision, reporter, saver)
    return Trainer(parts, train, world)


def write_random(path: Path, rows: int, seq_length: int, fill: float) -> Path:
    """Random rows: on average, a part `fill` of their positions are tokens and the others padding."""
    generator = np.random.default_rng(7)
    lengths = np.full(rows, seq_length)
    if fill < 1.0:
        spread = min(fill, 1.0 - fill)
        lengths = np.round(generator.uniform(fill - spread, fill + spread, rows) * seq_length).astype(int)
        lengths = np.clip(lengths, 3, seq_length)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = generator.integers(200, VOCAB_SIZE, offsets[-1], dtype=np.uint16)
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = SPECIAL_IDS["cls"], SPECIAL_IDS["sep"]
    info = DatasetInfo(FORMAT_VERSION, "mlm", seq_length, {"src": Column()}, {"src": seq_length},
                       {"src": VocabInfo("", VOCAB_SIZE, SPECIAL_IDS)}, dataclasses.asdict(MlmConfig()),
                       dynamic_masking=True)
    save_dataset(path, info, {"src": tokens}, {"src": offsets})
    return path


def run_ours(trainer: Trainer, steps: int) -> None:
    for _ in range(steps):
        trainer.run_update()
    synchronise(trainer.world.device)


def transformers_side(case: Case, config: BenchmarkConfig, loader: Loader) -> Side:
    """BertForMaskedLM of the same size with torch's fused AdamW, on the same rows."""
    from transformers import BertConfig, BertForMaskedLM

    ours, device = read_model_config(case.size), torch.device(case.device)
    model = BertForMaskedLM(BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=ours.hidden_size, num_hidden_layers=ours.layers_num,
        num_attention_heads=ours.heads_num, intermediate_size=ours.feedforward_size, attn_implementation="sdpa",
        max_position_embeddings=ours.max_seq_length)).to(device).train()
    if config.compile == "on":
        model.compile()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    precision = Precision(case.precision, device)
    batches = itertools.cycle([labelled(batch, device) for step in range(8) for batch in loader.step(step)])

    def run(steps: int) -> None:
        for _, batch in zip(range(steps), batches):
            optimizer.zero_grad(set_to_none=True)
            with precision.autocast():
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
        synchronise(device)

    return run


def labelled(batch: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """Our batch as transformers wants it: labels at every position, -100 where nothing is predicted."""
    labels = torch.full_like(batch.src.values, -100)
    labels.scatter_(1, batch.labels["mlm"].positions, batch.labels["mlm"].values)
    kept = {"input_ids": batch.src.values.clone(), "attention_mask": (batch.src.seg > 0).long(), "labels": labels}
    return {name: tensor.to(device) for name, tensor in kept.items()}


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(sides: dict[str, Side], rounds: int, seconds: float) -> dict[str, float]:
    """Median seconds of an update, each side once in each round."""
    steps = {}
    for name, side in sides.items():
        side(3)
        begin = time.perf_counter()
        side(2)
        steps[name] = max(2, round(2 * seconds / (time.perf_counter() - begin)))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            begin = time.perf_counter()
            side(steps[name])
            found[name].append((time.perf_counter() - begin) / steps[name])
    return {name: statistics.median(values) for name, values in found.items()}


def profiled(trainer: Trainer, steps: int) -> dict[str, float]:
    """Milliseconds of an update by `KINDS`; operations that a custom function of ours calls count for that function."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run_ours(trainer, steps)
    found: dict[str, float] = {}
    for event in profiler.events():
        kind = kind_of(event)
        found[kind] = found.get(kind, 0.0) + event.self_cpu_time_total / 1000 / steps
    return found


def kind_of(event: Any) -> str:
    """The kind of an event: that of its outermost caller that has one."""
    kind = "everything else"
    while event is not None:
        kind = next((name for start, name in KINDS.items() if event.name.startswith(start)), kind)
        event = event.cpu_parent
    return kind


def matmul_rate(device: str, precision: str) -> float:
    """FLOPs a second of a large matrix product: the fastest of several."""
    size = 8192 if device == "cuda" else 1024
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    best = 0.0
    for _ in range(50):
        synchronise(a.device)
        begin = time.perf_counter()
        a @ b
        synchronise(a.device)
        best = max(best, 2 * size ** 3 / (time.perf_counter() - begin))
    return best


def check_checkout(config: BenchmarkConfig) -> None:
    """Check the flags of --uer_path before anything is timed."""
    if not config.corpus_path:
        raise UserError("--uer_path needs --corpus_path")
    if config.command_steps < 6:
        raise UserError(f"--command_steps {config.command_steps}: at least 6 are needed for three report lines")
    for script in ("preprocess.py", "pretrain.py"):
        if not Path(config.uer_path, script).is_file():
            raise UserError(f"--uer_path {config.uer_path}: no checkout of UER-py, it has no {script}")
    for flag_name, path in (("--corpus_path", config.corpus_path), ("--vocab_path", config.vocab_path)):
        if not Path(path).is_file():
            raise UserError(f"{flag_name} {path}: no such file")


def compare_commands(size: str, config: BenchmarkConfig) -> dict[str, Any]:
    """Run the original's two commands and ours, which have the same flags, alternately."""
    places = {"uer": ROOT, "original": Path(config.uer_path).resolve()}
    rates: dict[str, list[float]] = {name: [] for name in places}
    with tempfile.TemporaryDirectory() as folder:
        for name, place in places.items():
            command(place, "preprocess.py", "--corpus_path", absolute(config.corpus_path), "--dataset_path",
                    f"{folder}/{name}.pt", "--dynamic_masking", "--seq_length", str(config.seq_lengths[0]),
                    vocab_path=config.vocab_path)
        for number, (name, place) in itertools.product(range(config.rounds), places.items()):
            output = command(
                place, "pretrain.py", "--dataset_path", f"{folder}/{name}.pt", "--config_path",
                str(ROOT / "models" / "bert" / f"{size}_config.json"), "--output_model_path",
                f"{folder}/{name}-{number}.bin", "--batch_size", str(config.batch_size), "--total_steps",
                str(config.command_steps), "--save_checkpoint_steps", str(config.command_steps), "--report_steps",
                str(config.command_steps // 3), "--target", "mlm", vocab_path=config.vocab_path)
            found = [float(value) for value in re.findall(r"([\d.]+) tokens/s", output)]
            if len(found) < 2:
                raise UserError(f"{place / 'pretrain.py'} printed {len(found)} report lines with 'tokens/s' and 3 are "
                                f"needed; its last line is: {last_line(output)}")
            rates[name].append(statistics.median(found[1:]))
    ours, original = (statistics.median(rates[name]) for name in places)
    print(f"{size}: {ours:.0f} tokens/s, the original {original:.0f}, ratio {ours / original:.2f} (as commands)")
    return {"size": size, "command": "pretrain.py", "tokens_per_second": ours, "original_tokens_per_second": original,
            "ratio": ours / original}


def absolute(path: str) -> str:
    return str(Path(path).resolve())


def command(place: Path, script: str, *arguments: str, vocab_path: str) -> str:
    """Run a script in its own folder; returns what it printed."""
    done = subprocess.run([sys.executable, script, *arguments, "--vocab_path", absolute(vocab_path),
                           "--data_processor", "mlm"], cwd=place, capture_output=True, text=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(place)})
    if done.returncode:
        raise UserError(f"{place / script} failed with status {done.returncode}: "
                        f"{last_line(done.stderr or done.stdout)}")
    return done.stdout + done.stderr


def last_line(output: str) -> str:
    """The last line of a program's output, where Python prints an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"


if __name__ == "__main__":
    cli.run(main)
