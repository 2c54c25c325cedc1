"""A law fitted to metrics files, and used by a plan."""

import json
import re

import pytest

from uer.errors import UserError
from uer.model_settings import model_settings
from uer.planning.loss_law import Coefficients, layer_parameters, read_law

CONFIGS = {"models/modernbert/L-2_H-128_config.json": 2, "models/modernbert/L-2_H-256_config.json": 3}
TRUE = Coefficients(limit=1.0, size_factor=0.5, size_exponent=0.4, token_factor=3.0, token_exponent=0.5)
ROWS, LENGTH = 32, 128


def metrics(path, loss, steps, first=0, ended=True):
    """A run of `steps` updates of 32 rows, or its decay from `first` on, with a loss at the end."""
    report = {"kind": "train", "total_steps": steps, "loss": 9.0, "acc": 0.0, "interval_seconds": 1.0}
    lines = [{**report, "step": first + step, "interval_real_tokens": step / number * ROWS * LENGTH}
             for number, step in ((1, 10), (2, 20), (3, 30))]
    last = steps if ended else int(0.9 * steps)
    evaluated = {"kind": "eval", "step": last, "total_steps": steps, "loss": loss, "acc": 0.5}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, evaluated]))
    return str(path)


@pytest.fixture
def arguments(tmp_path):
    """Four runs of each size; two of them are decays, whose files begin late."""
    made = []
    for config in CONFIGS:
        size = layer_parameters(model_settings(config), 21128)
        files = [metrics(tmp_path / f"{CONFIGS[config]}_{steps}.jsonl", TRUE.loss(size, steps * ROWS * LENGTH), steps,
                         first=steps // 2 if steps > 2000 else 0) for steps in (600, 1200, 2400, 4800)]
        made.append(f"{config}={','.join(files)}")
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
                                *(chr(0x4e00 + number) for number in range(21123))]) + "\n", encoding="utf-8")
    return ["--runs", *made, "--vocab_path", str(vocab), "--about", "a test's text",
            "--output_path", str(tmp_path / "law.json")]


def test_runs_to_law_to_plan(arguments, tmp_path, run_script, capsys):
    printed = run_script("fit_loss_law.py", *arguments)
    assert printed.count("| +0.0") + printed.count("| -0.0") == 8
    law = read_law(tmp_path / "law.json")
    assert sorted({run.tokens for run in law.runs}) == [steps * ROWS * LENGTH for steps in (600, 1200, 2400, 4800)]
    config = "models/modernbert/L-4_H-128_config.json"
    with pytest.raises(SystemExit) as ended:
        run_script("../pretrain.py", "--dataset_path", "none.pt", "--vocab_path", arguments[4], "--config_path", config,
                   "--target", "mlm", "--output_model_path", tmp_path / "m.bin", "--dry_run", "--loss_law",
                   tmp_path / "law.json", "--max_seq_length", 128, "--batch_size", 16, "--accumulation_steps", 2,
                   "--total_steps", 3000)
    assert ended.value.code == 0
    found, = re.findall(r"loss: ([\d.]+) ± ([\d.]+) held-out at the end \(.*a test's text; 8 runs",
                        capsys.readouterr().out)
    expected = TRUE.loss(layer_parameters(model_settings(config), 21128), 3000 * ROWS * LENGTH)
    assert float(found[0]) == pytest.approx(expected, abs=0.02)


def test_a_run_without_its_end_is_refused(arguments, tmp_path, run_script):
    metrics(tmp_path / "2_600.jsonl", 3.0, 600, ended=False)
    with pytest.raises(UserError, match=r"2_600.jsonl: no held-out loss at the end"):
        run_script("fit_loss_law.py", *arguments)


def test_no_file_of_a_run_is_replaced(arguments, tmp_path, run_script):
    arguments[-1] = str(tmp_path / "3_1200.jsonl")
    with pytest.raises(UserError, match=r"3_1200.jsonl is read by this command"):
        run_script("fit_loss_law.py", *arguments)


def test_models_of_two_kinds_are_refused(arguments, run_script):
    arguments[1] = arguments[1].replace("modernbert/L-2_H-128", "bert/tiny")
    with pytest.raises(UserError, match=r"differ in .*layernorm_positioning"):
        run_script("fit_loss_law.py", *arguments)


def test_the_picture_shows_runs_and_law(arguments, tmp_path, run_script):
    pytest.importorskip("matplotlib")
    run_script("fit_loss_law.py", *arguments, "--plot_path", tmp_path / "law.png")
    assert (tmp_path / "law.png").read_bytes().startswith(b"\x89PNG")
