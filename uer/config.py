"""The settings of the toolkit: dataclasses whose fields are both command-line flags and keys of JSON config files.

A field's name is the flag's name (UER-py's, letter for letter) and the key in a JSON config file; its annotation is the
flag's kind, its default the flag's default, its metadata the help text. `uer.cli` makes the flags from these fields.
Encoders, targets and processors receive the config class that they need; layers receive plain numbers. All parts import
these classes from here; `uer.model_config` holds the model's, `uer.config_fields` what the fields are made of.

The first line of a class's docstring is the heading of its flags in --help. Each class may define `problems()`: it
checks the fields against one another and returns a line for each contradiction, which names the flags. The command line
collects these lines from all classes and raises them as one error.
"""

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from uer.config_fields import (
    LARGEST_SEED,
    LARGEST_WIDTH,
    LONGEST_ROW,
    MOST_ROWS,
    MOST_THREADS,
    PATHS,
    REQUIRED,
    Members,
    flag,
    members_of,
    require,
    require_seed,
)
from uer.model_config import DUAL, MODERN, STREAM_ONLY, ModelConfig, model_identity, model_values
from uer.paths import File, existing

__all__ = [  # the public names of this module and of those two
    "DUAL", "LARGEST_SEED", "LEAST_PEAK_FLOPS", "LONGEST_ROW", "MODERN", "MOST_THREADS", "PATHS", "PEAK_FLOPS_PROBLEM",
    "REQUIRED", "STREAM_ONLY", "DatasetConfig", "DistillationConfig", "LabelsConfig", "LogConfig", "LoraConfig",
    "MaskingConfig", "Members", "ModelConfig", "OptimConfig", "ParallelConfig", "TokenizerConfig", "TrainConfig",
    "flag", "members_of", "model_identity", "model_values", "optim_identity", "recorded"]

LEAST_PEAK_FLOPS = 1e9  # a smaller value was probably meant in TFLOPS
PEAK_FLOPS_PROBLEM = "--peak_flops counts operations a second of one device, such as 125e12"


@dataclass(frozen=True)
class TokenizerConfig(Members):
    """Tokenizer."""

    tokenizer: str = flag("bert", "Tokenizer that turns text into tokens.", family="tokenizer")
    vocab_path: str | None = flag(None, "Vocabulary file with one token per line. A known one, such as "
                                        "google_zh_vocab.txt, is downloaded if it is missing.", path="read")
    merges_path: str | None = flag(None, "Merges file of the bpe and qwen tokenizers.", path="read")
    spm_model_path: str | None = flag(None, "SentencePiece model file of the xlmroberta tokenizer, or for bert in "
                                            "place of --vocab_path.", path="read")
    special_tokens_map: str | None = flag(None, "JSON file that names the special tokens of the vocabulary. Default: "
                                                "special_tokens_map.json in its folder, where there is one.",
                                          path="read")
    do_lower_case: bool = flag(True, "Convert the text to lower case and remove accents.")
    tgt_tokenizer: str = flag("bert", "Tokenizer of the target side, of processors that have one of its own.",
                              family="tgt_tokenizer")
    tgt_vocab_path: str | None = flag(None, "Vocabulary file of the target side.", path="read")
    tgt_merges_path: str | None = flag(None, "Merges file of the target side.", path="read")
    tgt_spm_model_path: str | None = flag(None, "SentencePiece model file of the target side.", path="read")
    tgt_special_tokens_map: str | None = flag(None, "JSON file that names the special tokens of the target side.",
                                              path="read")
    tgt_do_lower_case: bool = flag(True, "Convert the text of the target side to lower case and remove accents.")
    members: dict[str, Any] = members_of("tokenizer", "tgt_tokenizer")

    def problems(self) -> list[str]:
        """A SentencePiece model gives other tokens than --vocab_path, so it is not ignored."""
        return [f"--{prefix}spm_model_path is for --{prefix}tokenizer bert or xlmroberta, not "
                f"{getattr(self, f'{prefix}tokenizer')}" for prefix in ("", "tgt_")
                if getattr(self, f"{prefix}spm_model_path")
                and getattr(self, f"{prefix}tokenizer") in ("bpe", "char", "qwen", "space")]

    def of_side(self, side: str) -> "TokenizerConfig":
        """The settings of one side by the names of the source's: for "tgt", `vocab_path` is --tgt_vocab_path."""
        if side == "src":
            return self
        own = {name.removeprefix("tgt_"): value for name, value in self.values().items() if name.startswith("tgt_")}
        known = own.keys() & {known.name for known in fields(self)}
        return replace(self, members={**self.members, **own}, **{name: own[name] for name in known})


