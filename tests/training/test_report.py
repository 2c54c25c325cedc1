"""What a person sees."""

import json
import logging

import pytest
import torch

from scripts import plot_training
from uer.config import LogConfig, ParallelConfig
from uer.errors import UserError
from uer.runtime.launch import RankInfo
from uer.runtime.logs import set_up_logging
from uer.runtime.parallel import connect
from uer.training.report import Reporter, Sums, averages, report_line
from uer.training.run_summary import Plan

FIGURES = {"loss": 7.012, "acc": 0.0456, "grad_norm": 0.5, "tokens_per_second": 9512.331,
           "real_tokens_per_second": 8000.0, "learning_rate": 1e-4, "epoch": 0.5, "memory_gib": 1.25, "skipped": 0,
           "seconds_left": 3725.0}


def test_the_line_begins_as_the_original_one():
    line = report_line(100, 1000, FIGURES)
    assert line.startswith("|      100/    1000 steps|  9512.33 tokens/s| loss    7.01| acc: 0.046|")
    assert line.endswith("| 1:02:05 left")
    assert "MFU" not in line and "skipped" not in line
    assert "| MFU 41.5%| 3 updates skipped|" in report_line(1, 2, {**FIGURES, "mfu": 0.415, "skipped": 3})


def test_sums_divide_after_adding():
    sums = Sums(torch.device("cpu"))
    for right, loss, count in ((1.0, 5.0, 1.0), (0.0, 5.0, 3.0)):
        sums.add_metrics({"mlm": {"acc": (torch.tensor(right), torch.tensor(count)),
                                  "loss": (torch.tensor(loss), torch.tensor(count))}})
    sums.add_update(torch.tensor(2.0), torch.tensor(1.0), torch.tensor(True))
    sums.add_update(torch.tensor(float("nan")), torch.tensor(float("inf")), torch.tensor(False))
    sums.add_update(torch.tensor(4.0), torch.tensor(2.0), torch.tensor(True))
    collected = sums.collect(connect(RankInfo(), ParallelConfig(device="cpu")))
    assert averages(collected) == {"loss": 3.0, "acc": 0.25, "grad_norm": 1.5}
    sums.reset()
    assert float(sums.loss) == 0.0 and float(sums.metrics["mlm/acc"].sum()) == 0.0


def test_a_skipped_update_leaves_the_other_losses_alone():
    sums, bad = Sums(torch.device("cpu")), torch.tensor(float("nan"))
    for mlm in (torch.tensor(6.0), bad):
        one = torch.tensor(1.0)
        sums.add_metrics({"mlm": {"loss": (mlm, 2 * one)}, "sp": {"loss": (one, one)}})
        sums.add_update(mlm, mlm, mlm.isfinite())
    world = connect(RankInfo(), ParallelConfig(device="cpu"))
    assert averages(sums.collect(world)) == {"loss_mlm": 3.0, "loss_sp": 1.0, "loss": 6.0, "grad_norm": 6.0}


def test_an_interval_of_skipped_updates_alone_has_no_loss(tmp_path):
    """A loss of 0.00 would look like the best one; JSON has null, which the scripts leave out."""
    sums, bad = Sums(torch.device("cpu")), torch.tensor(float("nan"))
    sums.add_update(bad, bad, torch.tensor(False))
    world = connect(RankInfo(), ParallelConfig(device="cpu"))
    means = averages(sums.collect(world))
    reporter = Reporter(LogConfig(metrics_path=str(tmp_path / "m.jsonl")), world, 10)
    for step, extra in ((1, {}), (2, means)):
        reporter.report(step, {**FIGURES, **extra})
    reporter.close()
    assert "| loss     nan|" in report_line(2, 10, {**FIGURES, **means})
    assert json.loads((tmp_path / "m.jsonl").read_text().splitlines()[1])["loss"] is None
    first, second = plot_training.read_metrics(str(tmp_path / "m.jsonl"))
    assert first["loss"] == 7.012 and "loss" not in second


