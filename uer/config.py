"""Every setting of the toolkit, declared once.

A field's name is the flag's name (UER-py's, letter for letter) and the key in a JSON config file; its annotation is the
flag's kind, its default the flag's default, its metadata the help text. `uer.cli` makes the flags from these fields.
Families receive the small config they need; layers receive plain numbers.

Each class may define `problems()`: the cross-checks between its fields, as lines that name the flags. The command line
gathers them from every class and raises them once.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from uer.paths import File, existing


def flag(default: Any, help: str, *, choices: tuple[str, ...] = (), family: str = "", positional: bool = False,
         planned: bool = False, path: str = "", identity: bool = True, file_only: bool = False) -> Any:
    """A dataclass field that is also a command-line flag.

    Args:
        default: the value when neither the command line nor a JSON file gives one; `REQUIRED` makes the flag mandatory.
        help: the help text.
        choices: the valid values, where they are a plain list.
        family: where the valid values are the keys of a family's table, its name in `uer.cli.FAMILIES`.
        positional: the values may also stand on the command line without the flag (one field a command; a tuple).
        planned: a setting of UER-py that only parts read which are not built here; the help text says so.
        path: what the command does with the path that the flag names, one of `PATHS`; "" where it names no path.
        identity: whether the result of a run depends on it, so that a training state continues only a run with the
            same value.
        file_only: a key of the config file without a flag.
    """
    assert path in ("", *PATHS)
    return field(default=default, metadata={
        "help": help, "choices": choices, "family": family, "positional": positional, "planned": planned, "path": path,
        "identity": identity, "file_only": file_only})


class Members:
    """A section whose chosen members (an encoder, a target, a processor) have settings of their own.

    A member's class declares them as `config_class`, a dataclass of `flag` fields. They are flags and keys like all
    others; the section keeps their values in its field `members`, which `members_of` makes.
    """

    def of(self, config_class: type) -> Any:
        """The settings of one member: its `config_class`, filled with what was given."""
        if config_class is type(None):
            return None
        names = {known.name for known in fields(config_class)}
        return config_class(**{name: value for name, value in self.members.items() if name in names})

    def values(self) -> dict[str, Any]:
        """All settings in one dictionary, as a JSON config file has them."""
        own = {known.name: getattr(self, known.name) for known in fields(self) if "help" in known.metadata}
        return {**own, **self.members}


def members_of(*families: str) -> Any:
    """The field `members` of a section: which families of `uer.cli.FAMILIES` its members are chosen from."""
    return field(default_factory=dict, hash=False, metadata={"families": families})


REQUIRED = object()
# What a command does with a path: reads the file or folder; writes a file, or appends to it; writes a folder, a model
# (a file, or files in a folder), or files whose names begin with it. `uer.cli` lets nothing be written that is read.
PATHS = ("read", "write", "append", "write_folder", "write_model", "write_prefix")


# Sizes above these are slips: the largest dense models have 126 layers, widths of 53,248 and rows of a million tokens,
# and updates have had 65,536 rows. Whether a smaller model fits this machine is asked when it is built.
MOST_LAYERS = 10_000
LARGEST_WIDTH = 1 << 20
LONGEST_ROW = 1 << 22
MOST_ROWS = 1 << 20

LEAST_PEAK_FLOPS = 1e9  # who gives less has written tera operations
PEAK_FLOPS_PROBLEM = "--peak_flops counts operations a second of one device, such as 125e12"
LARGEST_SEED = (1 << 63) - 1  # what the integer functions of order and masks take


def _require(problems: list[str], holds: bool, message: str) -> None:
    if not holds:
        problems.append(message)


def _require_seed(problems: list[str], seed: int) -> None:
    _require(problems, 0 <= seed <= LARGEST_SEED, "--seed must lie between 0 and 2^63 - 1")


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and the files it reads."""

    tokenizer: str = flag("bert", "How text becomes tokens.", family="tokenizer")
    vocab_path: str | None = flag(None, "Vocabulary file, one entry a line; a known name is fetched when missing.",
                                  path="read")
    merges_path: str | None = flag(None, "Merges file of the bpe tokenizer.", planned=True, path="read")
    spm_model_path: str | None = flag(None, "SentencePiece model file.", planned=True, path="read")
    do_lower_case: bool = flag(True, "Lower-case the text and strip accents.")
    tgt_tokenizer: str = flag("bert", "Tokenizer of the target side.", family="tokenizer", planned=True)
    tgt_vocab_path: str | None = flag(None, "Vocabulary file of the target side.", planned=True, path="read")
    tgt_merges_path: str | None = flag(None, "Merges file of the target side.", planned=True, path="read")
    tgt_spm_model_path: str | None = flag(None, "SentencePiece model file of the target side.", planned=True,
                                          path="read")
    tgt_do_lower_case: bool = flag(True, "Lower-case the target side.", planned=True)