@dataclass(frozen=True)
class MaskingConfig:
    """Masking (at least one token of a row is predicted)."""

    whole_word_masking: bool = flag(False, "Mask whole words, as jieba segments them, instead of single tokens.")
    span_masking: bool = flag(False, "Mask spans of consecutive tokens instead of single tokens.")
    span_geo_prob: float = flag(0.2, "Parameter p of the geometric distribution that span lengths are drawn from.")
    span_max_length: int = flag(10, "Maximum span length in tokens.")
    mask_rate: float = flag(0.15, "Fraction of a row's tokens that are predicted (Wettig et al., 2022: larger models "
                                  "learn more from 0.4).")
    mask_token_rate: float = flag(0.8, "Fraction of the predicted tokens that become [MASK]; of the others one half "
                                       "become random entries, and one half stay as they are.")

    def problems(self) -> list[str]:
        found: list[str] = []
        require(found, 0.0 < self.mask_rate <= 0.9, "--mask_rate must lie between 0 and 0.9, and not be 0")
        require(found, 0.0 <= self.mask_token_rate <= 1.0, "--mask_token_rate must lie between 0 and 1")
        require(found, not (self.whole_word_masking and self.span_masking),
                "--whole_word_masking and --span_masking exclude one another")
        require(found, 0.0 < self.span_geo_prob < 1.0, "--span_geo_prob must lie between 0 and 1")
        require(found, 1 <= self.span_max_length <= 255, "--span_max_length must lie between 1 and 255")
        return found


@dataclass(frozen=True)
class DatasetConfig(Members):
    """Dataset."""

    corpus_path: tuple[str, ...] = flag(REQUIRED, "Text files, glob patterns or folders to read.", path="read")
    dataset_path: str = flag("dataset.pt", "Dataset file to write.", path="write")
    processes_num: int = flag(1, "Number of worker processes. The dataset does not depend on it.")
    data_processor: str = flag("bert", "Kind of training instances to make, which must fit --target of pretrain.py.",
                               family="data_processor")
    docs_buffer_size: int = flag(100000, "Accepted for UER-py's commands; memory is limited without it.")
    seq_length: int = flag(128, "Maximum sequence length in tokens, [CLS] and [SEP] included.")
    dup_factor: int = flag(5, "How often each document or instance is repeated, each time with other random choices "
                              "(masks, pairs).")
    seed: int = flag(7, "Random seed of static masks and of sentence pairs.")
    dynamic_masking: bool = flag(False, "Draw new masks in every epoch of the training; dup_factor is then 1.")
    text_field: str | None = flag(None, "Read the corpus as JSON lines, with the text in this field.")
    encoding_errors: str = flag("replace", "What to do with a line that is not valid UTF-8: report skips the line, "
                                "replace substitutes U+FFFD for the invalid bytes, stop ends the run.",
                                choices=("report", "replace", "stop"))
    user_dict: str | None = flag(None, "User dictionary of jieba for --whole_word_masking.", path="read")
    vocab_report_size: int = flag(10, "How many of the most frequent unknown characters the summary lists.")
    members: dict[str, Any] = members_of("data_processor")

    def problems(self) -> list[str]:
        found: list[str] = []
        require(found, self.processes_num >= 1, "--processes_num must be at least 1")
        require(found, self.seq_length >= 4, "--seq_length must be at least 4")
        require(found, self.seq_length <= LONGEST_ROW, f"--seq_length must be at most {LONGEST_ROW:,}")
        require(found, self.dup_factor >= 1, "--dup_factor must be at least 1")
        require(found, self.text_field != "", "--text_field needs the name of a field")
        require(found, self.vocab_report_size >= 0, "--vocab_report_size must not be negative")
        require_seed(found, self.seed)
        return found


