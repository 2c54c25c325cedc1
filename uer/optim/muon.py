"""Muon for the matrices of the layers, AdamW for everything else.

The momentum of a matrix is replaced by the nearest matrix whose singular values are all about 1, so that every
direction of the input is learned at the same rate (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon):

    m = momentum * m + (1 - momentum) * gradient
    u = momentum * m + (1 - momentum) * gradient                        Nesterov's momentum
    parameter = (1 - learning_rate * weight_decay) * parameter - learning_rate * 0.2 * sqrt(max(R, C)) * orthogonal(u)

The factor gives an (R, C) matrix updates as large as AdamW's, so that both take the same learning rate and weight decay
(Liu et al., 2025, https://arxiv.org/abs/2502.16982). Embeddings, output layers, biases and norms are AdamW's: `muon` is
True in the groups of the others (`uer.optim.groups`).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from uer.errors import UserError
from uer.optim.adamw import AdamW

# The polynomial a x + b x^3 + c x^5 drives every singular value between 0 and 1 to about 1 (0.7 to 1.2) in five steps.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 5
RMS_OF_ADAMW = 0.2


class Muon(AdamW):
    """Muon for the groups with `muon`, AdamW for the others.

    Args:
        params, lr, betas, eps, weight_decay, capturable: as `AdamW`.
        momentum: of the matrices.

    Attributes:
        workers: with `run(jobs)` and `split.parts`, such as `uer.runtime.threads.Workers`: they share the matrices of a
            CPU, whose iterations take a small model as long as a third of its gradients. None: this thread alone.
    """

    matrices = True
    workers: Any = None

    def __init__(self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
                 weight_decay: float = 0.0, capturable: bool = False, momentum: float = 0.95) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, capturable)
        for group in self.param_groups:
            group.setdefault("muon", False)
            group.setdefault("momentum", momentum)

    def new_state(self, group: dict[str, Any], parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        """The momentum of a matrix, or AdamW's moments."""
        if not group["muon"]:
            return super().new_state(group, parameter)
        return {"momentum_buffer": torch.zeros_like(self.masters.get(parameter, parameter))}

    def _update_group(self, group: dict[str, Any]) -> None:
        if not group["muon"]:
            super()._update_group(group)
            return
        alike: dict[tuple[torch.device, torch.Size], list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            if hasattr(parameter, "to_local"):
                raise UserError("--optimizer muon needs whole matrices: leave --sharding fsdp out")
            if parameter.grad is not None:
                alike.setdefault((parameter.device, parameter.shape), []).append(parameter)
        parts = self.workers.split.parts if self.workers else 1
        jobs = [partial(self._update_shapes, group, [parameters[part::parts] for parameters in alike.values()])
                for part in range(parts)]
        if self.workers:
            self.workers.run(jobs)
        else:
            jobs[0]()

    @torch.no_grad()
    def _update_shapes(self, group: dict[str, Any], shapes: list[list[torch.nn.Parameter]]) -> None:
        """Update lists of matrices, each list of one shape. A worker's thread has gradients switched on of itself."""
        for parameters in shapes:
            if parameters:
                self._update_matrices(group, parameters)

    def _update_matrices(self, group: dict[str, Any], parameters: list[torch.nn.Parameter]) -> None:
        """Update matrices of one shape together."""
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        gradients = torch.stack([parameter.grad.float() for parameter in parameters])  # (n, R, C)
        if grad_scale is not None:
            gradients /= grad_scale
        weights = [self.masters.get(parameter, parameter) for parameter in parameters]
        momenta = [self._momentum(group, parameter) for parameter in parameters]
        momentum = torch.stack(momenta).lerp(gradients, 1.0 - group["momentum"])
        step = orthogonal(gradients.lerp(momentum, group["momentum"]))
        learning_rate = group["lr"] * RMS_OF_ADAMW * max(step.shape[-2:]) ** 0.5
        before = torch.stack(weights)
        after = before * (1.0 - group["lr"] * group["weight_decay"]) - learning_rate * step
        if found_inf is not None:  # decided on the device: nothing changes where a gradient is not finite
            after = torch.where(found_inf > 0, before, after)
            momentum = torch.where(found_inf > 0, torch.stack(momenta), momentum)
        torch._foreach_copy_(weights, list(after.unbind()))
        torch._foreach_copy_(momenta, list(momentum.unbind()))

    def _momentum(self, group: dict[str, Any], parameter: torch.nn.Parameter) -> Tensor:
        state = self.state[parameter]
        if not state:
            state.update(self.new_state(group, parameter))
        return state["momentum_buffer"]


def orthogonal(matrices: Tensor) -> Tensor:
    """The matrices (n, R, C) with all singular values about 1, by Newton and Schulz's iteration.

    With U S V^T the singular value decomposition of a matrix, the result is U S' V^T, S' between 0.7 and 1.2. In
    bfloat16 on a GPU, which is exact enough.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices  # the smaller side first: its products are smaller
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    x = x.bfloat16() if x.device.type == "cuda" else x
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()
