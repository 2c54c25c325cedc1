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

from uer import cli
from uer.config import REQUIRED, ModelConfig, TokenizerConfig, flag
from uer.errors import UserError
from uer.files import atomic_path
from uer.finetuning.config import COLUMNS_HELP, InferConfig, column_problems
from uer.finetuning.infer import compute_outputs
from uer.finetuning.paths import model_files
from uer.finetuning.readers import NO_LABEL, read_table
from uer.finetuning.saved_model import load_settings
from uer.finetuning.tasks.classification import Classification, number_words
from uer.paths import File


@dataclass(frozen=True)
class TeacherConfig:
    """Who teaches what."""

    teacher_model_path: str = flag(REQUIRED, "Classifier of run_classifier.py: its weights file or folder.",
                                   path="read")
    input_path: tuple[str, ...] = flag(REQUIRED, "Files of texts, labelled or not, as run_classifier.py reads them.",
                                       path="read")
    output_path: str = flag(REQUIRED, "TSV with the columns label, text_a, text_b where there is one, and logits.",
                            path="write")
    columns: tuple[str, ...] = flag((), COLUMNS_HELP)
    batch_size: int = flag(64, "Rows of a batch.")
    device: str = flag("auto", "Where to compute; auto is CUDA when there is one.", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "Arithmetic; auto is bf16 on a GPU that has it.", choices=("auto", "fp32", "bf16"))

    def problems(self) -> list[str]:
        return column_problems(self.columns) + (["--batch_size must be at least 1"] if self.batch_size < 1 else [])

    def reads(self) -> list[File]:
        """The settings and the vocabulary beside the teacher."""
        return [File("--teacher_model_path", str(path)) for path in model_files(self.teacher_model_path)]


@dataclass(frozen=True)
class Lesson:
    """A file's texts, the labels they have ("" where there is none), and the teacher's answers."""

    path: str
    first: list[str]
    second: list[str] | None
    labels: list[str]
    logits: np.ndarray


def main() -> None:
    """Read the flags, ask the teacher, write its answers."""
    config, = cli.parse(__doc__, (TeacherConfig,))
    names = teacher_labels(config.teacher_model_path)
    lines, kept = to_lines([ask(path, config) for path in config.input_path], names)
    with atomic_path(config.output_path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    count = len(lines) - 1
    print(f"{count} texts written to {config.output_path}: {kept} keep their label, {count - kept} have the teacher's")


def teacher_labels(path: str) -> tuple[str, ...]:
    """The labels that the classifier at `path` knows.

    Raises:
        UserError: it is something else, or has no settings beside it.
    """
    saved = load_settings(path)
    if saved is None or saved.task != Classification.name:
        what = "there are no settings beside it" if saved is None else f"it is a model of the task '{saved.task}'"
        raise UserError(f"--teacher_model_path {path}: a classifier of finetune/run_classifier.py is needed; {what}")
    return tuple(saved.task_settings["labels"])


def ask(path: str, config: TeacherConfig) -> Lesson:
    """The teacher's logits for every text of a file."""
    table = read_table(path, ("text_a",), ("label", "text_b"), config.columns)
    infer = InferConfig(load_model_path=config.teacher_model_path, test_path=path, prediction_path=config.output_path,
                        columns=config.columns, batch_size=config.batch_size, device=config.device,
                        precision=config.precision)
    _, examples, outputs = compute_outputs(Classification, infer, ModelConfig(), TokenizerConfig())
    assert len(examples) == len(table)
    labels = ["" if label == NO_LABEL else label.strip() for label in table.get("label") or [""] * len(table)]
    return Lesson(path, table["text_a"], table.get("text_b"), labels, np.stack(outputs))


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
        labels = [label or names[number] for label, number in zip(lesson.labels, lesson.logits.argmax(1))]
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise UserError(f"{lesson.path}: label '{unknown[0]}' is not one of the teacher's: {', '.join(names)}")
        kept += sum(label != "" for label in lesson.labels)
        seen |= set(labels)
        texts = [[" ".join(text.split()) for text in column] for column in (lesson.first, lesson.second) if column]
        lines += map("\t".join, zip(labels, *texts, number_words(lesson.logits)))
    if seen < set(names):
        raise UserError(f"--input_path: no text has the label '{min(set(names) - seen)}', which the student would not "
                        "know then; name the labelled training file too")
    return lines, kept


if __name__ == "__main__":
    cli.run(main)
