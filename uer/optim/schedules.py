"""Learning-rate schedules: the learning rate as a pure function of the step.

    schedule = SCHEDULES["linear"](OptimConfig(learning_rate=1e-4, warmup=0.1), total_steps=20)
    schedule(0), schedule(1), schedule(2), schedule(11) -> 0.0, 5e-5, 1e-4, 5e-5

A step is an optimizer update, counted from 0. A schedule has no state, so a resumed run calls it with its own step.
The warmup takes `warmup * total_steps` steps, which need not be a whole number. `config.learning_rate` is the peak
learning rate; each schedule is the peak times a multiplier between 0 and 1.
"""

import math
from collections.abc import Callable

from uer.config import OptimConfig
from uer.errors import UserError

Schedule = Callable[[int], float]

POLYNOMIAL_LAST_LEARNING_RATE = 1e-7
TRI_STAGE_FIRST = 0.01
TRI_STAGE_LAST = 0.05


def _warming(step: int, warmup: float) -> float:
    return step / max(1.0, warmup)


def _progress(step: int, warmup: float, total_steps: int) -> float:
    """The part of the steps after the warmup that is done, 0 to 1."""
    return min(1.0, (step - warmup) / max(1.0, total_steps - warmup))


def _warmup_then(after: Callable[[float], float], config: OptimConfig, total_steps: int) -> Schedule:
    """A linear warmup from 0 to the peak, then the peak times `after(progress)`."""
    warmup = config.warmup * total_steps

    def learning_rate(step: int) -> float:
        multiplier = _warming(step, warmup) if step < warmup else after(_progress(step, warmup, total_steps))
        return config.learning_rate * multiplier

    return learning_rate


def linear(config: OptimConfig, total_steps: int) -> Schedule:
    """Warmup, then a straight line to 0 at `total_steps`."""
    return _warmup_then(lambda progress: 1.0 - progress, config, total_steps)


def cosine(config: OptimConfig, total_steps: int) -> Schedule:
    """Warmup, then half a period of the cosine, to 0."""
    return _warmup_then(lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)), config, total_steps)


def polynomial(config: OptimConfig, total_steps: int) -> Schedule:
    """Warmup, then a polynomial of degree 1 to the learning rate 1e-7.

    Raises:
        UserError: the peak is not above 1e-7.
    """
    last = POLYNOMIAL_LAST_LEARNING_RATE / config.learning_rate
    if last >= 1.0:
        raise UserError(f"--learning_rate {config.learning_rate}: --scheduler polynomial needs more than "
                        f"{POLYNOMIAL_LAST_LEARNING_RATE}, the learning rate that it ends with")
    return _warmup_then(lambda progress: (1.0 - last) * (1.0 - progress) + last, config, total_steps)


def constant(config: OptimConfig, total_steps: int) -> Schedule:
    """The peak at every step, without a warmup."""
    return lambda step: config.learning_rate


def constant_with_warmup(config: OptimConfig, total_steps: int) -> Schedule:
    """Warmup, then the peak."""
    return _warmup_then(lambda progress: 1.0, config, total_steps)


def inverse_sqrt(config: OptimConfig, total_steps: int) -> Schedule:
    """Warmup, then the peak times sqrt(warmup / step); with warmup 0, the peak times 1 / sqrt(step) from step 1 on."""
    warmup = config.warmup * total_steps
    peak_step = max(1.0, warmup)

    def learning_rate(step: int) -> float:
        multiplier = _warming(step, warmup) if step < warmup else math.sqrt(peak_step / max(peak_step, step))
        return config.learning_rate * multiplier

    return learning_rate


def tri_stage(config: OptimConfig, total_steps: int) -> Schedule:
    """Warmup from 1% of the peak, then the peak, then an exponential decay to 5% in the last `lr_decay` of the steps.

    Raises:
        UserError: warmup and decay together are longer than the run.
    """
    def warming(done: float) -> float:
        return TRI_STAGE_FIRST + (1.0 - TRI_STAGE_FIRST) * done

    return _warmup_peak_decay(warming, lambda done: TRI_STAGE_LAST ** done, config, total_steps, "tri_stage")


def trapezoidal(config: OptimConfig, total_steps: int) -> Schedule:
    """Warmup, then the peak, then a decay to 0 as 1 - sqrt(progress) in the last `lr_decay` of the steps.

    Also called warmup-stable-decay. The number of steps need not be fixed in advance: any checkpoint with the peak
    learning rate can be trained further, or decayed. The form of the decay is from Hägele et al., 2024,
    arXiv:2405.18392; the schedule is older (Zhai et al., 2022, arXiv:2106.04560; Hu et al., 2024, arXiv:2404.06395).
    UER-py does not have it.

    Raises:
        UserError: warmup and decay together are longer than the run.
    """
    return _warmup_peak_decay(lambda done: done, lambda done: 1.0 - math.sqrt(done), config, total_steps,
                              "trapezoidal")


def _warmup_peak_decay(warming: Callable[[float], float], decaying: Callable[[float], float], config: OptimConfig,
                       total_steps: int, name: str) -> Schedule:
    """The peak times `warming(done)` in the warmup and times `decaying(done)` after it; `done` goes from 0 to 1."""
    if config.warmup + config.lr_decay > 1.0:
        raise UserError(f"--warmup and --lr_decay together must not exceed 1 with --scheduler {name}")
    warmup, decay = config.warmup * total_steps, config.lr_decay * total_steps
    decay_starts = total_steps - decay

    def learning_rate(step: int) -> float:
        if step < warmup:
            return config.learning_rate * warming(_warming(step, warmup))
        done = min(1.0, max(0.0, step - decay_starts) / decay) if decay else 0.0
        return config.learning_rate * decaying(done)

    return learning_rate


# UER-py calls the schedule with restarts for one cycle, which is the cosine.
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
