"""One optimizer update: the gradients of all micro-batches, then clipping and the optimizer. The host never waits here.

A trainer uses one of three, which give the same result to rounding:

    Update            micro-batch after micro-batch, on any device
    ThreadedUpdate    on a CPU: a micro-batch in parts, each in a thread of its own      (`uer.training.threads`)
    GraphedUpdate     on a GPU: the kernels captured once and launched together          (`uer.training.cuda_graph`)

The loss of an update is the sum over all predictions of the global batch divided by their number, so it does not depend
on the number of micro-batches and ranks. Dropout is a function of (seed, step, micro-batch over all ranks).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from uer.checkpoint.saver import Saver
from uer.config import TrainConfig
from uer.runtime.parallel import World
from uer.runtime.precision import Precision
from uer.training.report import Reporter, Sums
from uer.training.skipped_updates import SkipWatch

WORD = (1 << 64) - 1

Metrics = Mapping[str, Mapping[str, Sequence[Tensor]]]
"""target -> name -> (numerator, denominator)"""


class Loader(Protocol):
    """The data that a trainer reads; `uer.data.loader.Loader` is one."""

    samples_per_epoch: int
    samples_per_step: int
    """Both over all ranks."""

    def step(self, step: int) -> list[Any]:
        """This rank's micro-batches of an update."""


