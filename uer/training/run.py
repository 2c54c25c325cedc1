"""A pretraining run put together: datasets, model, optimizer and trainer, as the settings say. Used by pretrain.py."""

import gc
import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
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
from uer.data.loader import EvaluationLoader, Loader
from uer.data.processors import PLANNED as PLANNED_PROCESSORS
from uer.data.processors import PROCESSORS
from uer.data.store import TokenDataset, open_dataset
from uer.distillation import DistillationStep, Teacher, load_teacher
from uer.errors import UserError
from uer.flops import (
    activation_bytes,
    answer_bytes,
    answer_flops_per_token,
    flops_per_token,
    parameter_count,
    peak_flops,
)
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
from uer.tokenizers.vocab import Vocab
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


def pretrain(place: launch.RankInfo, settings: Settings) -> int:
    """The work of one process."""
    world = connect(place, settings.parallel)
    status = _pretrain(world, settings)
    gc.collect()  # what holds on to the communication library goes before it does
    world.close()
    return status


def _pretrain(world: World, settings: Settings) -> int:
    reporter = world.check(lambda: Reporter(settings.log, world, settings.train.total_steps))
    tokenizer, data = world.check(lambda: _open_data(settings))
    settings = _with_processor(settings, data[0])
    folder = StateFolder(settings.train.output_model_path, settings.train.keep_checkpoints)
    lock = world.check(lambda: OutputLock(folder.output) if world.is_main else None)
    try:
        return _pretrain_under(folder, world, settings, reporter, tokenizer, data)
    finally:
        reporter.close()
        if lock:
            lock.release()


def _pretrain_under(folder: StateFolder, world: World, settings: Settings, reporter: Reporter, tokenizer: Tokenizer,
                    data: list[TokenDataset]) -> int:
    """Find out where the run stands and go on from there."""
    teacher = world.check(lambda: _load_teacher(settings, world, tokenizer.vocab, data, reporter))
    identity = run_identity(settings, world, tokenizer, data, teacher)
    found = world.check(lambda: _find_state(settings, world, folder, identity, reporter))
    step = world.broadcast(found[0]["step"] if found else 0)
    if step >= settings.train.total_steps:
        world.check(lambda: _finish_again(folder.weights_path(step), found, reporter))
        return 0
    parts = _assemble(settings, world, tokenizer, data, folder, identity, reporter, teacher, fresh=step == 0)
    world.check(lambda: preflight.check_output(
        settings.train.output_model_path,
        preflight.checkpoint_bytes(parts.model, settings.train.total_steps - step,
                                   settings.train.save_checkpoint_steps, settings.train.keep_checkpoints)))
    trainer = Trainer(parts, settings.train, world)
    _say_plan(settings, world, parts, data, len(tokenizer.vocab), teacher)
    if step:
        trainer.resume(found[0] if found else None)
        reporter.say(f"resumed after step {step}" + (f" from {found[1]}" if found else ""))
        del found
    elif world.is_main:
        _clear(settings, folder, reporter)
    return trainer.train()


def _open_data(settings: Settings) -> tuple[Tokenizer, list[TokenDataset]]:
    """The tokenizer and the datasets, checked against one another."""
    config = settings.train
    if config.data_processor:
        choose(PROCESSORS, config.data_processor, "--data_processor", PLANNED_PROCESSORS)
    preflight.check_output(config.output_model_path, 0)
    datasets = [open_dataset(path) for path in config.dataset_path]
    processor = config.data_processor or datasets[0].info.processor
    choose(PROCESSORS, processor, str(datasets[0].path), PLANNED_PROCESSORS)
    dev = [open_dataset(config.dev_dataset_path)] if config.dev_dataset_path else []
    for dataset in datasets + dev:
        info, path = dataset.info, str(dataset.path)
        preflight.check_processor(path, info.processor, processor)
        preflight.check_lengths(path, info.seq_length, settings.model.max_seq_length)
        if not len(dataset):
            raise UserError(f"{path}: the dataset is empty")
    preflight.check_update(config.batch_size * config.accumulation_steps, datasets[0].info.seq_length)
    tokenizer = build_tokenizer(settings.tokenizer)
    for dataset in datasets + dev:
        info = dataset.info
        preflight.check_vocabulary(str(dataset.path), (info.vocab_fingerprint, info.vocab_size, info.tokenizer),
                                   (tokenizer.vocab.fingerprint, len(tokenizer.vocab), tokenizer.settings))
    return tokenizer, datasets + dev


