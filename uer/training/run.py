"""A pretraining run put together: datasets, model, optimizer and trainer, as the settings say. Used by pretrain.py."""

import gc
import hashlib
import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from uer.checkpoint import files as checkpoint
from uer.checkpoint.saver import Saver
from uer.checkpoint.settings import settings_path, write_settings
from uer.checkpoint.state import StateFolder, check_settings
from uer.config import (
    DistillationConfig,
    LogConfig,
    MaskingConfig,
    ModelConfig,
    OptimConfig,
    ParallelConfig,
    TokenizerConfig,
    TrainConfig,
)
from uer.convert.open import load_uer_weights
from uer.data.loader import EvaluationLoader, Loader, masking_of, open_processor
from uer.data.processors import PLANNED as PLANNED_PROCESSORS
from uer.data.processors import PROCESSORS, Processor
from uer.data.store import TokenDataset, open_dataset
from uer.distillation import DistillationStep, Teacher, load_teacher
from uer.errors import UserError
from uer.flops import activation_bytes, flops_per_token, forward_flops_per_token, parameter_count, teacher_bytes
from uer.hardware import peak_flops
from uer.model import Model, build_model
from uer.optim import OPTIMIZERS, parameter_groups, set_learning_rate
from uer.optim.schedules import SCHEDULES
from uer.registry import choose
from uer.runtime import launch
from uer.runtime.lock import OutputLock
from uer.runtime.parallel import World, connect
from uer.runtime.precision import Precision
from uer.sizes import check_sizes
from uer.tokenizers import build_tokenizer
from uer.tokenizers.base import Tokenizer
from uer.training import preflight
from uer.training.evaluation import evaluate
from uer.training.report import Reporter
from uer.training.run_summary import Plan, device_name
from uer.training.trainer import Parts, StepModule, Trainer

SAMPLED_TOKENS = 4096
SMALL_MODEL = 50_000_000
SHARE_FOR_DATA = 0.3


@dataclass(frozen=True)
class Settings:
    """Everything the command line says."""

    train: TrainConfig
    model: ModelConfig
    optim: OptimConfig
    tokenizer: TokenizerConfig
    masking: MaskingConfig
    parallel: ParallelConfig
    log: LogConfig
    distillation: DistillationConfig


def run(settings: Settings) -> int:
    """Pretrain in as many processes as asked; returns the exit status.

    Raises:
        UserError: whatever the user can mend, from any of the processes.
    """
    if settings.parallel.sharding == "fsdp" and settings.optim.optimizer != "adamw":
        raise UserError(f"--sharding fsdp works with --optimizer adamw, not {settings.optim.optimizer}, whose state "
                        "cannot be split")
    if settings.parallel.cpu_offload and not torch.cuda.is_available():
        raise UserError("--cpu_offload: this machine has no GPU to relieve")
    return launch.run(launch.local_ranks(settings.parallel), pretrain, settings)


def pretrain(rank_info: launch.RankInfo, settings: Settings) -> int:
    """The work of one process."""
    world = connect(rank_info, settings.parallel)
    status = _pretrain(world, settings)
    gc.collect()  # what holds on to the communication library goes before it does
    world.close()
    return status


def _pretrain(world: World, settings: Settings) -> int:
    reporter = world.check(lambda: Reporter(settings.log, world, settings.train.total_steps))
    data = world.check(lambda: open_data(settings))
    folder = StateFolder(settings.train.output_model_path, settings.train.keep_checkpoints)
    lock = world.check(lambda: OutputLock(folder.output) if world.is_main else None)
    try:
        return Run(settings, world, reporter, folder, data).train()
    finally:
        reporter.close()
        if lock:
            lock.release()


