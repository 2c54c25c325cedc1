"""Flags of `scripts/pretrain_family.py`. A flag that takes several numbers takes one for each stage."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from uer.config import LEAST_PEAK_FLOPS, PEAK_FLOPS_PROBLEM, DistillationConfig, flag
from uer.family.architectures import ARCHITECTURES, FamilyArchitecture
from uer.paths import File, files_behind


@dataclass(frozen=True)
class FamilyConfig:
    """Sizes, corpus and output folder."""

    sizes: tuple[str, ...] = flag(("all",), "Sizes: all (24), tiny, mini, small, medium, base, 8/512, L-8_H-512, or "
                                            "the path of a JSON file like those in models/bert.")
    architecture: str = flag("bert", "bert: the sizes of models/bert. modern: ModernBERT in the same sizes "
                                     "(models/modernbert), trained by another recipe.", choices=tuple(ARCHITECTURES))
    corpus_path: tuple[str, ...] = flag((), "Text files, globs or folders; one document on each line.", path="read")
    vocab_path: str = flag("models/google_zh_vocab.txt", "Vocabulary; a known one is downloaded when it is missing.",
                           path="read")
    do_lower_case: bool = flag(True, "Lower-case the text and strip accents.")
    output_dir: str = flag("family", "Everything is written here; the same command continues where it stopped.",
                           path="write_folder")
    name_prefix: str | None = flag(None, "Folders of the finished models are called <name_prefix>_<size> (default: "
                                         "chinese_roberta; modern: chinese_modernbert).")
    dry_run: bool = flag(False, "Print the plan and do nothing.")
    scaling: bool = flag(False, "With --dry_run: also print step times and hours for 1 to 1,024 GPUs.")
    show_commands: bool = flag(False, "Print the commands that are left to run, and do nothing. To train one model "
                                            "on several machines, run its pretrain.py commands under torchrun.")

    def problems(self) -> list[str]:
        found = []
        if not self.corpus_path and not self.dry_run:
            found.append("--corpus_path is required (it is optional with --dry_run only)")
        if self.scaling and not self.dry_run:
            found.append("--scaling needs --dry_run")
        if "/" in self.prefix or not self.prefix:
            found.append("--name_prefix must be the beginning of a folder's name, without a slash")
        return found

    @property
    def made(self) -> FamilyArchitecture:
        """The architecture of the models that are made."""
        return ARCHITECTURES[self.architecture]

    @property
    def prefix(self) -> str:
        """The beginning of the finished models' names."""
        return self.made.name_prefix if self.name_prefix is None else self.name_prefix

    def reads(self) -> list[File]:
        """Input files: the corpus, and the sizes that are JSON files."""
        return [*(File("--corpus_path", path) for path in files_behind(self.corpus_path)),
                *(File("--sizes", size) for size in self.sizes if size.endswith(".json"))]

    def writes(self) -> list[File]:
        """Files in the output folder that this command may overwrite."""
        made = (p for pattern in ("family.json", "datasets/*", "logs/*", "*/stage*", "*/training_curve*",
                                  f"{self.prefix}_*/*") for p in Path(self.output_dir).glob(pattern))
        return [File("--output_dir", str(path)) for path in made if path.is_file()]


@dataclass(frozen=True)
class RecipeConfig:
    """Settings of the recipe; those that are not given keep the recipe's value."""

    PER_STAGE: ClassVar[tuple[str, ...]] = ("seq_length", "total_steps", "global_batch_size", "batch_size",
                                            "learning_rate")
    SINGLE: ClassVar[tuple[str, ...]] = ("scheduler", "warmup", "lr_decay", "dropout", "max_grad_norm",
                                         "whole_word_masking", "full_sentences", "document_attention", "seed",
                                         "optimizer", "mask_rate", "mask_token_rate", "output_bias_init")

    recipe: str | None = flag(None, "uer: the published one. modern, modernbert: see uer/family/recipe.py (default: "
                                    "uer; with --architecture modern: modernbert).",
                              choices=("uer", "modern", "modernbert"))
    seq_length: tuple[int, ...] = flag((), "Sequence length of each stage (uer and modern: 128 512; modernbert: 1024 "
                                           "8192).")
    total_steps: tuple[int, ...] = flag((), "Updates of each stage (uer: 1000000 250000).")
    global_batch_size: tuple[int, ...] = flag((), "Sequences of an update on all devices, for each stage (uer: 512 "
                                                  "128); with fewer devices, gradients are accumulated.")
    batch_size: tuple[int, ...] = flag((), "Largest micro-batch of a device, in sequences (default: on a GPU "
                                           "what its memory allows; on a CPU, uer: 64 16).")
    learning_rate: tuple[float, ...] = flag((), "Peak learning rate of each stage (uer: 1e-4 5e-5).")
    scheduler: str | None = flag(None, "Learning-rate schedule.", family="scheduler")
    warmup: float | None = flag(None, "Part of a stage for the warmup, such as 0.1.")
    lr_decay: float | None = flag(None, "Part of a stage for the decay (schedulers tri_stage and trapezoidal).")
    dropout: float | None = flag(None, "Dropout probability.")
    max_grad_norm: float | None = flag(None, "Clip the gradient to this norm; 0 (all recipes): no clipping.")
    whole_word_masking: bool | None = flag(None, "Mask whole words (segmented by jieba).")
    full_sentences: bool | None = flag(None, "Concatenate documents and cut sequences without padding.")
    document_attention: bool | None = flag(None, "Tokens attend to their own document only.")
    optimizer: str | None = flag(None, "Optimizer (uer: adamw).", family="optimizer")
    mask_rate: float | None = flag(None, "Fraction of a row's tokens that are predicted (uer: 0.15).")
    mask_token_rate: float | None = flag(None, "Fraction of the predicted tokens that become [MASK] (uer: 0.8).")
    output_bias_init: str | None = flag(None, "What the biases of the output layer begin with (uer: zeros).",
                                        choices=("zeros", "frequencies"))
    seed: int | None = flag(None, "Seed of initial weights, data order, masks and dropout.")

    def problems(self) -> list[str]:
        return [f"--{name} must be positive" for name in self.PER_STAGE if any(n <= 0 for n in getattr(self, name))]