def _with_processor(settings: Settings, dataset: TokenDataset) -> Settings:
    """The settings with the dataset's processor, where --data_processor is not given."""
    name = settings.train.data_processor or dataset.info.processor
    return replace(settings, train=replace(settings.train, data_processor=name))


def _load_teacher(settings: Settings, world: World, vocab: Vocab, data: list[TokenDataset],
                  reporter: Reporter) -> Teacher | None:
    """The model to learn from, on this rank's device, where there is one."""
    if not settings.distillation.teacher_model_path:
        return None
    return load_teacher(settings.distillation, len(vocab), max(dataset.info.seq_length for dataset in data),
                        reporter.say, **_layout(settings, world, vocab)).to(world.device)


def _layout(settings: Settings, world: World, vocab: Vocab) -> dict[str, Any]:
    """How models of this run lay out a batch, as `build_model` takes it."""
    return {"unpad": "off" if is_compiled(settings.train, world) else settings.train.unpad,
            "document_start": vocab.cls_id if settings.train.document_attention else None}


def run_identity(settings: Settings, world: World, tokenizer: Tokenizer, datasets: list[TokenDataset],
                 teacher: Teacher | None = None) -> dict[str, Any]:
    """What makes a run what it is: a training state continues only a run with the same.

    The number of ranks and micro-batches is not in it, only their product with the batch size.
    """
    config = settings.train
    names = ("total_steps", "seed", "data_processor", "deep_init", "max_grad_norm", "precision", "dev_fraction",
             "dataset_weights", "pretrained_model_path", "labels_num", "document_attention")
    rows = config.batch_size * config.accumulation_steps * world.world_size
    return {**asdict(settings.model), **asdict(settings.optim), **asdict(settings.masking),
            **{field.name: getattr(config, field.name) for field in fields(config) if field.name in names},
            "batch_size x accumulation_steps x world_size": rows, "vocabulary": tokenizer.vocab.fingerprint,
            "seq_length": max(dataset.info.seq_length for dataset in datasets[:len(config.dataset_path)]),
            "dataset": [_fingerprint(dataset) for dataset in datasets[:len(config.dataset_path)]],
            "teacher": teacher.fingerprint if teacher else None,
            "soft_alpha": teacher.config.soft_alpha if teacher else None,
            "soft_temperature": teacher.config.soft_temperature if teacher else None}


def _fingerprint(dataset: TokenDataset) -> str:
    """A hash of the dataset's sizes, settings, first and last tokens: the same wherever the file lies."""
    info = dataset.info
    facts = (len(dataset), len(dataset.tokens), info.processor, info.seq_length, info.vocab_fingerprint,
             info.dynamic_masking, info.dup_factor, info.seed, sorted(info.masking.items()))
    digest = hashlib.sha256(repr(facts).encode())
    digest.update(dataset.tokens[:SAMPLED_TOKENS].tobytes())
    digest.update(dataset.tokens[-SAMPLED_TOKENS:].tobytes())
    return digest.hexdigest()[:16]


def _find_state(settings: Settings, world: World, folder: StateFolder, identity: dict[str, Any],
                reporter: Reporter) -> Any:
    """(state, path) to go on from on the main rank, None elsewhere and where there is none."""
    if not world.is_main:
        return None
    folder.tidy()
    found = folder.find(settings.train.resume, reporter.say)
    if found:
        check_settings(found[0]["settings"], identity, found[1])
    return found


