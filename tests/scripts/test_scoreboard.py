"""The list is checked, the table is right, the figures can be traced, the picture is drawn."""

import csv
import io
import json

import pytest

from uer.errors import UserError
from uer.finetuning.chart import draw
from uer.finetuning.scoreboard import (
    PUBLISHED,
    PUBLISHED_SCORES,
    architectures,
    best_cell,
    csv_text,
    make_rows,
    markdown,
    read_list,
)

LIST = {"tasks": {"ocnli": {"train_path": "o/train.json", "dev_path": "o/dev.json"},
                  "tnews": {"train_path": "t/train.json", "dev_path": "t/dev.json", "test_path": "t/test.json"}},
        "grid": {"epochs_num_list": [3]}, "seeds": [1, 2], "flags": {"seq_length": 64},
        "models": [{"name": "our tiny", "pretrained_model_path": "tiny.bin", "config_path": "tiny.json",
                    "vocab_path": "v.txt", "published": "Tiny 2/128"},
                   {"name": "random", "config_path": "tiny.json", "vocab_path": "v.txt",
                    "flags": {"warmup": 0.2, "use_adv": False, "do_lower_case": False, "save_model": True}}]}


def record(score: float, seed: int, rate: float = 1e-4) -> dict:
    return {"batch_size": 32, "learning_rate": rate, "epochs_num": 3, "seed": seed, "score": score, "collapsed": False,
            "score_name": "accuracy", "test": {"accuracy": 0.6}, "train_hash": "a" * 16, "dev_hash": "b" * 16,
            "pretrained_hash": "c" * 16, "torch": "9.9"}


def read(tmp_path, content) -> list:
    path = tmp_path / "list.json"
    path.write_text(json.dumps(content))
    return read_list(str(path))


def test_the_list_becomes_command_lines(tmp_path):
    entries = read(tmp_path, LIST)
    assert [(entry.model, entry.task) for entry in entries] == [
        (model, task) for model in ("our tiny", "random") for task in ("ocnli", "tnews")]
    assert entries[0].place == "our_tiny/ocnli"
    line = " ".join(entries[1].argv())
    for words in ("--test_path t/test.json", "--pretrained_model_path tiny.bin", "--seeds 1 2", "--epochs_num_list 3"):
        assert words in line
    assert "--warmup 0.2 --no-use_adv --do_lower_case False --save_model True" in " ".join(entries[2].argv())
    assert "pretrained" not in " ".join(entries[2].argv())


def test_names_in_chinese_are_files_of_their_own(tmp_path):
    entries = read(tmp_path, {**LIST, "models": [{**LIST["models"][1], "name": name} for name in ("小模型", "大模型")]})
    assert [entry.place for entry in entries[::2]] == ["小模型/ocnli", "大模型/ocnli"]


def test_a_model_of_another_architecture_than_the_published_says_so(tmp_path, root):
    (tmp_path / "v.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"的一是不了"]) + "\n")
    models = [{"name": kind, "config_path": str(root / "models" / kind / "L-2_H-128_config.json"),
               "vocab_path": str(tmp_path / "v.txt")} for kind in ("bert", "modernbert")]
    lines = architectures(read(tmp_path, {**LIST, "models": models}))
    assert lines == ["modernbert: ModernBERT 2/128, 0.4 M parameters."]
    assert lines[0] in markdown([], [], lines) and "ModernBERT" not in markdown([], [])


@pytest.mark.parametrize("change, message", [
    ({"modles": []}, "unknown key 'modles'"),
    ({"models": [{"name": "x"}]}, "model 1: the key 'config_path' is missing"),
    ({"models": [{**LIST["models"][0], "published": "Huge"}]}, "'Huge' is not published; choose from: Tiny 2/128"),
    ({"tasks": {"x": {"train_path": "a"}}}, "task x: the key 'dev_path' is missing"),
    ({"models": [LIST["models"][1]] * 2}, "two models have the same name"),
    ({"grid": {"batch_size": 3}}, "grid: unknown key 'batch_size'"),
    ({"tasks": []}, "list.json: 'tasks' must be an object, not a list"),
    ({"models": 5}, "list.json: 'models' must be a list, not a whole number"),
    ({"flags": [1]}, "list.json: 'flags' must be an object, not a list"),
    ({"models": [{**LIST["models"][1], "name": 5}]}, "model 1: 'name' must be a text, not a whole number"),
    ({"models": [{**LIST["models"][1], "published": [1]}]}, "model 1: 'published' must be a text, not a list"),
])
def test_a_wrong_list_is_refused(tmp_path, change, message):
    with pytest.raises(UserError) as caught:
        read(tmp_path, {**LIST, **change})
    assert message in str(caught.value)


def test_tables_and_picture(tmp_path):
    entries = read(tmp_path, LIST)
    good = best_cell([record(0.7, 1), record(0.8, 2), record(0.9, 1, 1e-5), record(0.4, 2, 1e-5)])
    assert (good.score, good.low, good.high) == pytest.approx((75.0, 70.0, 80.0))
    cells = {("our tiny", "ocnli"): good, ("our tiny", "tnews"): best_cell([record(0.625, 1)]),
             ("random", "ocnli"): best_cell([record(0.5, 1)]), ("random", "tnews"): best_cell([])}
    rows = make_rows(entries, cells)
    text = markdown(rows, ["ocnli", "tnews"])
    assert "| our tiny | ours | 68.8 | 75.0 (70.0–80.0) | 62.5 |" in text
    assert "| Tiny 2/128 | published | 61.1 | 60.3 | 62.0 |" in text
    assert "| random | ours | 50.0* | 50.0 |  |" in text
    assert ("| our tiny | ocnli | batch 32, rate 0.0001, 3 epochs | batch 32, rate 1e-05 0.0001, 3 epochs | 1 2 | 4 | "
            "0 | 60.0 | aaaaaaaaaaaa |") in text
    lines = list(csv.DictReader(io.StringIO(csv_text(rows))))
    assert [(line["model"], line["task"], line["score"]) for line in lines[:3]] == [
        ("our tiny", "ocnli", "75.00"), ("our tiny", "tnews", "62.50"), ("Tiny 2/128", "ocnli", "60.30")]
    assert lines[0]["pretrained_hash"] == "c" * 16
    pytest.importorskip("matplotlib")
    draw(rows, ["ocnli", "tnews"], tmp_path / "board.png")
    assert (tmp_path / "board.png").read_bytes().startswith(b"\x89PNG")


def test_published_scores_are_the_means_of_their_tasks():
    for name, figures in PUBLISHED.items():
        assert sum(figures) / 6 == pytest.approx(PUBLISHED_SCORES[name], abs=0.06)
