"""Flags of `scripts/pretrain_family.py`; a number for each stage where several are allowed."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from uer.config import LEAST_PEAK_FLOPS, PEAK_FLOPS_PROBLEM, DistillationConfig, flag
from uer.paths import File, files_behind


@dataclass(frozen=True)
class FamilyConfig:
    """What is made of what, and where."""

    sizes: tuple[str, ...] = flag(("all",), "Sizes: all (24), tiny, mini, small, medium, base, 8/512, L-8_H-512, or\n"
                                            "the path of a JSON file of models/bert's kind.")
    corpus_path: tuple[str, ...] = flag((), "Text files, globs or folders; one document a line.", path="read")
    vocab_path: str = flag("models/google_zh_vocab.txt", "Vocabulary; a known name is fetched when missing.",
                           path="read")
    do_lower_case: bool = flag(True, "Lower-case the text and strip accents.")
    output_dir: str = flag("family", "Everything is written here; the same command goes on where it stopped.",
                           path="write_folder")
    name_prefix: str = flag("chinese_roberta", "Folders of the finished models are called <name_prefix>_<size>.")
    dry_run: bool = flag(False, "Print the plan and do nothing.")
    show_commands: bool = flag(False, "Print the commands that are left to run and do nothing.")

    def problems(self) -> list[str]:
        found = []
        if not self.corpus_path and not self.dry_run:
            found.append("--corpus_path is required (only --dry_run does without)")
        if "/" in self.name_prefix or not self.name_prefix:
            found.append("--name_prefix must be a part of a folder's name")
        return found

    def reads(self) -> list[File]:
        """The corpus, and the sizes that are JSON files."""
        return [*(File("--corpus_path", path) for path in files_behind(self.corpus_path)),
                *(File("--sizes", size) for size in self.sizes if size.endswith(".json"))]

    def writes(self) -> list[File]:
        """What stands in the folder under the names that this command gives."""
        made = (p for pattern in ("family.json", "launch.json", "datasets/*", "logs/*", "*/stage*", "*/curve*",
                                  f"{self.name_prefix}_*/*") for p in Path(self.output_dir).glob(pattern))
        return [File("--output_dir", str(path)) for path in made if path.is_file()]


@dataclass(frozen=True)
class RecipeConfig:
    """The recipe's numbers; what is not given is the recipe's."""

    PER_STAGE: ClassVar[tuple[str, ...]] = ("seq_length", "total_steps", "global_batch_size", "batch_size",
                                            "learning_rate")
    SINGLE: ClassVar[tuple[str, ...]] = ("scheduler", "warmup", "lr_decay", "dropout", "max_grad_norm",
                                         "whole_word_masking", "full_sentences", "document_attention", "seed")

    recipe: str = flag("uer", "uer: as published. modern: see uer/family/recipe.py.", choices=("uer", "modern"))
    seq_length: tuple[int, ...] = flag((), "Tokens of a row, for each stage (both recipes: 128 512).")
    total_steps: tuple[int, ...] = flag((), "Updates of each stage (uer: 1000000 250000).")
    global_batch_size: tuple[int, ...] = flag((), "Rows of an update over all devices, for each stage (uer: 512 128);\n"
                                                  "kept by accumulation where there are fewer devices.")
    batch_size: tuple[int, ...] = flag((), "Rows that a device computes at once, at most (uer: 64 16).")
    learning_rate: tuple[float, ...] = flag((), "Peak learning rate of each stage (uer: 1e-4 5e-5).")
    scheduler: str | None = flag(None, "Learning-rate schedule.", family="scheduler")
    warmup: float | None = flag(None, "Share of a stage in which the rate rises.")
    lr_decay: float | None = flag(None, "Share of a stage in which the rate falls (tri_stage, trapezoidal).")
    dropout: float | None = flag(None, "Dropout probability.")
    max_grad_norm: float | None = flag(None, "Clip the gradient to this norm; 0, as in both recipes, does not clip.")
    whole_word_masking: bool | None = flag(None, "Mask whole words (jieba's segmentation).")
    full_sentences: bool | None = flag(None, "Join documents before cutting them into rows: no padding.")
    document_attention: bool | None = flag(None, "Attend inside each document of a row only.")
    seed: int | None = flag(None, "Seed of initial weights, order, masks and dropout.")

    def problems(self) -> list[str]:
        return [f"--{name} must be positive" for name in self.PER_STAGE if any(n <= 0 for n in getattr(self, name))]


@dataclass(frozen=True)
class TeachingConfig(DistillationConfig):
    """Whom small models learn from while they are pretrained."""

    teacher: str | None = flag(None, "A size that is trained first, and that every smaller one learns from, in\n"
                                     "all stages; --teacher_model_path names a checkpoint from elsewhere instead.")

    def problems(self) -> list[str]:
        if self.teacher and self.teacher_model_path:
            return ["--teacher and --teacher_model_path exclude one another"]
        found = DistillationConfig(self.teacher or self.teacher_model_path, self.teacher or self.teacher_config_path,
                                   self.soft_alpha, self.soft_temperature).problems()
        return [line.replace("need --teacher_model_path", "need --teacher or --teacher_model_path") for line in found]


@dataclass(frozen=True)
class MachineConfig:
    """What it runs on, and what the plan reckons with."""

    device: str = flag("auto", "Where to compute; auto is CUDA when there is one.", choices=("auto", "cpu", "cuda"))
    device_name: str | None = flag(None, "Reckon with this GPU instead of those at hand, such as H100.")
    device_count: int = flag(0, "GPUs to use, or to reckon with; 0 is all that are at hand, or 8 named ones.")
    gpus_per_model: int = flag(0, "GPUs that train one model together; 0 is all.")
    parallel_models: str = flag("auto", "Models that one GPU trains at once; auto: as many as it takes to fill it.")
    torchrun: str = flag("", "Train every model under torchrun with these arguments, such as '--nnodes 2\n"
                             "--nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500'. The same command on\n"
                             "every machine, on one shared folder, with --node_rank 1, 2, ... among them on all but\n"
                             "the first (or Slurm's SLURM_NODEID).")
    peak_flops: float = flag(0.0, "Operations a second that one device can do, such as 125e12 (default: of a\n"
                                  "known GPU in the precision of the training, else measured).")
    memory_gib: float = flag(0.0, "Memory of one device (default: as the device says, or a known GPU has).")
    mfu: float | None = flag(None, "Share of the device's peak that training reaches (default: what is assumed for\n"
                                   "each width).")
    price_per_hour: float = flag(0.0, "Price of one device for an hour.")
    processes_num: int = flag(0, "Processes of preprocess.py; 0 is one for each CPU core.")
    save_checkpoint_steps: int = flag(0, "Updates between checkpoints; 0 is a tenth of the stage.")
    report_steps: int = flag(0, "Updates between report lines; 0 is a thousandth of the stage, at least 10.")
    report_seconds: float = flag(60.0, "Seconds between lines on the terminal.")
    dev_fraction: float = flag(0.0, "Share of the dataset held out for evaluation.")
    precision: str = flag("auto", "Arithmetic; auto is bf16 where the GPU has it.",
                          choices=("auto", "fp32", "bf16", "fp16"))
    compile: str = flag("auto", "torch.compile.", choices=("auto", "on", "off"))
    no_check: bool = flag(False, "Do not compare the converted models' logits with transformers' (which then need not\n"
                                 "be installed).")

    def problems(self) -> list[str]:
        found = []
        for name in ("device_count", "gpus_per_model", "processes_num", "save_checkpoint_steps", "report_steps",
                     "price_per_hour", "memory_gib"):
            if getattr(self, name) < 0:
                found.append(f"--{name} must not be negative")
        if self.torchrun and (self.gpus_per_model or self.device_count or self.parallel_models not in ("auto", "1")):
            found.append("--torchrun says how many processes train a model, one model at a time; leave out "
                         "--gpus_per_model, --device_count and --parallel_models")
        if self.peak_flops and self.peak_flops < LEAST_PEAK_FLOPS:
            found.append(PEAK_FLOPS_PROBLEM)
        if self.mfu is not None and not 0.0 < self.mfu <= 1.0:
            found.append("--mfu must lie between 0 and 1, and not be 0")
        if self.parallel_models != "auto" and not (self.parallel_models.isdecimal() and int(self.parallel_models) > 0):
            found.append(f"--parallel_models must be auto or a number from 1 on, not '{self.parallel_models}'")
        if not 0.0 <= self.dev_fraction < 1.0:
            found.append("--dev_fraction must lie in [0, 1)")
        return found
