"""Export an encoder or a fine-tuned model as ONNX, and check it with onnxruntime before it is put in place.

The folder holds model.onnx, the vocabulary (with tokenizer files, where the tokens are those of a BERT vocabulary), and
model.json: the names of inputs and outputs, and the labels. Inputs are those of Hugging Face, (batch, length) int64 of
any size: input_ids, attention_mask (0 at padding, which stands at the end) and token_type_ids (0, and 1 on a second
text). Needs onnx, onnxscript and onnxruntime.
"""

import contextlib
import importlib
import io
import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from _logits_check import sample_batch
from torch import Tensor, nn

import uer
from uer import cli
from uer.api.text_model import TextModel
from uer.config import flag
from uer.convert.hugging_face_files import write_json
from uer.convert.tokenizer_writing import write_tokenizer
from uer.errors import UserError
from uer.files import atomic_folder
from uer.finetuning.batches import Batch
from uer.finetuning.heads import Classifier, SentenceEncoder, Tagger
from uer.finetuning.paths import model_files
from uer.finetuning.tasks.cmrc import ReadingComprehension
from uer.paths import File
from uer.runtime.lock import OutputLock

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FILES = ("model.onnx", "model.onnx.data", "model.json", "vocab.txt", "tokenizer.json", "tokenizer_config.json",
         "special_tokens_map.json")
TOLERANCE = 1e-4
"""Of the largest output, or of 1 where all are smaller."""
MOST_IN_ONE_FILE = 1_900_000_000  # bytes of weights; an ONNX file has at most 2 GiB


@dataclass(frozen=True)
class Flags:
    """The flags of this script."""

    load_model_path: str = flag("models/finetuned_model.bin", "A fine-tuned model, a UER checkpoint, or a Hugging Face "
                                                              "folder.", path="read")
    output_dir: str = flag("models/onnx", "Folder of model.onnx, vocabulary and model.json.", path="write_folder")
    vocab_path: str | None = flag(None, "Vocabulary of a UER checkpoint.", path="read")
    config_path: str | None = flag(None, "JSON file of a UER checkpoint's settings.", path="read")
    mlm: bool = flag(False, "Export a pretrained model's logits of masked words instead of its last hidden states.")

    def reads(self) -> list[File]:
        """The files beside a fine-tuned model."""
        return [File("--load_model_path", str(path)) for path in model_files(self.load_model_path)]

    def writes(self) -> list[File]:
        """The files of the folder."""
        return [File("--output_dir", str(Path(self.output_dir) / name)) for name in FILES]


