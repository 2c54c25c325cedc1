"""What the model is fed with, and the rows it is made from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One micro-batch; B rows of S positions, padded on the right."""

    src: Tensor
    """(B, S) int64 token ids, masked where the objective masks."""
    seg: Tensor
    """(B, S) int64: 1 on tokens, 2 on a second sentence, 0 on padding."""
    targets: dict[str, Tensor]
    """What the targets ask for; `mlm_positions` (B, P) and `mlm_labels` (B, P) int64 for mlm."""
    samples: Tensor
    """(B,) int64: number of each row in the whole run, the key to everything about it."""
    real_tokens: Tensor
    """(B,) int64: tokens of each row that are no padding; 0 where the row only fills an evaluation's last batch."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The batch on another device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def rows(self, start: int, stop: int) -> "Batch":
        """Rows `start` to `stop` - 1, as views."""
        return self._each(lambda tensor: tensor[start:stop])

    def trimmed(self) -> "Batch":
        """The batch without the positions that are padding in every row (this looks at the lengths: not for CUDA)."""
        longest = int((self.seg > 0).sum(dim=1).max())
        return Batch(self.src[:, :longest].contiguous(), self.seg[:, :longest].contiguous(), self.targets,
                     self.samples, self.real_tokens)

    def without_labels(self, filling: Tensor) -> "Batch":
        """The batch with the rows where `filling` (B,) is true made to count for nothing."""
        targets = {name: torch.where(filling[:, None], -100, value) if name.endswith("_labels") else value
                   for name, value in self.targets.items()}
        return Batch(self.src, self.seg, targets, self.samples, torch.where(filling, 0, self.real_tokens))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        return Batch(change(self.src), change(self.seg), {name: change(value) for name, value in self.targets.items()},
                     change(self.samples), change(self.real_tokens))


@dataclass(frozen=True)
class InstanceRows:
    """Stored instances as a processor's `batch` receives them; R rows of S positions."""

    tokens: Tensor
    """(R, S) int64 token ids, the receiver's to change; behind a row's length stands anything."""
    lengths: Tensor
    """(R,) int64: tokens of each row."""
    columns: dict[str, Tensor]
    """(R, S) for each further column of the dataset that has a value for each token."""
    keys: Tensor
    """(R,) int64 below 2^32: what a row's random draws depend on, and nothing else."""
    samples: Tensor
    """(R,) int64: number of each row in the whole run."""
