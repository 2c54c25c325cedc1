"""What one size costs: parameters, FLOPs, memory and hours, by formula.

FLOPs of a stage = `uer.flops.flops_per_token` at its length, times its tokens; hours = FLOPs / (devices x peak x MFU).
A teacher's answers cost FLOPs and hours of their own, at the teacher's MFU.
"""

from dataclasses import dataclass
from fractions import Fraction

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.devices import Devices
from uer.family.recipe import Recipe, Stage
from uer.family.sizes import Size
from uer.family.teaching import Teaching
from uer.flops import (
    GPUS,
    activation_bytes,
    answer_bytes,
    answer_flops_per_token,
    flops_per_token,
    parameter_count,
)

# Share of its peak that an H100 reaches with micro-batches of 64 x 128, by hidden size. Assumed, not measured here:
# narrow models wait for kernel launches, wide ones for memory.
ASSUMED_GPU_MFU = {128: 0.04, 256: 0.14, 512: 0.23, 768: 0.30}
# Of a CPU, whose peak is taken as that of a plain matrix product: forward and backward pass of tiny and mini reach 0.80
# and 0.87 of it without padding.
ASSUMED_CPU_MFU = 0.70
MOST_AT_ONCE = 8
FIXED_BYTES = 1 << 30
"""What a process needs on a GPU before its first tensor, and for the dataset's part that it keeps there."""


@dataclass(frozen=True)
class Cost:
    """What pretraining one size takes.

    Attributes:
        parameters: numbers that are trained.
        flops: of each stage, a teacher's answers included.
        memory_bytes: on each device, in the stage that needs most; an estimate.
        mfu: share of the peak that the hours reckon with.
        hours: from start to end, on all of a model's devices, with no other model on them.
        share: how much of a device the model fills: 1 leaves no room for another one.
        teacher_flops: the teacher's part of all `flops`.
        teacher_hours: the teacher's part of `hours`.
        waits_for: name of the size that has to be finished first; "" where there is none.
    """

    size: Size
    parameters: int
    flops: tuple[float, ...]
    memory_bytes: int
    mfu: float
    hours: float
    share: Fraction
    teacher_flops: float = 0.0
    teacher_hours: float = 0.0
    waits_for: str = ""

    @property
    def at_once(self) -> int:
        """How many of this size a device trains at once."""
        return int(1 / self.share)


def cost_of(size: Size, recipe: Recipe, vocab_size: int, devices: Devices, config: MachineConfig,
            teaching: Teaching | None = None) -> Cost:
    """Reckon with `gpus_per_model` of the devices for this size."""
    per_model = devices_per_model(devices, config)
    teacher = teaching if teaching and teaching.teaches(size, vocab_size) else None
    own = [stage_flops(size.config, vocab_size, stage) for stage in recipe.stages]
    answers = [answer_flops_per_token(teacher.size.config, vocab_size, stage.seq_length) * stage.tokens if teacher
               else 0.0 for stage in recipe.stages]
    memory = max(stage_memory(size.config, vocab_size, stage, per_model, teacher) for stage in recipe.stages)
    hours, teacher_hours = (
        sum(flops) / (per_model * devices.peak_flops * (config.mfu or assumed_mfu(model.hidden_size, devices))) / 3600
        for flops, model in ((own, size.config), (answers, teacher.size.config if teacher else size.config)))
    mfu = sum(own + answers) / (per_model * devices.peak_flops * (hours + teacher_hours) * 3600)
    return Cost(size, parameter_count(size.config, vocab_size), tuple(map(sum, zip(own, answers))), memory, mfu,
                hours + teacher_hours, share_of(mfu, memory, devices, config), sum(answers), teacher_hours,
                teacher.waits_for() if teacher else "")


def stage_flops(model: ModelConfig, vocab_size: int, stage: Stage) -> float:
    """Operations of a whole stage."""
    return flops_per_token(model, vocab_size, stage.seq_length) * stage.tokens


def stage_memory(model: ModelConfig, vocab_size: int, stage: Stage, devices: int, teacher: Teaching | None) -> int:
    """Bytes on each device: weights, gradients and two moments in fp32, a micro-batch's activations, and a teacher."""
    slots = stage.split(devices)[0] * stage.seq_length
    return (16 * parameter_count(model, vocab_size) + activation_bytes(model, slots, vocab_size)
            + (answer_bytes(teacher.size.config, vocab_size, slots) if teacher else 0))


def assumed_mfu(hidden_size: int, devices: Devices) -> float:
    """The share of the peak that is assumed for a width: that of the next smaller width known.

    On another GPU than the table's, the time that a narrow model loses to launches stays the same, while its
    arithmetic takes as much longer as the GPU is slower: 4% of an H100's peak become 10% of an A100's.
    """
    if devices.kind == "cpu":
        return ASSUMED_CPU_MFU
    table, best = ASSUMED_GPU_MFU, max(ASSUMED_GPU_MFU.values())
    mfu = table[max((width for width in table if width <= hidden_size), default=min(table))]
    return 1 / (1 / best + (1 / mfu - 1 / best) * devices.peak_flops / GPUS["H100"].half)


def devices_per_model(devices: Devices, config: MachineConfig) -> int:
    """How many devices train one model together.

    Raises:
        UserError: more than there are, or a number that leaves devices idle.
    """
    per_model = config.gpus_per_model or devices.count
    if per_model > devices.count or devices.count % per_model:
        raise UserError(f"--gpus_per_model {per_model}: {devices.count} devices cannot be divided into groups of "
                        f"{per_model}")
    return per_model


def share_of(mfu: float, memory: int, devices: Devices, config: MachineConfig) -> Fraction:
    """The share of a device that a model fills, by speed, or by memory where that is more.

    A CPU trains one model at a time unless the user says otherwise: its cores are busy with one.
    """
    if config.torchrun:
        return Fraction(1)
    if config.parallel_models != "auto":
        return Fraction(1, int(config.parallel_models))
    if devices.kind == "cpu":
        return Fraction(1)
    by_speed = mfu / max(ASSUMED_GPU_MFU.values())
    by_memory = (memory + FIXED_BYTES) / devices.memory_bytes
    return Fraction(1, min(MOST_AT_ONCE, max(1, int(1 / max(by_speed, by_memory)))))
