"""The training state of a fine-tuning command, in `<weights>.state`: what a killed command needs to go on.

It is written after every epoch and every training, whole or not at all, and removed when the command ends well. It is
one file of plain tensors and JSON text, readable weights-only: the trainings that are finished (their figures and
outputs), and of the one under way the weights that are trained, the optimizer's state by parameter name, the best epoch
so far and the number of epochs. Batches, dropout and the learning rate are functions of seed, epoch and step, so no
generator's state is needed, and the weights of a command that went on are those of one that was never killed.
"""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uer.checkpoint import files as checkpoint
from uer.errors import UserError
from uer.finetuning.loop import Fit, FitSettings, Trial, Updater
from uer.runtime.parallel import World
from uer.runtime.threads import Split

logger = logging.getLogger("uer.finetuning")

FORMAT = "uer-finetuning-state"
VERSION = 1


class TrainingState:
    """The state of one command; every rank has one, the main rank reads and writes the file.

    Args:
        path: the file.
        identity: a hash of all that decides the result; a file with another one belongs to another command.
        world: the ranks.
        resume: "auto" goes on from the file if there is one; "never" starts anew.
    """

    def __init__(self, path: Path, identity: str, world: World, resume: str) -> None:
        self.path, self.identity, self.world = path, identity, world
        found = self._find(resume) if world.is_main else None
        found = world.broadcast_tensors(found or {"finished": {}, "running": {}})
        self._finished: dict[str, Any] = dict(found["finished"])
        self._running: Mapping[str, Any] = found["running"]

    def _find(self, resume: str) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        if resume == "never":
            logger.info("--resume never: %s is not used", self.path)
            return None
        try:
            content = checkpoint.read(self.path)
            if not isinstance(content, Mapping) or content.get("format") != FORMAT or content["version"] != VERSION:
                raise UserError(f"{self.path}: not a training state of this program")
            same = content["identity"] == self.identity
        except (UserError, KeyError) as error:
            logger.warning("%s; starting anew", error)
            return None
        if not same:
            logger.warning("%s belongs to a command with other settings or data; starting anew", self.path)
            return None
        return {"finished": content["finished"], "running": content["running"]}

    def trial(self, name: str, settings: FitSettings) -> Trial | None:
        """The training of this name, if it is finished."""
        kept = self._finished.get(name)
        if kept is None:
            return None
        facts = json.loads(kept["facts"])
        fitted = Fit(facts["metrics"], facts["epoch"], facts["history"], {}, unpack(kept["dev"]))
        tested = facts["test_metrics"] is not None
        return Trial(settings, fitted, unpack(kept["test"]) if tested else None, facts["test_metrics"])

    def finish(self, name: str, trial: Trial) -> None:
        """Keep a finished training."""
        facts = {"metrics": trial.fit.metrics, "epoch": trial.fit.epoch, "history": trial.fit.history,
                 "test_metrics": trial.test_metrics}
        self._finished[name] = {"facts": json.dumps(facts), "dev": pack(trial.fit.outputs),
                                "test": pack(trial.test_outputs or [])}
        self._running = {}
        self._write({})

    def restore(self, name: str, updater: Updater, best: Fit) -> int:
        """Put back the training of this name; returns the epochs that are done, 0 where nothing was kept of it."""
        if self._running.get("name") != name:
            return 0
        kept, self._running = self._running, {}
        facts = json.loads(kept["facts"])
        checkpoint.load_trained(updater.model, kept["model"])
        for parameter_name, parameter in updater.model.named_parameters():
            state = kept["optimizer"].get(parameter_name, {})
            updater.optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in state.items()}
        updater.step = facts["step"]
        if updater.split is not None and facts.get("split"):
            updater.divide(Split(**facts["split"]))
        best.metrics, best.epoch, best.history = facts["metrics"], facts["best_epoch"], facts["history"]
        best.state, best.outputs = dict(kept["best"]), unpack(kept["outputs"])
        logger.info("Going on after epoch %d, from %s", facts["epoch"], self.path)
        return facts["epoch"]

    def save(self, name: str, updater: Updater, best: Fit, epoch: int) -> None:
        """Keep a training after `epoch` of its epochs."""
        if not self.world.is_main:
            return
        facts = {"epoch": epoch, "step": updater.step, "metrics": best.metrics, "best_epoch": best.epoch,
                 "history": best.history, "split": updater.split and updater.split.values()}
        optimizer = updater.optimizer.state
        moments = {name: dict(optimizer[parameter]) for name, parameter in updater.model.named_parameters()
                   if parameter in optimizer}
        # Where this epoch is the best, the weights are stored once.
        weights = best.state if best.epoch == epoch else checkpoint.trained_state(updater.model)
        self._write({"name": name, "facts": json.dumps(facts), "model": weights, "best": best.state,
                     "outputs": pack(best.outputs), "optimizer": moments})

    def _write(self, running: Mapping[str, Any]) -> None:
        if self.world.is_main:
            content = {"finished": self._finished, "running": running}
            checkpoint.write({"format": FORMAT, "version": VERSION, "identity": self.identity,
                              **checkpoint.to_host(content)}, self.path)

    def remove(self) -> None:
        """The command has ended well."""
        if self.world.is_main:
            self.path.unlink(missing_ok=True)


@dataclasses.dataclass(frozen=True)
class TrialState:
    """The part of a state that one training needs to know."""

    state: TrainingState
    name: str

    def restore(self, updater: Updater, best: Fit) -> int:
        """See `TrainingState.restore`."""
        return self.state.restore(self.name, updater, best)

    def save(self, updater: Updater, best: Fit, epoch: int) -> None:
        """See `TrainingState.save`."""
        self.state.save(self.name, updater, best, epoch)


def pack(outputs: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Arrays of one axis each as two tensors: all values, and the arrays' lengths."""
    values = np.concatenate(outputs).astype(np.float32) if len(outputs) else np.empty(0, np.float32)
    return {"values": torch.from_numpy(values), "lengths": torch.tensor([len(output) for output in outputs])}


def unpack(packed: Mapping[str, Tensor]) -> list[np.ndarray]:
    """What `pack` was given."""
    lengths = packed["lengths"].tolist()
    return np.split(packed["values"].numpy(), np.cumsum(lengths)[:-1]) if lengths else []
