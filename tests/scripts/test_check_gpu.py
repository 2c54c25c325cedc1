"""scripts/check_gpu.py on a CPU: its sections, what is left when one kills its process, and its table."""

import ast
import importlib
import json
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from uer.errors import UserError


@pytest.fixture(autouse=True)
def _scripts_path(monkeypatch, root):
    monkeypatch.syspath_prepend(str(root / "scripts"))


@pytest.fixture
def command():
    return importlib.import_module("check_gpu")


@pytest.fixture
def facts(tmp_path):
    return importlib.import_module("_gpu_facts").Facts(tmp_path)


def test_sections_run_on_a_cpu(command, facts, capsys, monkeypatch):
    """All that start no command of their own, but for the profiler, which takes seconds to start."""
    monkeypatch.setattr(importlib.import_module("_random_run"), "VOCAB_SIZE", 300)  # faster, like short rows
    for module in ("_checks", "_gpu_job", "_gpu_sections"):
        monkeypatch.setattr(importlib.import_module(module), "SEQ_LENGTH", 32)
    names = ["environment", "attention", "curves", "speed", "syncs", "variants", "tests"]
    config = command.CheckConfig(out=str(facts.out), device="cpu", quick=True, seconds=300.0)
    assert command.run_sections(names, facts, config) == 0
    printed, records = capsys.readouterr().out, facts.read()
    assert "FAIL" not in printed and [record["section"] for record in records if record["kind"] == "BEGIN"] == names
    found = {record["name"] for record in records if record["kind"] == "PASS"}
    assert {"bf16", "packed", "two micro-batches"} <= found
    step, = json.loads((facts.out / "step_times.json").read_text())
    assert step.keys() == {"size", "batch_size", "seq_length", "precision", "step_ms", "device"}
    assert (step["size"], step["batch_size"], step["device"]) == ("tiny", 4, "cpu") and step["step_ms"] > 0
    table = command.table([record for record in records if record["kind"] != "BEGIN"])
    assert any(line.startswith("tiny ") and "tokens/s" in line for line in table)


@pytest.mark.parametrize("quick, kind", [(True, "PASS"), (False, "FAIL")])
def test_three_updates_need_not_lower_the_loss(facts, monkeypatch, tmp_path, quick, kind):
    """--quick compares the losses of two ways to run, and no more: each update has other rows."""
    sections = importlib.import_module("_gpu_sections")
    stand_ins = {"FAMILIES": {"albert": None}, "prepare": lambda *_: [], "losses": lambda *_: [8.35, 8.45],
                 "open_trainer": lambda *_: SimpleNamespace(update=None), "run": lambda *_: 0.1}
    for name, value in stand_ins.items():
        monkeypatch.setattr(sections, name, value)
    facts.begin("families", 60.0)
    sections.families(SimpleNamespace(quick=quick, facts=facts, new_folder=lambda: tmp_path, device="cpu", cuda=False))
    assert facts.read()[-1]["kind"] == kind


def test_a_failed_section_does_not_stop_the_next(command, facts, monkeypatch):
    sections = importlib.import_module("_gpu_sections")

    def fails(job):
        raise ValueError("no such kernel\nsecond line")

    monkeypatch.setattr(sections, "SECTIONS", {"curves": (fails, 10), "speed": (lambda job: job.facts.info("ran"), 10)})
    config = command.CheckConfig(out=str(facts.out), device="cpu")
    assert command.run_sections(["curves", "speed"], facts, config) == 0
    failure, ran = [record for record in facts.read() if record["kind"] != "BEGIN"]
    assert failure["kind"] == "FAIL" and failure["error"] == "ValueError: no such kernel" and ran["name"] == "ran"
    assert "second line" in (facts.out / "error_curves.txt").read_text()


def test_no_section_begins_when_the_time_is_up(command, facts, capsys):
    config = command.CheckConfig(out=str(facts.out), device="cpu", seconds=1.0)
    assert command.run_sections(["curves"], facts, config) == 0
    assert facts.read() == [] and "left out" in capsys.readouterr().out


def test_a_section_stops_in_time(facts):
    facts.begin("speed", 100.0)
    assert not facts.out_of_time("base", 30.0) and facts.out_of_time("base", 200.0)
    assert facts.read()[-1]["before"] == "base"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(command, facts):
    with pytest.raises(UserError, match="torch sees no GPU"):
        command.run_sections(["environment"], facts, command.CheckConfig(out=str(facts.out)))


# Dies in "curves"; hangs in "syncs", whose time is up at once.
DYING = """
import os, sys, time
sys.path.insert(0, {scripts!r})
from pathlib import Path
from _gpu_facts import Facts
words = sys.argv
facts = Facts(Path(words[words.index("--out") + 1]))
for name in words[words.index("--only") + 1:]:
    facts.begin(name, 0.0 if name == "syncs" else 60.0)
    if name == "curves":
        os.kill(os.getpid(), 9)
    if name == "syncs":
        time.sleep(60)
    facts.info("done")
"""


