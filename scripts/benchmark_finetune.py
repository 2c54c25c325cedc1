"""Time an epoch of fine-tuning, compared with a plain PyTorch loop that pads every row to seq_length, as UER-py does.

Both train the same model on the same rows with the same threads, alternately (A B A B); compare the ratio of the
medians. --compile on adds our loop with torch.compile, and prints how much longer its first updates take; --bf16 on
adds our loop with --precision bf16.
"""

import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import torch
from _ranges import outside
from torch import nn
from torch.nn import functional as F

from uer import cli
from uer.config import REQUIRED, ModelConfig, OptimConfig, ParallelConfig, TokenizerConfig, flag
from uer.errors import UserError
from uer.finetuning.batches import Examples, batches_in_epoch, collate, epoch_batches, padding_share
from uer.finetuning.compilation import compile_model
from uer.finetuning.config import ClassifierConfig
from uer.finetuning.loop import FitSettings, Updater
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.classification import Classification
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import connect
from uer.runtime.precision import Precision
from uer.tokenizers import build_tokenizer


@dataclass(frozen=True)
class BenchmarkConfig:
    """Flags of this script."""

    train_path: str = flag(REQUIRED, "Training examples of a classifier.", path="read")
    config_path: str = flag("models/bert/tiny_config.json", "JSON file of the model's settings.", path="read")
    batch_size: int = flag(32, "Rows of an update.")
    seq_length: int = flag(128, "Maximum length of a row in tokens.")
    steps: int = flag(40, "Updates of one measurement; an epoch's time is scaled from them.")
    rounds: int = flag(3, "Measurements of each.")
    threads: int = flag(2, "CPU threads.")
    device: str = flag("auto", "Where to compute; auto: on CUDA if there is a GPU.", choices=("auto", "cpu", "cuda"))
    compile: str = flag("off", "on: time our loop with torch.compile too.", choices=("on", "off"))
    bf16: str = flag("off", "on: time our loop in bfloat16 too.", choices=("on", "off"))

    def problems(self) -> list[str]:
        return outside(self, batch_size=(1, 1 << 16), seq_length=(4, 1 << 16), steps=(1, 10**6), rounds=(1, 1000),
                       threads=(1, 1024))


class PlainLayer(nn.Module):
    """A BERT layer without any optimization."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size, self.heads, self.dropout = config.hidden_size, config.heads_num, config.dropout
        self.query, self.key, self.value, self.final = (nn.Linear(size, size) for _ in range(4))
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.inner, self.outer = nn.Linear(size, config.feedforward_size), nn.Linear(config.feedforward_size, size)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, S, H), additive mask (B, 1, 1, S) -> (B, S, H)"""
        batch, length, size = hidden.shape
        query, key, value = (linear(hidden).view(batch, length, self.heads, -1).transpose(1, 2)
                             for linear in (self.query, self.key, self.value))
        scores = query @ key.transpose(-2, -1) / math.sqrt(size // self.heads) + mask
        weights = F.dropout(torch.softmax(scores, -1), self.dropout, self.training)
        mixed = (weights @ value).transpose(1, 2).reshape(batch, length, size)
        hidden = self.norm_1(hidden + F.dropout(self.final(mixed), self.dropout, self.training))
        inner = self.outer(F.gelu(self.inner(hidden)))
        return self.norm_2(hidden + F.dropout(inner, self.dropout, self.training))


class PlainClassifier(nn.Module):
    """Embedding, layers, tanh head; every position is computed."""

    def __init__(self, config: ModelConfig, vocab_size: int, labels_num: int) -> None:
        super().__init__()
        size = config.hidden_size
        self.word, self.position = nn.Embedding(vocab_size, size), nn.Embedding(config.max_seq_length, size)
        self.segment, self.norm, self.dropout = nn.Embedding(3, size), nn.LayerNorm(size), config.dropout
        self.layers = nn.ModuleList(PlainLayer(config) for _ in range(config.layers_num))
        self.first, self.second = nn.Linear(size, size), nn.Linear(size, labels_num)

    def forward(self, src: torch.Tensor, seg: torch.Tensor) -> torch.Tensor:
        """(B, S) -> (B, labels)"""
        positions = torch.arange(src.shape[1], device=src.device)
        hidden = self.norm(self.word(src) + self.position(positions) + self.segment(seg))
        hidden = F.dropout(hidden, self.dropout, self.training)
        mask = (seg == 0).float()[:, None, None, :] * -10000.0
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return self.second(torch.tanh(self.first(hidden[:, 0])))


class Plain:
    """The plain loop: random batches, each row padded to seq_length, torch's AdamW one parameter after another."""

    def __init__(self, config: BenchmarkConfig, model: nn.Module, train: Examples, device: torch.device) -> None:
        self.model, self.device, self.batch_size = model.to(device).train(), device, config.batch_size
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=False)
        whole = collate(train, np.arange(len(train)), 0)
        missing = config.seq_length - whole.src.shape[1]
        self.src, self.seg = (F.pad(tensor, (0, missing)) for tensor in (whole.src, whole.seg))
        self.labels = whole.targets["label"]

    def run(self, steps: int, seed: int) -> None:
        """`steps` updates."""
        order = torch.randperm(len(self.src), generator=torch.Generator().manual_seed(seed))
        for step in range(steps):
            chosen = order[step * self.batch_size:(step + 1) * self.batch_size]
            src, seg, labels = (tensor[chosen].to(self.device) for tensor in (self.src, self.seg, self.labels))
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(src, seg), labels).backward()
            self.optimizer.step()


