"""Average the weights of several checkpoints of one model, such as the last ones of a run."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from uer import cli
from uer.checkpoint.files import save_weights
from uer.config import REQUIRED, flag
from uer.convert.names import some
from uer.convert.open import load_checkpoint
from uer.errors import UserError
from uer.text import amount


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    model_list_path: tuple[str, ...] = flag(REQUIRED, "Checkpoints to average.", path="read")
    output_model_path: str = flag("models/average_model.bin", "Where the average is written.", path="write")


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    save_weights(average(flags.model_list_path), flags.output_model_path)
    print(f"written: {flags.output_model_path}: the average of {amount(len(flags.model_list_path), 'checkpoint')}")


def average(paths: tuple[str, ...]) -> dict[str, Tensor]:
    """The mean of each tensor, summed in float64; only two checkpoints are in memory at the same time.

    Weights that share one tensor in the first checkpoint share one in the result, too, if their means agree.

    Raises:
        UserError: the checkpoints differ in names or shapes, or a tensor is not of a floating-point type.
    """
    first = load_checkpoint(paths[0], lambda line: None)  # which is said when it is read again
    owner: dict[int, str] = {}
    shared = {name: owner.setdefault(tensor.data_ptr(), name) for name, tensor in first.items()}
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in first.items()}
    sums = {name: torch.zeros_like(first[name], dtype=torch.float64) for name in shared}
    del first
    for path in paths:
        weights = load_checkpoint(path)
        _require_same_model(shapes, weights, path, paths[0])
        for name, total in sums.items():
            total += weights[name]
    means = {name: (total / len(paths)).to(shapes[name][1]) for name, total in sums.items()}
    return {name: means[owner] if torch.equal(means[name], means[owner]) else means[name]
            for name, owner in shared.items()}


def _require_same_model(shapes: dict[str, tuple], weights: dict[str, Tensor], path: str, first: str) -> None:
    different = sorted(shapes.keys() ^ weights.keys())
    if different:
        raise UserError(f"{path} and {first} are different models: only one of them has {some(different)}")
    for name, tensor in weights.items():
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {name} holds {tensor.dtype}, which has no average")
        if tensor.shape != shapes[name][0]:
            raise UserError(f"{path} and {first} are different models: {name} is {list(tensor.shape)} in one and "
                            f"{list(shapes[name][0])} in the other")


if __name__ == "__main__":
    cli.run(main)
