"""Shows a training's progress: a progress bar on a terminal, lines with the loss, time for each epoch and time left.

The same values go to --metrics_path, TensorBoard and Weights & Biases, one record a report and one an epoch.
"""

import logging
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from uer.runtime.metrics_writer import MetricsWriter
from uer.runtime.parallel import World
from uer.terminal import progress_bar
from uer.text import amount, duration, seconds_text

logger = logging.getLogger("uer.finetuning")

# The first updates are slower than the others; after so many more, or so many seconds, the expected time is printed.
LEFT_OUT, MEASURED, MEASURED_SECONDS = 3, 20, 10.0
# An evaluated example costs about a third of a trained one: there is no backward pass.
EVALUATION_COST = 1 / 3
SECONDS_BETWEEN_LINES = 60.0  # of a prediction


class Progress:
    """Shows the progress bar and the lines of one training, and writes its records.

    Args:
        world: only its main rank prints and writes.
        writer: writes the records; None: nothing is shown at all, as in a grid's trials.
        shared: entries that every record has, such as the seed.
        tag: prefix of the names of TensorBoard's scalars, if a command trains several models.
        trials_left: the number of trainings of the same size after this one.
    """

    def __init__(self, world: World, writer: MetricsWriter | None = None, shared: Mapping[str, Any] | None = None,
                 tag: str = "", trials_left: int = 0) -> None:
        self.world, self.writer, self.shared, self.tag = world, writer, dict(shared or {}), tag
        self.trials_left = trials_left
        self.speaks = writer is not None and world.is_main
        self.step = self.total_steps = self.epochs_num = self.epochs_done = 0
        self.evaluation_updates = 0.0
        self._bar: Any = None
        self._clock = _Clock()
        self._told = False

    def begin(self, step: int, total_steps: int, epochs_done: int, epochs_num: int, evaluation_updates: float) -> None:
        """Before the first update.

        Args:
            step, epochs_done: updates and epochs that a resumed run has done before.
            total_steps, epochs_num: updates and epochs of the whole training.
            evaluation_updates: number of batches of the training's size in an evaluation.
        """
        self.step, self.total_steps, self.epochs_done, self.epochs_num = step, total_steps, epochs_done, epochs_num
        self.evaluation_updates = evaluation_updates
        if self.speaks and sys.stderr.isatty():
            self._bar = progress_bar(total=total_steps, initial=step, unit=" updates")

    @contextmanager
    def training(self, epoch: int) -> Iterator[None]:
        """Around an epoch's updates."""
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch} of {self.epochs_num}")
        self._clock.start()
        yield
        self._clock.stop()

    def advance(self, tokens: int) -> None:
        """One update is done; its batch had `tokens` real tokens, without padding."""
        self.step += 1
        self._clock.count(tokens)
        if self._bar is not None:
            self._bar.update()
        if self.speaks and not self._told and self._clock.is_measured():
            self._told = True
            if self.world.device.type == "cuda":
                torch.cuda.synchronize()
            left = self.seconds_left(self.step)
            logger.info("Expected time: %s (%.0f ms per update)", duration(left), 1000 * self._clock.update_seconds())

    def report(self, epoch: int, step: int, loss: float, learning_rate: float, printed: bool = True) -> None:
        """The mean loss of the updates since the last report."""
        tokens_per_second = self._clock.lap()
        if not self.speaks:
            return
        left = self.seconds_left(step)
        if printed:
            logger.info("Epoch %d, step %d of %d, loss %.4f, %.0f tokens/s, %s left", epoch, step, self.total_steps,
                        loss, tokens_per_second, duration(left))
        self._record("train", step, {"epoch": epoch, "loss": loss, "learning_rate": learning_rate,
                                     "tokens_per_second": round(tokens_per_second, 1), "seconds_left": round(left, 1)})

    @contextmanager
    def evaluating(self, epoch: int, loss: float, examples_num: int) -> Iterator[None]:
        """Around the evaluation of an epoch."""
        if self.speaks:
            logger.info("Epoch %d of %d: trained in %s, mean loss %.4f; evaluating %s of dev", epoch,
                        self.epochs_num, seconds_text(self._clock.epoch_seconds), loss, amount(examples_num, "example"))
        if self._bar is not None:
            self._bar.set_description(f"epoch {epoch} of {self.epochs_num}, evaluating dev")
        began = time.perf_counter()
        yield
        self._clock.evaluations.append(time.perf_counter() - began)
        self.epochs_done += 1

    def epoch_done(self, entry: Mapping[str, float]) -> None:
        """The results of an epoch: `epoch`, `train_loss` and the task's metrics."""
        if not self.speaks:
            return
        metrics = {name: value for name, value in entry.items() if name not in ("epoch", "train_loss")}
        seconds = self._clock.evaluations[-1]
        logger.info("Epoch %d of %d: dev %s; evaluated in %s, %s left", entry["epoch"], self.epochs_num,
                    describe(metrics), seconds_text(seconds), duration(self.seconds_left(self.step)))
        acc = {"acc": entry["accuracy"]} if "accuracy" in entry else {}
        self._record("eval", self.step, {"set": "dev", **entry, **acc,
                                         "train_seconds": round(self._clock.epoch_seconds, 3),
                                         "eval_seconds": round(seconds, 3)})

    def tested(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """The metrics of the best epoch on the test file."""
        if self.speaks:
            self._record("test", self.step, {"set": "test", "epoch": epoch, **metrics})

    def seconds_left(self, step: int) -> float:
        """Estimated seconds until the command ends: updates and evaluations of this training and of those after it."""
        update = self._clock.update_seconds()
        evaluation = self._clock.evaluation_seconds(update * self.evaluation_updates * EVALUATION_COST)
        left = (self.total_steps - step) * update + (self.epochs_num - self.epochs_done) * evaluation
        return left + self.trials_left * (self.total_steps * update + self.epochs_num * evaluation)

    def _record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self.writer.write(kind, step, values, {"total_steps": self.total_steps, **self.shared}, self.tag)

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class InferenceProgress:
    """Shows how much of a file is predicted: a progress bar on a terminal, elsewhere a line a minute; on standard
    error.

    Args:
        total: predictions of the file.
        noun: what they are called.
        title: what the progress is of, where there are several.
    """

    def __init__(self, total: int, noun: str, title: str = "") -> None:
        self.total, self.noun, self.title, self.done = total, noun, title, 0.0
        self._bar = progress_bar(total=total, desc=title or None, unit=f" {noun}s") if sys.stderr.isatty() else None
        self._began = self._told = time.monotonic()

    def advance(self, predictions: float) -> None:
        """So many more are done; windows of a long text are parts of one."""
        self.done += predictions
        if self._bar is not None:
            self._bar.update(round(self.done) - self._bar.n)
            return
        now = time.monotonic()
        if now - self._told < SECONDS_BETWEEN_LINES:
            return
        self._told = now
        left = (now - self._began) * (self.total / self.done - 1)
        print(f"{self.title}{': ' * bool(self.title)}{self.done:,.0f} of {amount(self.total, self.noun)}, "
              f"{duration(max(0.0, left))} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the progress bar."""
        if self._bar is not None:
            self._bar.close()


class _Clock:
    """Measures the seconds of updates and of evaluations."""

    def __init__(self) -> None:
        self.evaluations: list[float] = []
        self.epoch_seconds = 0.0
        self._began = self._lap_began = 0.0
        self._updates, self._seconds, self._tokens = 0, 0.0, 0
        self._first = 0.0  # of the updates that are left out

    def start(self) -> None:
        self._began = self._lap_began = time.perf_counter()
        self._tokens = 0

    def stop(self) -> None:
        self.epoch_seconds = time.perf_counter() - self._began
        self._seconds += self.epoch_seconds
        self._began = 0.0

    def count(self, tokens: int) -> None:
        self._updates += 1
        self._tokens += tokens
        if self._updates == LEFT_OUT:
            self._first = self._spent()

    def lap(self) -> float:
        """Tokens a second since the last lap, or since the epoch's begin."""
        now = time.perf_counter()
        tokens_per_second = self._tokens / max(now - self._lap_began, 1e-9)
        self._lap_began, self._tokens = now, 0
        return tokens_per_second

    def is_measured(self) -> bool:
        measured = self._updates - LEFT_OUT
        return measured >= MEASURED or (measured > 0 and self._spent() - self._first >= MEASURED_SECONDS)

    def update_seconds(self) -> float:
        """Mean seconds of an update, the first ones left out where there are others."""
        if self._updates > LEFT_OUT:
            return (self._spent() - self._first) / (self._updates - LEFT_OUT)
        return self._spent() / max(1, self._updates)

    def evaluation_seconds(self, guess: float) -> float:
        return sum(self.evaluations) / len(self.evaluations) if self.evaluations else guess

    def _spent(self) -> float:
        return self._seconds + (time.perf_counter() - self._began if self._began else 0.0)


def describe(metrics: Mapping[str, float]) -> str:
    """`accuracy 0.9137 (1097/1200), macro_f1 0.9136`"""
    words = []
    for name, value in metrics.items():
        if name in ("correct", "total", "predicted_labels"):
            continue
        counts = f" ({metrics['correct']}/{metrics['total']})" if name == "accuracy" and "correct" in metrics else ""
        words.append(f"{name} {value:.4f}{counts}")
    return ", ".join(words)
