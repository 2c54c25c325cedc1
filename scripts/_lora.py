"""Saved adapters (LoRA) and the model that they belong to. What the scripts that read them share; not a command."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _conversion import choose_type, resolve_head
from torch import Tensor

from uer.checkpoint.settings import read_settings
from uer.checkpoint.settings import settings_path as pretrained_settings_path
from uer.config import REQUIRED, flag
from uer.convert import ARCHITECTURES
from uer.convert.hugging_face_files import write_json, write_safetensors
from uer.convert.open import load_checkpoint, load_uer_weights
from uer.convert.peft import to_peft
from uer.errors import UserError
from uer.files import atomic_folder
from uer.finetuning.hugging_face import HEAD_TASKS
from uer.finetuning.paths import model_files, settings_path, weights_path
from uer.json_files import read_json_object
from uer.layers.lora import is_adapter
from uer.lora import recorded_alpha, require_pairs
from uer.paths import File
from uer.runtime.lock import OutputLock


@dataclass(frozen=True)
class AdapterFlags:
    """Adapters"""

    input_model_path: str = flag(REQUIRED, "Adapters, as --lora_save adapter, pretrain.py or TencentPretrain saved "
                                           "them.", path="read")
    pretrained_model_path: str | None = flag(None, "Model that they belong to (default: the one that was trained "
                                                   "with).", path="read")
    lora_alpha: float | None = flag(None, "The adapters' product is multiplied by lora_alpha / r (default: as it was "
                                          "trained with).")

    def problems(self) -> list[str]:
        return [] if self.lora_alpha is None or self.lora_alpha > 0 else ["--lora_alpha must be positive"]

    def reads(self) -> list[File]:
        """The adapters, and the settings and the vocabulary beside them."""
        files = (*model_files(self.input_model_path), pretrained_settings_path(weights_path(self.input_model_path)))
        return [File("--input_model_path", str(path)) for path in files]


@dataclass(frozen=True)
class ExportFlags(AdapterFlags):
    """Adapters for peft"""

    output_dir: str = flag(REQUIRED, "Folder for adapter_config.json and adapter_model.safetensors.",
                           path="write_folder")
    base_model: str | None = flag(None, "Hugging Face folder or name of the model that they belong to, as the "
                                        "conversion scripts wrote it; adapter_config.json names it.")
    type: str | None = flag(None, "Architecture (default: the one that fits).", choices=tuple(ARCHITECTURES))


@dataclass(frozen=True)
class Adapters:
    """What was trained, and the model that it belongs to, by UER's names.

    Attributes:
        finetuned: the settings of a fine-tuned model; {} of a pretrained one.
        pretrained: the step and the settings of a pretrained model, {} of a fine-tuned one.
    """

    path: Path
    state: Mapping[str, Tensor]
    base_path: str
    base: Mapping[str, Tensor]
    alpha: float
    finetuned: Mapping[str, Any]
    pretrained: Mapping[str, Any]


def read_adapters(flags: AdapterFlags) -> Adapters:
    """
    Raises:
        UserError: it holds no adapters or parts of them, or nothing tells what they belong to.
    """
    path = weights_path(flags.input_model_path)
    state = load_checkpoint(path)
    if not any(map(is_adapter, state)):
        raise UserError(f"{path}: holds no adapters")
    require_pairs(state, path)
    pretrained = read_settings(path) or {}
    finetuned = read_json_object(settings_path(path)) if not pretrained and settings_path(path).is_file() else {}
    settings = finetuned.get("training") or pretrained.get("settings") or {}
    base = flags.pretrained_model_path or settings.get("pretrained_model_path")
    if not base:
        raise UserError(f"--pretrained_model_path is needed: nothing beside {path} tells which model it belongs to")
    return Adapters(path, state, base, load_uer_weights(base), recorded_alpha(settings, flags.lora_alpha, str(path)),
                    finetuned, pretrained)


def export_adapters(flags: ExportFlags) -> None:
    """Write the folder that peft opens; errors as `read_adapters` and `uer.convert.peft.to_peft`."""
    read = read_adapters(flags)
    architecture = choose_type(ARCHITECTURES, flags.type, read.base, "uer", read.base_path)
    head = next((head for head, tasks in HEAD_TASKS.items() for task in tasks
                 if task.name == read.finetuned.get("task")), None)
    head = head or resolve_head(None, read.base, architecture, "uer", read.base_path)
    adapter = to_peft(read.state, read.base, architecture, head, read.alpha, flags.base_model)
    with OutputLock(flags.output_dir, "--output_dir"), atomic_folder(flags.output_dir) as folder:
        write_json(adapter.config, folder / "adapter_config.json")
        write_safetensors(adapter.weights, folder / "adapter_model.safetensors")
    print(f"written: {flags.output_dir}: adapters of {len(adapter.config['target_modules'])} layers for "
          f"{architecture.classes.get(head, architecture.title)}")