def test_the_plan_names_what_matters():
    plan = Plan(parameters=3205000, instances=6616, tokens=663005, seq_length=128, global_batch=32, total_steps=300,
                flops_per_token=5.2e6, activation_bytes=10**8, learning_rate=lambda step: 1e-3 * step, precision="fp32",
                kernels="compiled", devices="2 x GPU", start="drawn with seed 7")
    text = "\n".join(plan.lines())
    for part in ("3,205,000 parameters", "663,005 tokens", "1.45 epochs", "5.2 MFLOP a real token",
                 "5.00e+12 FLOP in all", "0.14 GiB",
                 "0.00e+00 at 1, 1.50e-02 at 16, 3.00e-02 at 31, 1.50e-01 at 151, 2.99e-01 at 300", "2 x GPU, fp32"):
        assert part in text, part


def test_mfu_counts_real_tokens(tmp_path):
    """8,000 real tokens a second of 5 MFLOP at a peak of 0.1 TFLOP/s: 40%, however many token slots there are."""
    config = LogConfig(metrics_path=str(tmp_path / "m.jsonl"))
    reporter = Reporter(config, connect(RankInfo(), ParallelConfig(device="cpu")), 10)
    reporter.flops_per_token, reporter.peak_flops = 5e6, 1e11
    reporter.report(5, FIGURES)
    reporter.close()
    record = json.loads((tmp_path / "m.jsonl").read_text())
    assert record["mfu"] == pytest.approx(0.4) and record["tokens_per_second"] == FIGURES["tokens_per_second"]


def test_tensorboard_and_log_file(tmp_path):
    pytest.importorskip("tensorboard")
    config = LogConfig(tensorboard_dir=str(tmp_path / "board"), log_path=str(tmp_path / "log.txt"))
    reporter = Reporter(config, connect(RankInfo(), ParallelConfig(device="cpu")), 10)
    reporter.report(5, FIGURES)
    reporter.close()
    assert "|        5/      10 steps|" in (tmp_path / "log.txt").read_text()
    assert list((tmp_path / "board").glob("events.*"))


def test_a_log_file_is_closed_where_another_takes_its_place(tmp_path):
    config = LogConfig(log_path=str(tmp_path / "log.txt"))
    set_up_logging(config, "uer.test")
    _, first = logging.getLogger("uer.test").handlers
    set_up_logging(config, "uer.test")
    assert first.stream is None and len(logging.getLogger("uer.test").handlers) == 2


def test_metrics_files_are_read_by_step(tmp_path):
    path = tmp_path / "run.jsonl"
    lines = [{"kind": "train", "step": 5, "loss": 3.0}, {"kind": "train", "step": 10, "loss": 2.0},
             {"kind": "train", "step": 5, "loss": 2.9}, {"kind": "eval", "step": 10, "loss": 2.5}]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"kind": "tra')
    read = plot_training.read_metrics(str(path))
    assert [(line["kind"], line["step"], line["loss"]) for line in read] == [
        ("train", 5, 2.9), ("eval", 10, 2.5)]  # step 10 was reported before the run was resumed
    path.write_text("nonsense\n" + json.dumps(lines[0]))
    with pytest.raises(UserError, match="line 1"):
        plot_training.read_metrics(str(path))
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    with pytest.raises(UserError, match="no reports"):
        plot_training.read_metrics(str(empty))


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    runs = {"a.jsonl": [{"kind": "train", "step": 5, **FIGURES}, {"kind": "eval", "step": 5, "loss": 2.0}],
            "b.jsonl": [{"kind": "train", "step": 9, **FIGURES}]}
    assert plot_training.labels(["a/tiny/s1.x.jsonl", "a/mini/s1.x.jsonl", "s2.jsonl"]) == ["tiny/s1", "mini/s1", "s2"]
    plot_training.draw(runs, str(tmp_path / "p.png"))
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