@dataclass(frozen=True)
class Data:
    """What is trained and evaluated on."""

    tokenizer: Tokenizer
    train: list[TokenDataset]
    dev: list[TokenDataset]
    """Datasets of their own; where it is empty, a part of `train` may be held out."""
    processor: Processor

    @property
    def seq_length(self) -> int:
        """Positions of a row of a batch."""
        return self.processor.batch_lengths()["src"]

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary."""
        return len(self.tokenizer.vocab)


def open_data(settings: Settings) -> Data:
    """The tokenizer and the datasets, checked against one another.

    Raises:
        UserError: they do not fit together, or not this command.
    """
    config = settings.train
    if config.data_processor:
        choose(PROCESSORS, config.data_processor, "--data_processor", PLANNED_PROCESSORS)
    preflight.check_output(config.output_model_path, 0)
    train = [open_dataset(path) for path in config.dataset_path]
    dev = [open_dataset(config.dev_dataset_path)] if config.dev_dataset_path else []
    processor_name = config.data_processor or train[0].info.processor
    for dataset in train + dev:
        preflight.check_processor(str(dataset.path), dataset.info.processor, processor_name)
        if not len(dataset):
            raise UserError(f"{dataset.path}: the dataset is empty")
    processor = open_processor(train + dev, settings.masking)
    preflight.check_targets(settings.model.target, processor_name, processor.labels)
    length = processor.batch_lengths()["src"]
    preflight.check_lengths(str(train[0].path), length, settings.model.longest_row)
    preflight.check_update(config.batch_size * config.accumulation_steps, length)
    tokenizer = build_tokenizer(settings.tokenizer)
    for dataset in train + dev:
        vocab = dataset.info.vocab
        preflight.check_vocabulary(str(dataset.path), (vocab.fingerprint, vocab.size, vocab.tokenizer),
                                   (tokenizer.vocab.fingerprint, len(tokenizer.vocab), tokenizer.settings))
    return Data(tokenizer, train, dev, processor)


class Run:
    """One rank's part of a pretraining run."""

    def __init__(self, settings: Settings, world: World, reporter: Reporter, folder: StateFolder, data: Data) -> None:
        self.settings = settings
        self.config = settings.train
        self.world = world
        self.reporter = reporter
        self.folder = folder
        self.data = data
        self.compiled = is_compiled(settings.train, world)

    def train(self) -> int:
        """Find out where the run stands and go on from there; returns the exit status."""
        world, config = self.world, self.config
        teacher = world.check(self._load_teacher)
        identity = run_identity(self.settings, world, self.data, teacher)
        found = world.check(lambda: self._find_state(identity))
        step = world.broadcast(found[0]["step"] if found else 0)
        if step >= config.total_steps:
            world.check(lambda: self._finish_again(self.folder.weights_path(step), found))
            return 0
        parts = self._assemble(identity, teacher, fresh=step == 0)
        kept = preflight.checkpoint_bytes(parts.model, config.total_steps - step, config.save_checkpoint_steps,
                                          config.keep_checkpoints)
        world.check(lambda: preflight.check_output(config.output_model_path, kept))
        trainer = Trainer(parts, config, world)
        self._say_plan(parts, teacher)
        if step:
            trainer.resume(found[0] if found else None)
            self.reporter.say(f"resumed after step {step}" + (f" from {found[1]}" if found else ""))
            del found
        elif world.is_main:
            self._set_old_states_aside()
        return trainer.train()

    @cached_property
    def layout(self) -> dict[str, Any]:
        """How models of this run lay out a batch, as `build_model` takes it."""
        return {"unpad": "off" if self.compiled else self.config.unpad,
                "document_start": self.data.tokenizer.vocab.cls_id if self.config.document_attention else None}

    def _load_teacher(self) -> Teacher | None:
        """The model to learn from, on this rank's device, where there is one."""
        config = self.settings.distillation
        if not config.teacher_model_path:
            return None
        return load_teacher(config, self.settings.model.target, self.data.vocab_size, self.data.seq_length,
                            self.reporter.say, **self.layout).to(self.world.device)

    def _find_state(self, identity: dict[str, Any]) -> Any:
        """(state, path) to go on from on the main rank, None elsewhere and where there is none."""
        if not self.world.is_main:
            return None
        self.folder.tidy()
        found = self.folder.find(self.config.resume, self.reporter.say)
        if found:
            check_settings(found[0]["settings"], identity, found[1])
        return found

    def _finish_again(self, path: Path, found: Any) -> None:
        """Nothing is left to train; weights that have been lost or damaged since are written again from the state."""
        if not found:
            return  # not the main rank
        again = ""
        try:
            checkpoint.load_weights(path)
        except UserError as error:
            again = f"; it was not there whole ({error}) and is written again from {found[1]}"
            checkpoint.require_finite(found[0]["model"], found[1])
            checkpoint.write(found[0]["model"], path)
        if again or not settings_path(path).exists():
            write_settings(path, found[0]["step"], json.loads(found[0]["settings"]))
        self.reporter.say(f"finished already: {path} (--resume never starts anew){again}")

    def _assemble(self, identity: dict[str, Any], teacher: Teacher | None, fresh: bool) -> Parts:
        """Model, optimizer and all the trainer needs of this run."""
        config, optim, world = self.config, self.settings.optim, self.world
        precision = Precision(config.precision, world.device)
        model = world.check(lambda: self._build_model(fresh)).to(world.device)
        forward = DistillationStep(model, teacher) if teacher else StepModule(model)
        if self.compiled:
            forward.compile()
        module = world.wrap(forward, accumulating=config.accumulation_steps > 1)
        graphed = self._is_graphed(model)
        optimizer = OPTIMIZERS[optim.optimizer](parameter_groups(model), lr=optim.learning_rate, capturable=graphed)
        schedule = world.check(lambda: SCHEDULES[optim.scheduler](optim, config.total_steps))
        placement = world.check(lambda: self._placement(reads_padding=model.encoder.reads_padding))
        loader, held_out = world.check(lambda: (self._build_loader(placement), self._build_dev_loader(placement)))
        self._set_flops(precision, teacher)
        return Parts(
            model=model, module=module, loader=loader, optimizer=optimizer,
            rate=schedule, set_rate=set_learning_rate, precision=precision,
            reporter=self.reporter,
            saver=Saver(self.folder, model, optimizer, precision, world, json.dumps(identity), self.reporter.say),
            evaluate=(lambda: evaluate(forward, held_out, world, precision, model.perplexities)) if held_out else None,
            decode=self.data.tokenizer.decode, graphed=graphed)

    def _is_graphed(self, model: Model) -> bool:
        """Whether an update is captured as a CUDA graph."""
        parallel = self.settings.parallel
        return (self.world.device.type == "cuda" and self.world.world_size == 1 and self.config.accumulation_steps == 1
                and self.settings.optim.optimizer == "adamw" and model.num_parameters() < SMALL_MODEL
                and parallel.sharding == "none" and not parallel.activation_checkpointing)

    def _set_flops(self, precision: Precision, teacher: Teacher | None) -> None:
        """What the reports' MFU is computed from."""
        sizes = self.data.vocab_size, self.data.processor.seq_length, self.data.processor
        self.reporter.peak_flops = self.world.world_size * (
            self.config.peak_flops or peak_flops(self.world.device, precision.name))
        if self.reporter.peak_flops:  # counting takes seconds, for nothing where no peak is known
            self.reporter.flops_per_token = flops_per_token(self.settings.model, *sizes) + (
                forward_flops_per_token(teacher.model.config, *sizes) if teacher else 0.0)

    def _build_model(self, fresh: bool) -> Model:
        """The model with its first weights: drawn, or of `--pretrained_model_path`."""
        config, model_config = self.config, self.settings.model
        torch.manual_seed(config.seed)
        model = build_model(model_config, self.data.vocab_size, **self.layout,
                            activation_checkpointing=self.settings.parallel.activation_checkpointing,
                            deep_init=config.deep_init)
        path = config.pretrained_model_path
        if path and fresh:
            weights = load_uer_weights(path)
            check_sizes(weights, model_config, self.data.vocab_size, path, config.config_path)
            lines = checkpoint.load_into(model, weights, path).lines()
            self.reporter.say(f"loaded {path}" + ("" if lines else ": every key fits"))
            for line in lines:
                self.reporter.say(f"{path}: {line}")
        return model

    def _build_loader(self, placement: dict[str, Any]) -> Loader:
        config, world = self.config, self.world
        return Loader(self.data.train, self.data.processor, batch_size=config.batch_size,
                      accumulation_steps=config.accumulation_steps, rank=world.rank, world_size=world.world_size,
                      seed=config.seed, weights=config.dataset_weights, dev_fraction=config.dev_fraction,
                      **placement)

    def _build_dev_loader(self, placement: dict[str, Any]) -> EvaluationLoader | None:
        config, world = self.config, self.world
        if not self.data.dev and not config.dev_fraction:
            return None
        return EvaluationLoader(self.data.dev or self.data.train, self.data.processor, batch_size=config.batch_size,
                                rank=world.rank, world_size=world.world_size, dev_fraction=config.dev_fraction,
                                **placement)

    def _placement(self, reads_padding: bool) -> dict[str, Any]:
        """Where the datasets lie and the batches are made.

        Padding can be cut off where shapes need not be static, unless the encoder reads it: its hidden states would
        depend on the longest row of a batch.
        """
        device, wanted = self.world.device, self.config.dataset_device
        size = sum(dataset.nbytes for dataset in self.data.train + self.data.dev)
        on_gpu = device.type == "cuda"
        if wanted == "cuda" and not on_gpu:
            raise UserError("--dataset_device cuda: this run has no GPU")
        fits = on_gpu and size < SHARE_FOR_DATA * torch.cuda.mem_get_info(device)[0]
        on_device = on_gpu and (wanted == "cuda" or (wanted == "auto" and fits))
        return {"device": device, "dataset_device": device if on_device else "cpu",
                "trim": not on_gpu and not self.compiled and not reads_padding}

    def _set_old_states_aside(self) -> None:
        """Make room for a new run under the name of an old one."""
        steps = self.folder.set_aside()
        if steps:
            self.reporter.say(f"--resume never: the training states of an earlier run (steps "
                              f"{', '.join(map(str, steps))}) are renamed to *.old")

    def _say_plan(self, parts: Parts, teacher: Teacher | None) -> None:
        """What the run is going to do, before it does it."""
        config, model, seq_length = self.config, self.settings.model, self.data.seq_length
        token_slots = config.batch_size * seq_length
        kernels = [f"attention: torch's fused, optimizer: {self.settings.optim.optimizer}",
                   "compiled" if self.compiled else "not compiled",
                   *(["one CUDA graph an update"] if parts.graphed else []),
                   f"sharding {self.settings.parallel.sharding}"]
        plan = Plan(
            parameters=parameter_count(model, self.data.vocab_size), instances=parts.loader.samples_per_epoch,
            tokens=parts.loader.tokens_per_epoch, seq_length=seq_length, global_batch=parts.loader.samples_per_step,
            total_steps=config.total_steps, flops_per_token=parts.reporter.flops_per_token,
            activation_bytes=activation_bytes(model, token_slots, self.data.vocab_size)
            + (teacher_bytes(teacher.model.config, self.data.vocab_size, token_slots) if teacher else 0),
            rate=parts.rate, precision=parts.precision.describe(), peak_flops=parts.reporter.peak_flops,
            kernels=", ".join(kernels), devices=f"{self.world.world_size} x {device_name(self.world.device)}",
            start=config.pretrained_model_path or f"drawn with seed {config.seed}")
        taught = [teacher.line(token_slots)] if teacher else []
        warnings = [*parts.model.warnings(), *unheeded_masking(self.settings.masking, self.data)]
        for line in [*taught, *plan.lines(), *warnings]:
            self.reporter.say(line)