class StepModule(nn.Module):
    """A model's forward pass whose result is tensors in plain containers, as DistributedDataParallel and `fully_shard`
    expect it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def reads_padding(self) -> bool:
        """Whether the result depends on padding, as `uer.encoders.Encoder.reads_padding`."""
        return self.model.encoder.reads_padding

    def forward(self, batch: Any, counts: Tensor | None = None) -> tuple[Tensor, Metrics]:
        """The loss (0-dim) and the metrics.

        Args:
            batch: a micro-batch.
            counts: (targets,) predictions of each target in the global batch, by which its loss is divided; those of
                the micro-batch when None.
        """
        output = self.model(batch, counts)
        return output.loss, output.metrics


@dataclass
class Parts:
    """The objects that a trainer uses.

    Attributes:
        model: the bare model, whose parameters are saved.
        module: the model as `World.wrap` returned it; maps (batch, counts) to (loss, metrics), as `StepModule` does.
        learning_rate: the schedule: number of the update, counted from 0 -> its learning rate.
        evaluate: returns the metrics of the held-out data; None where there is no such data.
        decode: token ids -> text, for the batches of skipped updates.
        update: makes the update of (parts, config, world).
    """

    model: nn.Module
    module: nn.Module
    loader: Loader
    optimizer: torch.optim.Optimizer
    learning_rate: Callable[[int], float]
    precision: Precision
    reporter: Reporter
    saver: Saver
    evaluate: Callable[[], dict[str, float]] | None = None
    decode: Callable[[list[int]], str] | None = None
    update: Callable[["Parts", TrainConfig, World], "Update"] | None = None


class Update:
    """One optimizer update, from its micro-batches and its number.

    Attributes:
        sums: losses and metrics since the last report.
        watch: the updates that were skipped because the loss or a gradient was not finite.
        real_tokens: positions that are no padding, of this rank since the last report; 0-dim on the device.
    """

    def __init__(self, parts: Parts, config: TrainConfig, world: World) -> None:
        self.parts, self.config, self.world = parts, config, world
        self.sums = Sums(world.device)
        self.watch = SkipWatch(world.device, config.max_skipped_updates)
        self.real_tokens = torch.zeros((), device=world.device)
        self.parameters = [p for group in parts.optimizer.param_groups for p in group["params"]]
        self._step = torch.zeros((), dtype=torch.int64, device=world.device)
        self._fused_skip = getattr(parts.optimizer, "_step_supports_amp_scaling", False)

    def __call__(self, batches: list[Any], step: int) -> None:
        """Compute the gradients of this rank's micro-batches, then apply the optimizer.

        Args:
            step: how many updates were done before.
        """
        self._step.fill_(step)
        # (targets,): predictions of the global batch, over all micro-batches and ranks.
        counts = self.world.sum_(sum(self.parts.model.counts(batch) for batch in batches))
        self.parts.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.world.device)  # on the device, so that the host does not wait
        for micro, batch in enumerate(batches):
            self.seed(step, micro)
            with self.world.synchronise(self.parts.module, now=micro == len(batches) - 1):
                loss = loss + self.gradients(batch, counts)
            self.real_tokens += batch.real_tokens()
        self.apply(self.world.sum_(loss))

    def seed(self, step: int, micro: int) -> None:
        """Seed dropout for a micro-batch of this rank."""
        seed_dropout(self.config.seed, step, micro * self.world.data_world_size + self.world.data_rank,
                     self.world.device)

    def gradients(self, batch: Any, counts: Tensor) -> Tensor:
        """Add the gradients of a micro-batch to the parameters'; returns its part of the global batch's loss, 0-dim.

        Args:
            counts: (targets,) predictions of the global batch.
        """
        loss, scaled = self.forward(batch, counts)
        # The loss is divided by the number of predictions of all ranks, but the backward pass averages gradients over
        # the ranks, which would divide once more by their number. So the loss is multiplied by it before:
        #
        #     2 ranks, 3 and 1 predictions: rank 0 computes 2 * (sum of 3 losses) / 4, rank 1 2 * (1 loss) / 4;
        #     the mean of the two is (sum of 4 losses) / 4
        (scaled * self.world.data_world_size if self.world.data_world_size > 1 else scaled).backward()
        return loss.detach()

    def forward(self, batch: Any, counts: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch, and the loss times fp16's scale, without which gradients would underflow; the
        optimizer divides them by the same scale. Adds the metrics to `sums`."""
        with self.parts.precision.autocast():
            loss, metrics = self.parts.module(batch, counts)
        self.sums.add_metrics(metrics)
        scale = self.parts.precision.scale
        return loss, loss if scale is None else loss * scale.value

    def apply(self, loss: Tensor) -> None:
        """Clip the gradients and update the parameters, unless the loss or a gradient is not finite.

        Args:
            loss: 0-dim, of the global batch.
        """
        self.world.complete_gradients()
        finite, divisor = self.judge(loss, self.world.gradient_norm(self.parameters))
        self._step_optimizer(finite, divisor)

    def judge(self, loss: Tensor, norm: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decide what the optimizer does, and note it in `sums`, `watch` and the loss scale.

        All values are 0-dim tensors on the device, so that the host need not wait. Gradients are not changed here: the
        optimizer divides them by `divisor`, the loss scale of fp16 times how far the norm exceeds --max_grad_norm:

            scale 1024, norm of the scaled gradients 3072, max_grad_norm 2
            norm = 3072 / 1024 = 3,  excess = 3 / 2 = 1.5,  divisor = 1024 * 1.5 = 1536:  the clipped norm is 2
            with a norm of 1 instead: excess = max(1, 1 / 2) = 1,  divisor = 1024:  the norm stays 1

        Args:
            norm: of the gradients, which fp16's scale multiplies.

        Returns:
            Whether loss and gradients are finite, and `divisor`; None where nothing is divided.
        """
        scale = self.parts.precision.scale
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        divisor = scale.value.clone() if scale is not None else None
        if divisor is not None:
            norm = norm / divisor
        if self.config.max_grad_norm:
            excess = (norm / self.config.max_grad_norm).clamp(min=1.0)
            divisor = excess if divisor is None else divisor * excess
        overflow = torch.zeros_like(finite)
        if scale is not None:
            # A finite loss with infinite gradients: the scale is too large, which is no fault of the batch. The update
            # is left out, but not counted as skipped, and the scale is halved.
            overflow = ~finite & (scale.value > 1.0) & torch.isfinite(loss)
            scale.update(finite)
        self.watch.record(self._step, ~finite & ~overflow)
        self.sums.add_update(loss, norm, finite)
        return finite, divisor

    def _step_optimizer(self, finite: Tensor, divisor: Tensor | None) -> None:
        """Divide the gradients by `divisor` and apply the optimizer if `finite`; both 0-dim on the device.

        Fused optimizers do both inside their kernel, through the attributes that torch's GradScaler uses.
        """
        optimizer: Any = self.parts.optimizer
        if self._fused_skip:
            optimizer.grad_scale, optimizer.found_inf = divisor, (~finite).float()
            optimizer.step()
        elif finite.item():  # waits for the device: optimizers without a fused kernel cannot decide there
            if divisor is not None:
                gradients = [p.grad for p in self.parameters if p.grad is not None]
                torch._foreach_div_(gradients, divisor)
            optimizer.step()


def seed_dropout(seed: int, step: int, index: int, device: torch.device) -> None:
    """Seed the device's generator for micro-batch `index` (over all ranks) of update `step`.

    `torch.manual_seed` would seed every device that this torch knows of, which takes the host longer.
    """
    generator = torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else torch.default_generator
    generator.manual_seed(mixed_seed(seed, step, index))


def mixed_seed(seed: int, *numbers: int) -> int:
    """A seed of 64 bits from several numbers: a hash (SplitMix64), so that neighbouring numbers have unrelated random
    numbers."""
    value = seed & WORD
    for number in numbers:
        value = (value + (number + 1) * 0x9E3779B97F4A7C15) & WORD
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & WORD
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & WORD
        value ^= value >> 31
    return value
