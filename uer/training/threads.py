"""An update on a CPU whose micro-batches are computed in parts, each by a thread of its own; gives what
`uer.training.update.Update` gives, to rounding.

    worker 1   rows of 128, 126, 90 ... tokens   forward, backward  |  the parts' gradients, added: half of the elements
    worker 2   rows of 61, 60, 58 ... tokens     forward, backward  |                               the other half

The result is a function of the settings and of the number of parts: the rows of a part depend on the batch alone, its
dropout on (seed, step, micro-batch, part), and gradients are added in the order of the parts.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from uer.config import TrainConfig
from uer.runtime.parallel import World
from uer.runtime.threads import Workers
from uer.training.update import Metrics, Parts, Update, mixed_seed

Gradients = Sequence[Tensor | None]
"""Of each parameter, in their order; None where it was not used."""

Seeded = Callable[[int], AbstractContextManager[Any]]
"""A context in which this thread's dropout is a function of the seed (`uer.layers.cpu.random_bits.masks_from`)."""


class PartResult(NamedTuple):
    """What a worker returns of its part."""

    loss: Tensor
    metrics: Metrics
    gradients: Gradients


class ThreadedUpdate(Update):
    """`Update` with workers, on one rank without sharding, compilation or activation checkpointing.

    Args:
        workers: compute the parts.
        seeded: seeds the dropout of a part.
        trim: leave out positions that are padding in every row of a part; False where the encoder reads padding.
    """

    def __init__(self, parts: Parts, config: TrainConfig, world: World, *, workers: Workers, seeded: Seeded,
                 trim: bool) -> None:
        super().__init__(parts, config, world)
        self.workers, self.seeded, self.trim = workers, seeded, trim
        parts.optimizer.workers = workers  # which Muon uses
        self._micro_batch = (0, 0)

    def seed(self, step: int, micro: int) -> None:
        """Note the micro-batch, for the parts' seeds."""
        self._micro_batch = (step, micro)

    def gradients(self, batch: Any, counts: Tensor) -> Tensor:
        """See `Update.gradients`."""
        rows = cut_rows(batch.row_tokens(), self.workers.split.parts)
        results = self.workers.run([partial(self._part, number, batch.select(chosen), counts)
                                    for number, chosen in enumerate(rows)])
        for result in results:
            self.sums.add_metrics(result.metrics)
        add_gradients(self.workers, self.parameters, [result.gradients for result in results])
        return torch.stack([result.loss for result in results]).sum()

    def _part(self, number: int, batch: Any, counts: Tensor) -> PartResult:
        """Loss, metrics and gradients of a part, in a worker."""
        scale = self.parts.precision.scale
        with self.seeded(mixed_seed(self.config.seed, *self._micro_batch, number)):
            with self.parts.precision.autocast():
                loss, metrics = self.parts.module(batch.trimmed() if self.trim else batch, counts)
            scaled = loss if scale is None else loss * scale.value
            return PartResult(loss.detach(), metrics, torch.autograd.grad(scaled, self.parameters, allow_unused=True))


def draws_of_torch(model: nn.Module) -> bool:
    """Whether the model has dropout of torch's own, which draws from the generator that all threads share: as the
    threads' order is not fixed, parts would have other dropout each time."""
    return any((isinstance(module, nn.RNNBase) and module.dropout > 0) or
               (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0) for module in model.modules())


def cut_rows(tokens: Tensor, parts: int) -> list[Tensor]:
    """The rows of a batch in parts of about equally many tokens, rows of similar length together.

    A part's rows follow one another in the order of length, the longest first; a row belongs to the part in which the
    middle of its tokens lies. Parts without rows are left out.

        tokens 4 9 2 5 4, 2 parts   ->   rows [1, 3] with 9 + 5 tokens, and [0, 4, 2] with 4 + 4 + 2
        in order:  9 (0 to 9)  5 (9 to 14)  4 (14 to 18)  4 (18 to 22)  2 (22 to 24);  the second half begins at 12

    Args:
        tokens: (B,) int64, of each row.

    Returns:
        For each part its rows (rows,) int64.
    """
    ordered, rows = tokens.sort(descending=True, stable=True)
    middles = 2 * ordered.cumsum(0) - ordered  # (B,), twice the middle of each row's tokens
    part = (middles * parts // (2 * tokens.sum()).clamp(min=1)).clamp(max=parts - 1)  # (B,), never falling
    return [chosen for chosen in rows.split(part.bincount(minlength=parts).tolist()) if len(chosen)]


def add_gradients(workers: Workers, parameters: Sequence[nn.Parameter], parts: Sequence[Gradients]) -> None:
    """Add the parts' gradients, in the order of the parts, to the parameters' `grad`.

    Each worker makes the sums of a range of all elements: no element is changed by two of them.
    """
    sums: list[tuple[Tensor, list[Tensor]]] = []  # for each parameter its sum, and what is added to it; flat
    seen: set[int] = set()
    for parameter, gradients in zip(parameters, zip(*parts)):
        used = [gradient for gradient in gradients if gradient is not None]
        if used and parameter.grad is None:
            parameter.grad = _own(used.pop(0), seen)
        if used:
            sums.append((parameter.grad.view(-1), [gradient.reshape(-1) for gradient in used]))
    size = -(-sum(len(total) for total, _ in sums) // workers.split.parts)
    workers.run([partial(_add_range, sums, number * size, (number + 1) * size)
                 for number in range(workers.split.parts)])


def _own(gradient: Tensor, seen: set[int]) -> Tensor:
    """The gradient, or a copy where other elements or gradients (such as those of two summands) use its memory."""
    memory = gradient.untyped_storage().data_ptr()
    if memory in seen or not gradient.is_contiguous():
        return gradient.clone(memory_format=torch.contiguous_format)
    seen.add(memory)
    return gradient


def _add_range(sums: Sequence[tuple[Tensor, list[Tensor]]], start: int, stop: int) -> None:
    """Of the elements of all sums, one after another, make those from `start` to `stop` - 1."""
    for total, gradients in sums:
        here = slice(max(0, start), max(0, min(stop, len(total))))
        for gradient in gradients:
            total[here].add_(gradient[here])
        start, stop = start - len(total), stop - len(total)
