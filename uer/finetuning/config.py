"""Settings of the fine-tuning, grid and inference scripts; see `uer.config` for how a field becomes a flag."""

from dataclasses import dataclass

from uer.config import LARGEST_SEED, MOST_THREADS, REQUIRED, LabelsConfig, flag
from uer.finetuning.paths import existing_folds, fold_path, grid_results_path, model_files, state_path, weights_path
from uer.paths import File, files_behind

TRUNCATIONS = ("head", "first", "tail", "head_tail")
COLUMNS_HELP = ("For TSV files without a header line: the names of the columns from left to right (label, text_a, "
                "text_b, logits); a column with any other name is not read.")


def column_problems(columns: tuple[str, ...]) -> list[str]:
    """What is wrong with --columns."""
    if columns and "text_a" not in columns:
        return ["--columns must name text_a"]
    return ["--columns names a column twice"] if len(set(columns)) < len(columns) else []


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning; these flags are the same for every task."""

    pretrained_model_path: str | None = flag(None, "Pretrained weights; without them all weights start at random.",
                                             path="read")
    output_model_path: str = flag("models/finetuned_model.bin", "Where to write the model of the epoch that is best on "
                                                                "dev.", path="write_model")
    train_path: str = flag(REQUIRED, "Training examples.", path="read")
    dev_path: str = flag(REQUIRED, "Evaluated after each epoch; the epoch with the best score is kept.", path="read")
    test_path: str | None = flag(None, "Evaluated once, with the best epoch's model.", path="read")
    columns: tuple[str, ...] = flag((), COLUMNS_HELP)
    config_path: str = flag("models/bert/base_config.json", "JSON file of the model's settings.", path="read")
    batch_size: int = flag(32, "Examples in one update, summed over all ranks.")
    seq_length: int = flag(128, "Maximum tokens in a row, [CLS] and [SEP] included.")
    epochs_num: int = flag(3, "Number of passes over the training examples.")
    report_steps: int = flag(100, "Print a line every N updates.")
    seed: int = flag(7, "Random seed of the new layers' weights, the order of examples and dropout.")
    seeds: tuple[int, ...] = flag((), "Train once with each of these seeds; report median, lowest and highest score.")
    truncation: str = flag("head", "Which part of a text longer than --seq_length is kept: head (the beginning, as in "
                                   "UER-py, without the last [SEP]); or, with every [SEP], first (the beginning, as "
                                   "in transformers), tail (the end) or head_tail (a quarter from the beginning, the "
                                   "rest from the end).",
                           choices=TRUNCATIONS)
    early_stop: int = flag(0, "Stop after N epochs without a better score on dev; 0: never stop early.")
    save_best_by: str | None = flag(None, "The score on dev that chooses the best epoch, for a classifier accuracy or "
                                          "macro_f1; the default depends on the task.")
    resume: str = flag("auto", "auto: if the same command was killed before, continue after its last full epoch; "
                               "never: start from the beginning.",
                       choices=("auto", "never"))
    report_all_labels: bool = flag(False, "For classifiers with many labels: print the scores of all labels, not only "
                                          "those of the worst and the best ones.")
    precision: str = flag("auto", "Number format of the computation; auto: bf16 on a GPU that supports it, else "
                                  "fp32.", choices=("auto", "fp32", "bf16"))
    threads: int = flag(0, "CPU threads of each training; 0: all usable cores (trials of a grid share them). A batch "
                           "is divided among up to 4 of them.")
    compile: str = flag("auto", "Use torch.compile; auto: on a GPU, if the training is so long that this saves time.",
                        choices=("auto", "on", "off"))

    def problems(self) -> list[str]:
        found = [f"--{name} must be at least 1, not {getattr(self, name)}"
                 for name in ("batch_size", "epochs_num", "report_steps") if getattr(self, name) < 1]
        if not 0 <= self.threads <= MOST_THREADS:
            found.append(f"--threads must lie between 0 and {MOST_THREADS:,}")
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
        """The model's files, and the results of a grid, which `--results_path` may name as well."""
        path = self.output_model_path
        model = (*model_files(path), state_path(weights_path(path)))
        return [File("--output_model_path", str(file)) for file in model] + [
            File("--results_path", str(grid_results_path(path)))]