@dataclass(frozen=True)
class TeachingConfig(DistillationConfig):
    """The teacher that small models learn from while they are pretrained (distillation)."""

    teacher: str | None = flag(None, "A size that is trained first; every smaller size learns from it in all stages. "
                                     "Use --teacher_model_path for a checkpoint from elsewhere.")

    def problems(self) -> list[str]:
        if self.teacher and self.teacher_model_path:
            return ["--teacher and --teacher_model_path exclude one another"]
        found = DistillationConfig(self.teacher or self.teacher_model_path, self.teacher or self.teacher_config_path,
                                   self.soft_alpha, self.soft_temperature).problems()
        return [line.replace("need --teacher_model_path", "need --teacher or --teacher_model_path") for line in found]


@dataclass(frozen=True)
class MachineConfig:
    """The devices, and what the plan assumes about them."""

    device: str = flag("auto", "Where to train; auto: on CUDA GPUs if there are any.", choices=("auto", "cpu", "cuda"))
    device_name: str | None = flag(None, "Plan for this GPU, such as H100, instead of this machine's (with "
                                         "--dry_run or --show_commands).")
    device_count: int = flag(0, "Number of GPUs; 0: all GPUs of this machine, or 8 of --device_name.")
    gpus_per_model: int = flag(0, "GPUs that train one model together; 0: all.")
    parallel_models: str = flag("auto", "Models that one GPU trains at the same time; auto: as many as fill it.")
    mps: str = flag("auto", "CUDA MPS, with which several models on one GPU run at the same time instead of in "
                            "turns; auto: started and stopped by this command where it is installed.",
                    choices=("auto", "off"))
    torchrun: str = flag("", "Removed: use --show_commands, and run its commands under torchrun.")
    peak_flops: float = flag(0.0, "Peak FLOPs a second of one device, such as 125e12 (default: known for many "
                                  "GPUs, otherwise measured).")
    memory_gib: float = flag(0.0, "Memory of one device in GiB (default: the device's own).")
    mfu: float | None = flag(None, "Model FLOPs utilization: the share of the peak that training reaches (default: "
                                   "by the assumptions of uer/family/scaling.py).")
    step_times: str | None = flag(None, "JSON file of measured updates, in place of assumptions: "
                                        '[{"size": "tiny", "batch_size": 64, "seq_length": 128, '
                                        '"precision": "bf16", "step_ms": 0.9, "device": "NVIDIA H100"}]', path="read")
    fill: tuple[float, ...] = flag((), "Part of the token slots that is no padding, one number or one for each stage "
                                       "(default: counted in the datasets of --output_dir; 1 before they exist).")
    document_length: float = flag(0.0, "Mean number of tokens of the corpus's documents: attention inside of them is "
                                       "counted for so many (default: for whole rows, which is more).")
    price_per_hour: float = flag(0.0, "Price of one device for one hour.")
    processes_num: int = flag(0, "Processes of preprocess.py; 0: one for each CPU core.")
    save_checkpoint_steps: int = flag(0, "Updates between checkpoints; 0: a tenth of the stage.")
    report_steps: int = flag(0, "Updates between reports; 0: a thousandth of the stage, at least 10.")
    report_seconds: float = flag(60.0, "Seconds between progress lines on the terminal.")
    dev_fraction: float = flag(0.0, "Part of the dataset that is held out for evaluation, such as 0.01.")
    precision: str = flag("auto", "Precision of the training; auto: bf16 if the GPU supports it.",
                          choices=("auto", "fp32", "bf16", "fp16"))
    compile: str = flag("auto", "torch.compile.", choices=("auto", "on", "off"))
    no_check: bool = flag(False, "Do not compare the logits of converted models with transformers (which then need "
                                 "not be installed).")

    def problems(self) -> list[str]:
        found = []
        for name in ("device_count", "gpus_per_model", "processes_num", "save_checkpoint_steps", "report_steps",
                     "price_per_hour", "memory_gib", "document_length"):
            if getattr(self, name) < 0:
                found.append(f"--{name} must not be negative")
        if self.torchrun:
            found.append("--torchrun was removed. Print the commands with --show_commands (--device_name and "
                         "--device_count say for how many GPUs) and run each pretrain.py command under torchrun on "
                         "every machine; or start one family on each machine, with other --sizes and --output_dir")
        if self.peak_flops and self.peak_flops < LEAST_PEAK_FLOPS:
            found.append(PEAK_FLOPS_PROBLEM)
        if self.mfu is not None and not 0.0 < self.mfu <= 1.0:
            found.append("--mfu must lie between 0 and 1, and not be 0")
        if self.parallel_models != "auto" and not (self.parallel_models.isdecimal() and int(self.parallel_models) > 0):
            found.append(f"--parallel_models must be auto or a number from 1 on, not '{self.parallel_models}'")
        if not all(0.0 < part <= 1.0 for part in self.fill):
            found.append("--fill must lie between 0 and 1, and not be 0")
        if not 0.0 <= self.dev_fraction < 1.0:
            found.append("--dev_fraction must lie in [0, 1)")
        return found
