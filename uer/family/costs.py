"""What one size costs: parameters, FLOPs, memory and hours, by formula.

FLOPs of a stage = `uer.planning.flops.flops_per_token` at the mean length of its rows, or of its documents where
attention stays inside of them and --document_length tells it, times its tokens; hours = its steps times the time of a
step (`uer.family.scaling`). A teacher's forward passes take FLOPs and hours too.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.devices import Devices
from uer.family.measurements import NOTHING_KNOWN, Measurements
from uer.family.recipe import Recipe, Stage
from uer.family.scaling import Batch, StepTime, forward_seconds, step_time
from uer.family.sizes import Size
from uer.family.teaching import Teaching
from uer.planning.flops import (
    PREDICTED,
    activation_bytes,
    flops_per_token,
    forward_flops_per_token,
    parameter_count,
    teacher_bytes,
)

FULL_MFU = 0.30
"""With --mfu, a model that reaches this share of the peak is assumed to leave a GPU nothing to do for another one."""
MOST_AT_ONCE = 8
FIXED_BYTES = 1 << 30
"""GPU memory that a process uses besides its tensors: the CUDA context, and the part of the dataset on the GPU."""
FILLED = 0.8
"""The share of a GPU's memory that an automatic micro-batch may fill, by an estimate (`stage_memory`)."""


@dataclass(frozen=True)
class Cost:
    """What it costs to pretrain one size.

    Attributes:
        size: the size.
        parameters: number of trained parameters.
        flops: of each stage, for real tokens, including the teacher's forward passes.
        memory_bytes: estimated memory of each device, in the stage that needs most.
        mfu: the share of the devices' peak that the hours amount to.
        hours: from start to end, on the devices of one model, when no other model trains there.
        at_once: how many models of this size a device trains at the same time.
        teacher_flops: the teacher's part of all `flops`.
        teacher_hours: the teacher's part of `hours`.
        waits_for: name of the size that has to be finished first, its teacher; "" where there is none.
        busy: the share of the hours in which the device could do nothing for another model.
        splits: of each stage, (rows of a micro-batch, micro-batches) of a device.
        steps: of each stage, the time of an update, without a teacher.
    """

    size: Size
    parameters: int
    flops: tuple[float, ...]
    memory_bytes: int
    mfu: float
    hours: float
    at_once: int
    teacher_flops: float = 0.0
    teacher_hours: float = 0.0
    waits_for: str = ""
    busy: float = 0.0
    splits: tuple[tuple[int, int], ...] = ()
    steps: tuple[StepTime, ...] = ()

    @property
    def shared_hours(self) -> float:
        """`hours` while as many others train on the same devices as it allows: they take turns where it is busy."""
        return self.hours * max(1.0, self.at_once * self.busy)


def cost_of(size: Size, recipe: Recipe, vocab_size: int, devices: Devices, config: MachineConfig,
            teaching: Teaching | None = None, known: Measurements = NOTHING_KNOWN) -> Cost:
    """The cost of one size on `--gpus_per_model` of the devices.

    Raises:
        UserError: see `devices_per_model` and `Stage.split`.
    """
    per_model = devices_per_model(devices, config)
    teacher = teaching if teaching and teaching.teaches(size, vocab_size) else None
    rate = recipe.mask_rate
    stages = [fitted(stage, size.config, vocab_size, devices, config, teacher, rate) for stage in recipe.stages]
    splits = [stage.split(per_model) for stage in stages]
    batches = [Batch(stage.rows / per_model, micro, stage.seq_length * known.fill_of(number), rate,
                     config.document_length * recipe.document_attention)
               for number, (stage, (_, micro)) in enumerate(zip(stages, splits))]
    steps = [step_time(size, vocab_size, batch, per_model, devices, config.mfu, known.step_times) for batch in batches]

    def hours(seconds: Iterable[float]) -> float:
        """Of the whole recipe, by the seconds of an update of each stage."""
        return sum(each * stage.total_steps for each, stage in zip(seconds, stages)) / 3600

    def flops_of(count: Callable[..., float], model: ModelConfig) -> list[float]:
        """Of each stage; `count` gives those of a token."""
        return [count(model, vocab_size, batch.attended, mask_rate=rate) * batch.tokens * per_model * stage.total_steps
                for batch, stage in zip(batches, stages)]

    own, idle = hours(step.seconds for step in steps), hours(step.seconds * (1 - step.busy) for step in steps)
    flops, taught, teacher_flops = flops_of(flops_per_token, size.config), 0.0, [0.0] * len(stages)
    if teacher:
        taught = hours(forward_seconds(teacher.size, vocab_size, batch, devices, config.mfu) for batch in batches)
        teacher_flops = flops_of(forward_flops_per_token, teacher.size.config)
    memory = max(stage_memory(size.config, vocab_size, stage, per_model, teacher, rate) for stage in stages)
    busy = _busy(1 - idle / (own + taught), devices, config)
    return Cost(
        size, parameter_count(size.config, vocab_size), flops=tuple(map(sum, zip(flops, teacher_flops))),
        memory_bytes=memory,
        mfu=sum(flops + teacher_flops) / (per_model * devices.peak_flops * (own + taught) * 3600), hours=own + taught,
        at_once=models_at_once(busy, memory, devices, config), teacher_flops=sum(teacher_flops), teacher_hours=taught,
        waits_for=teacher.waits_for() if teacher else "", busy=busy, splits=tuple(splits), steps=tuple(steps))


