"""AdamW without bias correction, the arithmetic of Google's BERT, in one pass over memory.

    m = beta1 * m + (1 - beta1) * gradient
    v = beta2 * v + (1 - beta2) * gradient^2
    parameter = parameter - learning_rate * m / (sqrt(v) + eps)
    parameter = parameter - learning_rate * weight_decay * parameter

torch's fused kernel reads and writes each tensor once, on the CPU and on CUDA, but it computes another variant.
Two changes of its arguments make it compute this one. With learning rate r, weight decay w, parameter p and
u = m / (sqrt(v) + eps):
- its bias corrections are 1 - beta^step, which is exactly 1 for step = infinity;
- it applies the weight decay before the update, (1 - r w) p - r u; ours is (1 - r w)(p - r u). Both are equal when the
  kernel gets the learning rate r' = r (1 - r w), and the weight decay w' = w / (1 - r w), so that r' w' = r w.

Decoupled weight decay: Loshchilov and Hutter, 2019, https://arxiv.org/abs/1711.05101
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from uer.optim.base import Optimizer

LEAST_REMAINING = 1e-30  # in place of 1 - r w where it is 0, which has no inverse: the parameters become 0


class AdamW(Optimizer):
    """AdamW without bias correction.

    A step does not depend on the number of steps before it, so the state of a parameter is its two moments only.
    torch's `GradScaler` may set `grad_scale` and `found_inf` (0-dim tensors) before `step`: the kernel then divides the
    gradients by `grad_scale`, or changes nothing if `found_inf` is 1. This needs no host-device synchronisation.

    Args:
        params, capturable: see `uer.optim.base`.
        lr: learning rate.
        betas, eps, weight_decay: as in the module's formulas.
    """

    _step_supports_amp_scaling = True

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.0, capturable: bool = False) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}, capturable)
        self._infinities: dict[torch.device, Tensor] = {}

    def new_state(self, group: dict[str, Any], parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        """The two moments."""
        updated = self.masters.get(parameter, parameter)
        return {"exp_avg": torch.zeros_like(updated), "exp_avg_sq": torch.zeros_like(updated)}

    def _update_group(self, group: dict[str, Any]) -> None:
        for (device, _), rows in self._rows(group).items():
            learning_rate, decay = of_the_kernel(group["lr"], group["weight_decay"])
            fused_update(group, rows, learning_rate, decay, self._infinity(device), *self._scale_and_infinity(device))

    def _scale_and_infinity(self, device: torch.device) -> tuple[Tensor | None, Tensor | None]:
        """`grad_scale` and `found_inf` on the device of parameters: a GPU computed them, and parameters may be kept in
        the memory of the host, where the kernel would read an address of the GPU."""
        given = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        return tuple(None if tensor is None else tensor.to(device) for tensor in given)

    def _rows(self, group: dict[str, Any]) -> dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, ...]]]:
        """(parameter or its master, gradient, m, v) of each parameter of a group, by device and dtype."""
        rows: dict[tuple[torch.device, torch.dtype], list[tuple[Tensor, ...]]] = {}
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        for parameter, gradient in zip(parameters, self._wide_gradients(parameters)):
            updated, state = self.masters.get(parameter, parameter), self.state[parameter]
            if not state:
                state.update(self.new_state(group, parameter))
            row = (updated, gradient, state["exp_avg"], state["exp_avg_sq"])
            rows.setdefault((updated.device, updated.dtype), []).append(tuple(map(_local, row)))
        return rows

    def _wide_gradients(self, parameters: list[torch.nn.Parameter]) -> list[Tensor]:
        """The gradients, in the type of the master where there is one: all are widened by one call."""
        narrow = [parameter for parameter in parameters if parameter in self.masters]
        if not narrow:
            return [parameter.grad for parameter in parameters]
        wide = [torch.empty_like(self.masters[parameter]) for parameter in narrow]
        torch._foreach_copy_(wide, [parameter.grad for parameter in narrow])
        widened = dict(zip(narrow, wide))
        return [widened.get(parameter, parameter.grad) for parameter in parameters]

    def _infinity(self, device: torch.device) -> Tensor:
        if device not in self._infinities:
            self._infinities[device] = torch.tensor(float("inf"), device=device)
        return self._infinities[device]


def _local(tensor: Tensor) -> Tensor:
    """This rank's shard of a sharded tensor: the update is elementwise, so each rank updates its shard alone."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def of_the_kernel(learning_rate: float | Tensor, decay: float) -> tuple[float | Tensor, float]:
    """r' and w' of the module's formulas."""
    if not isinstance(learning_rate, Tensor):
        remaining = 1.0 - learning_rate * decay or LEAST_REMAINING
        return learning_rate * remaining, decay / remaining
    if decay:
        # The kernel takes no tensor as weight decay, so p decays by r w (1 - r w) instead of r w: the difference is
        # 1e-12 of p at the learning rate 1e-4.
        learning_rate = learning_rate * (1.0 - learning_rate * decay)
    return learning_rate, decay


def fused_update(group: dict[str, Any], rows: list[tuple[Tensor, ...]], learning_rate: float | Tensor, decay: float,
                 infinity: Tensor, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
    """Update the parameters of `AdamW._rows` by torch's kernel, with its learning rate and weight decay."""
    parameters, gradients, first, second = map(list, zip(*rows))
    beta1, beta2 = group["betas"]
    torch._fused_adamw_(parameters, gradients, first, second, [], [infinity] * len(rows), lr=learning_rate,
                        beta1=beta1, beta2=beta2, weight_decay=decay, eps=group["eps"], amsgrad=False, maximize=False,
                        grad_scale=grad_scale, found_inf=found_inf)
