"""pretrain.py on real text: the curve of the original toolkit, and what is printed on the way."""

import json
import os
import signal
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
def real_dataset(tmp_path_factory, run_forked, shared_data, google_vocab):
    path = tmp_path_factory.mktemp("real") / "dataset.pt"
    done = run_forked("preprocess.py", "--corpus_path", shared_data / "corpora" / "CLUECorpusSmall_sampled.txt",
                      "--vocab_path", google_vocab, "--dataset_path", path, "--seq_length", 128, "--dynamic_masking",
                      "--data_processor", "mlm")
    assert done.returncode == 0, done.stderr
    return path


def test_the_curve_lies_in_the_golden_band(tmp_path, root, server, real_dataset, google_vocab, golden):
    """The first 25 of 300 steps, then SIGTERM: the whole curve takes minutes (see BENCHMARKS.md)."""
    curves = list(json.loads((golden / "loss_curves_tiny.json").read_text())["curves"].values())
    wanted = {points[0]["step"]: sum(point["mean_loss_of_last_25"] for point in points) / len(points)
              for points in zip(*curves)}
    metrics, log, status = tmp_path / "metrics.jsonl", tmp_path / "log", None
    argv = ["--dataset_path", real_dataset, "--vocab_path", google_vocab, "--config_path",
            root / "models" / "bert" / "tiny_config.json", "--output_model_path", tmp_path / "model.bin",
            "--data_processor", "mlm", "--target", "mlm", "--batch_size", 32, "--learning_rate", "1e-3",
            "--total_steps", 300, "--report_steps", 25, "--metrics_path", metrics]
    run = server.ask({"argv": [*map(str, argv)], "log": str(log)})
    until = time.monotonic() + 400
    while status is None and time.monotonic() < until and not (metrics.exists() and metrics.read_text()):
        status = server.ask({"wait": run, "seconds": 0.2})
    if status is None:
        os.kill(run, signal.SIGTERM)
        status = server.ask({"wait": run, "seconds": 60})
    output = log.read_text(encoding="utf-8")
    assert status == 128 + signal.SIGTERM, output
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
