"""The trainer on a toy model: it needs to know nothing of encoders, targets or tokens."""

import contextlib
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from uer.checkpoint.saver import Saver
from uer.checkpoint.state import StateFolder, read_state
from uer.config import LogConfig, OptimConfig, ParallelConfig, TrainConfig
from uer.data.batch import Side
from uer.errors import UserError
from uer.optim import OPTIMIZERS, parameter_groups, set_learning_rate
from uer.optim.schedules import SCHEDULES
from uer.runtime import precision as precision_module
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import World, connect
from uer.runtime.precision import GROWTH_INTERVAL, LossScale, Precision
from uer.training import trainer as trainer_module
from uer.training.cuda_graph import Buffers, Capture, CaptureError, Graphed, GraphedUpdate
from uer.training.report import Reporter
from uer.training.skipped_updates import SkipWatch
from uer.training.trainer import Trainer
from uer.training.update import Parts, StepModule, seed_dropout


@dataclass(frozen=True)
class ToyBatch:
    src: Side
    samples: Tensor
    values: Tensor
    wanted: Tensor

    def token_slots(self) -> int:
        return self.src.seg.numel()

    def real_tokens(self) -> Tensor:
        return self.src.seg.sum()


@dataclass
class ToyOutput:
    loss: Tensor
    metrics: dict[str, dict[str, tuple[Tensor, Tensor]]]


class ToyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 3)

    def counts(self, batch: ToyBatch) -> Tensor:
        return torch.tensor([float(len(batch.values))])

    def forward(self, batch: ToyBatch, counts: Tensor | None = None) -> ToyOutput:
        loss = (self.linear(batch.values) - batch.wanted).square().sum()
        count = self.counts(batch)[0]
        return ToyOutput(loss / (counts[0] if counts is not None else count),
                         {"toy": {"loss": (loss.detach(), count)}})


@dataclass
class ToyLoader:
    """Micro-batches of unlike sizes; `poisoned` updates hold an infinity."""

    poisoned: tuple[int, ...] = ()
    accumulation: int = 1
    samples_per_epoch: int = 100
    samples_per_step: int = 10

    def step(self, step: int) -> list[ToyBatch]:
        generator = torch.Generator().manual_seed(step)
        values, wanted = torch.randn(10, 7, generator=generator), torch.randn(10, 3, generator=generator)
        if step in self.poisoned:
            values[4, 2] = float("inf")
        samples = step * 10 + torch.arange(10)
        src, seg = samples[:, None].expand(10, 5), torch.tensor([1, 1, 1, 0, 0]).expand(10, 5)
        cuts = [0, 10] if self.accumulation == 1 else [0, 3, 10]
        return [ToyBatch(Side(src[a:b], seg[a:b]), samples[a:b], values[a:b], wanted[a:b])
                for a, b in itertools.pairwise(cuts)]


def build(folder: Path, loader: ToyLoader | None = None, precision: str = "fp32", optimizer: str = "adamw",
          **changes) -> Trainer:
    config = TrainConfig(**{"output_model_path": str(folder / "m"), "total_steps": 20, "save_checkpoint_steps": 100,
                            "report_steps": 5, **changes})
    torch.manual_seed(3)
    model = ToyModel()
    world = connect(RankInfo(), ParallelConfig(device="cpu"))
    chosen = Precision(precision, world.device)
    own = OPTIMIZERS[optimizer](parameter_groups(model), lr=0.01)
    reporter = Reporter(LogConfig(metrics_path=str(folder / "metrics.jsonl")), world, config.total_steps)
    optim = OptimConfig(learning_rate=0.01)
    schedule = SCHEDULES["linear"](optim, config.total_steps)
    saver = Saver(StateFolder(config.output_model_path, 2), model, own, chosen, world, "{}", reporter.say)
    parts = Parts(model, StepModule(model), loader or ToyLoader(), own, schedule,
                  chosen, reporter, saver, decode=lambda ids: " ".join(map(str, ids)))
    return Trainer(parts, config, world)


def run(trainer: Trainer) -> dict[str, Tensor]:
    assert trainer.train() == 0
    return {name: value.clone() for name, value in trainer.parts.model.state_dict().items()}


def update(trainer: Trainer, step: int) -> None:
    trainer.step = step
    trainer.run_update()


def weights_after(trainer: Trainer, steps: int) -> dict[str, Tensor]:
    for step in range(steps):
        update(trainer, step)
    return {name: value.clone() for name, value in trainer.parts.model.state_dict().items()}


def test_unlike_micro_batches_weigh_by_their_predictions(tmp_path):
    whole = run(build(tmp_path))
    parts = run(build(tmp_path, ToyLoader(accumulation=2), accumulation_steps=2, output_model_path=str(tmp_path / "n")))
    for name in whole:
        torch.testing.assert_close(whole[name], parts[name], rtol=1e-5, atol=1e-6)


