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
from uer.checkpoint.settings import settings_path as checkpoint_settings_path
from uer.checkpoint.settings import write_settings
from uer.config import REQUIRED, flag
from uer.convert.names import some
from uer.convert.open import load_checkpoint, require_whole_model
from uer.convert.provenance import Stage, record_names, recorded_stages
from uer.errors import UserError
from uer.finetuning.paths import model_files, settings_path, vocab_path, weights_path
from uer.finetuning.readers import file_hash
from uer.finetuning.saved_model import is_finetuned, vocab_beside, write_beside
from uer.json_files import read_json_object
from uer.paths import File, existing
from uer.runtime.lock import OutputLock
from uer.text import amount


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    model_list_path: tuple[str, ...] = flag(REQUIRED, "Checkpoints to average.", path="read")
    output_model_path: str = flag("models/average_model.bin", "Where the average is written; its settings go beside "
                                                              "it.", path="write_model")

    def reads(self) -> list[File]:
        """The checkpoints, and what lies beside them."""
        weights = list(map(weights_path, self.model_list_path))
        files = [file for path in weights for file in (*model_files(path), *existing(path.parent, record_names(path)))]
        return [File("--model_list_path", str(file)) for file in files]

    def writes(self) -> list[File]:
        """The average's files."""
        weights = weights_path(self.output_model_path)
        return [File("--output_model_path", str(path))
                for path in (*model_files(weights), checkpoint_settings_path(weights))]


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    paths = tuple(str(weights_path(path)) for path in flags.model_list_path)
    output = weights_path(flags.output_model_path)
    with OutputLock(output):
        settings, stage = common_settings(paths), common_stage(paths)
        means = average(paths)
        remove_beside(output)
        if settings:
            write_beside(settings, paths[0], output)
        if stage:
            write_settings(output, stage.step, stage.settings)
        save_weights(means, output)
    print(f"written: {output}: the average of {amount(len(paths), 'checkpoint')}")


def remove_beside(output: Path) -> None:
    """Remove what lies beside the model that the average replaces: it may be of another kind."""
    finetuned = [settings_path(output), vocab_path(output)] if is_finetuned(output) else []
    for path in (*finetuned, checkpoint_settings_path(output)):
        path.unlink(missing_ok=True)


def common_settings(paths: tuple[str, ...]) -> dict[str, Any]:
    """The settings of fine-tuned models, with no training of its own; {} where some are none.

    Raises:
        UserError: the models were fine-tuned for different tasks, labels or settings.
    """
    if not all(map(is_finetuned, paths)):
        return {}
    contents = [read_json_object(settings_path(path)) for path in paths]
    first, *others = ({**content, "training": {}, "tokenizer": {**content["tokenizer"], "vocab_path": file_hash(
        str(vocab_beside(path, content)))}} for path, content in zip(paths, contents))
    for path, other in zip(paths[1:], others):
        if different := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            raise UserError(f"{path} and {paths[0]} were fine-tuned differently: {some(different)}")
    return {**contents[0], "training": {"averaged": [Path(path).name for path in paths]}}


def common_stage(paths: tuple[str, ...]) -> Stage | None:
    """What the trainings of pretrained checkpoints have in common, and the step of the latest; None where the files
    beside one do not tell how it was trained.

    Raises:
        UserError: they are different models, or of different vocabularies.
    """
    stages = [stage for path in paths for stage in recorded_stages(path)[:1]]
    if len(stages) < len(paths):
        return None
    first, *others = [{**stage.model().values(), "vocabulary": stage.settings.get("vocabulary"), "dropout": None}
                      for stage in stages]
    for path, other in zip(paths[1:], others):
        if different := sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name)):
            raise UserError(f"{path} and {paths[0]} are different models: their settings differ in {some(different)}")
    common = {name: value for name, value in stages[0].settings.items()
              if all(stage.settings.get(name) == value for stage in stages)}
    return Stage("", max(stage.step for stage in stages), {**common, "averaged": [Path(path).name for path in paths]})


def average(paths: tuple[str, ...]) -> dict[str, Tensor]:
    """The mean of each tensor, summed in float64; only two checkpoints are in memory at the same time.

    Weights that share one tensor in the first checkpoint share one in the result, too, if their means agree.

    Raises:
        UserError: the checkpoints differ in names or shapes, or are adapters: the mean of the products B A is not the
            product of the means of A and B.
    """
    first = load_checkpoint(paths[0])
    require_whole_model(first, paths[0])
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
