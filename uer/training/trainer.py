"""The training loop: updates, gradient accumulation, clipping, reports, checkpoints. It does not know what is trained.

A step is one optimizer update, however many micro-batches and ranks it has. Its loss is the sum over all predictions of
the global batch divided by their number, so it does not depend on the number of micro-batches and ranks. All random
numbers of an update are functions of (seed, step, micro-batch), so a resumed run needs only the number of the step.
"""

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from uer.checkpoint.saver import Saver
from uer.config import TrainConfig
from uer.optim import set_learning_rate
from uer.runtime.memory import memory_gib
from uer.runtime.parallel import World
from uer.runtime.precision import Precision
from uer.training.cuda_graph import GraphedUpdate
from uer.training.report import Clock, Reporter, Sums, averages
from uer.training.skipped_updates import SkipWatch, dump_batches, lost_weights_message, stop_message

STOP_CHECK_EVERY = {"cpu": 1, "cuda": 10}
"""With several ranks: updates between two checks whether a rank has received a signal; a check takes time on a GPU."""
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
        graphed: capture the update as a CUDA graph, which needs one micro-batch and an optimizer that keeps its
            learning rate in a tensor (`capturable`).
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
    graphed: bool = False


class Trainer:
    """Runs updates from `self.step` to `config.total_steps`."""

    def __init__(self, parts: Parts, config: TrainConfig, world: World) -> None:
        self.parts = parts
        self.config = config
        self.world = world
        self.step = 0
        self.sums = Sums(world.device)
        self.clock = Clock()
        self.watch = SkipWatch(world.device, config.max_skipped_updates)
        self.real_tokens = torch.zeros((), device=world.device)
        self._step = torch.zeros((), dtype=torch.int64, device=world.device)
        self._graph = GraphedUpdate(self._compute, parts.reporter.say)
        self._parameters = [p for group in parts.optimizer.param_groups for p in group["params"]]
        self._fused_skip = getattr(parts.optimizer, "_step_supports_amp_scaling", False)

    def resume(self, state: Any) -> None:
        """Go on from a training state; every rank calls, rank 0 with the state."""
        shared = self.parts.saver.restore(state)
        self.step = shared["step"]
        self.sums.load(shared["sums"], self.world)

    def train(self) -> int:
        """Train to the end; returns the exit status: 0, or 128 + the number of the signal that stopped the run."""
        with StopSignals() as stop:
            self.clock = Clock()
            self.parts.reporter.start(self.step)
            while self.step < self.config.total_steps:
                self.update(self.step)
                self.step += 1
                self.parts.reporter.advance()
                self._between_updates()
                if self._asked_to_stop(stop):
                    return self._stop(stop)
        self.parts.saver.finish()
        self.world.barrier()
        self.parts.reporter.say(f"finished: {self.config.total_steps} steps; training waited "
                                f"{self.parts.saver.stall:.2f} s for checkpoints")
        return 0

    def update(self, step: int) -> None:
        """One optimizer update: the host prepares the batches and the learning rate, then the device computes."""
        batches = self.parts.loader.step(step)
        set_learning_rate(self.parts.optimizer, self.parts.learning_rate(step))
        self._step.fill_(step)
        if self.parts.graphed:
            self._seed(step, 0)
            self._graph(batches)
        else:
            self._compute(batches, step)
        self.clock.token_slots += sum(batch.token_slots() for batch in batches) * self.world.world_size
        self.clock.updates += 1

    def _compute(self, batches: list[Any], step: int | None = None) -> None:
        """Compute the gradients of all micro-batches, then apply the optimizer.

        Args:
            step: seed dropout for this step; None in a CUDA graph, where the host has seeded it before.
        """
        # (targets,): predictions of the global batch, over all micro-batches and ranks.
        counts = self.world.sum_(sum(self.parts.model.counts(batch) for batch in batches))
        self.parts.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.world.device)  # on the device, so that the host does not wait
        for micro, batch in enumerate(batches):
            if step is not None:
                self._seed(step, micro)
            loss = loss + self._forward_backward(batch, counts, last=micro == len(batches) - 1)
            self.real_tokens += batch.real_tokens()
        self._apply(self.world.sum_(loss))

    def _seed(self, step: int, micro: int) -> None:
        seed_dropout(self.config.seed, step, micro * self.world.world_size + self.world.rank)

    def _forward_backward(self, batch: Any, counts: Tensor, last: bool) -> Tensor:
        """Add the gradients of a micro-batch; returns its part of the global batch's loss, 0-dim.

        The loss is divided by the number of predictions of all ranks, but the backward pass averages gradients over the
        ranks, which would divide once more by world_size. So the loss is multiplied by world_size before:

            2 ranks, 3 and 1 predictions: rank 0 computes 2 * (sum of 3 losses) / 4, rank 1 2 * (1 loss) / 4;
            the mean of the two is (sum of 4 losses) / 4

        Args:
            counts: (targets,) predictions of the global batch.
            last: it is the last micro-batch of the update, after which gradients are averaged over the ranks.
        """
        with self.world.synchronise(self.parts.module, now=last):
            with self.parts.precision.autocast():
                loss, metrics = self.parts.module(batch, counts)
            scaled = loss * self.world.world_size if self.world.world_size > 1 else loss
            # fp16's gradients would underflow; the optimizer divides them by the same scale.
            if self.parts.precision.scale is not None:
                scaled = scaled * self.parts.precision.scale.value
            scaled.backward()
        self.sums.add_metrics(metrics)
        return loss.detach()

    def _apply(self, loss: Tensor) -> None:
        """Clip the gradients and update the parameters, unless the loss or a gradient is not finite.

        All values are 0-dim tensors on the device, so that the host need not wait. Gradients are not changed here: the
        optimizer divides them by `divisor`, the loss scale of fp16 times how far the norm exceeds --max_grad_norm:

            scale 1024, norm of the scaled gradients 3072, max_grad_norm 2
            norm = 3072 / 1024 = 3,  excess = 3 / 2 = 1.5,  divisor = 1024 * 1.5 = 1536:  the clipped norm is 2
            with a norm of 1 instead: excess = max(1, 1 / 2) = 1,  divisor = 1024:  the norm stays 1

        Args:
            loss: 0-dim, of the global batch.
        """
        scale = self.parts.precision.scale
        norm = self.world.gradient_norm(self._parameters)  # of the scaled gradients
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        divisor = scale.value if scale is not None else None
        if divisor is not None:
            norm = norm / divisor
        if self.config.max_grad_norm:
            excess = (norm / self.config.max_grad_norm).clamp(min=1.0)
            divisor = excess if divisor is None else divisor * excess
        self._step_optimizer(finite, divisor)
        overflow = torch.zeros_like(finite)
        if scale is not None:
            # A finite loss with infinite gradients: the scale is too large, which is no fault of the batch. The update
            # is left out, but not counted as skipped, and the scale is halved.
            overflow = ~finite & (scale.value > 1.0) & torch.isfinite(loss)
            scale.update(finite)
        self.watch.record(self._step, ~finite & ~overflow)
        self.sums.add_update(loss, norm, finite)

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
                gradients = [p.grad for p in self._parameters if p.grad is not None]
                torch._foreach_div_(gradients, divisor)
            optimizer.step()

    def _between_updates(self) -> None:
        """Report, evaluate and save if it is time to; `self.step` updates are done."""
        config, step = self.config, self.step
        last = step == config.total_steps
        saving = step % config.save_checkpoint_steps == 0 or last
        self._check_health(now=saving or step % config.report_steps == 0)
        if step % config.report_steps == 0:
            self._report()
        if self.parts.evaluate and (step % config.eval_steps == 0 if config.eval_steps else saving):
            self._evaluate()
        if saving:
            self._save(with_weights=True)
        self.parts.saver.poll()

    def _check_health(self, now: bool) -> None:
        """Write down the batches of skipped updates; raise UserError after too many in a row.

        Args:
            now: wait for the device, so that all updates so far are seen.
        """
        skipped, in_a_row = self.watch.look(self.step, now)
        for step in skipped:
            path = dump_batches(self.config.output_model_path, step, self.world.rank, self.parts.loader.step(step),
                                self.parts.decode)
            self.parts.reporter.say(f"step {step + 1}: the loss or gradient is not finite; the update is skipped, its "
                                    f"batch is in {path}")
        if in_a_row >= min(self.config.max_skipped_updates, self.config.total_steps):
            raise stop_message(in_a_row, self.config.output_model_path)

    def _report(self) -> None:
        collected = self.sums.collect(self.world)
        real = float(self.world.sum_(self.real_tokens.clone()))
        seconds, token_slots, updates = self.clock.lap()
        self.real_tokens.zero_()
        # Seconds left, if the remaining updates are as fast as those since the last report.
        left = (self.config.total_steps - self.step) * seconds / max(1, updates)
        samples = self.step * self.parts.loader.samples_per_step
        self.parts.reporter.report(self.step, {
            **averages(collected), "tokens_per_second": token_slots / seconds, "real_tokens_per_second": real / seconds,
            "learning_rate": self.parts.learning_rate(self.step - 1),
            "epoch": samples / self.parts.loader.samples_per_epoch, "memory_gib": memory_gib(self.world.device),
            "skipped": self.watch.total, "seconds_left": left})
        self.sums.reset()

    def _evaluate(self) -> None:
        metrics = self.parts.evaluate()
        shown = "| ".join(f"{name}: {value:.3f}" for name, value in metrics.items())
        self.parts.reporter.say(f"| {self.step:8d}/{self.config.total_steps:8d} steps| held-out {shown}")
        self.parts.reporter.record("eval", self.step, metrics)

    def _save(self, with_weights: bool) -> None:
        """Begin to write a checkpoint.

        Raises:
            UserError: the weights are not finite.
        """
        if not self.world.norm(p.detach() for p in self.parts.model.parameters()).isfinite():
            raise lost_weights_message(self.step)
        self.parts.saver.save(self.step, self.sums.collect(self.world), with_weights)

    def _asked_to_stop(self, stop: "StopSignals") -> bool:
        """Whether any rank has received a signal; all ranks check after the same step."""
        # A signal may reach the ranks at different times, so `world.any` is a collective operation.
        if self.world.world_size > 1 and self.step % STOP_CHECK_EVERY[self.world.device.type]:
            return False
        return self.step < self.config.total_steps and self.world.any(stop.number != 0)

    def _stop(self, stop: "StopSignals") -> int:
        number = stop.number or signal.SIGTERM
        self._save(with_weights=False)
        self.parts.saver.finish()
        self.world.barrier()
        self.parts.reporter.say(f"stopped by {signal.Signals(number).name} after step {self.step}; the same command "
                                "goes on from there")
        return 128 + number


class StopSignals:
    """A context in which SIGTERM and Ctrl-C set `number` to that of the signal, instead of ending the process."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.number = number


def seed_dropout(seed: int, step: int, index: int) -> None:
    """Seed torch's generators for micro-batch `index` (over all ranks) of update `step`.

    The seed is a hash of the three numbers (SplitMix64), so that neighbouring steps have unrelated random numbers.
    """
    value = seed & WORD
    for number in (step, index):
        value = (value + (number + 1) * 0x9E3779B97F4A7C15) & WORD
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & WORD
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & WORD
        value ^= value >> 31
    torch.manual_seed(value)