@dataclass(frozen=True)
class LabelsConfig:
    """Labels (--target cls)"""

    labels_num: int | None = flag(None, "Number of labels: of the cls target, or of a fine-tuned model that UER-py "
                                        "saved.")

    def problems(self) -> list[str]:
        return [] if self.labels_num is None or self.labels_num >= 1 else ["--labels_num must be at least 1"]


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning-rate schedule."""

    learning_rate: float = flag(2e-5, "Peak learning rate.")
    warmup: float = flag(0.1, "Fraction of total_steps in which the learning rate rises from 0 to its peak.")
    lr_decay: float = flag(0.5, "tri_stage and trapezoidal: fraction of total_steps in which it decays.")
    optimizer: str = flag("adamw", "Optimizer.", family="optimizer")
    scheduler: str = flag("linear", "Learning-rate schedule.", family="scheduler")
    weight_decay: float = flag(0.01, "Weight decay of all parameters but biases and layer norms.")
    adam_beta2: float = flag(0.999, "Decay rate of the second moment (adamw, stableadamw, and what muon leaves to "
                                    "AdamW).")

    def problems(self) -> list[str]:
        found: list[str] = []
        require(found, 0 < self.learning_rate < math.inf, "--learning_rate must be positive")
        require(found, 0.0 <= self.warmup <= 1.0, "--warmup must lie between 0 and 1")
        require(found, 0.0 <= self.lr_decay <= 1.0, "--lr_decay must lie between 0 and 1")
        require(found, 0.0 <= self.weight_decay < math.inf, "--weight_decay must not be negative")
        require(found, 0.0 <= self.adam_beta2 < 1.0, "--adam_beta2 must lie in [0, 1)")
        return found


def optim_identity(optim: OptimConfig) -> dict[str, Any]:
    """The optimizer's settings as hashes of finished work have them: those that earlier versions did not have only
    where they are not the default, so that trials of earlier versions are found again."""
    later = {known.name: known.default for known in fields(optim) if known.name in ("weight_decay", "adam_beta2")}
    return {name: value for name, value in asdict(optim).items() if name not in later or value != later[name]}


LEAST_SAMPLED = 16
"""The fewest entries of --sampled_softmax."""

LATER_SETTINGS = {"mask_rate": 0.15, "mask_token_rate": 0.8}
"""Settings that datasets of earlier versions do not name -> what they were then."""


def recorded(config: Any) -> dict[str, Any]:
    """A processor's settings as a dataset records them: a later one only where it differs from what it was before there
    was a setting for it, so that the same data are the same bytes."""
    return {name: value for name, value in asdict(config).items() if LATER_SETTINGS.get(name) != value}


@dataclass(frozen=True)
class TrainConfig:
    """Training."""

    dataset_path: tuple[str, ...] = flag(("dataset.pt",), "Datasets made by preprocess.py.", path="read",
                                         identity=False)
    dataset_weights: tuple[float, ...] = flag((), "Sampling weights of the datasets, one number for each.")
    pretrained_model_path: str | None = flag(None, "Checkpoint with the initial weights.", path="read")
    output_model_path: str = flag(REQUIRED, "Checkpoints are saved as <output_model_path>-<step>.",
                                  path="write_prefix", identity=False)
    config_path: str = flag("models/bert/base_config.json", "JSON file with the settings of the model.", path="read",
                            identity=False)
    total_steps: int = flag(100000, "Number of optimizer updates.")
    save_checkpoint_steps: int = flag(10000, "Save a checkpoint every N updates.", identity=False)
    report_steps: int = flag(100, "Print metrics every N updates, and at the end.", identity=False)
    accumulation_steps: int = flag(1, "Gradient accumulation: micro-batches per update.", identity=False)
    batch_size: int = flag(32, "Rows of a micro-batch in each process.", identity=False)
    instances_buffer_size: int = flag(25600, "Accepted for UER-py's commands; shuffling is global without it.",
                                      identity=False)
    seed: int = flag(7, "Random seed of the initial weights, the order of the data, the masks and the dropout.")
    data_processor: str | None = flag(None, "Processor that made the datasets (default: the one named in them).",
                                      family="data_processor")
    deep_init: bool = flag(False, "Multiply the initial weights of the layers' output projections by "
                                  "1 / sqrt(2 * layers_num).")
    initializer_range: float = flag(0.02, "Standard deviation of the initial weights.")
    position_init: str = flag("normal", "sinusoidal: the position embeddings start as sines and cosines, whose root "
                                        "mean square is initializer_range.", choices=("normal", "sinusoidal"))
    output_bias_init: str = flag("zeros", "frequencies: the bias of the output layer starts at the logarithms of the "
                                          "tokens' frequencies in the data.", choices=("zeros", "frequencies"))
    sampled_softmax: int = flag(0, "Compute N logits of each prediction while training: those of the tokens that are "
                                   "most frequent in the data, of the labels, and of a sample of the others, which "
                                   "stands for all. 0 computes all. The training loss is then an estimate.")
    resume: str = flag("auto", "auto: continue from the latest training state of --output_model_path; never: start "
                               "a new run; a path: continue from this training state.", identity=False)
    keep_checkpoints: int = flag(2, "How many training states to keep.", identity=False)
    decay_from: str | None = flag(None, "Training state of a run at its peak learning rate: go on from there with the "
                                        "decay of --scheduler trapezoidal, in place of --total_steps, --scheduler, "
                                        "--warmup and --lr_decay.", path="read", identity=False)
    decay_steps: int = flag(0, "Updates of --decay_from until the learning rate is 0.", identity=False)
    max_grad_norm: float = flag(0.0, "Clip the gradient to this norm; 0 disables clipping.")
    max_skipped_updates: int = flag(10, "Stop after N consecutive updates with a non-finite loss or gradient.",
                                    identity=False)
    precision: str = flag("auto", "Precision of the computation; auto is bf16 on GPUs that support it and on CPUs "
                                  "whose matrix products it makes faster, else fp32.",
                          choices=("auto", "fp32", "bf16", "fp16"))
    weights_dtype: str = flag("fp32", "bf16 keeps the weights of linear layers in bfloat16 and float32 masters in the "
                                      "optimizer, so that no step has to round them (--precision bf16).",
                              choices=("fp32", "bf16"))
    compile: str = flag("auto", "Use torch.compile; auto uses it on GPUs.", choices=("auto", "on", "off"),
                        identity=False)
    combo_kernels: str = flag("off", "Let torch.compile combine small kernels. It is off because of a known bug of "
                                     "torch where combined kernels draw random numbers, as dropout does.",
                              choices=("on", "off"), identity=False)
    cuda_graph: str = flag("auto", "Capture an update's kernels as CUDA graphs, so that a GPU does not wait for the "
                                   "host; auto does so on one GPU, and on several for models below 50 M parameters.",
                           choices=("auto", "on", "off"), identity=False)
    threads: int = flag(0, "CPU threads of each process; 0 takes all usable cores. A batch is divided among up "
                           "to 4 of them. A run that is continued keeps its division and so its results.",
                        identity=False)
    dataset_device: str = flag("auto", "Device that holds the dataset; auto is the GPU if the dataset fits.",
                               choices=("auto", "cpu", "cuda"), identity=False)
    unpad: str = flag("auto", "Remove padding before the encoder; auto does so unless the encoder reads it.",
                      choices=("auto", "on", "off"), identity=False)
    document_attention: bool = flag(False, "Restrict attention and position numbers to each document of a row, "
                                           "for rows of several documents (preprocess.py --full_sentences).")
    peak_flops: float = flag(0.0, "Peak operations per second of one device, such as 125e12, to report MFU; "
                                  "0 takes those of a known GPU in this precision.", identity=False)
    dry_run: bool = flag(False, "Print what the run would need (memory by part, operations, hours, the largest "
                                "--batch_size) and do nothing. The datasets need not exist.", identity=False)
    device_name: str | None = flag(None, "With --dry_run: plan for this GPU, such as H100.", identity=False)
    mfu: float = flag(0.4, "With --dry_run: the part of the devices' peak that training reaches (BERT-base reached "
                           "0.26 of an H100's, tiny 0.03).", identity=False)
    loss_law: str | None = flag(None, "With --dry_run: file of scripts/fit_loss_law.py, which tells the loss to "
                                      "expect (default: a shipped law, where one is of such a model).", path="read",
                                identity=False)
    dev_dataset_path: str | None = flag(None, "Dataset for evaluation during training.", path="read", identity=False)
    dev_fraction: float = flag(0.0, "Fraction of the datasets that is held out for evaluation.")
    eval_masking: str = flag("as_training", "Masks of the held-out data. tokens: 15% of the single tokens, whatever "
                                            "the masking of the training is, so that runs can be compared "
                                            "(datasets with --dynamic_masking).",
                             choices=("as_training", "tokens"), identity=False)
    eval_steps: int = flag(0, "Evaluate every N updates, and at the end; 0 evaluates at every checkpoint.",
                           identity=False)

    def problems(self) -> list[str]:
        found: list[str] = []
        for name in ("total_steps", "save_checkpoint_steps", "report_steps", "accumulation_steps", "batch_size",
                     "keep_checkpoints", "max_skipped_updates"):
            require(found, getattr(self, name) >= 1, f"--{name} must be at least 1, not {getattr(self, name)}")
        rows = self.batch_size * self.accumulation_steps
        require(found, rows <= MOST_ROWS, f"--batch_size x --accumulation_steps must be at most {MOST_ROWS:,} rows of "
                                          f"an update, not {rows:,}")
        require(found, not self.dataset_weights or len(self.dataset_weights) == len(self.dataset_path),
                "--dataset_weights needs one number for each --dataset_path")
        require(found, all(0 < weight < math.inf for weight in self.dataset_weights),
                "--dataset_weights must be positive")
        require(found, 0.0 <= self.dev_fraction < 1.0, "--dev_fraction must lie in [0, 1)")
        require(found, not (self.dev_fraction and self.dev_dataset_path),
                "--dev_fraction and --dev_dataset_path exclude one another")
        require(found, self.max_grad_norm >= 0, "--max_grad_norm must not be negative")
        require(found, self.decay_steps >= 0, "--decay_steps must not be negative")
        require(found, bool(self.decay_from) == bool(self.decay_steps), "--decay_from and --decay_steps go together")
        require(found, not self.decay_from or self.resume in ("auto", "never"), "--decay_from excludes --resume PATH")
        require(found, 0.0 < self.initializer_range < math.inf, "--initializer_range must be positive")
        require(found, self.sampled_softmax == 0 or self.sampled_softmax >= LEAST_SAMPLED,
                f"--sampled_softmax must be 0 or at least {LEAST_SAMPLED}")
        require(found, 0 <= self.threads <= MOST_THREADS, f"--threads must lie between 0 and {MOST_THREADS:,}")
        require(found, 0 < self.mfu <= 1, "--mfu must lie between 0 and 1, and not be 0")
        for name in ("device_name", "loss_law"):
            require(found, self.dry_run or not getattr(self, name), f"--{name} needs --dry_run")
        require(found, self.eval_steps >= 0, "--eval_steps must not be negative")
        require(found, self.peak_flops == 0 or self.peak_flops >= LEAST_PEAK_FLOPS, PEAK_FLOPS_PROBLEM)
        require_seed(found, self.seed)
        return found

    def writes(self) -> list[File]:
        """The existing files that this run will overwrite: checkpoints, their settings, and training states. With
        --decay_from they may be of any step, since its end is not known yet."""
        output = Path(self.output_model_path)
        kept = re.compile(rf"{re.escape(output.name)}(?:-(\d+)(?:\.settings\.json)?|\.state-\d+(?:\.old)?)")
        found = []
        for path in existing(output.parent, kept):
            step = int(kept.fullmatch(path.name)[1] or 0)
            last = step == self.total_steps
            saved = step and (self.decay_from or last or (
                step < self.total_steps and step % max(1, self.save_checkpoint_steps) == 0))
            if saved or (not step and not path.is_dir()):  # a state of divided parameters is a folder
                found.append(File("--output_model_path", str(path)))
        return found


@dataclass(frozen=True)
class LoraConfig:
    """LoRA: small matrices are trained beside the linear layers of a model that stays as it is (Hu et al., 2021)."""

    use_lora: bool = flag(False, "Train only adapters of --pretrained_model_path, and in fine-tuning the task's head.")
    lora_r: int = flag(8, "Rank r of the adapters: (inputs + outputs) * r numbers are trained for each layer.")
    lora_alpha: float = flag(16.0, "The adapters' product is multiplied by lora_alpha / lora_r.")
    lora_dropout: float = flag(0.05, "Dropout probability of the adapters' input.")
    lora_target: tuple[str, ...] = flag(("linear_layers.0", "linear_layers.2"), "Layers that get an adapter, by a part "
                                        "of their name in UER (default: query and value, as in TencentPretrain); "
                                        "all-linear: all of embedding, encoder and decoder.")
    lora_train: tuple[str, ...] = flag((), "Further parameters that are trained, by a part of their name, such as "
                                           "layer_norm_1 or target.")
    lora_pretrained_model_path: str | None = flag(None, "Adapters to start with, as pretrain.py or TencentPretrain "
                                                        "saved them.", path="read")
    lora_save: str = flag("auto", "merged: save whole models, with the adapters added to the weights; adapter: save "
                                  "only what was trained. auto: merged in fine-tuning, adapter in pretraining.",
                          choices=("auto", "merged", "adapter"), identity=False)

    def problems(self) -> list[str]:
        found: list[str] = []
        require(found, 1 <= self.lora_r <= LARGEST_WIDTH, f"--lora_r must lie between 1 and {LARGEST_WIDTH:,}")
        require(found, 0 < self.lora_alpha < math.inf, "--lora_alpha must be positive")
        require(found, 0.0 <= self.lora_dropout < 1.0, "--lora_dropout must lie in [0, 1)")
        require(found, bool(self.lora_target), "--lora_target names none")
        require(found, self.use_lora or self == LoraConfig(), "the --lora_ flags need --use_lora")
        return found

    def values(self) -> dict[str, Any]:
        """What decides the adapters' shape and training, but the file that they start with."""
        return {"r": self.lora_r, "alpha": self.lora_alpha, "dropout": self.lora_dropout,
                "target": list(self.lora_target), "train": list(self.lora_train)}