@dataclass(frozen=True)
class CrossValidationConfig(FinetuneConfig):
    """Cross-validation: each part of the training examples is the dev set once."""

    dev_path: str | None = flag(None, "Not used: each fold serves as dev set.", path="read")
    folds_num: int = flag(5, "Number of parts (folds) of the training examples.")
    train_features_path: str | None = flag(None, "Write the logits that each example gets from the model that did not "
                                                 "see it, (examples, labels), to this .npy file.", path="write")

    def problems(self) -> list[str]:
        found = [] if self.folds_num >= 2 else ["--folds_num must be at least 2"]
        if self.dev_path or self.seeds:
            found.append("--dev_path and --seeds cannot be used with cross-validation")
        return super().problems() + found

    def writes(self) -> list[File]:
        """The files of every fold's model."""
        return [File("--output_model_path", str(file)) for fold in range(self.folds_num)
                for file in model_files(fold_path(self.output_model_path, fold))]


@dataclass(frozen=True)
class ClassifierConfig:
    """Classifiers only."""

    soft_targets: bool = flag(False, "Distillation: also learn from the teacher's logits in the column `logits`.")
    soft_alpha: float = flag(0.5, "Weight of the distillation loss; the loss on the labels has weight 1 - soft_alpha.")
    class_weights: str = flag("none", "balanced: weight the loss of a label by examples / (labels * its examples).",
                              choices=("none", "balanced"))

    def problems(self) -> list[str]:
        return [] if 0.0 <= self.soft_alpha <= 1.0 else ["--soft_alpha must lie between 0 and 1"]


@dataclass(frozen=True)
class SimcseConfig:
    """Sentence vectors (SimCSE) only."""

    temperature: float = flag(0.05, "Cosine similarities are divided by this before the softmax.")

    def problems(self) -> list[str]:
        return [] if self.temperature > 0 else ["--temperature must be positive"]


@dataclass(frozen=True)
class C3Config:
    """Multiple choice only."""

    max_choices_num: int = flag(4, "Maximum number of choices of a question.")

    def problems(self) -> list[str]:
        return [] if self.max_choices_num >= 2 else ["--max_choices_num must be at least 2"]


@dataclass(frozen=True)
class MultiTaskFinetuneConfig(FinetuneConfig):
    """Fine-tuning; the training and the dev file have the same names in every folder of --dataset_path_list."""

    output_model_path: str = flag("models/multitask_classifier_model.bin", "Where to write the model of the epoch that "
                                  "is best on dev.", path="write_model")
    train_path: str = flag("train.tsv", "Name of the training file in each folder of --dataset_path_list.",
                          path="name")
    dev_path: str = flag("dev.tsv", "Name of the file in each folder that is evaluated after each epoch.",
                          path="name")
    test_path: str | None = flag(None, "Name of the file in each folder that is evaluated with the best epoch's model.",
                           path="name")


@dataclass(frozen=True)
class MultiTaskConfig:
    """Multi-task classification only."""

    dataset_path_list: tuple[str, ...] = flag(REQUIRED, "Folders of the datasets, each with train.tsv and dev.tsv.",
                                              path="read")

    def reads(self) -> list[File]:
        """The files in the folders."""
        return [File("--dataset_path_list", path) for path in files_behind(self.dataset_path_list)]


@dataclass(frozen=True)
class MultiTaskInferConfig:
    """Prediction of a multi-task classifier only."""

    labels_num_list: tuple[int, ...] = flag((), "Number of labels of each dataset; only for weights that UER-py saved.")

    def problems(self) -> list[str]:
        few = any(number < 1 for number in self.labels_num_list)
        return ["--labels_num_list must hold positive numbers"] if few else []


@dataclass(frozen=True)
class Text2TextConfig:
    """Text to text only."""

    tgt_seq_length: int = flag(32, "Maximum tokens of a text that is written, [CLS] and [SEP] included.")
    beam_size: int = flag(1, "Beams of the search for the likeliest text in evaluation; 1 takes the likeliest token.")
    length_penalty: float = flag(1.0, "Beam search divides a text's log probability by length ^ length_penalty.")
    text_metrics: tuple[str, ...] = flag((), "Further scores: bleu (package sacrebleu), rouge_l (rouge-score).")

    def problems(self) -> list[str]:
        unknown = [name for name in self.text_metrics if name not in ("bleu", "rouge_l")]
        found = [f"--text_metrics: '{name}' is unknown; choose from: bleu, rouge_l" for name in unknown]
        if self.tgt_seq_length < 2:
            found.append("--tgt_seq_length must be at least 2")
        return found + ([] if self.beam_size >= 1 else ["--beam_size must be at least 1"])


