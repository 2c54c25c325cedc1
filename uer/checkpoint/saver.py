"""Saves checkpoints during training: the state is copied between two updates, and a thread writes the copy to disk."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from uer.checkpoint import files as checkpoint
from uer.checkpoint.settings import write_settings
from uer.checkpoint.state import FORMAT_VERSION, BackgroundWriter, StateFolder
from uer.runtime.parallel import World
from uer.runtime.precision import Precision


class Saver:
    """Saves and restores the whole state of a run.

    Args:
        model: the bare model, whose names are UER's.
        settings: the run's identity, as JSON text.
        say: prints a line.
        masters: float32 values of parameters that are narrower: files hold these.
        kept: further entries of a training state, plain JSON, which a resumed run reads itself.

    Attributes:
        stall: seconds that training waited for checkpoints so far.
    """

    def __init__(self, folder: StateFolder, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision,
                 world: World, settings: str, say: Callable[[str], None],
                 masters: Mapping[nn.Parameter, Tensor] | None = None, kept: Mapping[str, Any] | None = None) -> None:
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.world = world
        self.settings = settings
        self.say = say
        self.masters = masters or {}
        self.kept = kept or {}
        self.stall = 0.0
        self._writer = BackgroundWriter()
        self._pending = ""

    def save(self, step: int, sums: Mapping[str, Tensor], with_weights: bool) -> None:
        """Begin to write the state after `step` updates, and `with_weights` the weights alone too.

        Every rank has to call; the main rank writes. Waits for the checkpoint before, if it is still being written.
        """
        started = time.perf_counter()
        if self.world.is_main:
            self.finish()  # so that there is never more than one copy
        state = self._capture(step, sums)
        if self.world.is_main:
            self._writer.submit(lambda: self._write(step, state, with_weights))
            stalled = time.perf_counter() - started
            self.stall += stalled
            path = self.folder.weights_path(step) if with_weights else self.folder.state_path(step)
            self._pending = f"saved {path}: training waited {stalled:.2f} s, written in "

    def poll(self) -> None:
        """Report a checkpoint that has been written; raise the error if it could not be."""
        if self._writer.poll():
            self._tell()

    def finish(self) -> None:
        """Return when the checkpoint that is being written, if any, is on disk."""
        self._writer.wait()
        self._tell()

    def restore(self, state: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """Restore a state that rank 0 has read; returns it, on every rank."""
        shared = self.world.broadcast_tensors(state)
        self.world.load_(self._weights(), shared["model"], {})
        with torch.no_grad():
            for parameter, master in self.masters.items():
                parameter.copy_(master)
        for name, parameter in self.model.named_parameters():
            saved = shared["optimizer"].get(name, {})
            kept = {key: self.world.distribute(value, parameter) for key, value in saved.items()}
            if kept:
                self.optimizer.state[parameter] = kept
        if self.precision.scale is not None and shared["scale"]:
            self.precision.scale.load(shared["scale"])
        torch.set_rng_state(shared["random"])
        return shared

    def _tell(self) -> None:
        if self._pending:
            self.say(f"{self._pending}{self._writer.seconds:.2f} s")
            self._pending = ""

    def _capture(self, step: int, sums: Mapping[str, Tensor]) -> dict[str, Any]:
        tensors = {
            "model": self._whole(self._weights()),
            "optimizer": {name: self._whole(self.optimizer.state[parameter])
                          for name, parameter in self.model.named_parameters() if self.optimizer.state.get(parameter)},
            "scale": self.precision.scale.state() if self.precision.scale is not None else {},
            "sums": dict(sums),
            "random": torch.get_rng_state(),
        }
        if not self.world.is_main:
            return {}
        return {"format_version": FORMAT_VERSION, "step": step, "settings": self.settings, **self.kept,
                **checkpoint.to_host(tensors)}

    def _weights(self) -> dict[str, Tensor]:
        """The model's tensors by name, with masters in place of the parameters that have one."""
        masters = {name: self.masters[parameter]
                   for name, parameter in self.model.named_parameters(remove_duplicate=False)
                   if parameter in self.masters}
        return {**self.model.state_dict(), **masters}

    def _whole(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Full tensors: sharded ones are put together and moved to the host one at a time; others stay as they are."""
        if self.world.config.sharding == "none":
            return dict(state)
        whole: dict[str, Tensor] = {}
        seen: dict[tuple, Tensor] = {}
        for name, tensor in state.items():
            key = self.world.identity(tensor)
            if key not in seen:
                together = self.world.full_tensor(tensor)  # every rank takes part, one keeps it
                seen[key] = together.to("cpu") if self.world.is_main else together.new_empty(0)
            whole[name] = seen[key]
        return whole

    def _write(self, step: int, state: dict[str, Any], with_weights: bool) -> None:
        if with_weights:
            path = self.folder.weights_path(step)
            checkpoint.write(state["model"], path, lambda: write_settings(path, step, json.loads(self.settings)))
        checkpoint.write(state, self.folder.state_path(step))
        self.folder.prune()
