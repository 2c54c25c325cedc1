"""scripts/benchmark_training.py: what it times, and --uer_path on a folder laid out like a checkout of the original."""

import importlib
import itertools
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from uer.data.store import open_dataset
from uer.errors import UserError
from uer.training.update import StepModule

PREPROCESS = """
import argparse
parser = argparse.ArgumentParser()
for name in ("corpus_path", "vocab_path", "dataset_path", "seq_length", "data_processor", "processes_num"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--dynamic_masking", action="store_true")
args = parser.parse_args()
assert args.dynamic_masking and args.data_processor == "mlm"
open(args.dataset_path, "w").write(open(args.corpus_path).read())
"""

# As the original's, its lines come from a logger: a date before them, on stderr.
PRETRAIN = """
import argparse, os, sys, time
from uer.model_builder import SECONDS
parser = argparse.ArgumentParser()
for name in ("dataset_path", "vocab_path", "config_path", "output_model_path", "batch_size", "total_steps",
             "save_checkpoint_steps", "report_steps", "data_processor", "target"):
    parser.add_argument("--" + name, required=True)
OURS = ("precision", "compile", "cuda_graph", "unpad", "combo_kernels", "threads")
for name in OURS if os.path.basename(os.getcwd()) == "ours" else ():
    parser.add_argument("--" + name)
args = parser.parse_args()
assert open(args.dataset_path).read() and open(args.config_path).read() and args.target == "mlm"
assert os.environ["OMP_NUM_THREADS"] == "3" and os.environ["CUDA_VISIBLE_DEVICES"] == ""
print("Using CPU mode for training.")
steps = int(args.report_steps)
for step in range(steps, int(args.total_steps) + 1, steps):
    time.sleep(steps * SECONDS * (10 if step == steps else 1))  # the first report is that of a cold start
    tokens = int(args.batch_size) * 128 / SECONDS
    print("[2020-01-01 12:00:00,000 INFO] | %8d/%8s steps| %8.2f tokens/s| loss %7.2f| acc: %3.3f"
          % (step, args.total_steps, tokens, 9.5, 0.1), file=sys.stderr)
"""


@pytest.fixture
def benchmark(monkeypatch, root):
    monkeypatch.syspath_prepend(str(root / "scripts"))
    return importlib.import_module("benchmark_training")


@pytest.fixture
def sides(benchmark):
    return importlib.import_module("_sides")


@pytest.fixture
def original(benchmark, monkeypatch, tmp_path):
    """`_original` with a stand-in for our own checkout."""
    module = importlib.import_module("_original")
    monkeypatch.setattr(module, "ROOT", checkout(tmp_path / "ours", seconds=0.01))
    (tmp_path / "ours" / "models" / "bert").mkdir(parents=True)
    (tmp_path / "ours" / "models" / "bert" / "tiny_config.json").write_text("{}")
    (tmp_path / "corpus.txt").write_text("one line\n")
    return module


def checkout(folder: Path, seconds: float) -> Path:
    """A checkout whose update takes `seconds`."""
    (folder / "uer").mkdir(parents=True)
    (folder / "uer" / "__init__.py").write_text("")
    (folder / "uer" / "model_builder.py").write_text(f"SECONDS = {seconds}\n")
    (folder / "preprocess.py").write_text(PREPROCESS)
    (folder / "pretrain.py").write_text(PRETRAIN)
    return folder


def asked(benchmark, tmp_path: Path):
    return benchmark.BenchmarkConfig(uer_path=str(tmp_path / "original"), corpus_path=str(tmp_path / "corpus.txt"),
                                     vocab_path=str(tmp_path / "corpus.txt"), rounds=1, command_steps=6, threads=3)


def test_both_run_as_commands_with_their_own_packages(benchmark, original, tmp_path):
    checkout(tmp_path / "original", seconds=0.08)
    config = asked(benchmark, tmp_path)
    original.check_checkout(config)
    record = original.compare_commands("tiny", config)
    assert 3.0 < record["ratio"] < 16.0  # 8 where nothing else runs; the cold start alone would say otherwise
    assert record["original_prints"] == pytest.approx(64 * 128 / 0.08) and record["threads"] == 3
    assert record["original_slots_per_second"] < record["original_prints"] * 1.01


def test_seconds_of_an_update_are_those_between_reports(original):
    lines = [original.Line(text, seconds) for text, seconds in [
        ("Using CPU mode for training.\n", 1.0),
        ("[..] |       10/     100 steps|   100.00 tokens/s| loss    9.50| acc: 0.100\n", 50.0),
        ("[..] |       20/     100 steps|   900.00 tokens/s| loss    9.50| acc: 0.100\n", 55.0),
        ("[..] |       30/     100 steps|   900.00 tokens/s| loss    9.50| acc: 0.100\n", 60.0),
        ("[..] |       40/     100 steps|   300.00 tokens/s| loss    9.50| acc: 0.100\n", 90.0)]]
    reports = original.reports_of(lines)
    assert [report.step for report in reports] == [10, 20, 30, 40] and reports[1].tokens_per_second == 900.0
    assert original.seconds_per_update(reports) == 0.5


