"""Precision of a run: fp32 (TF32 on CUDA), bf16 or fp16 with autocast, and the loss scale of fp16.

The loss scale is a tensor on the device, so that the host need not wait, and is changed in place, so that a CUDA graph
can repeat the change.
"""

import contextlib
from typing import Any

import torch
from torch import Tensor

FIRST_SCALE = 65536.0
GROWTH_INTERVAL = 2000
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """`--precision` on a device.

    Attributes:
        name: fp32, bf16 or fp16, `auto` resolved: bf16 on GPUs that have it, else fp32.
        scale: fp16's `LossScale`, None otherwise.
    """

    def __init__(self, wanted: str, device: torch.device) -> None:
        self.device = device
        self.name = wanted
        if wanted == "auto":
            self.name = automatic(device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0))
        self.scale = LossScale(device) if self.name == "fp16" else None
        if device.type == "cuda":
            torch.set_float32_matmul_precision("high")

    @property
    def dtype(self) -> torch.dtype | None:
        """The type to which autocast rounds; None for fp32."""
        return TYPES.get(self.name)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass."""
        if self.dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def describe(self) -> str:
        """Its name in the summary at the start of a run."""
        return "fp32 (TF32 matrix products)" if self.name == "fp32" and self.device.type == "cuda" else self.name


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