@dataclass(frozen=True)
class Text2TextInferConfig:
    """Prediction of text to text only."""

    tgt_seq_length: int | None = flag(None, "Maximum tokens of a text that is written, [CLS] and [SEP] included "
                                            "(default: as in fine-tuning, else 32).")
    beam_size: int | None = flag(None, "Beams of the search for the likeliest text (default: as in fine-tuning, else "
                                       "1).")
    length_penalty: float | None = flag(None, "Beam search divides a text's log probability by length ^ "
                                              "length_penalty (default: as in fine-tuning, else 1).")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least {least}" for name, least in (("tgt_seq_length", 2), ("beam_size", 1))
                if getattr(self, name) is not None and getattr(self, name) < least]


@dataclass(frozen=True)
class ChidConfig:
    """Idiom cloze only."""

    train_answer_path: str = flag(REQUIRED, "Answers of --train_path.", path="read")
    dev_answer_path: str = flag(REQUIRED, "Answers of --dev_path, and of --test_path if it is given.", path="read")
    max_choices_num: int = flag(10, "Maximum number of candidates of a line.")

    def problems(self) -> list[str]:
        return [] if self.max_choices_num >= 2 else ["--max_choices_num must be at least 2"]


@dataclass(frozen=True)
class PromptConfig:
    """Classification by a prompt only."""

    prompt_id: str = flag("chnsenticorp_char", "Name of the prompt in --prompt_path.")
    prompt_path: str = flag("models/prompts.json", "JSON file of prompts: templates and the answers of the labels.",
                            path="read")


@dataclass(frozen=True)
class PromptInferConfig:
    """Prediction by a prompt only."""

    prompt_id: str | None = flag(None, "Name of the prompt (default: as in fine-tuning, else chnsenticorp_char).")
    prompt_path: str = flag("models/prompts.json", "JSON file of prompts; only for weights without a settings file.",
                            path="read")


@dataclass(frozen=True)
class CmrcConfig:
    """Reading comprehension only."""

    doc_stride: int = flag(128, "Tokens between the starts of two windows on a long text.")
    max_answer_length: int = flag(30, "Maximum tokens in an answer.")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least 1" for name in ("doc_stride", "max_answer_length")
                if getattr(self, name) < 1]


@dataclass(frozen=True)
class C3InferConfig:
    """Prediction of multiple choice only."""

    max_choices_num: int | None = flag(None, "Maximum number of choices (default: as in fine-tuning, else 4, "
                                             "and 10 for ChID).")

    def problems(self) -> list[str]:
        few = self.max_choices_num is not None and self.max_choices_num < 2
        return ["--max_choices_num must be at least 2"] if few else []


@dataclass(frozen=True)
class CmrcInferConfig:
    """Prediction of reading comprehension only."""

    doc_stride: int | None = flag(None, "Tokens between the starts of two windows on a long text (default: as in "
                                        "fine-tuning, else 128).")
    max_answer_length: int | None = flag(None, "Maximum tokens in an answer (default: as in fine-tuning, else 30).")

    def problems(self) -> list[str]:
        return [f"--{name} must be at least 1" for name in ("doc_stride", "max_answer_length")
                if getattr(self, name) is not None and getattr(self, name) < 1]


@dataclass(frozen=True)
class NerConfig:
    """Sequence labelling only."""

    label2id_path: str | None = flag(None, "JSON file {\"tag\": number}, the order of the model's outputs (default: "
                                           "the tags of the training file, sorted). Required for weights that "
                                           "UER-py saved.", path="read")
    crf_target: bool = flag(False, "Add a conditional random field (CRF) on top of the tagger.")


