"""A decay phase from any training state of a run whose learning rate is at its peak there.

    the run      the peak from the warmup on .......... state-30000 ......................... goes on, or not
    its decay                                           the peak falls to 0 ... step 33000

A schedule that rises, stays and falls needs no number of steps in advance: a run is trained at its peak for as long as
one likes, and a short decay from any of its states makes a finished model, while the run may go on (Hu et al., 2024,
arXiv:2404.06395; Hägele et al., 2024, arXiv:2405.18392). The optimizer's moments come along and the data go on, so that
the decay is the end of a run with `--scheduler trapezoidal` that was meant to end there, bit for bit on a CPU.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uer.checkpoint.state import StateFolder, read_state
from uer.config import OptimConfig, TrainConfig
from uer.errors import UserError
from uer.json_files import parse_json
from uer.optim.schedules import SCHEDULES

SCHEDULE = ("total_steps", "scheduler", "warmup", "lr_decay")
"""What is another one in the decay than in the run that it starts from; all other settings are the same."""
SAME_SETTINGS = "A decay has the settings of its run, but for --output_model_path and the schedule"


@dataclass(frozen=True)
class Start:
    """The state that a decay goes on from.

    Attributes:
        state: as `read_state` gives it.
        path: where it is.
        resumed: it is a state of the decay itself, which was stopped.
        named: if so, the step in the name of --decay_from, which need not exist any more.
    """

    state: Mapping[str, Any]
    path: Path
    resumed: bool
    named: int | None = None


def find_start(config: TrainConfig, folder: StateFolder, say: Callable[[str], None]) -> Start:
    """The newest state of the decay itself, which need not have the state before it any more; else --decay_from.

    Raises:
        UserError: there is no such state.
    """
    source = Path(config.decay_from)
    found = folder.find(config.resume, say)
    if found:
        named = re.search(r"\.state-(\d+)$", source.name)
        return Start(*found, resumed=True, named=int(named[1]) if named else None)
    weights = re.fullmatch(r"(.+)-(\d+)", source.name)
    if source.is_file() and weights and not weights[1].endswith(".state"):
        raise UserError(f"--decay_from {source}: weights without the optimizer's moments; a decay starts from a "
                        f"training state, such as {weights[1]}.state-{weights[2]} (--keep_checkpoints keeps more of "
                        "them). From weights: --pretrained_model_path with --scheduler trapezoidal --warmup 0.1 "
                        "--lr_decay 0.9")
    return Start(read_state(source), source, resumed=False)


def decay_schedule(start: Start, decay_steps: int) -> dict[str, Any]:
    """The settings `SCHEDULE` of the decay: the peak until the state's step, then the fall of `trapezoidal`.

        a state of step 30,000 and 3,000 steps: total_steps 33,000, lr_decay 1/11, as many steps of warmup as there were

    Raises:
        UserError: the learning rate is not at its peak there, or the decay was begun with another number of steps or
            at another step.
    """
    saved = parse_json(start.state["settings"], start.path, half_pairs=True)
    if not isinstance(saved, dict) or not {*SCHEDULE, "learning_rate"} <= saved.keys():
        raise UserError(f"{start.path}: a damaged training state: its settings do not say the learning rate")
    if start.resumed:
        begun = round(saved["lr_decay"] * saved["total_steps"]) if saved["scheduler"] == "trapezoidal" else 0
        if begun != decay_steps:
            raise UserError(f"{start.path}: belongs to a run that decays in {begun} steps, not {decay_steps}; name "
                            "another --output_model_path, or start anew with --resume never")
        if start.named not in (None, saved["total_steps"] - begun):
            raise UserError(f"{start.path}: belongs to a decay from step {saved['total_steps'] - begun}, not "
                            f"{start.named}; name another --output_model_path, or start anew with --resume never")
        return {name: saved[name] for name in SCHEDULE}
    step, peak = start.state["step"], saved["learning_rate"]
    optim = OptimConfig(learning_rate=peak, warmup=saved["warmup"], lr_decay=saved["lr_decay"])
    there = SCHEDULES[saved["scheduler"]](optim, saved["total_steps"])(step)
    if there != peak:
        raise UserError(f"--decay_from {start.path}: the learning rate is {there:g} there and not at its peak of "
                        f"{peak:g}, where a decay starts (--scheduler constant, constant_with_warmup or trapezoidal)")
    total_steps = step + decay_steps
    fraction = decay_steps / total_steps
    warmup = 0.0 if saved["scheduler"] == "constant" else saved["warmup"] * saved["total_steps"] / total_steps
    return {"total_steps": total_steps, "scheduler": "trapezoidal", "warmup": min(warmup, 1.0 - fraction),
            "lr_decay": fraction}
