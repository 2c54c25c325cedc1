"""The training loop. It knows updates, accumulation, clipping, reports and checkpoints, not what is trained.

An update is one step, however many micro-batches and ranks share it. Its loss is the sum over all its predictions
divided by their number, so neither changes the curve. Everything random in it is a function of (seed, step,
micro-batch), so a resumed run needs nothing but the step's number.
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
WORD = (1 << 64) - 1

Metrics = Mapping[str, Mapping[str, Sequence[Tensor]]]
"""target -> name -> (numerator, denominator)"""


class Loader(Protocol):
    """What the trainer asks of its data."""

    samples_per_epoch: int
    samples_per_step: int
    """Both over all ranks."""

    def step(self, step: int) -> list[Any]:
        """This rank's micro-batches of an update."""


class StepModule(nn.Module):
    """A model's forward pass as tensors in plain containers, which wrappers for several processes can look into."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any, counts: Tensor | None = None) -> tuple[Tensor, Metrics]:
        """The loss, divided by the global batch's `counts`, and the metrics."""
        output = self.model(batch, counts)
        return output.loss, output.metrics


@dataclass
class Parts:
    """What a trainer works with.

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
        """One optimizer update: what the host does, then what the device does."""
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
        """Gradients of all micro-batches, then the optimizer; seeds dropout when told the step."""
        counts = self.world.sum_(sum(self.parts.model.counts(batch) for batch in batches))
        self.parts.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=self.world.device)
        for micro, batch in enumerate(batches):
            if step is not None:
                self._seed(step, micro)
            loss = loss + self._forward_backward(batch, counts, last=micro == len(batches) - 1)
            self.real_tokens += batch.real_tokens()
        self._apply(self.world.sum_(loss))

    def _seed(self, step: int, micro: int) -> None:
        seed_dropout(self.config.seed, step, micro * self.world.world_size + self.world.rank)

    def _forward_backward(self, batch: Any, counts: Tensor, last: bool) -> Tensor:
        """Add a micro-batch's gradients; returns its share of the loss.

        Gradients are averaged over the ranks, while the loss is already divided by all ranks' predictions: hence the
        factor world_size.
        """
        with self.world.synchronise(self.parts.module, now=last):
            with self.parts.precision.autocast():
                loss, metrics = self.parts.module(batch, counts)
            scaled = loss * self.world.world_size if self.world.world_size > 1 else loss
            if self.parts.precision.scale is not None:
                scaled = scaled * self.parts.precision.scale.value
            scaled.backward()
        self.sums.add_metrics(metrics)
        return loss.detach()

    def _apply(self, loss: Tensor) -> None:
        """Clip and update, unless the loss or gradient is not finite: decided on the device."""
        scale = self.parts.precision.scale
        norm = self.world.gradient_norm(self._parameters)
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
            overflow = ~finite & (scale.value > 1.0) & torch.isfinite(loss)  # the scale's own doing
            scale.update(finite)
        self.watch.record(self._step, ~finite & ~overflow)
        self.sums.add_update(loss, norm, finite)

    def _step_optimizer(self, finite: Tensor, divisor: Tensor | None) -> None:
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
        """Everything that happens at some steps only; `self.step` updates are done."""
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
        """Begin to write a checkpoint, but never one that nothing can be done with.

        Raises:
            UserError: the weights are not finite.
        """
        if not self.world.norm(p.detach() for p in self.parts.model.parameters()).isfinite():
            raise lost_weights_message(self.step)
        self.parts.saver.save(self.step, self.sums.collect(self.world), with_weights)

    def _asked_to_stop(self, stop: "StopSignals") -> bool:
        """Whether any rank got a signal; all ranks agree on the step."""
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
    """While in force, SIGTERM and Ctrl-C set `number` instead of ending the process."""

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

    SplitMix64's finaliser over the three numbers, so that neighbours have nothing in common.
    """
    value = seed & WORD
    for number in (step, index):
        value = (value + (number + 1) * 0x9E3779B97F4A7C15) & WORD
        value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & WORD
        value = ((value ^ value >> 27) * 0x94D049BB133111EB) & WORD
        value ^= value >> 31
    torch.manual_seed(value)
