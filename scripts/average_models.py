"""Average the weights of several checkpoints of one model, such as the last ones of a run."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor

from uer import cli
from uer.checkpoint.files import save_weights
from uer.config import REQUIRED, flag
from uer.convert.names import some
from uer.convert.open import load_checkpoint
from uer.errors import UserError
from uer.finetuning.paths import model_files, settings_path, weights_path
from uer.finetuning.readers import file_hash
from uer.finetuning.saved_model import is_finetuned, vocab_beside, write_beside
from uer.json_files import read_json_object
from uer.paths import File
from uer.runtime.lock import OutputLock
from uer.text import amount


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    model_list_path: tuple[str, ...] = flag(REQUIRED, "Checkpoints to average.", path="read")
    output_model_path: str = flag("models/average_model.bin", "Where the average is written; of fine-tuned models with "
                                                              "their settings beside it.", path="write_model")

    def reads(self) -> list[File]:
        """The files of fine-tuned models."""
        return [File("--model_list_path", str(file)) for path in self.model_list_path for file in model_files(path)]

    def writes(self) -> list[File]:
        """The average's files."""
        return [File("--output_model_path", str(path)) for path in model_files(self.output_model_path)]


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    paths = tuple(str(weights_path(path)) for path in flags.model_list_path)
    output = weights_path(flags.output_model_path)
    with OutputLock(output):
        settings = common_settings(paths)
        means = average(paths)
        if settings:
            write_beside(settings, paths[0], output)
        save_weights(means, output)
    print(f"written: {output}: the average of {amount(len(paths), 'checkpoint')}")


def common_settings(paths: tuple[str, ...]) -> dict[str, Any]:
    """The settings of fine-tuned models, with no training of its own; {} where some are none, or are adapters.

    Raises:
        UserError: the models were fine-tuned for different tasks, labels or settings.
    """
    if not all(map(is_finetuned, paths)):
        return {}
    contents = [read_json_object(settings_path(path)) for path in paths]
    if any("lora" in content.get("training", {}) for content in contents):
        return {}
    first, *others = ({**content, "training": {}, "tokenizer": {**content["tokenizer"], "vocab_path": file_hash(
        str(vocab_beside(path, content)))}} for path, content in zip(paths, contents))
    for path, other in zip(paths[1:], others):
        if different := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            raise UserError(f"{path} and {paths[0]} were fine-tuned differently: {some(different)}")
    return {**contents[0], "training": {"averaged": [Path(path).name for path in paths]}}


def average(paths: tuple[str, ...]) -> dict[str, Tensor]:
    """The mean of each tensor, summed in float64; only two checkpoints are in memory at the same time.

    Weights that share one tensor in the first checkpoint share one in the result, too, if their means agree.

    Raises:
        UserError: the checkpoints differ in names or shapes.
    """
    first = load_checkpoint(paths[0])
    owners: dict[int, str] = {}
    shared = {name: owners.setdefault(tensor.data_ptr(), name) for name, tensor in first.items()}
    types = {name: tensor.dtype for name, tensor in first.items()}
    sums = {name: first.pop(name).to(torch.float64, copy=True) for name in shared}
    for path in paths[1:]:
        weights = load_checkpoint(path)
        _require_same_model(sums, weights, path, paths[0])
        for name, total in sums.items():
            total += weights[name]
    means = {name: total.div_(len(paths)).to(types[name]) for name, total in sums.items()}
    return {name: means[owner] if torch.equal(means[name], means[owner]) else means[name]
            for name, owner in shared.items()}


def _require_same_model(sums: dict[str, Tensor], weights: dict[str, Tensor], path: str, first: str) -> None:
    different = sorted(sums.keys() ^ weights.keys())
    if different:
        raise UserError(f"{path} and {first} are different models: only one of them has {some(different)}")
    for name, tensor in weights.items():
        if tensor.shape != sums[name].shape:
            raise UserError(f"{path} and {first} are different models: {name} is {list(tensor.shape)} in one and "
                            f"{list(sums[name].shape)} in the other")


if __name__ == "__main__":
    cli.run(main)