def run_identity(settings: Settings, world: World, data: Data, teacher: Teacher | None = None) -> dict[str, Any]:
    """What makes a run what it is: a training state continues only a run with the same.

    It holds every setting but those that are declared with `identity=False`. The number of ranks and micro-batches is
    not in it, only their product with the batch size; files stand for themselves by what they hold.
    """
    config = settings.train
    own = {known.name: getattr(config, known.name) for known in fields(config) if known.metadata["identity"]}
    model = settings.model.values()
    if model["decoder"] is None:
        del model["decoder"]  # states of earlier versions name a decoder that no model had
    rows = config.batch_size * config.accumulation_steps * world.world_size
    return {**model, **asdict(settings.optim), **asdict(settings.masking), **own,
            "data_processor": data.train[0].info.processor, "batch_size x accumulation_steps x world_size": rows,
            "vocabulary": data.tokenizer.vocab.fingerprint, "seq_length": data.train[0].info.seq_length,
            "dataset": [_fingerprint(dataset) for dataset in data.train],
            "teacher": teacher.fingerprint if teacher else None,
            "soft_alpha": teacher.config.soft_alpha if teacher else None,
            "soft_temperature": teacher.config.soft_temperature if teacher else None}


def _fingerprint(dataset: TokenDataset) -> str:
    """A hash of the dataset's sizes, settings, first and last tokens: the same wherever the file lies."""
    info = dataset.info
    masking = {known.name for known in fields(MaskingConfig)}
    masks = sorted((name, value) for name, value in info.processor_settings.items() if name in masking)
    others = sorted((name, value) for name, value in info.processor_settings.items() if name not in masking and value)
    facts = (len(dataset), len(dataset.tokens), info.processor, info.seq_length, info.vocab.fingerprint,
             info.dynamic_masking, info.dup_factor, info.seed, masks, *others)
    digest = hashlib.sha256(repr(facts).encode())
    for axis in dataset.offsets:
        digest.update(dataset.columns[axis][:SAMPLED_TOKENS].tobytes())
        digest.update(dataset.columns[axis][-SAMPLED_TOKENS:].tobytes())
    return digest.hexdigest()[:16]


def is_compiled(config: TrainConfig, world: World) -> bool:
    """Whether torch.compile is used, which wants static shapes: always where asked, of its own accord on a GPU."""
    return config.compile == "on" or (config.compile == "auto" and world.device.type == "cuda")


def unheeded_masking(asked: MaskingConfig, data: Data) -> list[str]:
    """What to say of datasets that were made for other masks than the masking flags of this command ask for.

    Static masks are as the dataset says; dynamic ones are drawn while training, as this command says.
    """
    lines = []
    for dataset in data.train + data.dev:
        made_for = masking_of(data.processor.config) and MaskingConfig(
            **{known.name: dataset.info.processor_settings[known.name] for known in fields(MaskingConfig)})
        if made_for is None:
            if asked != MaskingConfig():
                lines.append(f"note: {dataset.path} has no masks; the masking flags of this command have no effect")
        elif not dataset.info.dynamic_masking and asked not in (MaskingConfig(), made_for):
            lines.append(f"note: {dataset.path} has static masks; the masking flags of this command do not change them")
        elif dataset.info.dynamic_masking and made_for not in (MaskingConfig(), asked):
            lines.append(f"note: {dataset.path} was made with other masking flags; dynamic masks follow this command's")
    return lines
