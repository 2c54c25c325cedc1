"""A tiny corpus, vocabulary and model, and pretrain.py run on them in processes of its own."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tools.processes import is_running
from uer.checkpoint.files import load_weights
from uer.data.processors.mlm import MlmConfig
from uer.data.schema import Column, VocabInfo
from uer.data.store import FORMAT_VERSION, DatasetInfo, save_dataset
from uer.tokenizers import Vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
MODEL = {"emb_size": 16, "hidden_size": 16, "feedforward_size": 32, "heads_num": 2, "layers_num": 2,
         "max_seq_length": 32, "embedding": ["word", "pos", "seg"], "tie_weights": True, "dropout": 0.1,
         "target": ["mlm"]}


@dataclass
class Job:
    """A run that was started."""

    server: Any
    pid: int
    log: Path

    def wait(self, seconds: float = 240) -> int:
        """Its exit status. It is given time enough for a machine that others keep busy."""
        status = self.server.ask({"wait": self.pid, "seconds": seconds})
        if status is None:
            os.killpg(self.pid, 9)
            self.server.ask({"wait": self.pid, "seconds": 60})
            pytest.fail(f"still running after {seconds} s:\n{self.output}")
        return status

    def wait_for(self, condition: Callable[[], Any], seconds: float = 240, pause: float = 0.005) -> None:
        """Return when the condition holds; the run must not end before."""
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until or not self.runs:
                pytest.fail(f"waited in vain:\n{self.output}")
            time.sleep(pause)

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return is_running(self.pid) or not Path("/proc/self").exists()

    def refusal(self) -> str:
        """Wait for it to end with status 2; returns its one line that begins with "error: "."""
        assert self.wait() == 2, self.output
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and "Traceback" not in self.output, self.output
        return errors[0]

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


@dataclass
class Playground:
    """A folder with a dataset, a vocabulary and a configuration."""

    folder: Path
    server: Any
    runs: int = 0

    def arguments(self, name: str, **flags: Any) -> list[str]:
        """The command line of a run. It is fp32 unless a test says otherwise: `auto` is bf16 on some CPUs."""
        settings: dict[str, Any] = {
            "dataset_path": self.folder / "data.pt", "vocab_path": self.folder / "vocab.txt",
            "config_path": self.folder / "config.json", "tokenizer": "char", "data_processor": "mlm",
            "learning_rate": 1e-2, "batch_size": 4, "total_steps": 12, "report_steps": 4, "save_checkpoint_steps": 6,
            "output_model_path": self.folder / name, "metrics_path": self.folder / f"{name}.jsonl",
            "precision": "fp32", **flags}
        argv: list[str] = []
        for flag, value in settings.items():
            if value is True:
                argv.append(f"--{flag}")
            elif value is not None:
                argv += [f"--{flag}", *(map(str, value) if isinstance(value, (tuple, list)) else [str(value)])]
        return argv

    def start(self, name: str, env: dict[str, str] | None = None, file_limit: int = 0,
              kill: dict[str, Any] | None = None, **flags: Any) -> Job:
        """Start a run; what `kill` means is said in `fork_server.py`."""
        self.runs += 1
        log = self.folder / f"{name}.log{self.runs}"
        pid = self.server.ask({"argv": self.arguments(name, **flags), "log": str(log), "env": env or {},
                               "file_limit": file_limit, "kill": kill})
        return Job(self.server, pid, log)

    def run(self, name: str, **flags: Any) -> Job:
        """A run that ends well."""
        job = self.start(name, **flags)
        assert job.wait() == 0, job.output
        return job

    def fail(self, name: str, env: dict[str, str] | None = None, **flags: Any) -> str:
        """The one line of a run that is refused with status 2."""
        return self.start(name, env, **flags).refusal()

    def figures(self, name: str, kind: str = "train") -> list[dict[str, Any]]:
        lines = (self.folder / f"{name}.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["kind"] == kind]

    def write_dataset(self, name: str, **changes: Any) -> Path:
        """A dataset whose metadata say something else."""
        path = self.folder / name
        write_dataset(path, Vocab.load(self.folder / "vocab.txt"), **changes)
        return path

    def configure(self, **changes: Any) -> None:
        """Change settings of the model."""
        (self.folder / "config.json").write_text(json.dumps({**MODEL, **changes}))

    def weights(self, name: str) -> dict[str, Tensor]:
        """Those of the checkpoint of this name."""
        return load_weights(self.folder / name)

    def losses(self, name: str) -> list[float]:
        return [line["loss"] for line in self.figures(name)]


def assert_close_weights(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """The same to the rounding of a few updates whose sums were taken in another order."""
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Between two models, as points of the space of their weights."""
    return float(sum((value - other[key]).square().sum() for key, value in one.items()).sqrt())


def write_dataset(path: Path, vocab: Vocab, seed: int = 5, rows: int = 101, seq_length: int = 16,
                  vocab_changes: dict[str, Any] | None = None, **changes: Any) -> None:
    """`rows` instances of unlike lengths whose tokens follow one another, so that there is something to learn."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, seq_length + 1, rows)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    rows_of_tokens = [5 + (generator.integers(40) + np.arange(length)) % 40 for length in lengths]
    tokens = np.concatenate([np.zeros(0, np.int64), *rows_of_tokens])
    tokens[offsets[:-1]] = vocab.cls_id
    tokens[offsets[1:] - 1] = vocab.sep_id
    settings: dict[str, Any] = {"fingerprint": vocab.fingerprint, "size": len(vocab), "special_ids": vocab.special_ids,
                                "tokenizer": {"kind": "char", "do_lower_case": "false"}, **(vocab_changes or {})}
    info: dict[str, Any] = {
        "format_version": FORMAT_VERSION, "processor": "mlm", "seq_length": seq_length, "schema": {"src": Column()},
        "lengths": {"src": seq_length}, "vocabs": {"src": VocabInfo(**settings)},
        "processor_settings": dataclasses.asdict(MlmConfig()), "dynamic_masking": True, **changes}
    save_dataset(path, DatasetInfo(**info), {"src": tokens}, {"src": offsets})


def make_playground(folder: Path, server: Any) -> Playground:
    (folder / "vocab.txt").write_text("\n".join(SPECIAL + [chr(0x4E00 + n) for n in range(40)]) + "\n")
    (folder / "config.json").write_text(json.dumps(MODEL))
    write_dataset(folder / "data.pt", Vocab.load(folder / "vocab.txt"))
    return Playground(folder, server)


@pytest.fixture
def playground(tmp_path, server) -> Playground:
    return make_playground(tmp_path, server)


@pytest.fixture(scope="module")
def shared_playground(tmp_path_factory, server) -> Playground:
    """One for all tests of a file, for runs that several of them look at; each of their own runs needs its own name."""
    return make_playground(tmp_path_factory.mktemp("playground"), server)
