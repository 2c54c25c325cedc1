"""Saves checkpoints during training: the state is copied between two updates, and a thread writes the copy to disk.

Where each rank has all parameters, rank 0 writes the state as one file. Where they are divided, each rank writes its
part into one folder. Weights are always one file, whole.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from uer.checkpoint import files as checkpoint
from uer.checkpoint.settings import write_settings
from uer.checkpoint.state import FORMAT_VERSION, BackgroundWriter, StateFolder
from uer.errors import UserError
from uer.runtime import sharded_state
from uer.runtime.parallel import World
from uer.runtime.precision import Precision
from uer.runtime.tensor_parallel import splits_of


class Saver:
    """Saves and restores the whole state of a run.

    Args:
        model: the bare model, whose names are UER's.
        settings: the run's identity, as JSON text.
        say: prints a line.
        masters: float32 values of parameters that are narrower: files hold these.
        kept: further entries of a training state, plain JSON, which a resumed run reads itself.
        export: makes the tensors of a checkpoint of those that are trained; the same where it is None.

    Attributes:
        stall: seconds that training waited for checkpoints so far.
    """

    def __init__(self, folder: StateFolder, model: nn.Module, optimizer: torch.optim.Optimizer, precision: Precision,
                 world: World, settings: str, say: Callable[[str], None],
                 masters: Mapping[nn.Parameter, Tensor] | None = None, kept: Mapping[str, Any] | None = None,
                 export: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None) -> None:
        self.folder = folder
        self.model = model
        self.optimizer = optimizer
        self.precision = precision
        self.world = world
        self.settings = settings
        self.say = say
        self.masters = masters or {}
        self.kept = kept or {}
        self.export = export or (lambda weights: weights)
        self.splits = splits_of(model)
        self.stall = 0.0
        self._writer = BackgroundWriter()
        self._pending = ""

    def save(self, step: int, sums: Mapping[str, Tensor], with_weights: bool) -> None:
        """Begin to write the state after `step` updates, and `with_weights` the weights alone too.

        Every rank has to call. Waits for the checkpoint before, if it is still being written.
        """
        started = time.perf_counter()
        self.finish()  # so that there is never more than one copy
        write = (self._whole_state if self.world.is_whole else self._sharded_state)(step, sums, with_weights)
        if write:
            self._writer.submit(write)
        if self.world.is_main:
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
        """Restore a state that rank 0 has read; returns it, on every rank.

        Raises:
            UserError: it is not of this model and optimizer.
        """
        self.world.check(lambda: self._check_fits(state))
        shared = self.world.broadcast_tensors(state)
        if "folder" in shared:
            self.world.check(lambda: self._load_sharded(Path(shared["folder"])))
        else:
            self._load_whole(shared)
        with torch.no_grad():
            for parameter, master in self.masters.items():
                parameter.copy_(master)
        if self.precision.scale is not None and shared["scale"]:
            self.precision.scale.load(shared["scale"])
        torch.set_rng_state(shared["random"])
        return shared

    def _check_fits(self, state: Mapping[str, Any] | None) -> None:
        """Check the names, shapes and types of a state that is one file, on the rank that has read it: torch's fused
        kernels do not, and would write beyond the end of a moment that is too small.

        Raises:
            UserError: one is missing or differs.
        """
        if state is None or "folder" in state:
            return
        wanted = {f"model.{name}": self._whole(name, tensor) for name, tensor in self._weights().items()}
        found = {f"model.{name}": _shape_of(value) for name, value in state["model"].items()}
        for name, group, parameter in self._trained():
            if saved := state["optimizer"].get(name):  # a parameter without a gradient so far has none
                new = self.optimizer.new_state(group, parameter)
                wanted |= {f"optimizer.{name}.{key}": self._whole(name, value) for key, value in new.items()}
                found |= {f"optimizer.{name}.{key}": _shape_of(value) for key, value in saved.items()}
        for name in wanted:
            if found.get(name) != wanted[name]:
                raise UserError(f"{state['path']}: not a training state of this model, or a damaged one: {name} "
                                + ("has another shape or type" if name in found else "is missing"))

    def _trained(self) -> Iterator[tuple[str, dict[str, Any], nn.Parameter]]:
        """Name, group and parameter of all that the optimizer updates."""
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        for group in self.optimizer.param_groups:
            yield from ((names[parameter], group, parameter) for parameter in group["params"])

    def _whole(self, name: str, tensor: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
        """The shape, as a file has it, and the type of a parameter, or of what belongs to it, on this rank."""
        shape, split = list(tensor.shape), self.splits.get(name)
        if split is not None:
            shape[split.dim] = split.size
        return tuple(shape), tensor.dtype

    def _load_whole(self, shared: Mapping[str, Any]) -> None:
        self.world.load_(self._weights(), shared["model"], self.splits)
        for name, parameter in self.model.named_parameters():
            saved = shared["optimizer"].get(name, {})
            kept = {key: self.world.distribute(value, parameter, self.splits.get(name)) for key, value in saved.items()}
            if kept:
                self.optimizer.state[parameter] = kept

    def _load_sharded(self, folder: Path) -> None:
        """Read this rank's part of a state that is a folder."""
        saved = {name.rpartition(".")[0] for name in sharded_state.shapes(folder)}
        for name, group, parameter in self._trained():
            if f"optimizer.{name}" in saved:
                self.optimizer.state[parameter] = self.optimizer.new_state(group, parameter)
        with torch.no_grad():
            sharded_state.load_(self._described(), folder)

    def _tell(self) -> None:
        if self._pending:
            self.say(f"{self._pending}{self._writer.seconds:.2f} s")
            self._pending = ""

    def _whole_state(self, step: int, sums: Mapping[str, Tensor], with_weights: bool) -> Callable[[], None] | None:
        """A copy of the state on rank 0: what writes it. None on the others."""
        if not self.world.is_main:
            return None
        optimizer = {name: dict(self.optimizer.state[parameter])
                     for name, parameter in self.model.named_parameters() if self.optimizer.state.get(parameter)}
        # In one call, so that tensors with the same memory stay one.
        state = self._rest(step, {"model": self._weights(), "optimizer": optimizer}, sums)

        def write() -> None:
            if with_weights:
                self._write_weights(step, state["model"])
            checkpoint.write(state, self.folder.state_path(step))
            self.folder.prune(step)

        return write

    def _sharded_state(self, step: int, sums: Mapping[str, Tensor], with_weights: bool) -> Callable[[], None]:
        """A copy of this rank's part of the state: what completes it, on each rank."""
        weights = self._put_together() if with_weights else {}
        first = self._first_names()
        tied = {name: first[source] for name, source in self._sources().items() if first[source] != name}
        rest, folder = {**self._rest(step, {}, sums), "tied": tied}, self.folder.unfinished_path(step)
        saving = sharded_state.begin_save(self._described(), folder, self.world)

        def complete() -> None:
            sharded_state.finish_save(saving, folder)
            if not self.world.is_main:
                return
            if with_weights:
                self._write_weights(step, weights)
            self.folder.complete(step, rest)
            self.folder.prune(step)

        return complete

    def _rest(self, step: int, tensors: Mapping[str, Any], sums: Mapping[str, Tensor]) -> dict[str, Any]:
        """Copies of `tensors` and of the small parts of a state."""
        scale = self.precision.scale.state() if self.precision.scale is not None else {}
        return {"format_version": FORMAT_VERSION, "step": step, "settings": self.settings, **self.kept,
                **checkpoint.to_host({**tensors, "scale": scale, "sums": dict(sums), "random": torch.get_rng_state()})}

    def _described(self) -> dict[str, Tensor]:
        """The tensors of model and optimizer, which tell what part this rank has of them; tied ones once."""
        weights = self._weights()
        found = {f"model.{name}": self.world.described(weights[name], self.splits.get(name))
                 for name in self._first_names().values()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{name}.{key}"] = self.world.described(value, self.splits.get(name))
        return found

    def _weights(self) -> dict[str, Tensor]:
        """The model's tensors that are trained by name, with masters in place of the parameters that have one."""
        masters = {name: self.masters[parameter]
                   for name, parameter in self.model.named_parameters(remove_duplicate=False)
                   if parameter in self.masters}
        return {**checkpoint.trained_state(self.model), **masters}

    def _put_together(self) -> dict[str, Tensor]:
        """The whole weights on rank 0: they are put together and moved to the host one at a time."""
        weights, sources, whole = self._weights(), self._sources(), {}
        for name, source in sources.items():
            if source not in whole:
                together = self.world.full_tensor(weights[name], self.splits.get(name))  # every rank takes part
                whole[source] = checkpoint.to_host(together) if self.world.is_main else together.new_empty(0)
        return {name: whole[source] for name, source in sources.items()}

    def _first_names(self) -> dict[int | str, str]:
        """Of tied weights the first name."""
        return {source: name for name, source in reversed(self._sources().items())}

    def _sources(self) -> dict[str, int | str]:
        """For each tensor's name, what is equal for tied weights."""
        parameters = {name: id(parameter) for name, parameter in self.model.named_parameters(remove_duplicate=False)}
        return {name: parameters.get(name, name) for name in self._weights()}

    def _write_weights(self, step: int, weights: Mapping[str, Tensor]) -> None:
        path = self.folder.weights_path(step)
        checkpoint.write(self.export(weights), path, lambda: write_settings(path, step, json.loads(self.settings)))


def _shape_of(value: Any) -> tuple[tuple[int, ...], torch.dtype] | None:
    """Shape and type of a tensor; None of anything else."""
    return (tuple(value.shape), value.dtype) if isinstance(value, Tensor) else None
