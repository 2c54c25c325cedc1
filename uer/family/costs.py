"""What one size costs: parameters, FLOPs, memory and hours, by formula.

FLOPs of a stage = `uer.flops.flops_per_token` at its length, times its tokens; hours = FLOPs / (devices x peak x MFU).
"""

from dataclasses import dataclass
from fractions import Fraction

from uer.config import ModelConfig
from uer.errors import UserError
from uer.family.config import MachineConfig
from uer.family.devices import Devices
from uer.family.recipe import Recipe, Stage
from uer.family.sizes import Size
from uer.flops import PEAK_FLOPS, activation_bytes, flops_per_token, parameter_count

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
        flops: of each stage.
        memory_bytes: on each device, in the stage that needs most; an estimate.
        mfu: share of the peak that the hours reckon with.
        hours: from start to end, on all of a model's devices, with no other model on them.
        share: how much of a device the model fills: 1 leaves no room for another one.
    """

    size: Size
    parameters: int
    flops: tuple[float, ...]
    memory_bytes: int
    mfu: float
    hours: float
    share: Fraction

    @property
    def at_once(self) -> int:
        """How many of this size a device trains at once."""
        return int(1 / self.share)


def cost_of(size: Size, recipe: Recipe, vocab_size: int, devices: Devices, config: MachineConfig) -> Cost:
    """Reckon with `gpus_per_model` of the devices for this size."""
    per_model = devices_per_model(devices, config)
    flops = tuple(stage_flops(size.config, vocab_size, stage) for stage in recipe.stages)
    memory = max(stage_memory(size.config, vocab_size, stage, per_model) for stage in recipe.stages)
    mfu = config.mfu or assumed_mfu(size.config.hidden_size, devices)
    hours = sum(flops) / (per_model * devices.peak_flops * mfu) / 3600
    return Cost(size, parameter_count(size.config, vocab_size), flops, memory, mfu, hours,
                share_of(mfu, memory, devices, config))


def stage_flops(model: ModelConfig, vocab_size: int, stage: Stage) -> float:
    """Operations of a whole stage."""
    return flops_per_token(model, vocab_size, stage.seq_length) * stage.tokens


def stage_memory(model: ModelConfig, vocab_size: int, stage: Stage, devices: int) -> int:
    """Bytes on each device: weights, gradients and two moments in fp32, and a micro-batch's activations."""
    batch_size, _ = stage.split(devices)
    return (16 * parameter_count(model, vocab_size)
            + activation_bytes(model, batch_size * stage.seq_length, vocab_size))


def assumed_mfu(hidden_size: int, devices: Devices) -> float:
    """The share of the peak that is assumed for a width: that of the next smaller width known.

    On another GPU than the table's, the time that a narrow model loses to launches stays the same, while its
    arithmetic takes as much longer as the GPU is slower: 4% of an H100's peak become 10% of an A100's.
    """
    if devices.kind == "cpu":
        return ASSUMED_CPU_MFU
    table, best = ASSUMED_GPU_MFU, max(ASSUMED_GPU_MFU.values())
    mfu = table[max((width for width in table if width <= hidden_size), default=min(table))]
    return 1 / (1 / best + (1 / mfu - 1 / best) * devices.peak_flops / PEAK_FLOPS["H100"])


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
    if config.parallel_models != "auto":
        return Fraction(1, int(config.parallel_models))
    if devices.kind == "cpu":
        return Fraction(1)
    by_speed = mfu / max(ASSUMED_GPU_MFU.values())
    by_memory = (memory + FIXED_BYTES) / devices.memory_bytes
    return Fraction(1, min(MOST_AT_ONCE, max(1, int(1 / max(by_speed, by_memory)))))
