"""Between UER and the original TensorFlow checkpoints of BERT and ALBERT. What both directions share; not a command."""

import glob
from dataclasses import dataclass
from pathlib import Path

import torch
from _conversion import print_model, require_layers, resolve_head
from _to_huggingface import ExportFlags, Source, read_source
from _to_uer import write_model
from torch import Tensor

from uer.checkpoint.files import require_finite
from uer.checkpoint.tensorflow import index_path, read_tensorflow, write_tensorflow
from uer.config import flag
from uer.convert import Architecture
from uer.convert.hugging_face_files import HuggingFaceModel, write_json
from uer.convert.open import HuggingFaceSource, convert_hugging_face
from uer.convert.tensorflow import MOST_POSITIONS, POSITIONS, tensorflow_architecture
from uer.errors import UserError
from uer.files import atomic_path
from uer.json_files import read_json_object
from uer.paths import File
from uer.runtime.lock import OutputLock

CONFIG_FILES = ("bert_config.json", "albert_config.json", "config.json")


@dataclass(frozen=True)
class TensorflowImportFlags:
    """From TensorFlow to UER."""

    input_model_path: str = flag("models/input_model.ckpt", "TensorFlow checkpoint: its folder, its .index file, or "
                                                            "its prefix, such as bert_model.ckpt.", path="read")
    output_model_path: str = flag("models/output_model.bin", "Where the UER checkpoint is written.", path="write")
    layers_num: int | None = flag(None, "Layers of the model; an error if the weights have another number. Those of "
                                        "ALBERT do not tell it: albert_config.json beside them does, or this flag.")
    output_config_path: str | None = flag(None, "Where to write the model's settings for --config_path.", path="write")
    output_vocab_path: str | None = flag(None, "Where to write the vocabulary for --vocab_path.", path="write")

    def reads(self) -> list[File]:
        """The checkpoint's files, and the settings and the vocabulary beside them."""
        prefix = Path(self.input_model_path.removesuffix(".index"))
        beside = (str(prefix.parent / name) for name in (*CONFIG_FILES, "vocab.txt"))
        return [File("--input_model_path", path) for path in (*glob.glob(f"{glob.escape(str(prefix))}.*"), *beside)]


@dataclass(frozen=True)
class BertFlags:
    """What BERT was pretrained on."""

    type: str | None = flag(None, "Targets of the model: bert is mlm and next-sentence prediction (default: what the "
                                  "weights hold).", choices=("bert", "mlm"))


@dataclass(frozen=True)
class TensorflowExportFlags:
    """From UER to TensorFlow."""

    input_model_path: str = flag("models/input_model.bin", "UER checkpoint: weights as <output_model_path>-<step>.",
                                 path="read")
    output_model_path: str = flag("models/output_model.ckpt", "Prefix of the TensorFlow checkpoint's files.",
                                  path="write_prefix")
    layers_num: int | None = flag(None, "Layers of the model; read from the checkpoint, and an error if it differs.")
    config_path: str | None = flag(None, "JSON file of the model's settings; needed where heads are not "
                                         "hidden / 64, or the activation is not gelu.", path="read")
    output_config_path: str | None = flag(None, "Where to write the settings as bert_config.json has them.",
                                          path="write")
    drop_output_layer: bool = flag(False, "Leave out an output layer with weights of its own (no --tie_weights): "
                                          "TensorFlow's models use the word embedding instead.")

    def reads(self) -> list[File]:
        """What lies beside the checkpoint."""
        return ExportFlags(input_model_path=self.input_model_path).reads()

    def writes(self) -> list[File]:
        """The files of the checkpoint."""
        return [File("--output_model_path", self.output_model_path + ending)
                for ending in (".index", ".data-00000-of-00001")]


def import_tensorflow(architecture: Architecture, flags: TensorflowImportFlags, head: str | None) -> None:
    """Convert from TensorFlow to UER.

    No logits are compared: transformers 5 opens no TensorFlow checkpoint.

    Args:
        architecture: BERT or ALBERT.
        flags: where it is, and where it goes.
        head: a key of `architecture.outputs`; None is the one that the weights hold.

    Raises:
        UserError: whatever is wrong with the input; nothing is written then.
    """
    with OutputLock(flags.output_model_path):
        source = _read(tensorflow_architecture(architecture), flags, head)
        require_layers(flags, source.config.layers_num, None, source.path)
        print_model(source.path, source.config, source.converted, source.head)
        write_model(flags, source)


def _read(architecture: Architecture, flags: TensorflowImportFlags, head: str | None) -> HuggingFaceSource:
    """The checkpoint's weights without the optimizer's, under UER's names, with the settings beside them."""
    index = index_path(flags.input_model_path)
    path, table = str(index.with_suffix("")), architecture.names
    arrays = read_tensorflow(index, lambda name: not name.endswith(table.buffers))
    weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
    require_finite(weights, path, buffers=True)
    beside = (index.parent / name for name in CONFIG_FILES)
    config = next((read_json_object(file) for file in beside if file.is_file()), {})
    if not any(stack.numbered for stack in table.stacks.values()) and flags.layers_num:
        config.setdefault("num_hidden_layers", flags.layers_num)
    if _cut_positions(weights):
        config["max_position_embeddings"] = MOST_POSITIONS
    head = resolve_head(head, weights, architecture, "hugging_face", path)
    return convert_hugging_face(HuggingFaceModel(weights, config), architecture, path, head)


def export_tensorflow(architecture: Architecture, flags: TensorflowExportFlags, head: str | None) -> None:
    """Convert from UER to TensorFlow; arguments and errors as `import_tensorflow`."""
    with OutputLock(flags.output_model_path):
        given = ExportFlags(input_model_path=flags.input_model_path, layers_num=flags.layers_num,
                            config_path=flags.config_path)
        source = read_source(tensorflow_architecture(architecture), given, head)
        print_model(source.path, source.config, source.converted, source.head)
        _write(source, flags)


def _write(source: Source, flags: TensorflowExportFlags) -> None:
    weights = {name: tensor.float() for name, tensor in source.converted.weights.items() if name}
    if not source.config.tie_weights:
        if not flags.drop_output_layer:
            raise UserError(f"{source.path}: its output layer has weights of its own, which TensorFlow's models have "
                            "not; --drop_output_layer leaves it out")
        print("left out: the output layer, which has weights of its own")
    config = source.architecture.config_json(source.config, source.vocab_size, source.head)
    if _cut_positions(weights):
        config["max_position_embeddings"] = MOST_POSITIONS
    if flags.output_config_path:
        with atomic_path(flags.output_config_path) as temporary:
            write_json(config, temporary)
        print(f"written: {flags.output_config_path}")
    write_tensorflow({name: tensor.numpy() for name, tensor in weights.items()}, flags.output_model_path)
    print("written: " + ", ".join(file.path for file in flags.writes()))


def _cut_positions(weights: dict[str, Tensor]) -> bool:
    """Keep the first 512 positions (N, E), as UER-py does; whether there were more."""
    positions = weights.get(POSITIONS)
    if positions is None or positions.dim() != 2 or len(positions) <= MOST_POSITIONS:
        return False
    weights[POSITIONS] = positions[:MOST_POSITIONS]
    print(f"cut: the position embedding, from {len(positions)} positions to {MOST_POSITIONS}")
    return True
