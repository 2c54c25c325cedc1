"""What this package's optimizers share: the loop over parameter groups, and a learning rate that may be a tensor."""

from collections.abc import Callable, Iterable
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor


class Optimizer(torch.optim.Optimizer):
    """torch's optimizer; a subclass implements `new_state` and `_update_group`.

    In torch, four methods of this class are decorated with `torch._disable_dynamo`, which imports `torch._dynamo` at
    the first call. In a run that does not compile, this import is useless: it takes about 2 s of CPU time at the start
    and 70 MB of memory (measured with torch 2.13: a run of 2 steps takes 3.8 s and 267 MB without the import,
    5.7 s and 337 MB with it). `inspect.unwrap` gives the methods without the decorator. If a future torch has no such
    decorator, `unwrap` returns the method itself.

    Args:
        params: parameters or parameter groups (see `uer.optim.groups`).
        defaults: the settings of a group that does not give its own; `lr` is one of them.
        capturable: keep the learning rate in a tensor on the parameters' device, so that a CUDA graph sees its changes.

    Attributes:
        masters: the float32 values of parameters that are narrower (see `uer.optim.masters`): what is updated.
    """

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any], capturable: bool) -> None:
        super().__init__(params, defaults)
        self.masters: dict[torch.nn.Parameter, Tensor] = {}
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
        if self.masters:
            torch._foreach_copy_(list(self.masters), list(self.masters.values()))
        return loss

    def new_state(self, group: dict[str, Any], parameter: torch.nn.Parameter) -> dict[str, Tensor]:
        """The state of a parameter of a group before its first update."""
        raise NotImplementedError

    def _update_group(self, group: dict[str, Any]) -> None:
        """Update the parameters of one group that have a gradient."""
        raise NotImplementedError

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`."""
        unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """See `torch.optim.Optimizer`."""
        unwrap(torch.optim.Optimizer.zero_grad)(self, set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """See `torch.optim.Optimizer`."""
        return unwrap(torch.optim.Optimizer.state_dict)(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See `torch.optim.Optimizer`. A learning rate that is a tensor stays the same tensor."""
        before = [group["lr"] for group in self.param_groups]
        unwrap(torch.optim.Optimizer.load_state_dict)(self, state_dict)
        for group, learning_rate in zip(self.param_groups, before):
            loaded = float(group["lr"])
            group["lr"] = learning_rate.fill_(loaded) if isinstance(learning_rate, Tensor) else loaded
