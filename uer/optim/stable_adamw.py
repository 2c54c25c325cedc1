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
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        for (device, _), rows in self._rows(group).items():
            rates = group["lr"] / self._excess(group, rows, grad_scale)  # (N,)
            rates, decay = of_the_kernel(rates, group["weight_decay"])
            for row, rate in zip(rows, rates.unbind()):  # the kernel takes one learning rate
                fused_update(group, [row], rate, decay, self._infinity(device), grad_scale, found_inf)

    def _excess(self, group: dict[str, Any], rows: list[tuple[Tensor, ...]], grad_scale: Tensor | None) -> Tensor:
        """max(1, rms) of N parameters, (N,) in float32, on their device. The host does not wait for it."""
        _, gradients, _, second = map(list, zip(*rows))
        beta2, least = group["betas"][1], group["eps"] ** 2
        squares = torch._foreach_mul(gradients, gradients)
        if grad_scale is not None:
            torch._foreach_div_(squares, grad_scale.square())
        known = torch._foreach_mul(second, beta2)
        torch._foreach_add_(known, squares, alpha=1.0 - beta2)
        torch._foreach_clamp_min_(known, least)
        torch._foreach_div_(squares, known)
        sums = torch.stack(torch._foreach_norm(squares, 1)).float()  # (N,)
        return self._means(sums, [gradient.numel() for gradient in gradients]).sqrt().clamp(min=1.0)

    def _means(self, sums: Tensor, counts: list[int]) -> Tensor:
        """sums / counts (N,), over all ranks where each has a part of every parameter."""
        if self.sum_ is None:
            return torch.stack(torch._foreach_div(list(sums.unbind()), list(map(float, counts))))
        sums, counted = self.sum_(torch.stack([sums, sums.new_tensor(counts)])).unbind()
        return sums / counted