def _finish_again(path: Path, found: Any, reporter: Reporter) -> None:
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
    reporter.say(f"finished already: {path} (--resume never starts anew){again}")


def _assemble(settings: Settings, world: World, tokenizer: Tokenizer, data: list[TokenDataset], folder: StateFolder,
              identity: dict[str, Any], reporter: Reporter, teacher: Teacher | None, fresh: bool) -> Parts:
    """Model, optimizer and all the trainer needs of this run."""
    config, optim = settings.train, settings.optim
    precision = Precision(config.precision, world.device)
    compiled = is_compiled(config, world)
    model = world.check(lambda: _build(settings, world, tokenizer.vocab, reporter, fresh)).to(world.device)
    forward = DistillationStep(model, teacher) if teacher else StepModule(model)
    if compiled:
        forward.compile()
    module = world.wrap(forward, accumulating=config.accumulation_steps > 1)
    graphed = (world.device.type == "cuda" and world.world_size == 1 and config.accumulation_steps == 1
               and optim.optimizer == "adamw" and model.num_parameters() < SMALL_MODEL
               and settings.parallel.sharding == "none" and not settings.parallel.activation_checkpointing)
    optimizer = OPTIMIZERS[optim.optimizer](parameter_groups(model), lr=optim.learning_rate, capturable=graphed)
    factor = world.check(lambda: SCHEDULES[optim.scheduler](optim, config.total_steps))
    loader, held_out = world.check(lambda: (_build_loader(settings, world, data), _build_dev(settings, world, data)))
    vocab_size, seq_length = len(tokenizer.vocab), data[0].info.seq_length
    reporter.peak_flops = world.world_size * (config.peak_flops or peak_flops(world.device, precision.name))
    reporter.flops_per_token = flops_per_token(settings.model, vocab_size, seq_length) + (
        answer_flops_per_token(teacher.model.config, vocab_size, seq_length) if teacher else 0.0)
    return Parts(
        model=model, module=module, loader=loader, optimizer=optimizer,
        rate=lambda step: optim.learning_rate * factor(step), set_rate=set_learning_rate, precision=precision,
        reporter=reporter, saver=Saver(folder, model, optimizer, precision, world, json.dumps(identity), reporter.say),
        evaluate=(lambda: evaluate(forward, held_out, world, precision)) if held_out else None,
        decode=tokenizer.decode, graphed=graphed)


def _build(settings: Settings, world: World, vocab: Vocab, reporter: Reporter, fresh: bool) -> Model:
    """The model with its first weights: drawn, or of `--pretrained_model_path`."""
    config = settings.train
    torch.manual_seed(config.seed)
    model = build_model(settings.model, len(vocab), **_layout(settings, world, vocab),
                        activation_checkpointing=settings.parallel.activation_checkpointing,
                        deep_init=config.deep_init)
    path = config.pretrained_model_path
    if path and fresh:
        weights = load_uer_weights(path)
        check_sizes(weights, settings.model, len(vocab), path, config.config_path)
        lines = checkpoint.load_into(model, weights, path).lines()
        reporter.say(f"loaded {path}" + ("" if lines else ": every key fits"))
        for line in lines:
            reporter.say(f"{path}: {line}")
    return model


def _build_loader(settings: Settings, world: World, data: list[TokenDataset]) -> Loader:
    config = settings.train
    return Loader(data[:len(config.dataset_path)], PROCESSORS[config.data_processor](), settings.masking,
                  batch_size=config.batch_size, accumulation_steps=config.accumulation_steps, rank=world.rank,
                  world_size=world.world_size, seed=config.seed, weights=config.dataset_weights,
                  dev_fraction=config.dev_fraction, **_placement(config, world, data))