def test_rates_equal_the_golden_schedule_under_accumulation(tmp_path, golden):
    table = json.loads((golden / "lr_schedules.json").read_text())
    wanted = table["lr_used_at_step_1_to_20"]["linear"]
    trainer = build(tmp_path, ToyLoader(accumulation=2), accumulation_steps=2, total_steps=20)
    optim = OptimConfig(learning_rate=table["base_lr"], warmup=table["warmup"])
    trainer.parts.learning_rate = SCHEDULES["linear"](optim, 20)
    seen: list[float] = []
    trainer.parts.optimizer.register_step_pre_hook(
        lambda optimizer, *_: seen.append(float(optimizer.param_groups[0]["lr"])))
    trainer.train()
    assert seen == pytest.approx(wanted, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_poisoned_update_changes_nothing_and_is_written_down(tmp_path, optimizer):
    trainer = build(tmp_path, ToyLoader(poisoned=(3,)), optimizer=optimizer)
    before = weights_after(trainer, 3)
    bias = trainer.parts.model.linear.bias
    state = {key: value.clone() for key, value in trainer.parts.optimizer.state[bias].items()}
    update(trainer, 3)
    assert all(torch.equal(value, before[name]) for name, value in trainer.parts.model.state_dict().items())
    after = trainer.parts.optimizer.state[bias]
    assert all(torch.equal(after[key], value) for key, value in state.items())
    trainer.step = 4
    trainer._between_updates()
    dump = json.loads((tmp_path / "m.skipped-4-rank0.json").read_text())
    assert [row["sample"] for row in dump["rows"]] == list(range(30, 40))
    assert dump["rows"][2] == {"sample": 32, "ids": [32] * 3, "text": "32 32 32"}
    update(trainer, 4)
    assert not torch.equal(trainer.parts.model.linear.weight, before["linear.weight"])
    assert torch.isfinite(trainer.update.sums.loss)


def test_too_many_skipped_updates_in_a_row_stop_the_run(tmp_path):
    trainer = build(tmp_path, ToyLoader(poisoned=(2, 4, 5, 6, 9)), max_skipped_updates=3)
    with pytest.raises(UserError, match=r"3 updates in a row .*--max_skipped_updates"):
        trainer.train()
    assert trainer.step == 7
    spread = build(tmp_path, ToyLoader(poisoned=(2, 4, 6, 8)), max_skipped_updates=2,
                   output_model_path=str(tmp_path / "n"))
    assert spread.train() == 0
    assert spread.update.watch.total == 4


def test_a_short_run_that_never_learned_is_no_success(tmp_path):
    trainer = build(tmp_path, ToyLoader(poisoned=(0, 1, 2)), total_steps=3, max_skipped_updates=10)
    with pytest.raises(UserError, match="3 updates in a row"):
        trainer.train()
    assert not list(tmp_path.glob("m-*"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_never_saved(tmp_path, value):
    trainer = build(tmp_path, total_steps=6, save_checkpoint_steps=2)
    count = iter(range(10))
    apply = trainer.update.apply

    def spoil(loss: Tensor) -> None:
        apply(loss)
        if next(count) == 3:
            with torch.no_grad():
                trainer.parts.model.linear.weight[1, 2] = value

    trainer.update.apply = spoil
    with pytest.raises(UserError, match="not finite after step 4"):
        trainer.train()
    trainer.parts.saver.finish()
    assert [path.name for path in sorted(tmp_path.glob("m*-*"))] == ["m-2", "m-2.settings.json", "m.state-2"]


def test_the_norm_of_nothing_is_zero():
    world = World(0, 1, torch.device("cpu"), ParallelConfig())
    assert world.norm([]) == 0 and world.norm([torch.zeros(0)]) == 0
    assert world.norm([torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]) == 5


def test_the_watch_that_looks_late_finds_the_same_updates():
    watch = SkipWatch(torch.device("cpu"), 10)
    watch._immediate = False
    for step in range(60):
        watch.record(torch.tensor(step), torch.tensor(step in (5, 6, 7, 33)))
    assert watch.look(60, now=True) == ([5, 6, 7, 33], 3)
    assert watch.look(61, now=True)[0] == []


def test_clipping_bounds_the_gradient(tmp_path):
    trainer = build(tmp_path, max_grad_norm=0.5)
    seen = []
    trainer.update._step_optimizer = lambda finite, divisor: seen.append(float(divisor))
    update(trainer, 0)
    norm = torch.cat([p.grad.flatten() for p in trainer.parts.model.parameters()]).norm()
    assert seen[0] == pytest.approx(float(norm) / 0.5, rel=1e-5)


def test_clipped_update_equals_the_update_of_a_clipped_gradient(tmp_path):
    ours, plain = build(tmp_path, max_grad_norm=0.01), build(tmp_path, output_model_path=str(tmp_path / "n"))
    loss, _ = plain.parts.module(ToyLoader().step(5)[0], torch.tensor([10.0]))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parts.model.parameters(), 0.01)
    set_learning_rate(plain.parts.optimizer, ours.parts.learning_rate(5))
    plain.parts.optimizer.step()
    update(ours, 5)
    for one, two in zip(ours.parts.model.parameters(), plain.parts.model.parameters()):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_follows_fp32(tmp_path, precision, monkeypatch):
    monkeypatch.setattr(precision_module, "FIRST_SCALE", 256.0)
    exact = run(build(tmp_path))
    rough = run(build(tmp_path, precision=precision, output_model_path=str(tmp_path / "n")))
    for name in exact:
        torch.testing.assert_close(exact[name], rough[name], rtol=0.05, atol=0.02)


def test_loss_scale_halves_on_overflow_and_doubles_after_a_while():
    scale = LossScale(torch.device("cpu"))
    scale.update(torch.tensor(False))
    assert scale.value == 32768 and scale.good == 0
    for _ in range(GROWTH_INTERVAL):
        scale.update(torch.tensor(True))
    assert scale.value == 65536 and scale.good == 0
    for _ in range(40):
        scale.update(torch.tensor(False))
    assert scale.value == 1
    other = LossScale(torch.device("cpu"))
    other.load(scale.state())
    assert other.value == 1


def test_dropout_seeds_differ_and_repeat():
    def draw(*key: int) -> float:
        seed_dropout(*key, torch.device("cpu"))
        return float(torch.rand(()))

    keys = [(7, 0, 0), (7, 0, 1), (7, 1, 0), (8, 0, 0), (7, 10**12, 3)]
    drawn = [draw(*key) for key in keys]
    assert len(set(drawn)) == len(keys)
    assert drawn == [draw(*key) for key in keys]


def test_reports_and_checkpoints_come_at_their_steps(tmp_path):
    trainer = build(tmp_path, total_steps=11, save_checkpoint_steps=4)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 11]
    assert {"loss", "grad_norm", "learning_rate", "epoch", "tokens_per_second", "real_tokens_per_second",
            "seconds_left", "memory_gib", "skipped"} <= set(lines[0])
    assert lines[0]["epoch"] == pytest.approx(0.5)
    assert sorted(path.name for path in tmp_path.glob("m-*")) == [
        f"m-{step}{ending}" for step in (11, 4, 8) for ending in ("", ".settings.json")]
    assert trainer_module.STOP_CHECK_EVERY["cpu"] == 1


def test_world_of_one_is_plain():
    world = World(0, 1, torch.device("cpu"), ParallelConfig())
    assert world.is_main and world.any(True) and not world.any(False)
    assert world.broadcast({"a": 1}) == {"a": 1}
    with pytest.raises(UserError, match="bad"):
        world.agree("bad")
    assert replace(world, rank=1).is_main is False


class RepeatedWork(Capture):
    """What CUDA graphs do, on the CPU: after the capture every call repeats the same work on the same buffers."""

    def __init__(self) -> None:
        self.captured: list = []

    def warm_up(self, work) -> None:
        work()

    def capture(self, work):
        self.captured.append(work)
        return work


@pytest.mark.parametrize(("precision", "accumulation"), [("fp32", 1), ("fp32", 2), ("fp16", 1)])
def test_captured_updates_equal_direct_ones(tmp_path, precision, accumulation, monkeypatch):
    monkeypatch.setattr(precision_module, "FIRST_SCALE", 256.0)
    monkeypatch.setattr(precision_module, "GROWTH_INTERVAL", 4)
    changes = {"precision": precision, "max_grad_norm": 1.0, "accumulation_steps": accumulation}
    loader = ToyLoader(poisoned=(7,), accumulation=accumulation)
    wanted = run(build(tmp_path, loader, **changes))
    graphed, how = build(tmp_path, loader, output_model_path=str(tmp_path / "n"), **changes), RepeatedWork()
    graphed.update = GraphedUpdate(graphed.parts, graphed.config, graphed.world, how=how)
    addresses = [parameter.grad.data_ptr() for parameter in graphed.parts.model.parameters()]
    found = run(graphed)
    assert len(how.captured) == 2 * accumulation + 1  # counts and gradients of each size of batch, and the optimizer
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-7)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for one, two in zip(lines[:4], lines[4:], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-6) and one["skipped"] == two["skipped"]
        assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-5)
    assert addresses == [parameter.grad.data_ptr() for parameter in graphed.parts.model.parameters()]


