"""Precision of a run: fp32 (TF32 on CUDA), bf16 or fp16 with autocast, and the loss scale of fp16.

The loss scale is a tensor on the device, so that the host need not wait, and is changed in place, so that a CUDA graph
can repeat the change.
"""

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from uer.runtime.memory import keep_bf16_kernels

FIRST_SCALE = 65536.0
GROWTH_INTERVAL = 2000
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CPU_SPEEDUP = 1.3
"""bf16 is chosen on a CPU where its matrix products are at least so much faster than fp32's."""


class Choice(NamedTuple):
    """What `--precision auto` is on a device."""

    name: str
    """fp32 or bf16"""
    reason: str = ""
    """For people, in the summary; empty where there is nothing to say."""


class Precision:
    """`--precision` on a device.

    Args:
        wanted: auto, fp32, bf16 or fp16.
        device: where the computation runs.
        choose_on_cpu: what `auto` is on a CPU: fp32 by default. A run whose kernels use bf16 gives `cpu_choice`, called
            on one rank only, so that all ranks have the same.

    Attributes:
        name: fp32, bf16 or fp16, `auto` resolved: bf16 on GPUs that have it, `choose_on_cpu` on a CPU, else fp32.
        scale: fp16's `LossScale`, None otherwise.
    """

    def __init__(self, wanted: str, device: torch.device,
                 choose_on_cpu: Callable[[], Choice] = lambda: Choice("fp32")) -> None:
        self.device = device
        choice = Choice(wanted)
        if wanted == "auto" and device.type == "cpu":
            choice = choose_on_cpu()
        elif wanted == "bf16" and device.type == "cpu":
            keep_bf16_kernels()
        elif wanted == "auto":
            choice = Choice(automatic(device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)))
        self.name, self.reason = choice
        self.scale = LossScale(device) if self.name == "fp16" else None
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    @property
    def dtype(self) -> torch.dtype | None:
        """The type to which autocast rounds; None for fp32."""
        return TYPES.get(self.name)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass.

        On a CPU without autocast's cache of rounded weights. It is one for all threads, each of which empties it, and
        the gradients of a weight that is used several times are added up in 16 bits before the cache: what is added up
        there would depend on which thread was faster.
        """
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype, cache_enabled=self.device.type != "cpu")

    def describe(self) -> str:
        """Its name in the summary at the start of a run."""
        if self.name == "fp32" and self.device.type == "cuda":
            return "fp32 (TF32 matrix products)"
        return f"{self.name} ({self.reason})" if self.reason else self.name


def automatic(has_bf16: bool) -> str:
    """What --precision auto is on a device."""
    return "bf16" if has_bf16 else "fp32"


def keep_dropout_exact(dropout: float) -> None:
    """Refuse cuDNN's attention kernels to this process where they would round the dropout probability.

    They know it in sixteenths: 0.1 acts as 0.0625 or 0.125. torch 2.11 chooses them without a look at it; torch 2.13
    does not (https://github.com/pytorch/pytorch/issues/174245). torch's other fused kernels take their place.

    Args:
        dropout: probability of dropping an attention weight.
    """
    if 16 * dropout % 1:
        torch.backends.cuda.enable_cudnn_sdp(False)


def cpu_choice() -> Choice:
    """bf16 on a CPU that has instructions for it, and whose products then prove to be faster."""
    if not cpu_has_bf16():
        return Choice("fp32")
    keep_bf16_kernels()
    ratio = bf16_speedup()
    return Choice("bf16" if ratio >= CPU_SPEEDUP else "fp32", f"bf16 products at {ratio:.1f} x the fp32 rate")


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself: AVX512_BF16 or AMX. Without it torch emulates them."""
    tests = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(test() for test in tests if test is not None)


def bf16_speedup(seconds: float = 0.05) -> float:
    """The rate of matrix products (1024, 512) @ (512, 512) in bfloat16, as a multiple of that in float32.

    The two are measured in turns for `seconds` altogether, and the fastest of each count, because other processes may
    disturb some.
    """
    types = (torch.float32, torch.bfloat16)
    pairs = [(torch.randn(1024, 512, dtype=dtype), torch.randn(512, 512, dtype=dtype)) for dtype in types]
    for pair in pairs:
        F.linear(*pair)  # the first call compiles a kernel
    times: tuple[list[float], list[float]] = ([], [])
    end = time.perf_counter() + seconds
    while len(times[0]) < 3 or time.perf_counter() < end:
        for pair, found in zip(pairs, times):
            start = time.perf_counter()
            F.linear(*pair)
            found.append(time.perf_counter() - start)
    return min(times[0]) / min(times[1])


class LossScale:
    """fp16's gradients underflow, so the loss is multiplied by a scale that halves when they overflow and doubles
    after 2,000 updates without. Micikevicius et al., 2018, https://arxiv.org/abs/1710.03740

    Attributes:
        value: the scale, 0-dim float32 on the device.
        good: updates since the last overflow or doubling.
    """

    def __init__(self, device: torch.device) -> None:
        self.value = torch.tensor(FIRST_SCALE, device=device)
        self.good = torch.zeros((), device=device)

    def update(self, finite: Tensor) -> None:
        """Adapt to whether the last gradients were finite (0-dim bool)."""
        good = torch.where(finite, self.good + 1, 0.0)
        grow = good >= GROWTH_INTERVAL
        self.value.copy_(torch.where(finite, torch.where(grow, self.value * 2, self.value),
                                     (self.value / 2).clamp(min=1.0)))
        self.good.copy_(torch.where(grow, 0.0, good))

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        return {"value": self.value, "good": self.good}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        self.value.copy_(state["value"])
        self.good.copy_(state["good"])
