"""What this package's optimizers share: a rate that may live in a tensor, and the frame of a step."""

from collections.abc import Callable, Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor


class Optimizer(torch.optim.Optimizer):
    """torch's optimizer, for one whose update is `_update_group`.

    torch hides four of its methods from its compiler, and imports the compiler for that when the first of them is
    called: seconds before the first step, and memory. No compiler looks here, so they are called without that cover.

    Args:
        params: parameters or parameter groups (see `uer.optim.groups`).
        defaults: each group's settings where it has none of its own; `lr` among them.
        capturable: keep the rate in a tensor beside the parameters, so that a captured CUDA graph sees it change.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], capturable: bool) -> None:
        super().__init__(params, defaults)
        if capturable:
            for group in self.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update_group(group)
        return loss

    def _update_group(self, group: dict[str, Any]) -> None:
        """Update the parameters of one group that have a gradient."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's."""
        unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's."""
        unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As torch's."""
        return unwrap(torch.optim.Optimizer.state_dict)(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but a rate that lives in a tensor stays in that tensor."""
        before = [group["lr"] for group in self.param_groups]
        unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)
        for group, rate in zip(self.param_groups, before):
            loaded = float(group["lr"])
            group["lr"] = rate.fill_(loaded) if isinstance(rate, Tensor) else loaded
