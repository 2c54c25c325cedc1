"""Add adapters (LoRA) to the weights of the model that they belong to: a whole model, which loads as any other."""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from _lora import AdapterFlags, Adapters, read_adapters

from uer import cli
from uer.checkpoint.files import save_weights
from uer.checkpoint.settings import ENDING, write_settings
from uer.config import REQUIRED, flag
from uer.errors import UserError
from uer.finetuning.paths import model_files, weights_path
from uer.finetuning.saved_model import write_beside
from uer.finetuning.tasks import TASKS
from uer.layers.lora import adapted_layers, merged
from uer.paths import File
from uer.runtime.lock import OutputLock


@dataclass(frozen=True)
class Flags(AdapterFlags):
    """Adapters"""

    output_model_path: str = flag(REQUIRED, "Where the whole model is written; the settings go beside it.",
                                  path="write_model")

    def writes(self) -> list[File]:
        """The model's files."""
        weights = weights_path(self.output_model_path)
        return [File("--output_model_path", str(path)) for path in (*model_files(weights), f"{weights}{ENDING}")]


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    output = weights_path(flags.output_model_path)
    with OutputLock(output):
        read = read_adapters(flags)
        weights = merge(read)
        if read.finetuned:
            write_beside(read.finetuned, read.path, output)
        if read.pretrained:
            write_settings(output, read.pretrained["step"], read.pretrained["settings"])
        save_weights(weights, output)
    print(f"written: {output}: {read.base_path} with the adapters of {len(adapted_layers(read.state))} layers")


def merge(read: Adapters) -> dict:
    """The whole model: of a fine-tuned one, without the pretraining targets that its task has not.

    Raises:
        UserError: a layer of the adapters is not in the model, or has another shape there.
    """
    for layer in adapted_layers(read.state):
        wanted = (len(read.state[f"{layer}.lora_B"]), read.state[f"{layer}.lora_A"].shape[1])
        found = read.base.get(f"{layer}.weight")
        if found is None or tuple(found.shape) != wanted:
            raise UserError(f"{read.base_path}: {layer}.weight is {'missing' if found is None else list(found.shape)}; "
                            f"{read.path} belongs to a model where it is {list(wanted)}")
    task = TASKS.get(read.finetuned.get("task"))
    base = {name: tensor for name, tensor in read.base.items()
            if not name.startswith("target.") or task is None or task.has_target}
    return merged({**base, **read.state}, read.alpha)


if __name__ == "__main__":
    cli.run(main)
