"""Several machines: torchrun's settings, and how the first machine tells the others what to join.

The same command runs on every machine, on one shared folder. Node 0 does what is done once: datasets, conversion, and
deciding what comes next. Before each training it writes `launch.json`; the other nodes wait for it, start torchrun on
the same training, and leave when every model is there, or when node 0 says that it stopped.
"""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from uer.errors import UserError
from uer.files import atomic_path
from uer.json_files import json_text, read_json_object

FLAG = "--torchrun"
MODULE = "torch.distributed.run"


@dataclass(frozen=True)
class Torchrun:
    """How torchrun is called.

    Attributes:
        arguments: its own, as they were given.
        nodes: machines.
        processes: of each machine.
        node: this machine's number; 0 leads.
    """

    arguments: tuple[str, ...]
    nodes: int
    processes: int
    node: int

    def command(self, meeting: str) -> list[str]:
        """The words before a script's path.

        Args:
            meeting: what this training's machines know one another by.
        """
        return [sys.executable, "-m", MODULE, *self.arguments, "--rdzv_id", meeting]

    def shown(self) -> str:
        """For a model card: without the names of machines."""
        return f"torchrun --nnodes {self.nodes} --nproc_per_node {self.processes}"


def parse_torchrun(text: str, gpus: int, env: Mapping[str, str] = os.environ) -> Torchrun:
    """Read `--torchrun`.

    Args:
        text: torchrun's arguments as they would be typed.
        gpus: of this machine, for `--nproc_per_node gpu`; 0 where there are none.
        env: Slurm says there which machine this is.

    Raises:
        UserError: there is no fixed number of processes, or the machines could not meet.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UserError(f"{FLAG} '{text}': {error}") from None
    nodes = _number(words, "nnodes", "1")
    named = {"gpu": gpus, "auto": gpus or os.cpu_count() or 1, "cpu": os.cpu_count() or 1}
    wanted = _option(words, "nproc_per_node", "1")
    processes = named[wanted] if wanted in named else _number(words, "nproc_per_node", "1")
    node = _number(words, "node_rank", env.get("SLURM_NODEID", "0") if nodes > 1 else "0")
    if nodes < 1 or processes < 1:
        raise UserError(f"{FLAG}: --nnodes and --nproc_per_node must be at least 1")
    if not 0 <= node < nodes:
        raise UserError(f"{FLAG}: --node_rank {node} must lie between 0 and {nodes - 1}")
    if nodes > 1 and not (_option(words, "rdzv_endpoint") or _option(words, "master_addr")):
        raise UserError(f"{FLAG}: {nodes} machines need --rdzv_endpoint HOST:PORT of the first of them")
    return Torchrun(words, nodes, processes, node)


def _option(words: Sequence[str], name: str, default: str = "") -> str:
    """The last value of `--name value` or `--name=value`, spelled with _ or -."""
    for number in range(len(words) - 1, -1, -1):
        option, equals, value = words[number].partition("=")
        if option.replace("-", "_") == f"__{name}":
            return value if equals else "".join(words[number + 1:number + 2])
    return default


def _number(words: Sequence[str], name: str, default: str) -> int:
    value = _option(words, name, default)
    if not value.isdecimal():
        raise UserError(f"{FLAG}: --{name} must be a fixed number, not '{value}': the rows of an update are shared out "
                        "by it")
    return int(value)


@dataclass(frozen=True)
class Launch:
    """What node 0 tells the others.

    Attributes:
        id: another one for every message.
        training: which one to join, as `Step.training`; "" when node 0 has ended.
        flags: of pretrain.py, which must be the same on every machine.
        reason: why node 0 has ended.
    """

    id: str
    training: str = ""
    flags: tuple[str, ...] = ()
    reason: str = ""


def write_launch(folder: Path, launch: Launch) -> None:
    """Tell the other nodes."""
    with atomic_path(folder / "launch.json") as temporary:
        temporary.write_text(json_text(vars(launch), indent=1) + "\n", encoding="utf-8")


def read_launch(folder: Path) -> Launch | None:
    """What node 0 said last; None where it has said nothing yet."""
    try:
        content = read_json_object(folder / "launch.json")
        return Launch(content["id"], content["training"], tuple(content["flags"]), content["reason"])
    except (ValueError, KeyError, TypeError):
        return None
