"""The training loop: updates, reports, evaluation, checkpoints. It does not know what is trained.

A step is one optimizer update (`uer.training.update`), however many micro-batches and ranks it has. All random numbers
of an update are functions of (seed, step, micro-batch), so a resumed run needs only the number of the step.
"""

import signal
from typing import Any

import torch

from uer.config import TrainConfig
from uer.optim import set_learning_rate
from uer.runtime.memory import memory_gib
from uer.runtime.parallel import World
from uer.runtime.processes import on_stop_signal
from uer.text import amount
from uer.training.report import Clock, averages
from uer.training.skipped_updates import dump_batches, lost_weights_message, stop_message
from uer.training.update import Parts, Update

STOP_CHECK_EVERY = {"cpu": 1, "cuda": 10}
"""With several ranks: updates between two checks whether a rank has received a signal; a check takes time on a GPU."""


class Trainer:
    """Runs updates from `self.step` to `config.total_steps`."""

    def __init__(self, parts: Parts, config: TrainConfig, world: World) -> None:
        self.parts = parts
        self.config = config
        self.world = world
        self.step = 0
        self.clock = Clock()
        self.before = {"real_tokens": 0.0, "seconds": 0.0}  # since the last report, before the run was resumed
        self.stop_signal = 0  # SIGTERM or SIGINT, once one has arrived
        self.update = (parts.update or Update)(parts, config, world)

    def resume(self, state: Any) -> None:
        """Go on from a training state; every rank calls, rank 0 with the state."""
        shared = self.parts.saver.restore(state)
        self.step = shared["step"]
        self.update.sums.load(shared["sums"], self.world)
        self.before = {name: float(shared["sums"].get(name, 0.0)) for name in self.before}

    def train(self) -> int:
        """Train to the end; returns the exit status: 0, or 128 + the number of the signal that stopped the run."""
        with on_stop_signal(self._note_signal):
            self.clock = Clock()
            self.parts.reporter.start(self.step)
            while self.step < self.config.total_steps:
                self.run_update()
                self.parts.reporter.advance()
                self._between_updates()
                if self._asked_to_stop():
                    return self._stop()
        self.parts.saver.finish()
        self.world.barrier()
        self.parts.reporter.say(f"finished: {amount(self.config.total_steps, 'step')}; training waited "
                                f"{self.parts.saver.stall:.2f} s for checkpoints")
        return 0

    def run_update(self) -> None:
        """One optimizer update: the host prepares the batches and the learning rate, then the device computes."""
        batches = self.parts.loader.step(self.step)
        set_learning_rate(self.parts.optimizer, self.parts.learning_rate(self.step))
        self.update(batches, self.step)
        self.step += 1
        self.clock.token_slots += sum(batch.token_slots() for batch in batches) * self.world.data_world_size
        self.clock.updates += 1

    def _between_updates(self) -> None:
        """Report, evaluate and save if it is time to; `self.step` updates are done."""
        config, step = self.config, self.step
        last = step == config.total_steps
        saving = step % config.save_checkpoint_steps == 0 or last
        reporting = step % config.report_steps == 0 or last
        self._check_health(now=saving or reporting)
        if reporting:
            self._report()
        if self.parts.evaluate and (step % config.eval_steps == 0 or last if config.eval_steps else saving):
            self._evaluate()
        if saving:
            self._save(with_weights=True)
        self.parts.saver.poll()

    def _check_health(self, now: bool) -> None:
        """Write down the batches of skipped updates; raise UserError after too many in a row.

        Args:
            now: wait for the device, so that all updates so far are seen.
        """
        skipped, in_a_row = self.update.watch.look(self.step, now)
        for step in skipped:
            path = dump_batches(self.config.output_model_path, step + 1, self.world.rank, self.parts.loader.step(step),
                                self.parts.decode)
            self.parts.reporter.say(f"step {step + 1}: the loss or gradient is not finite; the update is skipped, its "
                                    f"batch is in {path}")
        if in_a_row >= min(self.config.max_skipped_updates, self.config.total_steps):
            raise stop_message(in_a_row, self.config.output_model_path)

    def _report(self) -> None:
        collected = self.update.sums.collect(self.world)
        real = float(self.world.sum_(self.update.real_tokens.clone()))
        seconds, token_slots, updates = self.clock.lap()
        self.update.real_tokens.zero_()
        # Seconds left, if the remaining updates are as fast as those since the last report.
        left = (self.config.total_steps - self.step) * seconds / max(1, updates)
        samples = self.step * self.parts.loader.samples_per_step
        self.parts.reporter.report(self.step, {
            **averages(collected), "tokens_per_second": token_slots / seconds, "real_tokens_per_second": real / seconds,
            "learning_rate": self.parts.learning_rate(self.step - 1),
            "epoch": samples / self.parts.loader.samples_per_epoch, "memory_gib": memory_gib(self.world.device),
            "skipped": self.update.watch.total, "seconds_left": left,
            "interval_seconds": self.before["seconds"] + seconds,
            "interval_real_tokens": self.before["real_tokens"] + real})
        self.before = dict.fromkeys(self.before, 0.0)
        self.update.sums.reset()

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
        if not self.world.norm(self.parts.model.parameters()).isfinite():
            raise lost_weights_message(self.step)
        interval = {"real_tokens": self.before["real_tokens"] + self.world.sum_(self.update.real_tokens.double()),
                    "seconds": torch.tensor(self.before["seconds"] + self.clock.seconds(), dtype=torch.float64)}
        self.parts.saver.save(self.step, {**self.update.sums.collect(self.world), **interval}, with_weights)

    def _note_signal(self, number: int) -> None:
        self.stop_signal = number

    def _asked_to_stop(self) -> bool:
        """Whether any rank has received a signal; all ranks check after the same step."""
        # A signal may reach the ranks at different times, so `world.any` is a collective operation.
        if self.world.world_size > 1 and self.step % STOP_CHECK_EVERY[self.world.device.type]:
            return False
        return self.step < self.config.total_steps and self.world.any(self.stop_signal != 0)

    def _stop(self) -> int:
        number = self.stop_signal or signal.SIGTERM
        self._save(with_weights=False)
        self.parts.saver.finish()
        self.world.barrier()
        self.parts.reporter.say(f"stopped by {signal.Signals(number).name} after step {self.step}; the same command "
                                "goes on from there")
        return 128 + number