@dataclass(frozen=True)
class MaskingConfig:
    """Which positions an MLM row predicts (always 15% of its tokens, at least one)."""

    whole_word_masking: bool = flag(False, "Choose whole words (jieba's segmentation) instead of single tokens.")
    span_masking: bool = flag(False, "Choose spans of neighbouring tokens.")
    span_geo_prob: float = flag(0.2, "Parameter of the geometric distribution of span lengths.")
    span_max_length: int = flag(10, "Longest span.")

    def problems(self) -> list[str]:
        found: list[str] = []
        _require(found, not (self.whole_word_masking and self.span_masking),
                 "--whole_word_masking and --span_masking exclude one another")
        _require(found, 0.0 < self.span_geo_prob < 1.0, "--span_geo_prob must lie between 0 and 1")
        _require(found, 1 <= self.span_max_length <= 255, "--span_max_length must lie between 1 and 255")
        return found


@dataclass(frozen=True)
class DatasetConfig(Members):
    """How `preprocess.py` makes a dataset from a corpus."""

    corpus_path: tuple[str, ...] = flag(REQUIRED, "Text files, globs or folders.", path="read")
    dataset_path: str = flag("dataset.pt", "Where the dataset is written.", path="write")
    processes_num: int = flag(1, "Worker processes; the output does not depend on it.")
    data_processor: str = flag("bert", "How documents become training instances.", family="data_processor")
    docs_buffer_size: int = flag(100000, "Accepted for UER-py's commands; memory is bounded without it.")
    seq_length: int = flag(128, "Tokens of an instance, [CLS] and [SEP] included.")
    tgt_seq_length: int = flag(128, "Tokens of a target-side sequence.", planned=True)
    dup_factor: int = flag(5, "How many versions of each document or instance are made where something is drawn.")
    seed: int = flag(7, "Seed of static masks and of drawn pairs.")
    dynamic_masking: bool = flag(False, "Draw new masks in every epoch (makes dup_factor 1).")
    sentence_selection_strategy: str = flag("lead", "Which sentences gsg predicts.", choices=("lead", "random"),
                                            planned=True)
    text_field: str | None = flag(None, "The corpus is JSON lines; this field holds the text.")
    encoding_errors: str = flag("replace", "A line with bytes that are not UTF-8: report leaves it out, replace puts "
                                "U+FFFD in their place (the summary counts and locates both), stop ends the run.",
                                choices=("report", "replace", "stop"))
    user_dict: str | None = flag(None, "A jieba user dictionary for --whole_word_masking.", path="read")
    vocab_report_size: int = flag(10, "How many of the commonest unknown characters the summary names.")
    members: dict[str, Any] = members_of("data_processor")

    def problems(self) -> list[str]:
        found: list[str] = []
        _require(found, self.processes_num >= 1, "--processes_num must be at least 1")
        _require(found, self.seq_length >= 4, "--seq_length must be at least 4")
        _require(found, self.seq_length <= LONGEST_ROW, f"--seq_length must be at most {LONGEST_ROW:,}")
        _require(found, self.dup_factor >= 1, "--dup_factor must be at least 1")
        _require_seed(found, self.seed)
        return found


