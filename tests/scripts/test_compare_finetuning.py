"""The comparison with the original's run_classifier.py, on folders laid out like checkouts of both."""

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

from uer.errors import UserError

SCRIPT = """
import argparse, csv, json, sys
from uer.package import ACCURACY, LINE
parser = argparse.ArgumentParser()
for name in ("pretrained_model_path", "config_path", "vocab_path", "train_path", "dev_path", "output_model_path",
             "batch_size", "seq_length", "epochs_num", "learning_rate", "seed"):
    parser.add_argument("--" + name, required=True)
parser.add_argument("--use_adv", action="store_true")
args = parser.parse_args()
rows = list(csv.DictReader(open(args.train_path, encoding="utf-8"), delimiter="\\t", quoting=csv.QUOTE_NONE))
assert {int(row["label"]) for row in rows} == {0, 1} and all(row["text_a"] for row in rows)
assert json.load(open(args.config_path))["dropout"] == 0.0
for epoch in range(1, int(args.epochs_num) + 1):
    right = ACCURACY + int(args.seed) - epoch + 10 * args.use_adv
    print(LINE.format(epoch=epoch, share=right / 200, right=right, total=200))
"""
ORIGINAL_LINE = "Acc. (Correct/Total): {share:.4f} ({right}/{total}) "
OUR_LINE = "[2024-01-01 10:00:00] Epoch {epoch} of 2: dev accuracy {share:.4f} ({right}/{total}), macro_f1 0.5000"


def checkout(folder: Path, accuracy: int, line: str) -> Path:
    for name in ("uer", "finetune"):
        (folder / name).mkdir(parents=True)
    (folder / "uer" / "__init__.py").write_text("")
    (folder / "uer" / "package.py").write_text(f"ACCURACY, LINE = {accuracy}, {line!r}\n")
    (folder / "finetune" / "run_classifier.py").write_text(SCRIPT)
    return folder


@pytest.fixture
def compare(monkeypatch, tmp_path, root):
    spec = importlib.util.spec_from_file_location("compare_finetuning", root / "scripts" / "compare_finetuning.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", checkout(tmp_path / "ours", 150, OUR_LINE))
    checkout(tmp_path / "original", 140, ORIGINAL_LINE)
    (tmp_path / "config.json").write_text('{"dropout": 0.1}')
    for name in ("model.bin", "vocab.txt"):
        (tmp_path / name).write_text("x")
    task = tmp_path / "pairs"
    task.mkdir()
    lines = [json.dumps({"sentence1": "a\tb", "sentence2": "c", "label": ("yes", "-", "no")[number % 3]})
             for number in range(12)]
    for name in ("train.json", "dev.json"):
        (task / name).write_text("\n".join(lines))
    return module


def run(compare, monkeypatch, tmp_path: Path, **changes: str) -> None:
    flags = {"uer_path": tmp_path / "original", "pretrained_model_path": tmp_path / "model.bin",
             "config_path": tmp_path / "config.json", "vocab_path": tmp_path / "vocab.txt",
             "task_dirs": tmp_path / "pairs", "epochs_num": 2, "dropout": 0, "seeds": "1 2",
             "records_path": tmp_path / "records.jsonl", **changes}
    monkeypatch.setattr(sys, "argv", ["compare_finetuning.py", *(
        word for name, value in flags.items() if value is not None for word in (f"--{name}", *str(value).split()))])
    compare.main()


def test_both_sides_and_a_variant_on_the_same_files(compare, monkeypatch, tmp_path, capsys):
    run(compare, monkeypatch, tmp_path, variants="use_adv")
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [record["side"] for record in records] == ["ours", "original", "use_adv"]
    assert [record["accuracies"] for record in records] == [[75.0, 75.5], [70.0, 70.5], [80.0, 80.5]]
    assert records[1]["ours_minus_this"] == 5.0 and records[1]["standard_error"] == 0.0
    assert [record["last_epoch_mean"] for record in records] == [74.75, 69.75, 79.75]
    out = capsys.readouterr().out
    assert "| pairs | original | 70.25 | 70.00 to 70.50 | +5.00 (0.00) |" in out
    assert json.loads(out.splitlines()[-1]) == records[-1]


def test_lengths_tell_something_of_the_class_but_not_all(compare, tmp_path):
    draw = random.Random(1)
    rows = "".join(f"{draw.randrange(2)}\t{'字' * draw.randrange(5, 90)}\n" for _ in range(3000))
    (tmp_path / "texts.tsv").write_text("label\ttext_a\n" + rows, encoding="utf-8")
    config = compare.CompareConfig(str(tmp_path / "model.bin"), length_task_path=str(tmp_path / "texts.tsv"),
                                   seq_length=64)
    (name, train, dev), = compare.tasks_of(config)
    assert name == "length" and set(train.labels) == set(range(10))
    centres = [share * 62 for share in compare.GROUPS]
    guesses = [min(range(5), key=lambda group: abs(centres[group] - len(text))) for text in train.texts]
    right = sum(guess == label % 5 for guess, label in zip(guesses, train.labels)) / len(guesses)
    assert 0.55 < right < 0.72
    assert max(map(len, train.texts + dev.texts)) <= 62
    again = compare.tasks_of(config)[0][1]
    assert (again.labels, again.texts) == (train.labels, train.texts)


def test_what_is_wrong_is_said_in_one_line(compare, monkeypatch, tmp_path):
    for changes, message in (({"uer_path": tmp_path}, "no checkout of UER-py"),
                             ({"vocab_path": tmp_path / "none"}, "--vocab_path .*none: no such file"),
                             ({"task_dirs": tmp_path / "ours"}, "it has no train.tsv"),
                             ({"task_dirs": None}, "--task_dirs or --length_task_path"),
                             ({"variants": "Adv"}, "--variants Adv: NAME"),
                             ({"variants": "no_such_flag"}, "run_classifier.py failed with status 2: .*no_such_flag")):
        with pytest.raises(UserError, match=message):
            run(compare, monkeypatch, tmp_path, **changes)
    (tmp_path / "original" / "finetune" / "run_classifier.py").write_text("print('hello')")
    with pytest.raises(UserError, match="printed no accuracy; its last line is: hello"):
        run(compare, monkeypatch, tmp_path)
