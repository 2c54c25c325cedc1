"""What a pretraining run is made from: its settings, the datasets with their tokenizer and processor, and the identity
by which a training state knows its run."""

import hashlib
import os
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from uer.config import (
    DistillationConfig,
    LogConfig,
    LoraConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
)
from uer.convert.hugging_face_files import weights_files
from uer.data.loader import masking_of, open_processor
from uer.data.processors import PROCESSORS, Processor
from uer.data.store import TokenDataset, open_dataset
from uer.distillation import Teacher
from uer.errors import UserError
from uer.registry import choose
from uer.runtime.parallel import World
from uer.targets import TARGETS
from uer.targets.base import VocabularyTarget
from uer.tokenizers import build_tokenizers
from uer.tokenizers.base import Tokenizer
from uer.training import preflight

SAMPLED_BYTES = 1 << 20
SAMPLED_TOKENS = 4096  # tokens at each end of a dataset that its fingerprint covers


@dataclass(frozen=True)
class Settings:
    """All settings of the command."""

    train: TrainConfig
    model: ModelConfig
    optim: OptimConfig
    tokenizer: TokenizerConfig
    masking: MaskingConfig
    parallel: ParallelConfig
    log: LogConfig
    distillation: DistillationConfig
    lora: LoraConfig = field(default_factory=LoraConfig)


@dataclass(frozen=True)
class Data:
    """The tokenizer, the datasets and their processor."""

    tokenizer: Tokenizer
    train: list[TokenDataset]
    dev: list[TokenDataset]
    """Separate evaluation datasets; if empty, a fraction of `train` may be held out."""
    processor: Processor
    dev_processor: Processor
    """That of the held-out data, whose masks may be others (--eval_masking)."""

    @property
    def seq_length(self) -> int:
        """Positions of a row of a batch."""
        return self.processor.batch_lengths()["src"]

    @property
    def tgt_seq_length(self) -> int:
        """The same of the target side; 0 where there is none."""
        return self.processor.batch_lengths().get("tgt", 0)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary."""
        return len(self.tokenizer.vocab)

    @property
    def tgt_vocab_size(self) -> int:
        """Entries of the target side's vocabulary; the source's where there is no other."""
        return self.processor.vocabs["tgt"].size if "tgt" in self.processor.vocabs else self.vocab_size


def open_data(settings: Settings) -> Data:
    """Open the tokenizer and the datasets, and check that they fit together.

    Raises:
        UserError: they do not fit together, or do not fit this command.
    """
    config = settings.train
    if config.data_processor:
        choose(PROCESSORS, config.data_processor, "--data_processor")
    train = [open_dataset(path) for path in config.dataset_path]
    dev = [open_dataset(config.dev_dataset_path)] if config.dev_dataset_path else []
    processor_name = config.data_processor or train[0].info.processor
    for dataset in train + dev:
        preflight.check_processor(str(dataset.path), dataset.info.processor, processor_name)
        if not len(dataset):
            raise UserError(f"{dataset.path}: the dataset is empty")
    alike = config.eval_masking == "as_training"
    processor = open_processor(train + dev if alike else train, settings.masking)
    dev_processor = processor if alike else _with_tokens_masked(dev or train)
    preflight.check_targets(settings.model.target, processor_name, processor.labels)
    preflight.check_prefix(settings.model.prefix_lm_loss, processor_name, processor.has_prefix)
    _check_classes(train + dev, processor, settings.model)
    for datasets, each in ((train, processor), (dev or train, dev_processor)):
        _check_lengths(str(datasets[0].path), each, settings.model)
    preflight.check_update(config.batch_size * config.accumulation_steps, sum(processor.batch_lengths().values()))
    return Data(_open_tokenizer(settings.tokenizer, train + dev), train, dev, processor, dev_processor)


def _check_classes(datasets: list[TokenDataset], processor: Processor, model: ModelConfig) -> None:
    """Check that the labels which number classes are numbers of the model's classes."""
    for target in processor.class_columns.keys() & set(model.target):
        for dataset in datasets:
            preflight.check_classes(str(dataset.path), dataset.columns[processor.class_columns[target]],
                                    TARGETS[target].classes(model))


def _check_lengths(path: str, processor: Processor, model: ModelConfig) -> None:
    """Check that the model has positions for both sides of the batches."""
    for axis, length in processor.batch_lengths().items():
        if axis == "src":
            preflight.check_lengths(path, length, model.longest_row)
        else:
            preflight.check_lengths(path, length, model.longest_tgt_row, f"--{axis}_seq_length")


def _open_tokenizer(config: TokenizerConfig, datasets: list[TokenDataset]) -> Tokenizer:
    """The source side's tokenizer, once those of all sides proved to be the datasets'."""
    tokenizers = build_tokenizers(config, (side for dataset in datasets for side in dataset.info.vocabs))
    for dataset in datasets:
        for side, vocab in dataset.info.vocabs.items():
            ours = tokenizers[side]
            preflight.check_vocabulary(str(dataset.path), (vocab.fingerprint, vocab.size, vocab.tokenizer),
                                       (ours.vocab.fingerprint, len(ours.vocab), ours.settings),
                                       "--vocab_path" if side == "src" else f"--{side}_vocab_path")
    return tokenizers["src"]