def _busy(busy: float, devices: Devices, config: MachineConfig) -> float:
    """`Cost.busy`: 1 where processes take turns on a device, or share a CPU's cores; with --mfu by that."""
    if devices.kind == "cpu" or not devices.concurrent:
        return 1.0
    return min(1.0, config.mfu / FULL_MFU) if config.mfu else busy


def stage_memory(model: ModelConfig, vocab_size: int, stage: Stage, devices: int, teacher: Teaching | None,
                 mask_rate: float = PREDICTED) -> int:
    """Bytes on each device: weights, gradients and two moments in fp32, a micro-batch's activations, and a teacher."""
    tokens = stage.split(devices)[0] * stage.seq_length
    return (16 * parameter_count(model, vocab_size) + activation_bytes(model, tokens, vocab_size, mask_rate=mask_rate)
            + (teacher_bytes(teacher.size.config, vocab_size, tokens) if teacher else 0))


def fitted(stage: Stage, model: ModelConfig, vocab_size: int, devices: Devices, config: MachineConfig,
           teacher: Teaching | None, mask_rate: float = PREDICTED) -> Stage:
    """The stage with the largest micro-batch that a GPU's memory allows, unless --batch_size says how large it is.

    Few large micro-batches take less time than many small ones; the result differs by rounding and dropout only. With
    --parallel_models each model has its share of the memory.
    """
    if devices.kind == "cpu" or not stage.automatic:
        return stage
    per_model = devices_per_model(devices, config)
    sharing = 1 if config.parallel_models == "auto" else int(config.parallel_models)
    room = FILLED * devices.memory_bytes / sharing - FIXED_BYTES
    sizes = [size for size in range(max(1, stage.rows // per_model), 0, -1) if stage.rows // per_model % size == 0]
    stages = [dataclasses.replace(stage, batch_size=size) for size in sizes]
    return next((one for one in stages
                 if stage_memory(model, vocab_size, one, per_model, teacher, mask_rate) <= room), stages[-1])


def devices_per_model(devices: Devices, config: MachineConfig) -> int:
    """How many devices train one model together.

    Raises:
        UserError: more than there are, or a number that does not divide the number of devices.
    """
    per_model = config.gpus_per_model or devices.count
    if per_model > devices.count or devices.count % per_model:
        raise UserError(f"--gpus_per_model {per_model}: {devices.count} devices cannot be divided into groups of "
                        f"{per_model}")
    return per_model


def models_at_once(busy: float, memory: int, devices: Devices, config: MachineConfig) -> int:
    """How many models of one size a device trains at the same time: as many as its speed and its memory allow.

    A CPU trains one model at a time, because one model uses all its cores, and so does a GPU on which processes take
    turns (without CUDA MPS), unless `--parallel_models` says otherwise.
    """
    if config.parallel_models != "auto":
        return int(config.parallel_models)
    if devices.kind == "cpu":
        return 1
    by_memory = (memory + FIXED_BYTES) / devices.memory_bytes
    return min(MOST_AT_ONCE, max(1, int(1 / max(busy, by_memory))))
