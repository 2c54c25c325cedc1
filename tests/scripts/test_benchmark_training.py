"""--uer_path of scripts/benchmark_training.py, on a folder laid out like a checkout of the original."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from uer.errors import UserError

PREPROCESS = """
import argparse
parser = argparse.ArgumentParser()
for name in ("corpus_path", "vocab_path", "dataset_path", "seq_length", "data_processor"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--dynamic_masking", action="store_true")
args = parser.parse_args()
assert args.dynamic_masking and args.data_processor == "mlm"
open(args.dataset_path, "w").write(open(args.corpus_path).read())
"""

PRETRAIN = """
import argparse
from uer.model_builder import RATE
parser = argparse.ArgumentParser()
for name in ("dataset_path", "vocab_path", "config_path", "output_model_path", "batch_size", "total_steps",
             "save_checkpoint_steps", "report_steps", "data_processor", "target"):
    parser.add_argument("--" + name, required=True)
args = parser.parse_args()
assert open(args.dataset_path).read() and open(args.config_path).read() and args.target == "mlm"
for step in range(int(args.report_steps), int(args.total_steps) + 1, int(args.report_steps)):
    rate = RATE / 10 if step == int(args.report_steps) else RATE  # the first report is that of a cold start
    print("| %8d/%8s steps| %8.2f tokens/s| loss %7.2f| acc: %3.3f" % (step, args.total_steps, rate, 9.5, 0.1))
"""


@pytest.fixture
def benchmark(monkeypatch, tmp_path, root):
    spec = importlib.util.spec_from_file_location("benchmark_training", root / "scripts" / "benchmark_training.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", checkout(tmp_path / "ours", rate=300.0))
    (tmp_path / "ours" / "models" / "bert").mkdir(parents=True)
    (tmp_path / "ours" / "models" / "bert" / "tiny_config.json").write_text("{}")
    (tmp_path / "corpus.txt").write_text("one line\n")
    return module


def checkout(folder: Path, rate: float) -> Path:
    (folder / "uer").mkdir(parents=True)
    (folder / "uer" / "__init__.py").write_text("")
    (folder / "uer" / "model_builder.py").write_text(f"RATE = {rate}\n")
    (folder / "preprocess.py").write_text(PREPROCESS)
    (folder / "pretrain.py").write_text(PRETRAIN)
    return folder


def asked(benchmark, tmp_path: Path):
    return benchmark.BenchmarkConfig(uer_path=str(tmp_path / "original"), corpus_path=str(tmp_path / "corpus.txt"),
                                     vocab_path=str(tmp_path / "corpus.txt"), rounds=1, command_steps=6)


def test_both_run_as_commands_with_their_own_packages(benchmark, tmp_path):
    checkout(tmp_path / "original", rate=100.0)
    config = asked(benchmark, tmp_path)
    benchmark.check_checkout(config)
    record = benchmark.compare_commands("tiny", config)
    assert (record["tokens_per_second"], record["original_tokens_per_second"], record["ratio"]) == (300.0, 100.0, 3.0)


@pytest.mark.parametrize(("script", "text", "message"), [
    ("preprocess.py", "raise KeyError('no flag')", r"preprocess.py failed with status 1: KeyError: 'no flag'$"),
    ("pretrain.py", "import nowhere", r"pretrain.py failed with status 1: ModuleNotFoundError: .*'nowhere'$"),
    ("pretrain.py", "print('1 step done')", r"printed 0 report lines .* last line is: 1 step done$"),
    ("pretrain.py", "", r"printed 0 report lines .* it printed nothing$")])
def test_a_failure_is_one_line(benchmark, tmp_path, script, text, message):
    (checkout(tmp_path / "original", rate=100.0) / script).write_text(text)
    with pytest.raises(UserError, match=message) as failure:
        benchmark.compare_commands("tiny", asked(benchmark, tmp_path))
    assert "\n" not in str(failure.value)


def test_what_is_missing_is_said_before_anything_runs(benchmark, tmp_path):
    config = asked(benchmark, tmp_path)
    with pytest.raises(UserError, match=r"no checkout of UER-py, it has no preprocess\.py"):
        benchmark.check_checkout(config)
    checkout(tmp_path / "original", rate=100.0)
    for change, message in (({"corpus_path": None}, "needs --corpus_path"), ({"command_steps": 5}, "at least 6"),
                            ({"vocab_path": "nowhere.txt"}, "--vocab_path nowhere.txt: no such file")):
        with pytest.raises(UserError, match=message):
            benchmark.check_checkout(replace(config, **change))
