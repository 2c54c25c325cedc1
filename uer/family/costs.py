"""What one size costs: parameters, FLOPs, memory and hours, by formula.

FLOPs of a stage = `uer.flops.flops_per_token` at its length, times its tokens; hours = FLOPs / (devices x peak x MFU).
A teacher's forward passes take FLOPs and hours too, at the teacher's MFU.
"""

from dataclasses import dataclass

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.devices import Devices
from uer.family.recipe import Recipe, Stage
from uer.family.sizes import Size
from uer.family.teaching import Teaching
from uer.flops import activation_bytes, flops_per_token, forward_flops_per_token, parameter_count, teacher_bytes
from uer.hardware import GPUS

# Model FLOPs utilization (MFU), the share of its peak that a GPU reaches, of an H100 with micro-batches of 64 x 128, by
# hidden size. These are assumptions, not measurements: narrow models wait for kernel launches, wide ones for memory.
ASSUMED_GPU_MFU = {128: 0.04, 256: 0.14, 512: 0.23, 768: 0.30}
# MFU of a CPU. Its peak is the speed of a matrix product: the forward and backward passes of tiny and mini reach 0.80
# and 0.87 of it, without padding.
ASSUMED_CPU_MFU = 0.70
MOST_AT_ONCE = 8
FIXED_BYTES = 1 << 30
"""GPU memory that a process uses besides its tensors: the CUDA context, and the part of the dataset on the GPU."""


@dataclass(frozen=True)
class Cost:
    """What it costs to pretrain one size.

    Attributes:
        size: the size.
        parameters: number of trained parameters.
        flops: of each stage, including the teacher's forward passes.
        memory_bytes: estimated memory of each device, in the stage that needs most.
        mfu: the share of the devices' peak that the hours are computed with.
        hours: from start to end, on the devices of one model, when no other model trains there.
        at_once: how many models of this size a device trains at the same time.
        teacher_flops: the teacher's part of all `flops`.
        teacher_hours: the teacher's part of `hours`.
        waits_for: name of the size that has to be finished first, its teacher; "" where there is none.
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


def cost_of(size: Size, recipe: Recipe, vocab_size: int, devices: Devices, config: MachineConfig,
            teaching: Teaching | None = None) -> Cost:
    """The cost of one size on `--gpus_per_model` of the devices.

    Raises:
        UserError: see `devices_per_model` and `Stage.split`.
    """
    per_model = devices_per_model(devices, config)
    teacher = teaching if teaching and teaching.teaches(size, vocab_size) else None
    own = [stage_flops(size.config, vocab_size, stage) for stage in recipe.stages]
    answers = [forward_flops_per_token(teacher.size.config, vocab_size, stage.seq_length) * stage.tokens if teacher
               else 0.0 for stage in recipe.stages]
    memory = max(stage_memory(size.config, vocab_size, stage, per_model, teacher) for stage in recipe.stages)
    hours, teacher_hours = (
        sum(flops) / (per_model * devices.peak_flops * (config.mfu or assumed_mfu(model.hidden_size, devices))) / 3600
        for flops, model in ((own, size.config), (answers, teacher.size.config if teacher else size.config)))
    mfu = sum(own + answers) / (per_model * devices.peak_flops * (hours + teacher_hours) * 3600)
    return Cost(size, parameter_count(size.config, vocab_size), tuple(map(sum, zip(own, answers))), memory, mfu,
                hours + teacher_hours, models_at_once(mfu, memory, devices, config), sum(answers), teacher_hours,
                teacher.waits_for() if teacher else "")


def stage_flops(model: ModelConfig, vocab_size: int, stage: Stage) -> float:
    """FLOPs of a whole stage, without a teacher."""
    return flops_per_token(model, vocab_size, stage.seq_length) * stage.tokens


def stage_memory(model: ModelConfig, vocab_size: int, stage: Stage, devices: int, teacher: Teaching | None) -> int:
    """Bytes on each device: weights, gradients and two moments in fp32, a micro-batch's activations, and a teacher."""
    tokens = stage.split(devices)[0] * stage.seq_length
    return (16 * parameter_count(model, vocab_size) + activation_bytes(model, tokens, vocab_size)
            + (teacher_bytes(teacher.size.config, vocab_size, tokens) if teacher else 0))


def assumed_mfu(hidden_size: int, devices: Devices) -> float:
    """The MFU that is assumed for a hidden size: the table's value for the nearest smaller hidden size.

    The table is for an H100. On a slower GPU, kernel launches take the same time and the arithmetic takes longer, so
    the MFU of a narrow model is higher: 4% on an H100 become 10% on an A100.
    """
    if devices.kind == "cpu":
        return ASSUMED_CPU_MFU
    table, best = ASSUMED_GPU_MFU, max(ASSUMED_GPU_MFU.values())
    mfu = table[max((width for width in table if width <= hidden_size), default=min(table))]
    return 1 / (1 / best + (1 / mfu - 1 / best) * devices.peak_flops / GPUS["H100"].half)


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


def models_at_once(mfu: float, memory: int, devices: Devices, config: MachineConfig) -> int:
    """How many models of one size a device trains at the same time: as many as its speed and its memory allow.

    A CPU trains one model at a time, because one model uses all its cores, unless `--parallel_models` says otherwise.
    """
    if config.parallel_models != "auto":
        return int(config.parallel_models)
    if devices.kind == "cpu":
        return 1
    by_speed = mfu / max(ASSUMED_GPU_MFU.values())
    by_memory = (memory + FIXED_BYTES) / devices.memory_bytes
    return min(MOST_AT_ONCE, max(1, int(1 / max(by_speed, by_memory))))