@dataclass(frozen=True)
class AdversarialConfig:
    """Adversarial training: perturbation of the word embedding in the direction of its gradient."""

    use_adv: bool = flag(False, "Also train on adversarially perturbed word embeddings.")
    adv_type: str = flag("fgm", "fgm: one step; pgd: several smaller steps.", choices=("fgm", "pgd"))
    fgm_epsilon: float = flag(1e-6, "Norm of the perturbation in fgm.")
    pgd_k: int = flag(3, "Number of steps in pgd.")
    pgd_epsilon: float = flag(1.0, "Maximum norm of the whole perturbation in pgd.")
    pgd_alpha: float = flag(0.3, "Norm of one step in pgd.")

    def problems(self) -> list[str]:
        found = [] if self.pgd_k >= 1 else ["--pgd_k must be at least 1"]
        return found + [f"--{name} must be positive" for name in ("fgm_epsilon", "pgd_epsilon", "pgd_alpha")
                        if getattr(self, name) <= 0]


@dataclass(frozen=True)
class GridConfig:
    """Grid search: which settings are tried, and how many at once."""

    batch_size_list: tuple[int, ...] = flag((32, 64), "Batch sizes to try.")
    learning_rate_list: tuple[float, ...] = flag((3e-5, 1e-4, 3e-4), "Learning rates to try.")
    epochs_num_list: tuple[int, ...] = flag((3, 5, 8), "Numbers of epochs to try.")
    results_path: str | None = flag(None, "Results, one JSON line for each trial; trials found there are not run "
                                          "again (default: output_model_path with .grid.jsonl).", path="write")
    parallel_trials: int = flag(0, "Trials that run at once; 0: one for each GPU, or one for each CPU core up to 4.")
    save_model: bool = flag(True, "Write the best trial's model to output_model_path.")

    def problems(self) -> list[str]:
        found = [] if self.parallel_trials >= 0 else ["--parallel_trials must not be negative"]
        for name in ("batch_size_list", "learning_rate_list", "epochs_num_list"):
            if not getattr(self, name) or min(getattr(self, name)) <= 0:
                found.append(f"--{name} must hold positive numbers")
        return found


@dataclass(frozen=True)
class FoldsConfig:
    """Prediction with the models of a cross-validation."""

    folds_num: int = flag(5, "Number of models, called <load_model_path>-fold_0 and so on.")
    test_features_path: str | None = flag(None, "Write the mean logits, (examples, labels), to this .npy file.",
                                          path="write")

    def problems(self) -> list[str]:
        return [] if self.folds_num >= 1 else ["--folds_num must be at least 1"]


@dataclass(frozen=True)
class InferConfig(LabelsConfig):
    """Prediction with a fine-tuned model."""

    load_model_path: str = flag(REQUIRED, "Fine-tuned model: its weights file, or its folder.",
                                path="read")
    test_path: str = flag(REQUIRED, "Examples to predict.", path="read")
    prediction_path: str = flag(REQUIRED, "Where to write the predictions.", path="write")
    columns: tuple[str, ...] = flag((), COLUMNS_HELP)
    config_path: str | None = flag(None, "JSON file of the model's settings; only for weights that UER-py saved.",
                                   path="read")
    batch_size: int = flag(64, "Rows in a batch.")
    seq_length: int | None = flag(None, "Maximum tokens in a row (default: as in fine-tuning, else 128).")
    output_logits: bool = flag(False, "Also write the logits, in the order of the labels.")
    output_prob: bool = flag(False, "Also write the probabilities, in the order of the labels.")
    truncation: str | None = flag(None, "Which part of a long text is kept (default: as in fine-tuning, else head).",
                                  choices=TRUNCATIONS)
    precision: str = flag("auto", "Number format of the computation; auto: bf16 on a GPU that supports it, else "
                                  "fp32.", choices=("auto", "fp32", "bf16"))
    device: str = flag("auto", "Device; auto: CUDA if there is a GPU, else the CPU.", choices=("auto", "cpu", "cuda"))

    def problems(self) -> list[str]:
        found = [] if self.batch_size >= 1 else ["--batch_size must be at least 1"]
        if self.seq_length is not None and self.seq_length < 4:
            found.append("--seq_length must be at least 4")
        found += super().problems()
        return found + column_problems(self.columns)

    def reads(self) -> list[File]:
        """The model's files, and those of the models of a cross-validation under its name."""
        path = self.load_model_path
        folds = (fold_path(path, fold) for fold in existing_folds(path))
        return [File("--load_model_path", str(file)) for model in (path, *folds) for file in model_files(model)]