@dataclass(frozen=True)
class DistillationConfig:
    """Distillation from a teacher model."""

    teacher_model_path: str | None = flag(None, "Checkpoint of the teacher, a trained model with the same vocabulary.",
                                          path="read")
    teacher_config_path: str | None = flag(None, "JSON file with the settings of the teacher.", path="read")
    soft_alpha: float = flag(0.5, "Weight of the distillation loss; the labels' loss has the weight 1 - soft_alpha.")
    soft_temperature: float = flag(1.0, "Temperature: the logits of teacher and student are divided by it.")

    def problems(self) -> list[str]:
        found: list[str] = []
        require(found, bool(self.teacher_model_path) == bool(self.teacher_config_path),
                "--teacher_model_path and --teacher_config_path need one another")
        require(found, 0.0 <= self.soft_alpha <= 1.0, "--soft_alpha must lie between 0 and 1")
        require(found, 0 < self.soft_temperature < math.inf, "--soft_temperature must be positive")
        untouched = (DistillationConfig.soft_alpha, DistillationConfig.soft_temperature)
        require(found, bool(self.teacher_model_path) or (self.soft_alpha, self.soft_temperature) == untouched,
                "--soft_alpha and --soft_temperature need --teacher_model_path")
        return found


@dataclass(frozen=True)
class ParallelConfig:
    """Distributed training."""

    world_size: int = flag(1, "Total number of processes.")
    gpu_ranks: tuple[int, ...] = flag((), "Ranks to start on this machine, on GPUs 0, 1, ...; with --world_size 1 the "
                                          "number of the GPU to use.")
    master_ip: str = flag("tcp://localhost:12345", "Address of rank 0. Ignored if all ranks run on this machine.")
    backend: str = flag("nccl", "Backend of torch.distributed; without CUDA it is gloo.", choices=("nccl", "gloo"))
    device: str = flag("auto", "Device to compute on; auto is CUDA if available.", choices=("auto", "cpu", "cuda"))
    sharding: str = flag("none", "fsdp shards parameters, gradients and optimizer state over the ranks.",
                         choices=("none", "fsdp"))
    tensor_parallel_size: int = flag(1, "Split attention heads, feed-forward layers and vocabulary over N ranks; the "
                                        "others of --world_size have batches of their own.")
    gradient_compression: str = flag("none", "bf16 sends gradients to the other ranks in bfloat16, half the bytes "
                                             "(--sharding none).", choices=("none", "bf16"))
    activation_checkpointing: str = flag("off", "Save memory. full keeps the input of each layer and computes the "
                                                "rest again in the backward pass; selective keeps the results of "
                                                "matrix products and attention too. Without a value: full.",
                                         choices=("off", "selective", "full"), alone="full")
    cpu_offload: bool = flag(False, "Keep the parameters and the optimizer state in host memory (--sharding fsdp).")
    collective_timeout: int = flag(600, "Seconds to wait for another rank before the run stops with an error.")

    def problems(self) -> list[str]:
        found: list[str] = []
        require(found, self.world_size >= 1, "--world_size must be at least 1")
        require(found, len(set(self.gpu_ranks)) == len(self.gpu_ranks), "--gpu_ranks names a rank twice")
        single = self.world_size == 1 and len(self.gpu_ranks) == 1  # then the number is the GPU's, as in UER-py
        require(found, single or all(0 <= rank < self.world_size for rank in self.gpu_ranks),
                f"--gpu_ranks must lie between 0 and world_size - 1 = {self.world_size - 1}")
        require(found, all(rank >= 0 for rank in self.gpu_ranks), "--gpu_ranks must not be negative")
        require(found, self.tensor_parallel_size >= 1, "--tensor_parallel_size must be at least 1")
        require(found, self.collective_timeout >= 1, "--collective_timeout must be at least 1")
        require(found, not (self.cpu_offload and self.sharding == "none"), "--cpu_offload needs --sharding fsdp")
        require(found, self.gradient_compression == "none" or self.sharding == "none",
                "--gradient_compression needs --sharding none")
        return found


@dataclass(frozen=True)
class LogConfig:
    """Logging."""

    log_path: str | None = flag(None, "Append the log to this file too.", path="append")
    log_level: str = flag("INFO", "Log level on the terminal.", choices=("ERROR", "INFO", "DEBUG", "NOTSET"))
    log_file_level: str = flag("INFO", "Log level in the log file.", choices=("ERROR", "INFO", "DEBUG", "NOTSET"))
    metrics_path: str | None = flag(None, "Append the metrics to this file, one JSON line per report.", path="append")
    tensorboard_dir: str | None = flag(None, "Write TensorBoard events to this folder.", path="write_folder")
    wandb_project: str | None = flag(None, "Weights & Biases project to send the metrics to (needs the package wandb).")