def main() -> None:
    config, model_config, tokenizer_config = cli.parse(__doc__, (BenchmarkConfig, ModelConfig, TokenizerConfig))
    if config.seq_length > model_config.max_seq_length:
        raise UserError(f"--seq_length {config.seq_length} exceeds the model's max_seq_length "
                        f"{model_config.max_seq_length}")
    torch.set_num_threads(config.threads)
    encoder = TextToRows(build_tokenizer(tokenizer_config), config.seq_length)
    task = Classification.of_training_file(config.train_path, ClassifierConfig())
    train = task.examples(config.train_path, encoder)
    world = connect(RankInfo(), ParallelConfig(device=config.device))
    epoch_steps = batches_in_epoch(train, config.batch_size)
    steps = min(config.steps, epoch_steps)
    torch.manual_seed(7)
    loops: dict[str, Callable[[int], None]] = {
        "plain": partial(Plain(config, PlainClassifier(model_config, len(encoder.tokenizer.vocab), len(task.labels)),
                               train, world.device).run, steps)}
    chosen = {"ours": True, "compiled": config.compile == "on", "bf16": config.bf16 == "on"}
    for name in (name for name, wanted in chosen.items() if wanted):
        model = task.build(model_config, len(encoder.tokenizer.vocab)).to(world.device).train()
        if name == "compiled":
            compile_model(model, world.device)
        updater = Updater(model, task, FitSettings(config.batch_size, optim=OptimConfig(learning_rate=1e-4)),
                          10 * epoch_steps, 0, world, Precision("bf16" if name == "bf16" else "fp32", world.device))
        loops[name] = partial(run_ours, updater, train, steps)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for seed in range(config.rounds + 1):  # the first round only warms up
        for name, run in loops.items():
            began = time.perf_counter()
            run(seed)
            if world.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - began)
    report(config, train, {name: median(taken[1:]) * epoch_steps / steps for name, taken in seconds.items()})
    if "compiled" in seconds:
        longer = seconds["compiled"][0] - median(seconds["compiled"][1:])
        print(json.dumps({"benchmark": "finetune_compile", "seconds": round(longer, 1)}))


def run_ours(updater: Updater, train: Examples, steps: int, seed: int) -> None:
    """`steps` updates of our loop."""
    for chosen in epoch_batches(train, updater.settings.batch_size, seed, 1)[:steps]:
        updater.update(train, chosen)


def report(config: BenchmarkConfig, train: Examples, epoch: dict[str, float]) -> None:
    """A table, and a JSON line for each figure."""
    tokens = int(train.rows.lengths.sum())
    by_length = padding_share(train, epoch_batches(train, config.batch_size, 1, 1))
    shares = dict.fromkeys(epoch, by_length) | {"plain": 1.0 - tokens / (len(train) * config.seq_length)}
    titles = {"plain": "plain PyTorch, padded to seq_length", "ours": "ours", "compiled": "the same, torch.compile",
              "bf16": "the same, bf16"}
    print(f"{len(train)} rows, {tokens} tokens, batch {config.batch_size}, {config.threads} threads, torch "
          f"{torch.__version__}, Python {platform.python_version()}\n")
    print("| loop | padding in a batch | seconds an epoch | real tokens/s | ratio |\n|---|---:|---:|---:|---:|")
    for name in epoch:
        print(f"| {titles[name]} | {shares[name]:.1%} | {epoch[name]:.1f} | {tokens / epoch[name]:,.0f} | "
              f"{epoch['plain'] / epoch[name]:.2f} |")
    for name in epoch:
        print(json.dumps({"benchmark": "finetune_epoch", "loop": name, "seconds": round(epoch[name], 3),
                          "ratio": round(epoch["plain"] / epoch[name], 3), "rows": len(train), "tokens": tokens,
                          "config": config.config_path, "threads": config.threads}))


if __name__ == "__main__":
    cli.run(main)