def _build_dev(settings: Settings, world: World, data: list[TokenDataset]) -> EvaluationLoader | None:
    config = settings.train
    if not config.dev_dataset_path and not config.dev_fraction:
        return None
    held_out = data[len(config.dataset_path):] if config.dev_dataset_path else data
    return EvaluationLoader(held_out, PROCESSORS[config.data_processor](), settings.masking,
                            batch_size=config.batch_size, rank=world.rank, world_size=world.world_size,
                            dev_fraction=config.dev_fraction, **_placement(config, world, data))


def _placement(config: TrainConfig, world: World, data: list[TokenDataset]) -> dict[str, Any]:
    """Where the datasets lie and the batches are made; padding can be cut off where shapes need not be static."""
    size = sum(dataset.tokens.nbytes + dataset.offsets.nbytes for dataset in data)
    on_gpu = world.device.type == "cuda"
    if config.dataset_device == "cuda" and not on_gpu:
        raise UserError("--dataset_device cuda: this run has no GPU")
    fits = on_gpu and size < SHARE_FOR_DATA * torch.cuda.mem_get_info(world.device)[0]
    on_device = on_gpu and (config.dataset_device == "cuda" or (config.dataset_device == "auto" and fits))
    return {"device": world.device, "dataset_device": world.device if on_device else "cpu",
            "trim": not on_gpu and not is_compiled(config, world)}


def is_compiled(config: TrainConfig, world: World) -> bool:
    """Whether torch.compile is used, which wants static shapes: always where asked, of its own accord on a GPU."""
    return config.compile == "on" or (config.compile == "auto" and world.device.type == "cuda")


def _clear(settings: Settings, folder: StateFolder, reporter: Reporter) -> None:
    """Make room for a new run under the name of an old one."""
    steps = folder.set_aside()
    if steps:
        reporter.say(f"--resume never: the training states of an earlier run (steps {', '.join(map(str, steps))}) "
                     "are renamed to *.old")


def _say_plan(settings: Settings, world: World, parts: Parts, data: list[TokenDataset], vocab_size: int,
              teacher: Teacher | None) -> None:
    config, model = settings.train, settings.model
    seq_length = data[0].info.seq_length
    slots = config.batch_size * seq_length
    kernels = [f"attention: torch's fused, optimizer: {settings.optim.optimizer}",
               "compiled" if is_compiled(config, world) else "not compiled",
               *(["one CUDA graph an update"] if parts.graphed else []), f"sharding {settings.parallel.sharding}"]
    plan = Plan(
        parameters=parameter_count(model, vocab_size), instances=parts.loader.samples_per_epoch,
        tokens=parts.loader.tokens_per_epoch, seq_length=seq_length, global_batch=parts.loader.samples_per_step,
        total_steps=config.total_steps, flops_per_token=parts.reporter.flops_per_token,
        activation_bytes=activation_bytes(model, slots, vocab_size)
        + (answer_bytes(teacher.model.config, vocab_size, slots) if teacher else 0),
        rate=parts.rate, precision=parts.precision.describe(), peak_flops=parts.reporter.peak_flops,
        kernels=", ".join(kernels), devices=f"{world.world_size} x {device_name(world.device)}",
        start=config.pretrained_model_path or f"drawn with seed {config.seed}")
    taught = [teacher.line(seq_length, slots)] if teacher else []
    for line in [*taught, *plan.lines(), *unheeded_masking(settings.masking, data)]:
        parts.reporter.say(line)


def unheeded_masking(asked: MaskingConfig, data: list[TokenDataset]) -> list[str]:
    """What to say of datasets that were made for other masks than the masking flags of this command ask for.

    Static masks are as the dataset says; dynamic ones are drawn while training, as this command says.
    """
    lines = []
    for dataset in data:
        made_for = MaskingConfig(**dataset.info.masking)
        if not dataset.info.dynamic_masking and asked not in (MaskingConfig(), made_for):
            lines.append(f"note: {dataset.path} has static masks; the masking flags of this command do not change them")
        elif dataset.info.dynamic_masking and made_for not in (MaskingConfig(), asked):
            lines.append(f"note: {dataset.path} was made with other masking flags; dynamic masks follow this command's")
    return lines