@dataclass(frozen=True)
class ModelConfig(Members):
    """The architecture; a JSON file of `models/` usually sets it. Defaults are BERT-base's."""

    emb_size: int = flag(768, "Width of the embeddings.")
    hidden_size: int = flag(768, "Width of the hidden states.")
    feedforward_size: int = flag(3072, "Inner width of the feed-forward layers.")
    heads_num: int = flag(12, "Attention heads.")
    attention_head_size: int | None = flag(None, "Width of an attention head (default: hidden_size / heads_num).")
    layers_num: int = flag(12, "Encoder layers.")
    decoder_layers_num: int = flag(12, "Decoder layers.", planned=True)
    hidden_act: str = flag("gelu", "Activation of the feed-forward layers.", family="hidden_act")
    dropout: float = flag(0.1, "Dropout probability.")
    embedding: tuple[str, ...] = flag(("word",), "Embeddings that are summed.", family="embedding")
    tgt_embedding: tuple[str, ...] = flag(("word",), "Embeddings of the target side.", family="embedding", planned=True)
    max_seq_length: int = flag(512, "Longest sequence the position embedding has rows for.")
    relative_position_embedding: bool = flag(False, "Add T5's relative position bias to the attention scores.")
    share_embedding: bool = flag(False, "Source and target share their embedding.", planned=True)
    remove_embedding_layernorm: bool = flag(False, "No layer norm after the embedding.")
    factorized_embedding_parameterization: bool = flag(False, "A linear layer from emb_size to hidden_size (ALBERT).")
    encoder: str = flag("transformer", "Encoder.", family="encoder")
    decoder: str | None = flag(None, "Decoder.", family="decoder", planned=True)
    mask: str = flag("fully_visible", "What a position may attend to.",
                     choices=("fully_visible", "causal", "causal_with_prefix"))
    layernorm_positioning: str = flag("post", "Layer norm before or after each sub-layer.", choices=("pre", "post"))
    feed_forward: str = flag("dense", "Feed-forward kind.", choices=("dense", "gated"))
    relative_attention_buckets_num: int = flag(32, "Buckets of the relative position bias.")
    remove_attention_scale: bool = flag(False, "Do not divide attention scores by sqrt(head size).")
    remove_transformer_bias: bool = flag(False, "Linear layers of the transformer have no bias.")
    layernorm: str = flag("normal", "Layer norm kind.", choices=("normal", "t5"))
    parameter_sharing: bool = flag(False, "All layers share one set of parameters (ALBERT).")
    has_residual_attention: bool = flag(False, "Add the previous layer's attention scores (RealFormer).")
    target: tuple[str, ...] = flag(("mlm",), "Pretraining objectives.", family="target")
    tie_weights: bool = flag(False, "The output layer shares the word embedding's weight.")
    pooling: str = flag("first", "How a sequence becomes one vector.", choices=("mean", "max", "first", "last"))
    prefix_lm_loss: bool = flag(False, "Only the tokens behind the prefix count in the lm loss.", planned=True)
    stream_0: dict | None = flag(None, "What differs in the first stream of the dual encoder.", planned=True,
                                 file_only=True)
    stream_1: dict | None = flag(None, "What differs in the second stream of the dual encoder.", planned=True,
                                 file_only=True)
    members: dict[str, Any] = members_of("embedding", "encoder", "decoder", "target")

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row that the model takes: only position embeddings set a limit."""
        return self.max_seq_length if {"pos", "sinusoidalpos"}.intersection(self.embedding) else LONGEST_ROW

    def problems(self) -> list[str]:
        found: list[str] = []
        most = {"emb_size": LARGEST_WIDTH, "hidden_size": LARGEST_WIDTH, "feedforward_size": LARGEST_WIDTH,
                "heads_num": LARGEST_WIDTH, "layers_num": MOST_LAYERS, "max_seq_length": LONGEST_ROW}
        for name, largest in most.items():
            _require(found, 1 <= getattr(self, name) <= largest,
                     f"{name} must lie between 1 and {largest:,}, not {getattr(self, name)}")
        size = self.attention_head_size
        _require(found, size is None or 1 <= size <= LARGEST_WIDTH,
                 f"attention_head_size must lie between 1 and {LARGEST_WIDTH:,}, not {size}")
        _require(found, 0.0 <= self.dropout < 1.0, f"dropout must lie in [0, 1), not {self.dropout}")
        for name in ("embedding", "tgt_embedding", "target"):
            _require(found, len(set(getattr(self, name))) == len(getattr(self, name)), f"{name} names one twice")
        _require(found, bool(self.embedding), "embedding names none")
        words = {"word", "dual"}.intersection(self.embedding)  # the streams of "dual" have embeddings of their own
        _require(found, bool(words) or not self.tie_weights, "tie_weights needs the embedding 'word'")
        # A quarter of the buckets is for near distances: at least one, and fewer than the 128 where the far ones end.
        _require(found, 4 <= self.relative_attention_buckets_num < 512 or not self.relative_position_embedding,
                 "relative_attention_buckets_num must lie between 4 and 511")
        return found


def model_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A model's settings from a file of ours, as they are written today.

    Earlier versions named the decoder "transformer" where no model had one; they did not know `stream_0`.
    """
    absent = () if "stream_0" in settings else ("decoder",)
    return {name: value for name, value in settings.items() if name not in absent}