def test_what_is_left_runs_in_a_process_of_its_own(command, facts, tmp_path, monkeypatch, root):
    (tmp_path / "dying.py").write_text(DYING.format(scripts=str(root / "scripts")))
    monkeypatch.setattr(command, "__file__", str(tmp_path / "dying.py"))
    monkeypatch.setattr(command, "GRACE_SECONDS", 0.2)
    begin = time.monotonic()
    command.watch(["attention", "curves", "speed", "syncs", "resume"], facts,
                  command.CheckConfig(out=str(facts.out), seconds=100.0))
    found = {record["section"]: record["kind"] for record in facts.read() if record["kind"] != "BEGIN"}
    assert found == {"attention": "INFO", "curves": "FAIL", "speed": "INFO", "syncs": "FAIL", "resume": "INFO"}
    assert time.monotonic() - begin < 30.0


def test_a_command_that_cannot_begin_ends(command, facts, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("import sys; sys.exit(2)")
    monkeypatch.setattr(command, "__file__", str(tmp_path / "broken.py"))
    command.watch(["attention", "curves"], facts, command.CheckConfig(out=str(facts.out), seconds=50.0))
    record, = facts.read()
    assert record["kind"] == "FAIL" and record["status"] == 2


def test_the_table_says_which_flags_to_use(command):
    records = [{"kind": "PASS", "section": "curves", "name": "graph", "otherwise": "--cuda_graph off"},
               {"kind": "FAIL", "section": "curves", "name": "compiled, combo_kernels",
                "otherwise": "--combo_kernels off"},
               {"kind": "FAIL", "section": "curves", "name": "packed", "otherwise": "--unpad off"},
               {"kind": "INFO", "section": "variants", "name": "faster", "use": "--combo_kernels on"},
               {"kind": "INFO", "section": "speed", "name": "base", "step_ms": 12.5, "real_tokens_per_second": 655360.0,
                "mfu": 0.35, "memory_gib": 9.5, "precision": "bf16", "graph": True}]
    lines = command.table(records)
    assert lines[-1] == "flags to use here: --unpad off --combo_kernels off"
    assert "base        12.50 ms, 655,360 tokens/s, MFU 35.0%, 9.5 GiB, bf16, CUDA graph" in lines
    assert [line.split() for line in lines[:4]] == [["section", "PASS", "FAIL"], ["curves", "1", "2"],
                                                    ["variants", "0", "0"], ["speed", "0", "0"]]
    assert command.flags_line(records[:1]).endswith("pretrain.py's own choices")


def test_it_needs_no_transformers(root):
    """Nor does anything of scripts/ that it imports; `uer` never does."""
    seen, todo = set(), ["check_gpu", "_gpu_sections", "benchmark_training", "_sides"]
    while todo:
        name = todo.pop()
        seen.add(name)
        tree = ast.parse((root / "scripts" / f"{name}.py").read_text())
        imported = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in tree.body
                    if isinstance(node, ast.Import | ast.ImportFrom)]
        assert not {"transformers", "accelerate"} & {module.split(".")[0] for module in imported}
        todo += [module for module in imported if (root / "scripts" / f"{module}.py").exists() and module not in seen]
    assert {"_checks", "_random_run", "_transformers_side", "_gpu_facts"} <= seen


def test_rows_end_to_end_keep_their_shape():
    checks = importlib.import_module("_checks")
    with FakeTensorMode():
        packed = torch.empty(96, 3, 4, 32, device="cuda", dtype=torch.bfloat16)
        bounds = torch.empty(5, device="cuda", dtype=torch.int32)
        assert checks.packed_attention(packed, bounds, 40, 0.1).shape == (96, 4, 32)


def test_curves_that_differ_or_are_not_finite():
    checks = importlib.import_module("_checks")
    assert checks.worst_difference([1.0, 2.0, 3.0], [1.0, 2.5, 2.75]) == 0.5
    assert checks.worst_difference([1.0, float("nan")], [1.0, 2.0]) == float("inf")
    assert checks.worst_difference([float("nan"), 1.0], [1.0, 1.0]) == float("inf")


def test_the_fraction_that_is_dropped():
    checks = importlib.import_module("_checks")
    torch.manual_seed(1)
    for dropout in (0.0, 0.3):
        found = checks.dropped_fraction("cpu", torch.float32, None, (4, 8, 64, 16), dropout)
        assert abs(found - dropout) < 0.02
    assert sys.modules["_checks"].tolerance("graph") == 0.03
