"""pretrain.py on real text: the curve of the original toolkit, and what is printed on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest

from uer.config import MaskingConfig
from uer.data.processors.lines import LineConfig
from uer.data.processors.mlm import MlmConfig
from uer.training.inputs import masking_notes

BAND = 0.05


@pytest.fixture(scope="module")
def real_dataset(tmp_path_factory, root, shared_data, google_vocab):
    path = tmp_path_factory.mktemp("real") / "dataset.pt"
    done = subprocess.run(
        [sys.executable, str(root / "preprocess.py"), "--corpus_path",
         str(shared_data / "corpora" / "CLUECorpusSmall_sampled.txt"), "--vocab_path", str(google_vocab),
         "--dataset_path", str(path), "--seq_length", "128", "--dynamic_masking", "--data_processor", "mlm"],
        capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return path


def test_the_curve_lies_in_the_golden_band(tmp_path, root, real_dataset, google_vocab, golden):
    """The first 25 of 300 steps, then SIGTERM: the whole curve takes minutes (see BENCHMARKS.md)."""
    curves = list(json.loads((golden / "loss_curves_tiny.json").read_text())["curves"].values())
    wanted = {points[0]["step"]: sum(point["mean_loss_of_last_25"] for point in points) / len(points)
              for points in zip(*curves)}
    metrics = tmp_path / "metrics.jsonl"
    run = subprocess.Popen(
        [sys.executable, str(root / "pretrain.py"), "--dataset_path", str(real_dataset), "--vocab_path",
         str(google_vocab), "--config_path", str(root / "models" / "bert" / "tiny_config.json"), "--output_model_path",
         str(tmp_path / "model.bin"), "--data_processor", "mlm", "--target", "mlm", "--batch_size", "32",
         "--learning_rate", "1e-3", "--total_steps", "300", "--report_steps", "25", "--metrics_path", str(metrics)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    until = time.monotonic() + 400
    while time.monotonic() < until and run.poll() is None:
        if metrics.exists() and metrics.read_text().count("\n") >= 1:
            run.send_signal(signal.SIGTERM)
            break
        time.sleep(0.2)
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 128 + signal.SIGTERM, output
    found = {line["step"]: line["loss"] for line in map(json.loads, metrics.read_text().splitlines())}
    assert abs(found[25] - wanted[25]) < BAND
    assert "model: 3,205,000 parameters" in output
    assert "6,616 instances, 663,005 tokens an epoch; 300 steps of 32 x 128 make 1.45 epochs" in output
    assert "|       25/     300 steps|" in output and " tokens/s| loss " in output and "| acc: " in output
    assert list(tmp_path.glob("model.bin.state-*")) and not list(tmp_path.glob("model.bin-*"))


def masked_data(*datasets):
    """Datasets, (path, whether their masks are dynamic, masking flags that they were made with) each."""
    infos = [SimpleNamespace(dynamic_masking=dynamic, processor_settings=asdict(MlmConfig(**masking)))
             for _, dynamic, masking in datasets]
    opened = [SimpleNamespace(path=path, info=info) for (path, _, _), info in zip(datasets, infos)]
    return SimpleNamespace(train=opened[:1], dev=opened[1:], processor=SimpleNamespace(config=MlmConfig()))


def test_masking_flags_that_static_masks_do_not_heed_are_named():
    data = masked_data(("a.pt", True, {}), ("b.pt", False, {"span_masking": True}), ("c.pt", False, {}))
    notes = masking_notes(MaskingConfig(span_masking=True), data)
    assert [note.split()[1] for note in notes] == ["c.pt"]
    assert not masking_notes(MaskingConfig(), data)


def test_masks_that_a_dynamic_dataset_was_made_for_and_a_command_leaves_out_are_named():
    masking = {"whole_word_masking": True}
    data = masked_data(("a.pt", True, masking))
    assert masking_notes(MaskingConfig(), data)[0].startswith("note: a.pt was made with other masking flags")
    assert not masking_notes(MaskingConfig(**masking), data)


def test_masking_flags_of_a_dataset_without_masks_are_named():
    data = SimpleNamespace(train=[SimpleNamespace(path="a.pt")], dev=[], processor=SimpleNamespace(config=LineConfig()))
    assert "a.pt has no masks" in masking_notes(MaskingConfig(span_masking=True), data)[0]
    assert not masking_notes(MaskingConfig(), data)
