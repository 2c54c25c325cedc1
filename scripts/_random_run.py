"""The trainer of pretrain.py on random rows, for scripts that time or check it. Not a command.

    rows = RandomRows(rows=3200, seq_length=128, fill=0.4)
    trainer = open_trainer(rows.write(folder, "tiny"), ["--batch_size", "64", "--cuda_graph", "off"])
    trainer.run_update()

The trainer is made by the code that pretrain.py runs, from pretrain.py's flags, so whatever pretrain.py chooses is
chosen here too: compilation, CUDA graphs, where the dataset is, threads, padding. Imports no transformers.
"""

import contextlib
import dataclasses
import gc
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from uer import cli, model_settings
from uer.checkpoint.state import StateFolder
from uer.config import ModelConfig, TrainConfig
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, save_dataset
from uer.errors import UserError
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import connect
from uer.tokenizers import BertTokenizer, Vocab
from uer.training.inputs import Settings, open_data
from uer.training.report import Reporter
from uer.training.run import Run
from uer.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
VOCAB_SIZE = 21128
SPECIAL_IDS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
FIRST_WORD = 104  # the id of the most frequent token
THREADS = torch.get_num_threads()  # before a trainer chooses for itself


@dataclass(frozen=True)
class RandomRows:
    """Rows of random tokens, of which few are frequent, as in a text.

    Attributes:
        fill: mean part of a row that is not padding. Below 1, lengths are uniform around it: those of fill 0.4 at
            seq_length 100 lie between 3 and 80.
    """

    rows: int
    seq_length: int
    fill: float = 1.0

    def write(self, folder: Path, size: str) -> list[str]:
        """Write the dataset and its vocabulary; returns the flags of pretrain.py that train a size on them."""
        vocab = write_vocab(folder / "vocab.txt")
        write_rows(folder / "data.pt", self, vocab)
        return ["--dataset_path", str(folder / "data.pt"), "--vocab_path", str(folder / "vocab.txt"),
                "--config_path", str(config_path(size)), "--target", "mlm", "--output_model_path",
                str(folder / "model"), "--total_steps", "1000000", "--learning_rate", "1e-4", "--warmup", "0",
                "--scheduler", "constant", "--log_level", "ERROR"]

    def lengths(self) -> np.ndarray:
        """(rows,) int64, the tokens of each row."""
        generator = np.random.default_rng(7)
        if self.fill == 1.0:
            return np.full(self.rows, self.seq_length)
        spread = min(self.fill, 1.0 - self.fill)
        shares = generator.uniform(self.fill - spread, self.fill + spread, self.rows)
        return np.clip(np.round(shares * self.seq_length).astype(int), 3, self.seq_length)


def config_path(size: str) -> Path:
    """The settings of a size.

    Raises:
        UserError: there is no such size.
    """
    path = ROOT / "models" / "bert" / f"{size}_config.json"
    if not path.is_file():
        raise UserError(f"--sizes: there is no {path.relative_to(ROOT)}")
    return path


def read_model_config(size: str) -> ModelConfig:
    """The settings of a size, with the mlm target."""
    return cli.parse("", (TrainConfig, ModelConfig), ["--config_path", str(config_path(size)), "--output_model_path",
                                                      "none", "--target", "mlm"])[1]


def write_vocab(path: Path) -> Vocab:
    """A vocabulary of Google's size, with its special tokens at Google's ids."""
    tokens = [f"t{number}" for number in range(VOCAB_SIZE)]
    for token, number in SPECIAL_IDS.items():
        tokens[number] = token
    path.write_text("".join(f"{token}\n" for token in tokens))
    return Vocab(tokens)


def write_rows(path: Path, rows: RandomRows, vocab: Vocab) -> None:
    """The dataset. The token of rank r is drawn with a probability that is proportional to 1 / r (Zipf's law)."""
    lengths = rows.lengths()
    offsets = np.concatenate([[0], np.cumsum(lengths)])  # (rows + 1,)
    ranks = np.exp(np.random.default_rng(8).uniform(0.0, np.log(VOCAB_SIZE - FIRST_WORD), offsets[-1]))  # (tokens,)
    tokens = (FIRST_WORD - 1 + ranks).astype(np.uint16)
    tokens[offsets[:-1]], tokens[offsets[1:] - 1] = vocab.cls_id, vocab.sep_id
    known = VocabInfo(vocab.fingerprint, len(vocab), vocab.special_ids, BertTokenizer(vocab, True).settings)
    info = DatasetInfo(FORMAT_VERSION, "mlm", rows.seq_length, {"src": Column()}, {"src": rows.seq_length},
                       {"src": known}, dataclasses.asdict(MlmConfig()), dynamic_masking=True)
    save_dataset(path, info, {"src": tokens}, {"src": offsets})


def open_settings(flags: Sequence[str]) -> Settings:
    """The settings of `pretrain.py <flags>`."""
    return Settings(*model_settings.parse("", [known.type for known in dataclasses.fields(Settings)], flags))


def open_run(flags: Sequence[str]) -> Run:
    """The run of `pretrain.py <flags>` in this process."""
    settings = open_settings(flags)
    world = connect(RankInfo(), settings.parallel)
    return Run(settings, world, Reporter(settings.log, world, settings.train.total_steps),
               StateFolder(settings.train.output_model_path, settings.train.keep_checkpoints), open_data(settings))


def open_trainer(*flags: Sequence[str]) -> Trainer:
    """The trainer of `pretrain.py <flags>` before its first update, after whatever an earlier one compiled is freed.

    Args:
        flags: lists of flags; a flag of a later list has precedence.
    """
    free_memory()
    torch.set_num_threads(THREADS)
    return open_run([flag for part in flags for flag in part]).new_trainer()


def free_memory() -> None:
    """Free what earlier trainers left: compiled code, and memory that torch keeps on the GPU."""
    if "torch._dynamo" in sys.modules:  # it takes seconds to import
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextlib.contextmanager
def all_threads(count: int | None = None) -> Iterator[None]:
    """A context in which torch uses `count` threads for an operation, or as many as it did before a trainer of ours
    chose for itself."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def real_tokens(trainer: Trainer) -> float:
    """Tokens of an update that are no padding, on average over an epoch."""
    loader = trainer.parts.loader
    return loader.samples_per_step * loader.tokens_per_epoch / loader.samples_per_epoch


def executed_flops(trainer: Trainer, updates: int = 4) -> float:
    """Floating-point operations of an update as they are executed: those of the matrix products, attention's included,
    of all tokens that are computed, padding only where it is computed.

    The forward pass of the first updates is counted; the backward pass has twice as many. Of what a compiled model
    computes again in its backward pass nothing is counted.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes seconds

    parts = trainer.parts
    with FlopCounterMode(display=False) as counter, parts.precision.autocast():
        for step in range(updates):
            for batch in parts.loader.step(step):
                parts.model(batch)
    return 3 * counter.get_total_flops() / updates


def host_seconds(trainer: Trainer, updates: int, at_once: int = 4) -> float:
    """Seconds until `run_update` returns, on average, while the device is not waited for.

    Args:
        at_once: updates between two waits. With many, the host would wait for a place in the device's queue.
    """
    total = 0.0
    for _ in range(max(1, updates // at_once)):
        synchronise(trainer.world.device)
        begin = time.perf_counter()
        for _ in range(at_once):
            trainer.run_update()
        total += time.perf_counter() - begin
    return total / (max(1, updates // at_once) * at_once)