class Meeting:
    """Adds up the tensors of two threads, as `World.sum_` does those of two ranks."""

    def __init__(self) -> None:
        self.barrier, self.brought = threading.Barrier(2, timeout=60), [None, None]

    def sum_(self, rank: int, tensor: Tensor) -> Tensor:
        self.brought[rank] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(self.brought[0] + self.brought[1])
        self.barrier.wait()
        return tensor


def test_captured_updates_of_two_ranks_equal_those_of_one(tmp_path):
    """Ranks with unlike numbers of predictions, whose gradients are summed between the graphs."""
    wanted = run(build(tmp_path, ToyLoader(accumulation=2), accumulation_steps=2, max_grad_norm=0.5))
    meeting, updates = Meeting(), []
    for rank in range(2):
        trainer = build(tmp_path / str(rank), max_grad_norm=0.5)
        world = replace(trainer.world, rank=rank, world_size=2)
        object.__setattr__(world, "sum_", partial(meeting.sum_, rank))
        updates.append((trainer, GraphedUpdate(trainer.parts, trainer.config, world, how=RepeatedWork())))

    def train(rank: int) -> None:
        trainer, update = updates[rank]
        for step in range(20):
            set_learning_rate(trainer.parts.optimizer, trainer.parts.learning_rate(step))
            update(ToyLoader(accumulation=2).step(step)[rank:rank + 1], step)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(train, range(2)))
    for trainer, _ in updates:
        for name, value in trainer.parts.model.state_dict().items():
            torch.testing.assert_close(value, wanted[name], rtol=1e-5, atol=1e-7)