def _with_tokens_masked(held_out: list[TokenDataset]) -> Processor:
    """The processor of held-out data with --eval_masking tokens.

    Raises:
        UserError: the datasets have no masks, or static ones.
    """
    processor = open_processor(held_out, MaskingConfig())
    for dataset in held_out:
        if masking_of(processor.config) is None or not dataset.info.dynamic_masking:
            raise UserError(f"{dataset.path}: --eval_masking tokens needs a dataset with masks that was made with "
                            "--dynamic_masking")
    return processor


def run_identity(settings: Settings, world: World, data: Data, teacher: Teacher | None = None) -> dict[str, Any]:
    """The settings that decide the result of a run: a training state continues only a run with the same ones.

    These are all settings except those that are declared with `identity=False`. Of the numbers of ranks and
    micro-batches only the product with the batch size is included, and of files the content instead of the path.
    """
    config = settings.train
    own = {known.name: getattr(config, known.name) for known in fields(config) if known.metadata["identity"]}
    model = settings.model.values()
    if model["decoder"] is None:
        del model["decoder"]  # states of earlier versions name a decoder that no model had
    if all(issubclass(TARGETS[name], VocabularyTarget) for name in settings.model.target):
        del model["pooling"]  # decides nothing; the files of ModernBERT had another one in earlier versions
    rows = config.batch_size * config.accumulation_steps * world.data_world_size
    return {**model, **asdict(settings.optim), **asdict(settings.masking), **own,
            "data_processor": data.train[0].info.processor, "batch_size x accumulation_steps x world_size": rows,
            "vocabulary": data.tokenizer.vocab.fingerprint, "seq_length": data.train[0].info.seq_length,
            "dataset": [_fingerprint(dataset) for dataset in data.train],
            "teacher": teacher.fingerprint if teacher else None,
            "soft_alpha": teacher.config.soft_alpha if teacher else None,
            "soft_temperature": teacher.config.soft_temperature if teacher else None,
            "lora": _lora_identity(settings)}


def _lora_identity(settings: Settings) -> dict[str, Any] | None:
    """What decides the adapters, with the model that they belong to; None without --use_lora."""
    if not settings.lora.use_lora:
        return None
    start = settings.lora.lora_pretrained_model_path
    return {**settings.lora.values(), "pretrained": file_fingerprint(settings.train.pretrained_model_path),
            "start": file_fingerprint(start) if start else None}


def file_fingerprint(path: str) -> str:
    """A hash of the sizes, the beginnings and the ends of a model's files: it reads a megabyte of each end, no more.

    Raises:
        UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in weights_files(path):
        try:
            with open(name, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                digest.update(str(size).encode())
                for start in (0, max(0, size - SAMPLED_BYTES)):
                    file.seek(start)
                    digest.update(file.read(SAMPLED_BYTES))
        except OSError as error:
            raise UserError(f"{name}: {error.strerror}") from None
    return digest.hexdigest()[:16]


def _fingerprint(dataset: TokenDataset) -> str:
    """A hash of the dataset's sizes, settings, first and last tokens; it does not depend on the path."""
    info = dataset.info
    masking = {known.name for known in fields(MaskingConfig)}
    masks = sorted((name, value) for name, value in info.processor_settings.items() if name in masking)
    others = sorted((name, value) for name, value in info.processor_settings.items() if name not in masking and value)
    facts = (len(dataset), len(dataset.tokens), info.processor, info.seq_length, info.vocab.fingerprint,
             info.dynamic_masking, info.dup_factor, info.seed, masks, *others,
             *((name, vocab.fingerprint) for name, vocab in sorted(info.vocabs.items()) if name != "src"))
    digest = hashlib.sha256(repr(facts).encode())
    for axis in dataset.offsets:
        digest.update(dataset.columns[axis][:SAMPLED_TOKENS].tobytes())
        digest.update(dataset.columns[axis][-SAMPLED_TOKENS:].tobytes())
    return digest.hexdigest()[:16]


def masking_notes(asked: MaskingConfig, data: Data) -> list[str]:
    """Notes on datasets whose masking differs from the masking flags of this command, a line for each.

    Static masks follow the dataset's settings, dynamic masks those of this command.
    """
    lines = []
    for dataset in data.train + data.dev:
        made_for = masking_of(data.processor.config) and MaskingConfig(
            **{known.name: dataset.info.processor_settings.get(known.name, known.default)
               for known in fields(MaskingConfig)})
        if made_for is None:
            if asked != MaskingConfig():
                lines.append(f"note: {dataset.path} has no masks; the masking flags of this command have no effect")
        elif not dataset.info.dynamic_masking and asked not in (MaskingConfig(), made_for):
            lines.append(f"note: {dataset.path} has static masks; the masking flags of this command do not change them")
        elif dataset.info.dynamic_masking and made_for not in (MaskingConfig(), asked):
            lines.append(f"note: {dataset.path} was made with other masking flags; dynamic masks follow this command's")
    return lines
