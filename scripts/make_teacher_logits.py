r"""Write a fine-tuned teacher's logits for texts: the `logits` column that --soft_targets trains a smaller model on.

    python3 scripts/make_teacher_logits.py --teacher_model_path models/base_book_review.bin \
        --input_path train.tsv unlabelled.tsv --output_path soft_train.tsv
    python3 finetune/run_classifier.py --pretrained_model_path tiny.bin --train_path soft_train.tsv --dev_path dev.tsv \
        --config_path models/bert/tiny_config.json --soft_targets --soft_alpha 1.0

Turc et al. (2019, arXiv:1908.08962) train small models in this way on unlabelled texts that resemble the task's: first
pretraining, then distillation. Labels in the files are kept; a text without a label gets the teacher's prediction.
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
from uer.finetuning.infer import open_predictor
from uer.finetuning.paths import model_files
from uer.finetuning.readers import NO_LABEL, read_table
from uer.finetuning.saved_model import load_settings
from uer.finetuning.tasks.classification import Classification, number_words
from uer.paths import File


@dataclass(frozen=True)
class TeacherConfig:
    """The teacher, the texts and the output file."""

    teacher_model_path: str = flag(REQUIRED, "Classifier of run_classifier.py: its weights file or folder.",
                                   path="read")
    input_path: tuple[str, ...] = flag(REQUIRED, "Texts with or without labels, in run_classifier.py's format.",
                                       path="read")
    output_path: str = flag(REQUIRED, "TSV with the columns label, text_a, text_b (for pairs) and logits.",
                            path="write")
    columns: tuple[str, ...] = flag((), COLUMNS_HELP)
    batch_size: int = flag(64, "Examples in a batch.")
    device: str = flag("auto", "Where to compute; auto: on CUDA if there is a GPU.", choices=("auto", "cpu", "cuda"))
    precision: str = flag("auto", "Precision; auto: bf16 on a GPU that supports it.", choices=("auto", "fp32", "bf16"))

    def problems(self) -> list[str]:
        return column_problems(self.columns) + (["--batch_size must be at least 1"] if self.batch_size < 1 else [])

    def reads(self) -> list[File]:
        """The teacher's settings and vocabulary."""
        return [File("--teacher_model_path", str(path)) for path in model_files(self.teacher_model_path)]


@dataclass(frozen=True)
class TeacherOutput:
    """The texts of a file, their labels ("" where there is none), and the teacher's logits (texts, labels)."""

    path: str
    first: list[str]
    second: list[str] | None
    labels: list[str]
    logits: np.ndarray


def main() -> None:
    """Read the flags, run the teacher, write its logits."""
    config, = cli.parse(__doc__, (TeacherConfig,))
    names = teacher_labels(config.teacher_model_path)
    lines, kept = to_lines([teacher_output(path, config) for path in config.input_path], names)
    with atomic_path(config.output_path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    count = len(lines) - 1
    print(f"{count} texts written to {config.output_path}: {kept} keep their label, {count - kept} have the teacher's")


def teacher_labels(path: str) -> tuple[str, ...]:
    """The labels of the classifier at `path`.

    Raises:
        UserError: it is not a classifier, or its settings file is missing.
    """
    saved = load_settings(path)
    if saved is None or saved.task != Classification.name:
        what = "there are no settings beside it" if saved is None else f"it is a model of the task '{saved.task}'"
        raise UserError(f"--teacher_model_path {path}: a classifier of finetune/run_classifier.py is needed; {what}")
    return tuple(saved.task_settings["labels"])


def teacher_output(path: str, config: TeacherConfig) -> TeacherOutput:
    """The teacher's logits for every text of a file."""
    table = read_table(path, ("text_a",), ("label", "text_b"), config.columns)
    infer = InferConfig(load_model_path=config.teacher_model_path, test_path=path, prediction_path=config.output_path,
                        columns=config.columns, batch_size=config.batch_size, device=config.device,
                        precision=config.precision)
    teacher = open_predictor(Classification, infer, ModelConfig(), TokenizerConfig())
    pieces = teacher.outputs(teacher.task.inputs(path, teacher.encoder), path)
    logits = np.concatenate([np.stack(outputs) for _, outputs in pieces])
    assert len(logits) == len(table)
    labels = ["" if label.strip() == NO_LABEL else label.strip() for label in table.get("label") or [""] * len(table)]
    return TeacherOutput(path, table["text_a"], table.get("text_b"), labels, logits)


def to_lines(teacher_outputs: Sequence[TeacherOutput], names: Sequence[str]) -> tuple[list[str], int]:
    """The lines of the TSV, and the number of texts that keep their label.

    Raises:
        UserError: some files have pairs and others single texts, or a label or a text of each label is missing.
    """
    pairs = {output.second is not None for output in teacher_outputs}
    if len(pairs) > 1:
        raise UserError("--input_path: some files have a text_b and others have none")
    lines, kept, seen = ["\t".join(["label", "text_a", *["text_b"] * pairs.pop(), "logits"])], 0, set()
    for output in teacher_outputs:
        labels = [label or names[number] for label, number in zip(output.labels, output.logits.argmax(1))]
        unknown = sorted(set(labels) - set(names))
        if unknown:
            raise UserError(f"{output.path}: label '{unknown[0]}' is not one of the teacher's: {', '.join(names)}")
        kept += sum(label != "" for label in output.labels)
        seen |= set(labels)
        texts = [[" ".join(text.split()) for text in column] for column in (output.first, output.second) if column]
        lines += map("\t".join, zip(labels, *texts, number_words(output.logits)))
    if seen < set(names):
        raise UserError(f"--input_path: no text has the label '{min(set(names) - seen)}', which the student would then "
                        "not learn; add the labelled training file")
    return lines, kept


if __name__ == "__main__":
    cli.run(main)