def model_identity(model: ModelConfig) -> dict[str, Any]:
    """A model's settings as hashes of finished work have them: trials of earlier versions are found again.

    It has the settings of the first version, and of those that came later what is not the default.
    """
    at_first = {"decoder": "transformer", "bidirectional": False, "has_lmtarget_bias": False}
    later = ("attention_head_size", "stream_0", "stream_1", "decoder")
    values = model.values()
    return {**at_first, **{name: value for name, value in values.items() if name not in later or value is not None}}


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer and learning-rate schedule."""

    learning_rate: float = flag(2e-5, "Peak learning rate.")
    warmup: float = flag(0.1, "Share of total_steps in which the rate rises from 0.")
    lr_decay: float = flag(0.5, "tri_stage and trapezoidal: share of total_steps in which the rate decays.")
    optimizer: str = flag("adamw", "Optimizer.", family="optimizer")
    scheduler: str = flag("linear", "Learning-rate schedule.", family="scheduler")

    def problems(self) -> list[str]:
        found: list[str] = []
        _require(found, 0 < self.learning_rate < math.inf, "--learning_rate must be positive")
        _require(found, 0.0 <= self.warmup <= 1.0, "--warmup must lie between 0 and 1")
        _require(found, 0.0 <= self.lr_decay <= 1.0, "--lr_decay must lie between 0 and 1")
        return found


@dataclass(frozen=True)
class TrainConfig:
    """One pretraining run."""

    dataset_path: tuple[str, ...] = flag(("dataset.pt",), "Datasets made by preprocess.py.", path="read",
                                         identity=False)
    dataset_weights: tuple[float, ...] = flag((), "How often each dataset is drawn from; one number a dataset.")
    pretrained_model_path: str | None = flag(None, "Checkpoint to start from.", path="read")
    output_model_path: str = flag(REQUIRED, "Checkpoints are written to <output_model_path>-<step>.",
                                  path="write_prefix", identity=False)
    config_path: str = flag("models/bert/base_config.json", "JSON file of the model's settings.", path="read",
                            identity=False)
    total_steps: int = flag(100000, "Optimizer updates.")
    save_checkpoint_steps: int = flag(10000, "Updates between checkpoints.", identity=False)
    report_steps: int = flag(100, "Updates between report lines.", identity=False)
    accumulation_steps: int = flag(1, "Micro-batches of one update.", identity=False)
    batch_size: int = flag(32, "Rows of a micro-batch in each process.", identity=False)
    instances_buffer_size: int = flag(25600, "Accepted for UER-py's commands; shuffling is global without it.",
                                      identity=False)
    labels_num: int | None = flag(None, "Number of labels of the cls target.", planned=True)
    seed: int = flag(7, "Seed of initial weights, order, masks and dropout.")
    data_processor: str | None = flag(None, "How instances become batches (default: as the dataset was made).",
                                      family="data_processor")
    deep_init: bool = flag(False, "Scale the initial weights of output projections by 1/sqrt(2 layers).")
    resume: str = flag("auto", "auto: go on from the training state beside the output path; never; or a state's path.",
                       identity=False)
    keep_checkpoints: int = flag(2, "How many training states are kept.", identity=False)
    max_grad_norm: float = flag(0.0, "Clip the gradient to this norm; 0 does not clip.")
    max_skipped_updates: int = flag(10, "Stop after so many non-finite updates in a row.", identity=False)
    precision: str = flag("auto", "Arithmetic; auto is bf16 where the GPU has it.",
                          choices=("auto", "fp32", "bf16", "fp16"))
    compile: str = flag("auto", "torch.compile.", choices=("auto", "on", "off"), identity=False)
    dataset_device: str = flag("auto", "Where the dataset lives; auto is the GPU when it fits.",
                               choices=("auto", "cpu", "cuda"), identity=False)
    unpad: str = flag("auto", "Compute nothing for padding.", choices=("auto", "on", "off"), identity=False)
    document_attention: bool = flag(False, "Attend, and count positions, inside each document of a row only\n"
                                           "(rows of several documents: preprocess.py --full_sentences).")
    peak_flops: float = flag(0.0, "Operations a second that one device can do, such as 125e12: what MFU in the report\n"
                                  "lines is a share of (default: of a known GPU, in the run's precision).",
                             identity=False)
    dev_dataset_path: str | None = flag(None, "Dataset for evaluation while training.", path="read", identity=False)
    dev_fraction: float = flag(0.0, "Share of the dataset held out for evaluation.")
    eval_steps: int = flag(0, "Updates between evaluations; 0 evaluates at checkpoints.", identity=False)

    def problems(self) -> list[str]:
        found: list[str] = []
        for name in ("total_steps", "save_checkpoint_steps", "report_steps", "accumulation_steps", "batch_size",
                     "keep_checkpoints", "max_skipped_updates"):
            _require(found, getattr(self, name) >= 1, f"--{name} must be at least 1, not {getattr(self, name)}")
        rows = self.batch_size * self.accumulation_steps
        _require(found, rows <= MOST_ROWS, f"--batch_size x --accumulation_steps must be at most {MOST_ROWS:,} rows of "
                                           f"an update, not {rows:,}")
        _require(found, not self.dataset_weights or len(self.dataset_weights) == len(self.dataset_path),
                 "--dataset_weights needs one number for each --dataset_path")
        _require(found, all(0 < weight < math.inf for weight in self.dataset_weights),
                 "--dataset_weights must be positive")
        _require(found, 0.0 <= self.dev_fraction < 1.0, "--dev_fraction must lie in [0, 1)")
        _require(found, not (self.dev_fraction and self.dev_dataset_path),
                 "--dev_fraction and --dev_dataset_path exclude one another")
        _require(found, self.max_grad_norm >= 0, "--max_grad_norm must not be negative")
        _require(found, self.eval_steps >= 0, "--eval_steps must not be negative")
        _require(found, self.peak_flops == 0 or self.peak_flops >= LEAST_PEAK_FLOPS, PEAK_FLOPS_PROBLEM)
        _require_seed(found, self.seed)
        return found

    def writes(self) -> list[File]:
        """The checkpoints of this run, the settings beside them and all training states under its name, where there are
        such files already."""
        output = Path(self.output_model_path)
        kept = re.compile(rf"{re.escape(output.name)}(?:-(\d+)(?:\.settings\.json)?|\.state-\d+(?:\.old)?)")
        found = []
        for path in existing(output.parent, kept):
            step = int(kept.fullmatch(path.name)[1] or 0)
            saved = step and step <= self.total_steps and (
                step == self.total_steps or step % max(1, self.save_checkpoint_steps) == 0)
            if saved or not step:
                found.append(File("--output_model_path", str(path)))
        return found


@dataclass(frozen=True)
class DistillationConfig:
    """A teacher, from whose predictions the model learns beside the labels."""

    teacher_model_path: str | None = flag(None, "Checkpoint of a finished model with the same vocabulary.", path="read")
    teacher_config_path: str | None = flag(None, "JSON file of the teacher's settings.", path="read")
    soft_alpha: float = flag(0.5, "Weight of the distillation loss; the labels' loss weighs 1 - soft_alpha.")
    soft_temperature: float = flag(1.0, "What the logits of both are divided by before they are compared.")

    def problems(self) -> list[str]:
        found: list[str] = []
        _require(found, bool(self.teacher_model_path) == bool(self.teacher_config_path),
                 "--teacher_model_path and --teacher_config_path need one another")
        _require(found, 0.0 <= self.soft_alpha <= 1.0, "--soft_alpha must lie between 0 and 1")
        _require(found, 0 < self.soft_temperature < math.inf, "--soft_temperature must be positive")
        untouched = (DistillationConfig.soft_alpha, DistillationConfig.soft_temperature)
        _require(found, bool(self.teacher_model_path) or (self.soft_alpha, self.soft_temperature) == untouched,
                 "--soft_alpha and --soft_temperature need --teacher_model_path")
        return found


@dataclass(frozen=True)
class ParallelConfig:
    """Which processes train together."""

    world_size: int = flag(1, "Processes of the run.")
    gpu_ranks: tuple[int, ...] = flag((), "Ranks started here, on GPUs 0, 1, ...; with --world_size 1, the GPU.")
    master_ip: str = flag("tcp://localhost:12345", "Where rank 0 listens; any free port when all ranks run here.")
    backend: str = flag("nccl", "Communication library; gloo is used without CUDA.", choices=("nccl", "gloo"))
    device: str = flag("auto", "Where to compute; auto is CUDA when there is one.", choices=("auto", "cpu", "cuda"))
    sharding: str = flag("none", "fsdp splits parameters and optimizer over the ranks.", choices=("none", "fsdp"))
    activation_checkpointing: bool = flag(False, "Recompute layers in the backward pass to save memory.")
    cpu_offload: bool = flag(False, "With --sharding fsdp: keep parameters and optimizer in host memory.")
    collective_timeout: int = flag(600, "Seconds to wait for another rank before the run stops with an error.")

    def problems(self) -> list[str]:
        found: list[str] = []
        _require(found, self.world_size >= 1, "--world_size must be at least 1")
        _require(found, len(set(self.gpu_ranks)) == len(self.gpu_ranks), "--gpu_ranks names a rank twice")
        single = self.world_size == 1 and len(self.gpu_ranks) == 1  # then it is the number of the GPU, as in UER-py
        _require(found, single or all(0 <= rank < self.world_size for rank in self.gpu_ranks),
                 f"--gpu_ranks must lie between 0 and world_size - 1 = {self.world_size - 1}")
        _require(found, all(rank >= 0 for rank in self.gpu_ranks), "--gpu_ranks must not be negative")
        _require(found, self.collective_timeout >= 1, "--collective_timeout must be at least 1")
        _require(found, not (self.cpu_offload and self.sharding == "none"), "--cpu_offload needs --sharding fsdp")
        return found


@dataclass(frozen=True)
class LogConfig:
    """What is written where."""

    log_path: str | None = flag(None, "Also log to this file.", path="append")
    log_level: str = flag("INFO", "Level on the terminal.", choices=("ERROR", "INFO", "DEBUG", "NOTSET"))
    log_file_level: str = flag("INFO", "Level in the log file.", choices=("ERROR", "INFO", "DEBUG", "NOTSET"))
    metrics_path: str | None = flag(None, "Append one JSON line a report to this file.", path="append")
    tensorboard_dir: str | None = flag(None, "Write TensorBoard events to this folder.", path="write_folder")
    wandb_project: str | None = flag(None, "Report to this project of Weights & Biases too (needs the package wandb).")
