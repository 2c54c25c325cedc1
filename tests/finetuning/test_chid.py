"""Idiom cloze: rows, windows and the assignment of candidates."""

import json
from pathlib import Path

import numpy as np
import pytest

from uer.api.load import load
from uer.errors import UserError
from uer.finetuning.batches import collate
from uer.finetuning.command import finetune
from uer.finetuning.config import ChidConfig
from uer.finetuning.infer import infer
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.chid import Chid, Passages, assign, window
from uer.tokenizers import CharTokenizer, Vocab

COMPLETE = 3  # of the original's golden examples, so many are short enough to have every token of the passage


def test_rows_are_those_of_the_original(golden, google_vocab):
    """The original has lost the last [SEP] of long rows, and the left side of short passages."""
    folder = golden / "breadth/tasks"
    answers = str(folder / "chid_answers.json")
    task = Chid.of_training_file("", ChidConfig(answers, answers, 5))
    encoder = TextToRows(CharTokenizer(Vocab.load(str(google_vocab))), 64)
    examples, arrays = task.examples(str(folder / "chid.jsonl"), encoder), np.load(folder / "chid.npz")
    wanted = json.loads((folder / "tasks.json").read_text("utf-8"))["chid"]
    assert examples.info["tags"] == wanted["tags"] and examples.info["groups"] == wanted["groups"]
    assert np.array_equal(examples.targets["label"], arrays["tgt"]) and set(examples.targets["choices"]) == {4}
    batch = collate(examples, np.arange(COMPLETE), 0)
    size = batch.src.shape[1]
    assert np.array_equal(batch.src.view(COMPLETE, 5, -1)[:, :4], arrays["src"][:COMPLETE, :4, :size])
    for number in range(COMPLETE * 5, len(examples.rows)):
        row = examples.rows.tokens[number]
        assert len(row) == (64 if number % 5 < 4 else 2) and row[-1] == 102


@pytest.mark.parametrize("seq_length", range(4, 10))
def test_no_row_is_longer_than_seq_length(google_vocab, seq_length):
    encoder = TextToRows(CharTokenizer(Vocab.load(str(google_vocab))), seq_length)
    examples = Chid(2).of_passages([Passages(("山明水秀#idiom1#鸟语花香",), ("万紫千红", "一"), "")], encoder)
    first, second = (examples.rows.tokens[row] for row in range(2))
    assert len(first) == seq_length == len(second) and first[-1] == second[-1] == 102


def test_windows_and_assignments_are_those_of_the_original(golden):
    wanted = json.loads((golden / "breadth/tasks/tasks.json").read_text("utf-8"))["chid"]
    for case in wanted["window"]:
        left, right = case["idiom_index"], case["tokens"] - case["idiom_index"] - 1
        found = window(left, right, case["wanted"])
        # where the original takes fewer tokens than fit, an index became negative
        fitting = min(case["wanted"], left + right)
        assert sum(found) == fitting
        assert found == (case["left"], case["right"]) or case["left"] + case["right"] < fitting
    for name in ("assignment", "assignment_more_blanks_than_choices"):
        logits = wanted[name]["logits"]
        tags = list(logits)
        found = sorted(assign(np.array(list(logits.values()))))
        assert [[tags[blank], choice] for blank, choice in found] == wanted[name]["result"]


def test_predictions_are_what_was_evaluated(tiny):
    lines = [{"content": [f"甲{character}#idiom{2 * row}#乙", f"丙#idiom{2 * row + 1}#"],
              "candidates": ["子丑", "寅", "卯"]}
             for row, character in enumerate("丁戊己庚辛壬癸")]
    data = tiny.write("data.json", "".join(json.dumps(line) + "\n" for line in lines))
    answers = {f"#idiom{number}#": number % 3 for number in range(14)}
    paths = {"train_answer_path": tiny.write("answers.json", json.dumps(answers))}
    paths["dev_answer_path"] = paths["train_answer_path"]
    finetune("test", Chid, tiny.flags(train_path=data, dev_path=data, **paths, max_choices_num=4))
    saved = json.loads(Path(tiny.path("out/model.json")).read_text("utf-8"))
    assert saved["tokenizer"]["tokenizer"] == "char"
    infer("test", Chid, ["--load_model_path", tiny.path("out/model.bin"), "--test_path", data, "--prediction_path",
                         tiny.path("out.json"), "--device", "cpu"])
    found = json.loads(Path(tiny.path("out.json")).read_text("utf-8"))
    right = np.mean([found[tag] == answer for tag, answer in answers.items()])
    assert right == pytest.approx(saved["training"]["dev"]["accuracy"])
    first, = load(tiny.path("out/model.bin")).predict([(lines[0]["content"], lines[0]["candidates"])])
    assert first.label == {tag: lines[0]["candidates"][found[tag]] for tag in ("#idiom0#", "#idiom1#")}
    with pytest.raises(UserError, match=r"data\.json:1: .*answers\.json has no answer for #idiom0#"):
        tiny.write("answers.json", "{}")
        finetune("test", Chid, tiny.flags(train_path=data, dev_path=data, **paths))


@pytest.mark.parametrize("line, message", [
    ('{"content": ["甲"], "candidates": ["乙"]}', "no blank such as"),
    ('{"content": ["甲#idiom1#"], "candidates": ["乙", "丙", "丁"]}', "3 candidates; --max_choices_num is 2"),
    ('{"content": "甲"}', "'content' must be a list"),
    ('{"content": [1], "candidates": []}', "must be lists of texts"),
])
def test_bad_lines(tmp_path, google_vocab, line, message):
    (tmp_path / "data").write_text(f"\n{line}\n", "utf-8")
    encoder = TextToRows(CharTokenizer(Vocab.load(str(google_vocab))), 64)
    with pytest.raises(UserError, match=f"data:2: .*{message}"):
        Chid(2).examples(str(tmp_path / "data"), encoder, labelled=False)


def test_two_blanks_of_one_name_have_one_prediction_only(tmp_path, google_vocab):
    (tmp_path / "data").write_text('{"content": ["甲#idiom1#"], "candidates": ["乙", "丙"]}\n' * 2, "utf-8")
    encoder = TextToRows(CharTokenizer(Vocab.load(str(google_vocab))), 64)
    with pytest.raises(UserError, match=r"data: two blanks are called #idiom1#; the prediction file holds one"):
        Chid(2).examples(str(tmp_path / "data"), encoder, labelled=False)
