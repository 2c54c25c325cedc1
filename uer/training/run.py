"""A pretraining run: opens the datasets, builds model, optimizer and trainer from the settings, and trains them.

`pretrain.py` calls `run`.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, cached_property, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from uer.checkpoint import files as checkpoint
from uer.checkpoint.saver import Saver
from uer.checkpoint.settings import settings_path, write_settings
from uer.checkpoint.state import START_ANEW, StateFolder, check_settings, read_weights
from uer.data.token_counts import token_counts
from uer.distillation import DistillationStep, Teacher, load_teacher
from uer.errors import UserError
from uer.layers.cpu.random_bits import masks_from
from uer.layers.lora import is_adapter, merged
from uer.model import Model
from uer.optim import build_optimizer
from uer.optim.masters import narrow_linear_layers
from uer.optim.schedules import SCHEDULES
from uer.output_layer import has_output_bias
from uer.planning.flops import (
    activation_bytes,
    flops_per_token,
    forward_flops_per_token,
    made_tokens,
    mean_length,
    mean_tgt_length,
    parameter_count,
)
from uer.planning.hardware import peak_flops
from uer.runtime import launch
from uer.runtime.lock import OutputLock
from uer.runtime.parallel import World, connect
from uer.runtime.precision import Precision, cpu_choice, keep_dropout_exact
from uer.runtime.threads import Split, Workers, pays, split_of, usable_cores
from uer.tensor_parallel import split_model
from uer.training import decay, preflight
from uer.training.cuda_graph import CaptureError, GraphedUpdate
from uer.training.dry_run import plan
from uer.training.evaluation import evaluate
from uer.training.inputs import Data, Settings, masking_notes, open_data, run_identity
from uer.training.loaders import Loaders
from uer.training.new_model import new_model
from uer.training.pretrained import load_pretrained
from uer.training.report import Reporter
from uer.training.run_problems import check_weights_dtype, graph_problems, require_possible
from uer.training.run_summary import Plan, device_name
from uer.training.threads import ThreadedUpdate, draws_of_torch
from uer.training.trainer import Trainer
from uer.training.update import Parts, StepModule, Update

SMALL_MODEL = 50_000_000
"""Parameters. With more, several ranks average gradients during the backward pass (DistributedDataParallel), which pays
more than a CUDA graph, after which they are averaged."""


def run(settings: Settings) -> int:
    """Pretrain in the processes that the settings ask for; returns the exit status.

    Raises:
        UserError: an error that the user can correct, from any of the processes.
    """
    require_possible(settings)
    if settings.train.dry_run:
        print("\n".join(plan(settings)), flush=True)
        return 0
    if settings.parallel.cpu_offload and not torch.cuda.is_available():
        raise UserError("--cpu_offload: this machine has no GPU to relieve")
    if settings.train.cuda_graph == "on" and (problems := graph_problems(settings)):
        raise UserError(f"--cuda_graph on: {problems[0]}")
    try:
        return launch.run(launch.local_ranks(settings.parallel), pretrain, settings)
    except CaptureError as error:
        if settings.train.cuda_graph == "on":
            raise not_captured(error) from error
        print(f"the update cannot be captured as a CUDA graph ({error}); the command starts again without it",
              file=sys.stderr, flush=True)
        # In a new process: after a failed capture, torch's allocator and random generators may be in any state.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], "--cuda_graph", "off"])


def not_captured(error: CaptureError) -> UserError:
    """The error that is shown."""
    return UserError(f"the update cannot be captured as a CUDA graph ({error}); --cuda_graph off does without it")


def pretrain(rank_info: launch.RankInfo, settings: Settings) -> int:
    """What each rank runs; returns its exit status."""
    world = connect(rank_info, settings.parallel)
    try:
        status = _pretrain(world, settings)
    except CaptureError as error:
        if world.world_size == 1:
            raise
        raise not_captured(error) from error
    gc.collect()  # objects that use the communication library are freed before it is shut down
    world.close()
    return status


def _pretrain(world: World, settings: Settings) -> int:
    reporter = world.check(lambda: Reporter(settings.log, world, settings.train.total_steps))
    world.check(lambda: preflight.check_output(settings.train.output_model_path, 0))
    data = world.check(lambda: open_data(settings))
    folder = StateFolder(settings.train.output_model_path, settings.train.keep_checkpoints)
    with ExitStack() as stack:
        world.check(lambda: stack.enter_context(OutputLock(folder.output)) if world.is_main else None)
        stack.callback(reporter.close)
        begin = _decay if settings.train.decay_from else Run
        return begin(settings, world, reporter, folder, data).train()


def _decay(settings: Settings, world: World, reporter: Reporter, folder: StateFolder, data: Data) -> "Run":
    """The run of --decay_from: it has the settings of the decay, and on rank 0 the state to go on from. Nothing else
    holds that state, so that its memory is free once it is loaded."""
    config = settings.train

    def find() -> tuple[decay.Start, dict[str, Any]] | None:
        if not world.is_main:
            return None
        folder.tidy()
        start = decay.find_start(config, folder, reporter.say)
        return start, decay.decay_schedule(start, config.decay_steps)

    found = world.check(find)
    schedule = world.broadcast(found[1] if found else {})
    reporter.total_steps = schedule.pop("total_steps")
    reporter.say(f"the learning rate is at its peak until step {reporter.total_steps - config.decay_steps} and falls "
                 f"to 0 at step {reporter.total_steps}")
    settings = replace(settings, train=replace(config, total_steps=reporter.total_steps),
                       optim=replace(settings.optim, **schedule))
    return Run(settings, world, reporter, folder, data, found[0] if found else None)


class Run:
    """One rank's part of a pretraining run.

    Args:
        start: on rank 0, the state from which the decay of --decay_from goes on.
    """

    def __init__(self, settings: Settings, world: World, reporter: Reporter, folder: StateFolder, data: Data,
                 start: decay.Start | None = None) -> None:
        self.settings = settings
        self.config = settings.train
        self.world = world
        self.reporter = reporter
        self.folder = folder
        self.data = data
        self.start = start
        self.compiled = self._is_compiled()
        self.threads = settings.train.threads or usable_cores()
        self.split: Split | None = None
        """How threads divide a batch, on a CPU with one rank."""

    def train(self) -> int:
        """Continue from the training state if there is one, else start anew; returns the exit status."""
        world, config = self.world, self.config
        teacher = world.check(self._load_teacher)
        identity = run_identity(self.settings, world, self.data, teacher)
        found = world.check(lambda: self._find_state(identity))
        step = world.broadcast(found[0]["step"] if found else 0)
        if step >= config.total_steps:
            world.check(lambda: self._finish_again(self.folder.weights_path(step), found))
            return 0
        began = world.broadcast({name: found[0].get(name) for name in ("threads", "precision")} if found else {})
        parts = self._assemble(identity, teacher, fresh=step == 0, began=began)
        needed = self._checkpoint_bytes(parts.model, step)
        world.check(lambda: preflight.check_output(config.output_model_path, needed))
        trainer = Trainer(parts, config, world)
        self._print_summary(parts, teacher)
        if step:
            trainer.resume(found[0] if found else None)
            self.reporter.say(f"resumed after step {step}" + (f" from {found[1]}" if found else ""))
            del found
        elif world.is_main:
            self._set_old_states_aside()
        return trainer.train()

    def new_trainer(self) -> Trainer:
        """A trainer before its first update, as `train` makes it; it knows of no training states. For scripts that time
        updates; all ranks call."""
        teacher = self._load_teacher()
        parts = self._assemble(run_identity(self.settings, self.world, self.data, teacher), teacher, fresh=True)
        return Trainer(parts, self.config, self.world)

    @cached_property
    def layout(self) -> dict[str, Any]:
        """The arguments of `build_model` that follow from the data and its layout: padding, documents, vocabulary."""
        return {"unpad": "off" if self.static else self.config.unpad, "document_start": self.document_start,
                "tgt_vocab_size": self.data.tgt_vocab_size}

    @property
    def document_start(self) -> int | None:
        """Id of the token that each document of a row begins with, where attention stays inside of documents."""
        return self.data.tokenizer.vocab.cls_id if self.config.document_attention else None

    @property
    def static(self) -> bool:
        """Whether shapes must not depend on values."""
        return self.compiled or self.world.device.type == "cuda"

    def _load_teacher(self) -> Teacher | None:
        """The teacher on this rank's device; None without --teacher_model_path."""
        config = self.settings.distillation
        if not config.teacher_model_path:
            return None
        return load_teacher(config, self.settings.model.target, self.data.vocab_size, self.data.seq_length,
                            self.reporter.say, self.data.tgt_seq_length, **self.layout).to(self.world.device)

    def _find_state(self, identity: dict[str, Any]) -> tuple[Mapping[str, Any], Path] | None:
        """On rank 0 the (state, path) to continue from; None if there is none, and on the other ranks."""
        if not self.world.is_main:
            return None
        self.folder.tidy()
        start, self.start = self.start, None
        found = (start.state, start.path) if start else self.folder.find(self.config.resume, self.reporter.say)
        if found:
            decays = start is not None and not start.resumed
            same = {name: value for name, value in identity.items() if not (decays and name in decay.SCHEDULE)}
            check_settings(found[0]["settings"], same, found[1], decay.SAME_SETTINGS if decays else START_ANEW)
            if decays:
                self._set_old_states_aside()
            if identity["lora"] and not any(map(is_adapter, found[0].get("model", {}))):
                raise UserError(f"{found[1]}: belongs to a run without --use_lora")
        return found

    def _finish_again(self, path: Path, found: tuple[Mapping[str, Any], Path] | None) -> None:
        """The run is complete. If the checkpoint is missing or damaged, write it again from the training state."""
        if not found:
            return  # not rank 0
        again = ""
        try:
            checkpoint.load_weights(path)
        except UserError as error:
            again = f"; it was not there whole ({error}) and is written again from {found[1]}"
            weights = read_weights(found[0])
            checkpoint.require_finite(weights, found[1])
            export = self._export(self._build_model(fresh=False)) if self.saves_merged else dict
            checkpoint.write(export(weights), path)
        if again or not settings_path(path).exists():
            write_settings(path, found[0]["step"], json.loads(found[0]["settings"]))
        self.reporter.say(f"finished already: {path} (--resume never starts anew){again}")

    def _assemble(self, identity: dict[str, Any], teacher: Teacher | None, fresh: bool,
                  began: Mapping[str, Any] = MappingProxyType({})) -> Parts:
        """The model, the optimizer and the other objects that the trainer uses.

        Args:
            fresh: the run starts at step 0, so the initial weights are needed.
            began: what was chosen for this machine when the run began, and decides its result: "threads", the values
                of a `Split`, and "precision"; nothing at its beginning.
        """
        config, optim, world = self.config, self.settings.optim, self.world
        wanted = config.precision if config.precision != "auto" else began.get("precision") or "auto"
        precision = Precision(wanted, world.device,
                              choose_on_cpu=lambda: world.broadcast(cpu_choice() if world.is_main else None))
        keep_dropout_exact(self.settings.model.dropout)
        check_weights_dtype(config.weights_dtype, precision)
        model = world.check(lambda: self._build_model(fresh)).to(world.device)
        masters = narrow_linear_layers(model) if config.weights_dtype == "bf16" else {}
        forward = DistillationStep(model, teacher) if teacher else StepModule(model)
        if self.compiled:
            # For one size of batch, and when others come, once more for all sizes.
            forward.compile(options={"combo_kernels": True} if config.combo_kernels == "on" else None)
        graphed = self._is_graphed(model)
        module = forward if graphed else world.wrap(forward, accumulating=config.accumulation_steps > 1,
                                                    dtype=precision.dtype)
        optimizer = self._optimizer(model, masters, capturable=graphed)
        schedule = world.check(lambda: SCHEDULES[optim.scheduler](optim, config.total_steps))
        loaders = Loaders(config, self.data, world, self.document_start, self.static, forward.reads_padding,
                          both_sides=bool(self.settings.model.decoder))
        loader, held_out = world.check(lambda: (loaders.training(), loaders.held_out()))
        self._set_flops(precision, teacher)
        self.split = self._split_of_batches(model, began.get("threads"))
        update = partial(GraphedUpdate, compiled=self.compiled) if graphed else self._plain_update(loaders.trim)
        kept = {"precision": precision.name, **({"threads": self.split.values()} if self.split else {})}
        return Parts(
            model=model, module=module, loader=loader, optimizer=optimizer,
            learning_rate=schedule, precision=precision, reporter=self.reporter,
            saver=Saver(self.folder, model, optimizer, precision, world, json.dumps(identity), self.reporter.say,
                        masters, kept, self._export(model) if self.saves_merged else None),
            evaluate=partial(evaluate, forward, held_out, world, precision, model.perplexities,
                             self.threads if self.split else 1) if held_out else None,
            decode=self.data.tokenizer.decode, update=update)

    def _optimizer(self, model: Model, masters: Mapping[nn.Parameter, Tensor], capturable: bool) -> Optimizer:
        """The optimizer of the model's parameters, or of their float32 `masters` where they have one."""
        optimizer = build_optimizer(self.settings.optim, model, capturable)
        optimizer.masters = masters
        if self.settings.parallel.sharding == "fsdp":
            optimizer.sum_ = self.world.sum_  # for StableAdamW, which measures whole gradients
        return optimizer

    def _split_of_batches(self, model: Model, began: dict[str, int] | None) -> Split | None:
        """How threads divide a batch, on a CPU with one rank; None elsewhere.

        Args:
            began: the values of the `Split` with which the run began; None at its beginning.
        """
        config, parallel = self.config, self.settings.parallel
        if self.world.device.type != "cpu" or self.world.world_size > 1 or parallel.sharding != "none":
            return None
        in_parts = not (self.compiled or parallel.activation_checkpointing != "off" or draws_of_torch(model))
        worth = config.threads or pays(model.num_parameters(), config.batch_size * self.data.seq_length)
        split = split_of(self.threads, config.batch_size if in_parts and worth else 1)
        if began is None or not (in_parts or began["parts"] == 1):
            return split
        if Split(**began) != split:
            self.reporter.say(f"the run began with {Split(**began)} and goes on so, as its results depend on them; "
                              f"now there are {self.threads}")
        return Split(**began)

    def _plain_update(self, trim: bool) -> Callable[..., Update]:
        """The update where it is no CUDA graph: with workers where threads divide a batch.

        Args:
            trim: whether positions that are padding in every row are left out.
        """
        if self.split is not None:
            torch.set_num_threads(self.split.openmp)
        elif self.world.device.type == "cpu" and self.config.threads:
            torch.set_num_threads(self.config.threads)
        if self.split is None or self.split.parts == 1:
            return Update
        return partial(ThreadedUpdate, workers=Workers(self.split, self.threads), seeded=masks_from, trim=trim)

    def _is_compiled(self) -> bool:
        """Whether torch.compile is used; not by itself where ranks compute layers together."""
        on_gpu = self.world.device.type == "cuda" and self.settings.parallel.tensor_parallel_size == 1
        return self.config.compile == "on" or (self.config.compile == "auto" and on_gpu)

    def _is_graphed(self, model: Model) -> bool:
        """Whether an update is captured as CUDA graphs."""
        wanted = self.config.cuda_graph
        if wanted == "off" or graph_problems(self.settings):
            return False
        return wanted == "on" or self.world.world_size == 1 or model.num_parameters() < SMALL_MODEL

    def _set_flops(self, precision: Precision, teacher: Teacher | None) -> None:
        """Set the numbers from which the reports compute MFU."""
        rows = self.data.train, self.data.processor
        sizes = self.data.vocab_size, mean_length(*rows), self.data.processor, mean_tgt_length(*rows)
        self.reporter.peak_flops = self.world.world_size * (
            self.config.peak_flops or peak_flops(self.world.device, precision.name))
        if self.reporter.peak_flops:  # without a known peak there is no MFU, and counting takes seconds
            self.reporter.flops_per_token = flops_per_token(self.settings.model, *sizes) + (
                forward_flops_per_token(teacher.model.config, *sizes) if teacher else 0.0)

    def _build_model(self, fresh: bool) -> Model:
        """The model with random weights or, if `fresh` or where it is frozen, those of --pretrained_model_path."""
        config = self.config
        torch.manual_seed(config.seed)
        model = new_model(self.settings, self.data.vocab_size, self.data.processor,
                          cache(partial(token_counts, self.data.train)), **self.layout)
        if config.pretrained_model_path and (fresh or self.settings.lora.use_lora):
            load_pretrained(model, self.settings, self.data.vocab_size, self.reporter.say)
        random = fresh and not config.pretrained_model_path
        if config.sampled_softmax and random and config.output_bias_init == "zeros" and has_output_bias(model):
            self.reporter.say("note: --sampled_softmax learns much sooner with --output_bias_init frequencies")
        if self.world.model_ranks:
            split_model(model, self.world.model_ranks)
        return model

    @property
    def saves_merged(self) -> bool:
        """Whether checkpoints are whole models although only adapters are trained."""
        return self.settings.lora.use_lora and self.settings.lora.lora_save == "merged"

    def _export(self, model: Model) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        """The function that makes a whole model of the trained tensors, on the CPU."""
        def export(trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
            frozen = checkpoint.to_host(checkpoint.frozen_state(model))
            return merged({**frozen, **trained}, self.settings.lora.lora_alpha)

        return export

    def _set_old_states_aside(self) -> None:
        """Rename the training states of an earlier run with the same --output_model_path."""
        steps = self.folder.set_aside()
        if steps:
            self.reporter.say(f"--resume never: the training states of an earlier run (steps "
                              f"{', '.join(map(str, steps))}) are renamed to *.old")

    def _checkpoint_bytes(self, model: Model, step: int) -> int:
        """What the checkpoints after `step` updates will take. `model` may be a part of the model of several ranks."""
        config = self.config
        saved = trained = parameter_count(self.settings.model, self.data.vocab_size, self.data.tgt_vocab_size)
        if self.settings.lora.use_lora:
            trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
            saved = saved if self.saves_merged else trained
        saves = preflight.saves_left(step, config.total_steps, config.save_checkpoint_steps)
        present = len([saved for saved in self.folder.steps() if saved <= step])
        return preflight.checkpoint_bytes(saved, trained, saves, config.keep_checkpoints, present)

    def _print_summary(self, parts: Parts, teacher: Teacher | None) -> None:
        """Print sizes, costs and learning rates before the first update."""
        config, model, seq_length = self.config, self.settings.model, self.data.seq_length
        parallel = self.settings.parallel
        slots = config.batch_size * seq_length, config.batch_size * self.data.tgt_seq_length
        made = parts.loader.samples_per_epoch * made_tokens(self.data.train, self.data.processor)
        kernels = [f"attention: torch's fused, optimizer: {self.settings.optim.optimizer}",
                   "compiled" if self.compiled else "not compiled",
                   *(["CUDA graphs"] if parts.update is not Update and not self.split else []),
                   f"sharding {parallel.sharding}",
                   *([f"tensor parallel {parallel.tensor_parallel_size}"] * (parallel.tensor_parallel_size > 1))]
        sharded = self.world.data_world_size if parallel.sharding == "fsdp" else 1
        plan = Plan(
            parameters=parameter_count(model, self.data.vocab_size, self.data.tgt_vocab_size),
            instances=parts.loader.samples_per_epoch, tokens=parts.loader.tokens_per_epoch + made,
            seq_length=seq_length, global_batch=parts.loader.samples_per_step,
            total_steps=config.total_steps, flops_per_token=parts.reporter.flops_per_token,
            activation_bytes=activation_bytes(model, slots[0], self.data.tgt_vocab_size, slots[1])
            + (teacher.bytes(*slots) if teacher else 0),
            learning_rate=parts.learning_rate, precision=parts.precision.describe(),
            peak_flops=parts.reporter.peak_flops,
            kernels=", ".join(kernels), divided=sharded * parallel.tensor_parallel_size,
            devices=f"{self.world.world_size} x {device_name(self.world.device, self.split)}",
            start=config.pretrained_model_path or f"drawn with seed {config.seed}")
        teacher_line = [teacher.line(*slots)] if teacher else []
        notes = [*parts.model.warnings(), *masking_notes(self.settings.masking, self.data)]
        for line in [*teacher_line, *plan.lines(), *notes]:
            self.reporter.say(line)
