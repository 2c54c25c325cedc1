"""Settings of the fine-tuning, grid and inference scripts; see `uer.config` for how a field becomes a flag."""

import glob
from dataclasses import dataclass

from uer.config import LARGEST_SEED, REQUIRED, flag
from uer.finetuning.paths import fold_path, grid_results_path, model_files, state_path, weights_path
from uer.paths import File

TRUNCATIONS = ("head", "tail", "head_tail")
COLUMNS_HELP = ("Names of the columns of TSV files without a header, from left to right: label, text_a, text_b, "
                "logits, and any other name for a column that is not read.")


def column_problems(columns: tuple[str, ...]) -> list[str]:
    """What is wrong with --columns."""
    if columns and "text_a" not in columns:
        return ["--columns must name text_a"]
    return ["--columns names a column twice"] if len(set(columns)) < len(columns) else []


@dataclass(frozen=True)
class FinetuneConfig:
    """One fine-tuning run; the same for every task."""

    pretrained_model_path: str | None = flag(None, "Pretrained weights; without them the model starts at random.",
                                             path="read")
    output_model_path: str = flag("models/finetuned_model.bin", "Where the model that is best on dev is written.",
                                  path="write_model")
    train_path: str = flag(REQUIRED, "Training examples.", path="read")
    dev_path: str = flag(REQUIRED, "Examples that choose the best epoch.", path="read")
    test_path: str | None = flag(None, "Examples for the final figure.", path="read")
    columns: tuple[str, ...] = flag((), COLUMNS_HELP)
    config_path: str = flag("models/bert/base_config.json", "JSON file of the model's settings.", path="read")
    batch_size: int = flag(32, "Rows of an update, over all ranks together.")
    seq_length: int = flag(128, "Longest row in tokens, [CLS] and [SEP] included.")
    epochs_num: int = flag(3, "Passes over the training examples.")
    report_steps: int = flag(100, "Updates between report lines.")
    seed: int = flag(7, "Seed of the head's initial weights, the order and dropout.")
    seeds: tuple[int, ...] = flag((), "Run once for each of these seeds; report the median and the spread.")
    truncation: str = flag("head", "Which part of a long text is kept; head cuts at seq_length as UER-py does.",
                           choices=TRUNCATIONS)
    early_stop: int = flag(0, "Stop after so many epochs without gain on dev; 0 never stops early.")
    save_best_by: str | None = flag(None, "Metric of dev that chooses the epoch: accuracy or macro_f1 of a classifier; "
                                          "by default the task's first metric.")
    resume: str = flag("auto", "auto: go on after the last epoch of a command that was killed; never: start anew.",
                       choices=("auto", "never"))
    report_all_labels: bool = flag(False, "Report the scores of every label, not only of the worst and best ones "
                                          "(classifiers with many labels).")
    precision: str = flag("auto", "Arithmetic; auto is bf16 on a GPU that has it.", choices=("auto", "fp32", "bf16"))
    compile: str = flag("auto", "torch.compile; auto is on a GPU, for trainings long enough to earn its time back.",
                        choices=("auto", "on", "off"))

    def problems(self) -> list[str]:
        found = [f"--{name} must be at least 1, not {getattr(self, name)}"
                 for name in ("batch_size", "epochs_num", "report_steps") if getattr(self, name) < 1]
        if self.seq_length < 4:
            found.append("--seq_length must be at least 4")
        if self.early_stop < 0:
            found.append("--early_stop must not be negative")
        if not all(0 <= seed <= LARGEST_SEED for seed in (self.seed, *self.seeds)):
            found.append("--seed and --seeds must lie between 0 and 2^63 - 1")
        if len(set(self.seeds)) < len(self.seeds):
            found.append("--seeds names a seed twice")
        return found + column_problems(self.columns)

    def writes(self) -> list[File]:
        """The model's files, and the results of a grid under its name."""
        path = self.output_model_path
        more = (state_path(weights_path(path)), grid_results_path(path))
        return [File("--output_model_path", str(file)) for file in (*model_files(path), *more)]