@pytest.mark.parametrize(("script", "text", "message"), [
    ("preprocess.py", "raise KeyError('no flag')",
     r"preprocess.py failed with status 1; its last lines: .* \| KeyError: 'no flag'$"),
    ("preprocess.py", "print('all well')", r"wrote no original.pt; its last lines: all well$"),
    ("pretrain.py", "import nowhere", r"pretrain.py failed with status 1; .*ModuleNotFoundError: .*'nowhere'$"),
    ("pretrain.py", "import os; print('1 step done', flush=True); os.kill(os.getpid(), 9)",
     r"pretrain.py failed with status -9; its last lines: 1 step done$"),
    ("pretrain.py", "print('1 step done')", r"printed 0 report lines .* its last lines: 1 step done$"),
    ("pretrain.py", "print('| 6/ 6 steps| 9.5 tokens/s| loss 1')", r"printed 1 report lines .* at least 2"),
    ("pretrain.py", "print('step 6: 9512.33 tokens/s')", r"other columns than .*: step 6: 9512.33 tokens/s$"),
    ("pretrain.py", "", r"printed 0 report lines .* it printed nothing$")])
def test_a_failure_is_one_line(benchmark, original, tmp_path, script, text, message):
    (checkout(tmp_path / "original", seconds=0.001) / script).write_text(text)
    (tmp_path / "ours" / "uer" / "model_builder.py").write_text("SECONDS = 0.001\n")
    with pytest.raises(UserError, match=message) as failure:
        original.compare_commands("tiny", asked(benchmark, tmp_path))
    assert "\n" not in str(failure.value)


def test_what_is_missing_is_said_before_anything_runs(benchmark, original, tmp_path):
    config = asked(benchmark, tmp_path)
    with pytest.raises(UserError, match=r"no checkout of UER-py, it has no preprocess\.py"):
        original.check_checkout(config)
    checkout(tmp_path / "original", seconds=0.001)
    for change, message in (({"corpus_path": None}, "needs --corpus_path"), ({"command_steps": 5}, "at least 6"),
                            ({"vocab_path": "nowhere.txt"}, "--vocab_path nowhere.txt: no such file")):
        with pytest.raises(UserError, match=message):
            original.check_checkout(replace(config, **change))


@pytest.fixture(scope="module")
def random_run(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "scripts"))
        module = importlib.import_module("_random_run")
        patch.setattr(module, "VOCAB_SIZE", 300)  # faster
        yield module


@pytest.fixture(scope="module")
def trainer(random_run, tmp_path_factory):
    """The trainer of a small run on random rows of unlike lengths."""
    rows = random_run.RandomRows(200, 16, 0.5)
    flags = rows.write(tmp_path_factory.mktemp("random"), "tiny")
    return random_run.open_trainer(flags, ["--batch_size", "4", "--device", "cpu", "--unpad", "off",
                                           "--accumulation_steps", "2"])


def test_rows_fill_as_much_as_they_should(random_run, tmp_path):
    rows = random_run.RandomRows(2000, 100, 0.4)
    rows.write(tmp_path, "tiny")
    dataset = open_dataset(tmp_path / "data.pt")
    assert dataset.tokens_num == rows.lengths().sum() and 38 < dataset.tokens_num / len(dataset) < 42
    assert rows.lengths().min() < 10 and rows.lengths().max() == 80
    assert (random_run.RandomRows(5, 7).lengths() == 7).all()


def test_the_trainer_is_that_of_the_flags(random_run, trainer):
    assert trainer.parts.model.unpad == "off" and trainer.parts.loader.accumulation_steps == 2
    assert random_run.real_tokens(trainer) == pytest.approx(8 * 8, rel=0.1)
    before = [float(trainer.update.sums.loss)]
    for _ in range(3):
        trainer.run_update()
        before.append(float(trainer.update.sums.loss))
    assert all(4.5 < later - earlier < 7.0 for earlier, later in itertools.pairwise(before))
    assert random_run.host_seconds(trainer, updates=1) > 0.0 and trainer.step == 7


@pytest.mark.parametrize(("chosen", "options"), [("on", {"combo_kernels": True}), ("off", None)])
def test_combo_kernels_are_an_option_of_torch_compile(random_run, tmp_path, monkeypatch, chosen, options):
    given = []
    monkeypatch.setattr(StepModule, "compile", lambda self, **arguments: given.append(arguments))
    flags = random_run.RandomRows(20, 16).write(tmp_path, "tiny")
    random_run.open_trainer(flags, ["--device", "cpu", "--compile", "on", "--combo_kernels", chosen])
    assert [arguments["options"] for arguments in given] == [options]


