"""AdamW that takes smaller steps where gradients are larger than those that its second moments know.

    AdamW's m and v, of one parameter tensor with the gradient g
    rms = sqrt(mean(g^2 / max(v, eps^2)))
    learning_rate = learning_rate / max(1, rms)       for this tensor and this update, its weight decay included

A tensor whose gradients grow suddenly, as word embeddings' do before a spike of the loss, is thus updated less until v
has followed, and gradients need not be clipped. StableAdamW: Wortsman et al., 2023, https://arxiv.org/abs/2304.13013,
algorithm 2, after Adafactor's clipping of updates; ModernBERT is trained with it (Warner et al., 2024,
https://arxiv.org/abs/2412.13663).

Like `AdamW` here it has no bias correction, and needs none: in the first updates v is too small, which makes
m / sqrt(v) and rms too large by the same factor. With gradients of 2 and beta2 = 0.999, v is 0.004 after the first
update, sqrt(v) = 0.063, rms = 31.6, m = 0.2, and the update is 0.2 / 0.063 / 31.6 = 0.1 learning rates.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from uer.optim.adamw import AdamW, fused_update, of_the_kernel

PIECE = 1 << 18


class StableAdamW(AdamW):
    """StableAdamW. The state is that of `AdamW`, so that either goes on from the other's.

    Args:
        params, lr, betas, eps, weight_decay, capturable: as `AdamW`.

    Attributes:
        sum_: where each rank has a part of every parameter, adds up a tensor over the ranks, in place, and returns it;
            None where parameters are whole.
    """

    sum_: Callable[[Tensor], Tensor] | None = None

    def _update_group(self, group: dict[str, Any]) -> None:
        for (device, _), rows in self._rows(group).items():
            grad_scale, found_inf = self._scale_and_infinity(device)
            learning_rates = group["lr"] / self._excess(group, rows, grad_scale)  # (N,)
            learning_rates, decay = of_the_kernel(learning_rates, group["weight_decay"])
            for row, learning_rate in zip(rows, learning_rates.unbind()):  # the kernel takes one learning rate
                fused_update(group, [row], learning_rate, decay, self._infinity(device), grad_scale, found_inf)

    def _excess(self, group: dict[str, Any], rows: list[tuple[Tensor, ...]], grad_scale: Tensor | None) -> Tensor:
        """max(1, rms) of N parameters, (N,) in float32, on their device. The host does not wait for it."""
        _, gradients, _, second = map(list, zip(*rows))
        summed = together if gradients[0].device.type == "cuda" else in_pieces
        sums = summed(gradients, second, group["betas"][1], group["eps"] ** 2, grad_scale).float()  # (N,)
        counts = [gradient.numel() for gradient in gradients]
        if self.sum_ is None:
            means = torch.stack(torch._foreach_div(list(sums.unbind()), list(map(float, counts))))
        else:
            sums, counted = self.sum_(torch.stack([sums, sums.new_tensor(counts)])).unbind()
            means = sums / counted
        return means.sqrt().clamp(min=1.0)


def together(gradients: list[Tensor], second: list[Tensor], beta2: float, least: float,
             grad_scale: Tensor | None) -> Tensor:
    """The sums of g^2 / max(v, least) of N parameters, (N,), in few kernels.

    Args:
        gradients: N gradients, of any shapes, times `grad_scale` where it is given.
        second: their second moments before this update.
        beta2, least: as in the module's formulas.
        grad_scale: 0-dim.
    """
    squares = torch._foreach_mul(gradients, gradients)
    if grad_scale is not None:
        torch._foreach_div_(squares, grad_scale.square())
    known = torch._foreach_lerp(second, squares, 1.0 - beta2)
    torch._foreach_clamp_min_(known, least)
    torch._foreach_div_(squares, known)
    return torch.stack(torch._foreach_norm(squares, 1))


def in_pieces(gradients: list[Tensor], second: list[Tensor], beta2: float, least: float,
              grad_scale: Tensor | None) -> Tensor:
    """The same as `together` in pieces that stay in a CPU's cache, which takes a quarter of the time there. Unlike the
    sums of `_foreach_norm` on a CPU, those of large parameters are exact to rounding."""
    squares, known = gradients[0].new_empty(2, PIECE)
    sums = []
    for gradient, moment in zip(gradients, second):
        found = []
        for one, other in zip(gradient.flatten().split(PIECE), moment.flatten().split(PIECE)):
            ratio, below = squares[:len(one)], known[:len(one)]
            torch.mul(one, one, out=ratio)
            if grad_scale is not None:
                ratio.div_(grad_scale.square())
            torch.lerp(other, ratio, 1.0 - beta2, out=below)
            found.append(ratio.div_(below.clamp_min_(least)).sum())
        sums.append(torch.stack(found).sum())
    return torch.stack(sums)