class OnnxModule(nn.Module):
    """A model of ours with the inputs of Hugging Face, which computes padding too."""

    def __init__(self, loaded: TextModel, mlm: bool) -> None:
        """
        Raises:
            UserError: this kind of model cannot be exported.
        """
        super().__init__()
        self.model, self.mlm, self.task = loaded.model, mlm, loaded.task
        self.model.unpad = "off"
        if self.task is not None and type(self.model) not in (Classifier, Tagger, SentenceEncoder):
            raise UserError(f"{loaded.path}: a {type(self.model).__name__} cannot be exported; a Classifier, Tagger or "
                            "SentenceEncoder can")
        if mlm and (self.task is not None or "mlm" not in getattr(self.model, "target", {})):
            raise UserError(f"{loaded.path}: --mlm needs a pretrained model with the target mlm")
        if loaded.config.decoder:
            raise UserError(f"{loaded.path}: a model with a decoder cannot be exported")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, as transformers has them."""
        if isinstance(self.task, ReadingComprehension):
            return ("start_logits", "end_logits")
        if isinstance(self.model, SentenceEncoder):
            return ("sentence_embedding",)
        return ("logits",) if self.mlm or self.task is not None else ("last_hidden_state",)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> tuple[Tensor, ...]:
        """(B, S) each -> one tensor for each of `outputs`: (B, S, V), (B, labels), (B, S, H), ... or twice (B, S)."""
        seg = (token_type_ids + 1) * attention_mask
        if self.task is not None:
            result = self.model(Batch(input_ids, seg))
            return tuple(result.unbind(-1)) if len(self.outputs) > 1 else (result,)
        hidden = self.model.encode(input_ids, seg)
        if not self.mlm:
            return (hidden,)
        return (self.model.target["mlm"].logits(hidden.flatten(0, 1)).unflatten(0, input_ids.shape),)


def main() -> None:
    (flags,) = cli.parse(__doc__, (Flags,))
    onnxruntime = require_packages()
    with OutputLock(flags.output_dir, "--output_dir"):
        loaded = uer.load(flags.load_model_path, device="cpu", vocab_path=flags.vocab_path,
                          config_path=flags.config_path)
        module = OnnxModule(loaded, flags.mlm).eval()
        with atomic_folder(flags.output_dir) as folder:
            export(module, loaded, folder / "model.onnx")
            print(f"checked: {compare(module, loaded, onnxruntime.InferenceSession(folder / 'model.onnx'))}")
            write_description(module, loaded, folder)
            written = sorted(path.name for path in folder.iterdir())
        print(f"written: {flags.output_dir}: {', '.join(written)}")


def require_packages() -> Any:
    """onnxruntime.

    Raises:
        UserError: one of the packages is not installed.
    """
    missing = []
    for name in PACKAGES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(f"the export needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    return module


@torch.no_grad()
def export(module: OnnxModule, loaded: TextModel, path: Path) -> None:
    """Write the model as ONNX, its batch and its length dynamic.

    Raises:
        UserError: torch's exporter cannot express this model.
    """
    sizes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", max=loaded.config.longest_row)}
    weights = sum(parameter.nbytes for parameter in module.parameters())
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with (warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()),
          contextlib.redirect_stderr(io.StringIO())):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module, inputs_of(*rows(loaded)), path, input_names=INPUTS, output_names=module.outputs,
                              dynamic_shapes=[sizes] * 3, dynamo=True, external_data=weights > MOST_IN_ONE_FILE)
        except torch.onnx.errors.OnnxExporterError as error:
            reason = " ".join(str(error.__cause__ or error).split())[:200]
            raise UserError(f"{loaded.path}: torch cannot export this model: {reason}") from None


def rows(loaded: TextModel) -> tuple[Tensor, Tensor]:
    """Rows of real text, some padded: src, seg (B, S)."""
    return sample_batch(len(loaded.tokenizer.vocab), loaded.config.longest_row, loaded.tokenizer)


def inputs_of(src: Tensor, seg: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """src, seg (B, S) -> what the exported model reads."""
    return src, (seg > 0).long(), (seg - 1).clamp(min=0)


@torch.no_grad()
def compare(module: OnnxModule, loaded: TextModel, session: Any) -> str:
    """One line that says how equal the outputs of onnxruntime and of our model are, for batches of two sizes.

    Raises:
        UserError: they differ by more than `TOLERANCE` of the largest.
    """
    batches = [rows(loaded)]
    batches.append((batches[0][0][1:2, :9], batches[0][1][1:2, :9]))
    worst, counted = 0.0, 0
    module.model.unpad = "auto"  # as inference computes: without padding
    for src, seg in batches:
        inputs = inputs_of(src, seg)
        theirs = session.run(None, {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs)})
        for ours, other in zip(module(*inputs), map(torch.from_numpy, theirs), strict=True):
            if ours.shape[:2] == seg.shape:  # what padding gives has no meaning
                ours, other = ours[seg > 0], other[seg > 0]
            difference = (ours - other).abs().nan_to_num(nan=torch.inf).max() / ours.abs().max().clamp(min=1)
            worst = max(worst, float(difference))
        counted += int((seg > 0).sum())
    if not worst <= TOLERANCE:
        raise UserError(f"{loaded.path}: the check failed: onnxruntime's outputs differ by {worst:.3g} of the largest; "
                        "nothing was written")
    return f"on {counted} tokens the outputs of onnxruntime differ from ours by at most {worst:.1e} of the largest"


def write_description(module: OnnxModule, loaded: TextModel, folder: Path) -> None:
    """The vocabulary, and model.json."""
    tokenizer, length = loaded.tokenizer, loaded.encoder.seq_length if loaded.encoder else loaded.config.longest_row
    if tokenizer.finds_words:
        write_tokenizer(tokenizer, length, folder, truncation=loaded.encoder.truncation if loaded.encoder else "first")
    else:
        text = "".join(f"{token}\n" for token in tokenizer.vocab.tokens)
        (folder / "vocab.txt").write_text(text, encoding="utf-8", newline="\n")
    settings = loaded.task.settings() if loaded.task else {}
    if loaded.encoder:
        settings["truncation"] = loaded.encoder.truncation  # "head" cuts [SEP] off a long text, as UER-py does
    write_json({"task": loaded.task.name if loaded.task else None, **settings, "inputs": INPUTS,
                "outputs": module.outputs, "seq_length": length, "tokenizer": tokenizer.kind}, folder / "model.json")


if __name__ == "__main__":
    cli.run(main)