def test_flops_are_those_of_what_is_computed(random_run, trainer, tmp_path):
    """Without padding, the layers' products shrink with the rows; what is predicted remains."""
    flags = random_run.RandomRows(200, 16, 0.5).write(tmp_path, "tiny")
    unpadded = random_run.open_trainer(flags, ["--batch_size", "8", "--device", "cpu"])
    padded, real = random_run.executed_flops(trainer), random_run.executed_flops(unpadded)
    # Layers: 2 of 12 H^2 weights and two products of attention; output layer: H^2 + H V for each of `predicted`.
    hidden, tokens = 128, random_run.real_tokens(unpadded)
    predicted = 8 * max(1, round(0.15 * 8))
    most = 6 * (2 * 12 * hidden**2 * tokens + predicted * (hidden**2 + hidden * random_run.VOCAB_SIZE)) * 1.3
    assert real < most and real < padded < 3 * real


def test_neighbours_are_busy_and_end(benchmark):
    def ticks(pid: int) -> int:
        """Time in user mode, as /proc counts it."""
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])

    with benchmark.busy_processes(1) as (process,):
        until = time.monotonic() + 30
        while ticks(process.pid) < 20 and time.monotonic() < until:
            time.sleep(0.05)
        assert ticks(process.pid) >= 20 and process.poll() is None
    assert process.returncode == -9 and not os.path.exists(f"/proc/{process.pid}")


def test_one_line_says_what_was_measured(run_script, random_run):
    printed = run_script("benchmark_training.py", "--sizes", "tiny", "--seq_lengths", 8, "--batch_size", 2, "--rounds",
                         1, "--seconds", 0.01, "--against", "none")
    record = json.loads(printed.splitlines()[-1])
    assert record["update"] in printed and record["against"] == "none" and "ratio" not in record
    assert record["real_tokens_per_second"] == pytest.approx(record["slots_per_second"], rel=0.01)
    assert record["host_ms"] > 0.0 and record["mfu"] is None


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_other_families_are_timed_on_the_same_batches(run_script, sides, monkeypatch, family):
    """Our trainer and transformers' model of the family; bert's lines, above, do not name it."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(sides, "MANY_CHARACTERS", sides.MANY_CHARACTERS[:300])  # faster
    monkeypatch.setattr(sides, "matmul_rate", lambda device, precision: 1e9)  # which the test above measures
    printed = run_script("benchmark_training.py", "--families", family, "--sizes", "tiny", "--seq_lengths", 16,
                         "--batch_size", 2, "--rounds", 1, "--seconds", 0.01)
    record = json.loads(printed.splitlines()[-1])
    assert f"{family} tiny" in printed and record["family"] == family and 0.3 < record["fill"] <= 1.1
    assert record["ratio"] == pytest.approx(record["transformers_step_ms"] / record["step_ms"])


def test_the_other_side_has_all_threads(random_run):
    """Our update may divide a batch among threads of its own, with one OpenMP thread each."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with random_run.all_threads():
        assert torch.get_num_threads() == random_run.THREADS
    with random_run.all_threads(2):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_without_accelerate_a_loop_takes_the_trainers_place(sides, monkeypatch, capsys):
    monkeypatch.setattr(sides, "why_no_trainer", lambda: "not installed: accelerate")
    assert sides.possible("trainer") == "loop" and "not installed: accelerate" in capsys.readouterr().out
    monkeypatch.setattr(sides, "why_no_trainer", lambda: None)
    assert sides.possible("trainer") == "trainer"


def test_transformers_gets_the_stored_rows(benchmark, random_run, tmp_path):
    """Both sides of --against train on the same rows; the Trainer's masking is transformers' own."""
    pytest.importorskip("transformers")
    theirs = importlib.import_module("_transformers_side")
    random_run.RandomRows(6, 20, 0.5).write(tmp_path, "tiny")
    dataset = open_dataset(tmp_path / "data.pt")
    rows = theirs.TokenRows(dataset)
    assert len(rows) == 6 and sum(len(row["input_ids"]) for row in rows) == dataset.tokens_num
    batch = theirs.collator(tmp_path / "vocab.txt", pad_to=20)([rows[number] for number in range(6)])
    assert batch["input_ids"].shape == batch["labels"].shape == (6, 20)
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        assert int(batch["attention_mask"][number].sum()) == length
        chosen = batch["labels"][number, :length] != -100
        assert torch.equal(torch.where(chosen, batch["labels"][number, :length], row["input_ids"]), row["input_ids"])
        assert (batch["labels"][number, length:] == -100).all() and (batch["input_ids"][number, length:] == 0).all()


def test_the_trainer_side_runs(benchmark, random_run, tmp_path):
    pytest.importorskip("accelerate")
    theirs = importlib.import_module("_transformers_side")
    random_run.RandomRows(64, 8, 0.5).write(tmp_path, "tiny")
    side = theirs.trainer_side(random_run.read_model_config("tiny"), tmp_path / "data.pt", tmp_path / "vocab.txt",
                               batch_size=2, device=torch.device("cpu"), precision="fp32", compiled=False)
    lap = side(2)
    assert lap.seconds > 0.0 and 6 <= lap.real_tokens <= 16