@dataclass(frozen=True)
class CrossValidationConfig(FinetuneConfig):
    """Fine-tuning without a dev file: every part of the training examples is dev once."""

    dev_path: str | None = flag(None, "Not used: each fold is the dev set of the others.", path="read")
    folds_num: int = flag(5, "Parts of the training examples.")
    train_features_path: str | None = flag(None, "Write the logits that each example gets from the model that did not "
                                                 "see it, (examples, labels), to this .npy file.", path="write")

    def problems(self) -> list[str]:
        found = [] if self.folds_num >= 2 else ["--folds_num must be at least 2"]
        if self.dev_path or self.seeds:
            found.append("--dev_path and --seeds have no place in cross-validation")
        return super().problems() + found

    def writes(self) -> list[File]:
        """The files of every fold's model."""
        return [File("--output_model_path", str(file)) for fold in range(self.folds_num)
                for file in model_files(fold_path(self.output_model_path, fold))]


@dataclass(frozen=True)
class ClassifierConfig:
    """What only classifiers have."""

    soft_targets: bool = flag(False, "Distillation: learn the `logits` column of the training file too.")
    soft_alpha: float = flag(0.5, "Weight of the distillation loss; the labels' loss weighs 1 - soft_alpha.")
    class_weights: str = flag("none", "balanced: a label's loss weighs as much as it is rare.",
                              choices=("none", "balanced"))

    def problems(self) -> list[str]:
        return [] if 0.0 <= self.soft_alpha <= 1.0 else ["--soft_alpha must lie between 0 and 1"]


@dataclass(frozen=True)
class SimcseConfig:
    """What only sentence vectors have."""

    temperature: float = flag(0.05, "What cosine similarities are divided by.")

    def problems(self) -> list[str]:
        return [] if self.temperature > 0 else ["--temperature must be positive"]


@dataclass(frozen=True)
class C3Config:
    """What only multiple choice has."""

    max_choices_num: int = flag(4, "Most choices of a question.")

    def problems(self) -> list[str]:
        return [] if self.max_choices_num >= 2 else ["--max_choices_num must be at least 2"]


@dataclass(frozen=True)
class CmrcConfig:
    """What only reading comprehension has."""

    doc_stride: int = flag(128, "Tokens from the begin of one window on a long text to the begin of the next.")
    max_answer_length: int = flag(30, "Most tokens of an answer.")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least 1" for name in ("doc_stride", "max_answer_length")
                if getattr(self, name) < 1]


@dataclass(frozen=True)
class C3InferConfig:
    """What only prediction of multiple choice has."""

    max_choices_num: int | None = flag(None, "Most choices of a question (default: as fine-tuned, else 4).")

    def problems(self) -> list[str]:
        few = self.max_choices_num is not None and self.max_choices_num < 2
        return ["--max_choices_num must be at least 2"] if few else []


@dataclass(frozen=True)
class CmrcInferConfig:
    """What only prediction of reading comprehension has."""

    doc_stride: int | None = flag(None, "Tokens from the begin of one window on a long text to the begin of the next "
                                        "(default: as fine-tuned, else 128).")
    max_answer_length: int | None = flag(None, "Most tokens of an answer (default: as fine-tuned, else 30).")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least 1" for name in ("doc_stride", "max_answer_length")
                if getattr(self, name) is not None and getattr(self, name) < 1]


@dataclass(frozen=True)
class NerConfig:
    """What only named entities have."""

    label2id_path: str | None = flag(None, "JSON object from tags to numbers, the order of the model's outputs "
                                           "(default: the training file's tags, sorted; weights that UER-py wrote "
                                           "need it).", path="read")
    crf_target: bool = flag(False, "A conditional random field decides the tags of a row together.")


