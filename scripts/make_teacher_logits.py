"""Have a fine-tuned teacher answer texts, for a smaller model to learn from: the `logits` column of --soft_targets.

    python3 scripts/make_teacher_logits.py --teacher_model_path models/base_book_review.bin \
        --input_path train.tsv unlabelled.tsv --output_path soft_train.tsv
    python3 finetune/run_classifier.py --pretrained_model_path tiny.bin --train_path soft_train.tsv --dev_path dev.tsv \
        --config_path models/bert/tiny_config.json --soft_targets --soft_alpha 1.0

Turc et al. (2019, arXiv:1908.08962) train small models so, on texts of the task's kind that nobody has labelled: first
pretrained, then taught. Labels that the files have are kept; a text without one gets the teacher's.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from torch import nn

from uer import cli
from uer.config import REQUIRED, ParallelConfig, flag
from uer.data.files import atomic_path
from uer.errors import UserError
from uer.finetuning.loop import predict
from uer.finetuning.readers import read_table
from uer.finetuning.saved import SavedModel, load_finetuned, load_settings
from uer.finetuning.tasks.classification import Classification
from uer.training.launch import Place
from uer.training.parallel import connect
from uer.training.precision import Precision


@dataclass(frozen=True)
class TeacherConfig:
    """Who teaches what."""

    teacher_model_path: str = flag(REQUIRED, "Classifier of run_classifier.py: its weights file or folder.")
    input_path: tuple[str, ...] = flag(REQUIRED, "Files of texts, labelled or not, as run_classifier.py reads them.")
    output_path: str = flag(REQUIRED, "TSV with the columns label, text_a, text_b where there is one, and logits.")
    batch_size: int = flag(64, "Rows of a batch.")
    device: str = flag("auto", "Where to compute; auto is CUDA when there is one.", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "Arithmetic; auto is bf16 on a GPU that has it.", choices=("auto", "fp32", "bf16"))

    def problems(self) -> list[str]:
        return [] if self.batch_size >= 1 else ["--batch_size must be at least 1"]


@dataclass(frozen=True)
class Lesson:
    """A file's texts, the labels it has, and the teacher's answers."""

    path: str
    first: list[str]
    second: list[str] | None
    labels: list[str] | None
    logits: np.ndarray


def main() -> None:
    """Read the flags, ask the teacher, write its answers."""
    config, = cli.parse(__doc__, (TeacherConfig,))
    task, model, saved = open_teacher(config.teacher_model_path)
    lessons = [ask(path, task, model, saved, config) for path in config.input_path]
    lines, kept = to_lines(lessons, task.labels.names)
    with atomic_path(config.output_path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    count = len(lines) - 1
    print(f"{count} texts written to {config.output_path}: {kept} keep their label, {count - kept} have the teacher's")


def open_teacher(path: str) -> tuple[Classification, nn.Module, SavedModel]:
    """The fine-tuned classifier at `path`.

    Raises:
        UserError: it is something else, or has no settings beside it.
    """
    saved = load_settings(path)
    if saved is None or saved.task != Classification.name:
        what = "there are no settings beside it" if saved is None else f"it is a model of the task '{saved.task}'"
        raise UserError(f"--teacher_model_path {path}: a classifier of finetune/run_classifier.py is needed; {what}")
    task = Classification.from_settings(saved.task_settings)
    model = task.build(saved.model, len(saved.encoder.tokenizer.vocab))
    load_finetuned(model, task, path)
    return task, model, saved


def ask(path: str, task: Classification, model: nn.Module, saved: SavedModel, config: TeacherConfig) -> Lesson:
    """The teacher's logits for every text of a file."""
    table = read_table(path, ("text_a",), ("label", "text_b"))
    world = connect(Place(), ParallelConfig(device=config.device))
    examples = task.examples(path, saved.encoder, labelled=False)
    assert len(examples) == len(table)
    logits = predict(model.to(world.device), task, examples, saved.encoder.tokenizer.vocab.pad_id, world,
                     Precision(config.precision, world.device), config.batch_size)
    return Lesson(path, table["text_a"], table.get("text_b"), table.get("label"), np.stack(logits))


def to_lines(lessons: Sequence[Lesson], names: Sequence[str]) -> tuple[list[str], int]:
    """The TSV's lines, and how many texts keep a label of their own.

    Raises:
        UserError: some files have pairs and others single texts, or a label or a text of each label is missing.
    """
    pairs = {lesson.second is not None for lesson in lessons}
    if len(pairs) > 1:
        raise UserError("--input_path: some files have a text_b and others have none")
    lines, kept, seen = ["\t".join(["label", "text_a", *["text_b"] * pairs.pop(), "logits"])], 0, set()
    for lesson in lessons:
        taught = [names[number] for number in lesson.logits.argmax(1)]
        own = lesson.labels or [""] * len(taught)
        labels = [label.strip() or answer for label, answer in zip(own, taught)]
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise UserError(f"{lesson.path}: label '{unknown[0]}' is not one of the teacher's: {', '.join(names)}")
        kept += sum(bool(label.strip()) for label in own)
        seen |= set(labels)
        for row, label in enumerate(labels):
            texts = [lesson.first[row]] + ([lesson.second[row]] if lesson.second is not None else [])
            logits = " ".join(f"{value:.6g}" for value in lesson.logits[row])
            lines.append("\t".join([label, *(" ".join(text.split("\t")).replace("\n", " ") for text in texts), logits]))
    if seen < set(names):
        raise UserError(f"--input_path: no text has the label '{min(set(names) - seen)}', which the student would not "
                        "know then; name the labelled training file too")
    return lines, kept


if __name__ == "__main__":
    cli.run(main)
