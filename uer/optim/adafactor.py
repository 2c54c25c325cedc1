"""Adafactor with the schedule's learning rate: the second moments of a matrix are stored as one row and one column.

Shazeer and Stern, 2018, https://arxiv.org/abs/1804.04235, with UER-py's settings: no relative step sizes, no scaling by
the parameter's size, no first moment.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from uer.optim.base import Optimizer


class Adafactor(Optimizer):
    """Adafactor without relative steps.

    Args:
        params, capturable: see `uer.optim.base`.
        lr: learning rate.
        eps: added to the squared gradients.
        clip_threshold: an update with a larger root mean square is scaled down to it.
        decay_rate: the decay of the second moments is 1 - step^decay_rate.
        weight_decay: decoupled weight decay, applied before the update.
    """

    def __init__(self, params: Iterable[Any], lr: float, eps: float = 1e-30, clip_threshold: float = 1.0,
                 decay_rate: float = -0.8, weight_decay: float = 0.0, capturable: bool = False) -> None:
        super().__init__(params, {"lr": lr, "eps": eps, "clip_threshold": clip_threshold, "decay_rate": decay_rate,
                                  "weight_decay": weight_decay}, capturable)

    def new_state(self, group: dict[str, Any], parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        """The number of updates, and the moving averages of a matrix (..., R, C): of its rows (..., R) and of its
        columns (..., C); of a vector one for each element."""
        # A tensor, so that a CUDA graph increments it; float32 is exact up to 16 million steps.
        step, shape = torch.zeros((), device=parameter.device), parameter.shape
        if parameter.dim() < 2:
            return {"step": step, "exp_avg_sq": torch.zeros_like(parameter)}
        return {"step": step, "exp_avg_sq_row": parameter.new_zeros(shape[:-1]),
                "exp_avg_sq_col": parameter.new_zeros(shape[:-2] + shape[-1:])}

    def _update_group(self, group: dict[str, Any]) -> None:
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._update(group, parameter)

    def _update(self, group: dict[str, Any], parameter: Tensor) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        if not state:
            state.update(self.new_state(group, parameter))
        state["step"] += 1
        weight = state["step"] ** group["decay_rate"]
        update = _inverse_root(state, gradient.square().add_(group["eps"]), weight).mul_(gradient)
        excess = update.square().mean().sqrt() / group["clip_threshold"]
        if group["weight_decay"]:
            parameter.mul_(1.0 - group["lr"] * group["weight_decay"])
        parameter.sub_(update.mul_(group["lr"] / excess.clamp(min=1.0)))


def _inverse_root(state: dict[str, Tensor], squares: Tensor, weight: Tensor) -> Tensor:
    """Update the moving averages with the squared gradients, and return 1 / sqrt(second moments).

    The second moments of a matrix are approximated by row * column / mean(row): with row averages (1, 3) and column
    averages (2, 4), they are ((1, 2), (3, 6)).

    Args:
        state: the moving averages: of rows (..., R) and of columns (..., C), or of each element (size,).
        squares: squared gradients, (..., R, C) or (size,).
        weight: their weight in the moving average, 0-dim.

    Returns:
        A tensor with the shape of `squares`.
    """
    if "exp_avg_sq" in state:
        return state["exp_avg_sq"].lerp_(squares, weight).rsqrt()
    row = state["exp_avg_sq_row"].lerp_(squares.mean(dim=-1), weight)  # (..., R)
    column = state["exp_avg_sq_col"].lerp_(squares.mean(dim=-2), weight)  # (..., C)
    row = row / row.mean(dim=-1, keepdim=True)
    return row.rsqrt().unsqueeze(-1) * column.rsqrt().unsqueeze(-2)  # (..., R, 1) * (..., 1, C)
