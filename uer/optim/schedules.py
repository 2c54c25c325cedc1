"""Learning-rate schedules: the multiplier of the peak rate as a pure function of the update's index.

    factor = SCHEDULES["linear"](OptimConfig(warmup=0.1), total_steps=20)
    factor(0), factor(1), factor(2), factor(11) -> 0.0, 0.5, 1.0, 0.5

The index counts optimizer updates from 0. Nothing is remembered between calls, so a resumed run asks for its own index.
The warmup's length, `warmup * total_steps`, need not be whole.
"""

import math
from collections.abc import Callable

from uer.config import OptimConfig
from uer.errors import UserError

Schedule = Callable[[int], float]

POLYNOMIAL_LAST_RATE = 1e-7
TRI_STAGE_FIRST = 0.01
TRI_STAGE_LAST = 0.05


def _warming(step: int, warmup: float) -> float:
    return step / max(1.0, warmup)


def _progress(step: int, warmup: float, total_steps: int) -> float:
    """How much of the way from the warmup's end to the last update is done, 0 to 1."""
    return min(1.0, (step - warmup) / max(1.0, total_steps - warmup))


def _warmup_then(after: Callable[[float], float], config: OptimConfig, total_steps: int) -> Schedule:
    """A linear rise from 0 to 1, then `after(progress)`."""
    warmup = config.warmup * total_steps

    def factor(step: int) -> float:
        return _warming(step, warmup) if step < warmup else after(_progress(step, warmup, total_steps))

    return factor


def linear(config: OptimConfig, total_steps: int) -> Schedule:
    """Rise, then a straight line to 0 at `total_steps`."""
    return _warmup_then(lambda progress: 1.0 - progress, config, total_steps)


def cosine(config: OptimConfig, total_steps: int) -> Schedule:
    """Rise, then half a cosine wave to 0."""
    return _warmup_then(lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)), config, total_steps)


def polynomial(config: OptimConfig, total_steps: int) -> Schedule:
    """Rise, then a polynomial of degree 1 to a last rate of 1e-7."""
    last = POLYNOMIAL_LAST_RATE / config.learning_rate
    if last >= 1.0:
        raise UserError(f"--learning_rate {config.learning_rate}: --scheduler polynomial needs more than "
                        f"{POLYNOMIAL_LAST_RATE}, the rate it ends with")
    return _warmup_then(lambda progress: (1.0 - last) * (1.0 - progress) + last, config, total_steps)


def constant(config: OptimConfig, total_steps: int) -> Schedule:
    """The peak rate throughout, without a rise."""
    return lambda step: 1.0


def constant_with_warmup(config: OptimConfig, total_steps: int) -> Schedule:
    """Rise, then the peak rate."""
    return _warmup_then(lambda progress: 1.0, config, total_steps)


def inverse_sqrt(config: OptimConfig, total_steps: int) -> Schedule:
    """Rise, then sqrt(warmup / step). Without a warmup it begins at 1 and falls as 1 / sqrt(step)."""
    warmup = config.warmup * total_steps
    peak = max(1.0, warmup)

    def factor(step: int) -> float:
        return _warming(step, warmup) if step < warmup else math.sqrt(peak / max(peak, step))

    return factor


def tri_stage(config: OptimConfig, total_steps: int) -> Schedule:
    """Rise from 1% to the peak, hold it, fall exponentially to 5% during the last `lr_decay` of the updates."""
    warmup, decay = _rise_and_fall(config, total_steps, "tri_stage")
    fall_begins = total_steps - decay

    def factor(step: int) -> float:
        if step < warmup:
            return TRI_STAGE_FIRST + (1.0 - TRI_STAGE_FIRST) * _warming(step, warmup)
        fallen = min(1.0, max(0.0, step - fall_begins) / decay) if decay else 0.0
        return TRI_STAGE_LAST ** fallen

    return factor


def trapezoidal(config: OptimConfig, total_steps: int) -> Schedule:
    """Rise, hold the peak, fall to 0 as 1 - sqrt(progress) during the last `lr_decay` of the updates.

    Also called warmup-stable-decay. Held rates leave it open how long a run will be: any checkpoint of the plateau can
    be trained on or brought down. The fall's form is that of Hägele et al., 2024, arXiv:2405.18392; the schedule is
    older (Zhai et al., 2022, arXiv:2106.04560; Hu et al., 2024, arXiv:2404.06395). Not one of UER-py's.
    """
    warmup, decay = _rise_and_fall(config, total_steps, "trapezoidal")
    fall_begins = total_steps - decay

    def factor(step: int) -> float:
        if step < warmup:
            return _warming(step, warmup)
        fallen = min(1.0, max(0.0, step - fall_begins) / decay) if decay else 0.0
        return 1.0 - math.sqrt(fallen)

    return factor


def _rise_and_fall(config: OptimConfig, total_steps: int, name: str) -> tuple[float, float]:
    """Updates of the warmup and of the decay."""
    if config.warmup + config.lr_decay > 1.0:
        raise UserError(f"--warmup and --lr_decay together must not exceed 1 with --scheduler {name}")
    return config.warmup * total_steps, config.lr_decay * total_steps


# One cycle is UER-py's setting of the restarts, which makes it the plain cosine.
SCHEDULES = {
    "linear": linear,
    "cosine": cosine,
    "cosine_with_restarts": cosine,
    "polynomial": polynomial,
    "constant": constant,
    "constant_with_warmup": constant_with_warmup,
    "inverse_sqrt": inverse_sqrt,
    "tri_stage": tri_stage,
    "trapezoidal": trapezoidal,
}