@dataclass(frozen=True)
class AdversarialConfig:
    """Adversarial training: the word embedding is disturbed where it hurts most."""

    use_adv: bool = flag(False, "Train on disturbed embeddings too.")
    adv_type: str = flag("fgm", "fgm: one disturbance; pgd: several small ones.", choices=("fgm", "pgd"))
    fgm_epsilon: float = flag(1e-6, "Length of the fgm disturbance.")
    pgd_k: int = flag(3, "Number of pgd disturbances.")
    pgd_epsilon: float = flag(1.0, "Radius that the sum of the pgd disturbances stays in.")
    pgd_alpha: float = flag(0.3, "Length of one pgd disturbance.")

    def problems(self) -> list[str]:
        found = [] if self.pgd_k >= 1 else ["--pgd_k must be at least 1"]
        return found + [f"--{name} must be positive" for name in ("fgm_epsilon", "pgd_epsilon", "pgd_alpha")
                        if getattr(self, name) <= 0]


@dataclass(frozen=True)
class GridConfig:
    """Which settings the grid tries, and how many at once."""

    batch_size_list: tuple[int, ...] = flag((32, 64), "Batch sizes.")
    learning_rate_list: tuple[float, ...] = flag((3e-5, 1e-4, 3e-4), "Learning rates.")
    epochs_num_list: tuple[int, ...] = flag((3, 5, 8), "Numbers of epochs.")
    results_path: str | None = flag(None, "JSON lines, one a trial; trials found there are not run again "
                                          "(default: output_model_path with .grid.jsonl).", path="write")
    parallel_trials: int = flag(0, "Trials that run at once; 0 is one for each GPU, or one for each CPU core up to 4.")
    save_model: bool = flag(True, "Keep the best trial's model at output_model_path.")

    def problems(self) -> list[str]:
        found = [] if self.parallel_trials >= 0 else ["--parallel_trials must not be negative"]
        for name in ("batch_size_list", "learning_rate_list", "epochs_num_list"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                found.append(f"--{name} must hold positive numbers")
        return found


@dataclass(frozen=True)
class FoldsConfig:
    """Prediction with all models of a cross-validation."""

    folds_num: int = flag(5, "Models, called <load_model_path>-fold_0 and so on.")
    test_features_path: str | None = flag(None, "Write the mean logits, (examples, labels), to this .npy file.",
                                          path="write")

    def problems(self) -> list[str]:
        return [] if self.folds_num >= 1 else ["--folds_num must be at least 1"]


@dataclass(frozen=True)
class InferConfig:
    """Prediction with a fine-tuned model."""

    load_model_path: str = flag(REQUIRED, "Fine-tuned model: its weights file, or the folder that holds it.",
                                path="read")
    test_path: str = flag(REQUIRED, "Examples to label.", path="read")
    prediction_path: str = flag(REQUIRED, "Where the predictions are written.", path="write")
    columns: tuple[str, ...] = flag((), COLUMNS_HELP)
    config_path: str | None = flag(None, "JSON file of the model's settings, for weights that UER-py wrote.",
                                   path="read")
    batch_size: int = flag(64, "Rows of a batch.")
    seq_length: int | None = flag(None, "Longest row in tokens (default: as fine-tuned, else 128).")
    labels_num: int | None = flag(None, "Number of labels, for weights that UER-py wrote.")
    output_logits: bool = flag(False, "Write a column of logits.")
    output_prob: bool = flag(False, "Write a column of probabilities.")
    truncation: str | None = flag(None, "Which part of a long text is kept (default: as fine-tuned, else head).",
                                  choices=TRUNCATIONS)
    precision: str = flag("auto", "Arithmetic; auto is bf16 on a GPU that has it.", choices=("auto", "fp32", "bf16"))
    device: str = flag("auto", "Where to compute; auto is CUDA when there is one.", choices=("auto", "cpu", "cuda"))

    def problems(self) -> list[str]:
        found = [] if self.batch_size >= 1 else ["--batch_size must be at least 1"]
        if self.seq_length is not None and self.seq_length < 4:
            found.append("--seq_length must be at least 4")
        if self.labels_num is not None and self.labels_num < 1:
            found.append("--labels_num must be at least 1")
        return found + column_problems(self.columns)

    def reads(self) -> list[File]:
        """The model's files, and those of the models of a cross-validation under its name."""
        path = self.load_model_path
        folds = glob.glob(glob.escape(fold_path(path, "")).replace("-fold_", "-fold_*"))
        return [File("--load_model_path", str(file)) for model in (path, *folds) for file in model_files(model)]