def test_what_a_captured_update_decides_compiles_as_one_graph(tmp_path):
    trainer = build(tmp_path, precision="fp16", max_grad_norm=1.0)
    trainer.update.watch._immediate = False
    direct = trainer.update.judge(torch.tensor(2.0), torch.tensor(3000.0))
    compiled = torch.compile(trainer.update.judge, backend="eager", fullgraph=True)
    assert trainer.update.sums.updates == 1
    again = compiled(torch.tensor(2.0), torch.tensor(3000.0))
    assert trainer.update.sums.updates == 2
    assert [float(value) for value in again] == [float(value) for value in direct]


def test_the_report_after_a_resume_counts_from_the_report_before(tmp_path):
    """`compare_runs.py` adds the intervals up: an interrupted run has used as many tokens and seconds as another."""
    build(tmp_path, save_checkpoint_steps=16).train()
    state = read_state(StateFolder(str(tmp_path / "m"), 2).state_path(16))
    assert float(state["sums"]["real_tokens"]) == 30.0 and float(state["sums"]["seconds"]) > 0.0
    state["sums"]["seconds"] += 100.0
    resumed = build(tmp_path, total_steps=25, save_checkpoint_steps=18, output_model_path=str(tmp_path / "n"))
    resumed.resume(state)
    resumed.train()
    *_, first, second = (json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert first["interval_real_tokens"] == second["interval_real_tokens"] == 150.0
    assert first["interval_seconds"] > 100.0 > second["interval_seconds"]
    assert first["real_tokens_per_second"] > 2.0  # the speed is that of the resumed process
    again = read_state(StateFolder(str(tmp_path / "n"), 2).state_path(18))["sums"]
    assert float(again["real_tokens"]) == 90.0 and float(again["seconds"]) > 100.0


def test_an_update_keeps_its_state_in_place(tmp_path):
    trainer = build(tmp_path, precision="fp16")
    update(trainer, 0)

    def places() -> list[int]:
        scale = trainer.parts.precision.scale
        moments = [value for state in trainer.parts.optimizer.state.values() for value in state.values()]
        update = trainer.update
        kept = [update.sums.loss, update.sums.norm, update.sums.updates, *update.sums.metrics.values(), scale.value,
                scale.good, update.watch._counts, update.real_tokens, update._step, *moments,
                *trainer.parts.model.parameters()]
        return [tensor.data_ptr() for tensor in kept]

    before = places()
    update(trainer, 1)
    trainer.step = 5
    trainer._report()
    assert places() == before


def test_a_failed_capture_names_its_cause():
    """torch ends a failed capture with an error of its own, which says nothing."""

    class Failing(RepeatedWork):
        def capture(self, work):
            with contextlib.ExitStack() as stack:
                stack.callback(self._end)
                raise RuntimeError("cannot read a value while capturing\nmore")

        def _end(self):
            raise RuntimeError("operation failed due to a previous error during capture")

    calls = []
    work = Graphed(calls.append, Failing(), Buffers())
    for number in range(3):
        work([number, torch.zeros(2)])
    with pytest.raises(CaptureError, match="RuntimeError: cannot read a value while capturing; then RuntimeError: "
                                           "operation failed"):
        for _ in range(4):
            work([3, torch.zeros(2)])
    assert [number for number, _ in calls] == [0, 1, 2, 3, 3, 3]
