"""Each further task learns something small, is saved, and predicts the same again; its bad files are named."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.finetuning.conftest import CONFIG
from tests.tools.configs import model_config
from uer.checkpoint.files import load_weights, save_weights
from uer.errors import UserError
from uer.finetuning.answer_metrics import exact_match, f1_score, split_pieces
from uer.finetuning.command import finetune
from uer.finetuning.infer import infer
from uer.finetuning.tasks.c3 import MultipleChoiceTask
from uer.finetuning.tasks.cmrc import ReadingComprehension, best_span, read_squad
from uer.finetuning.tasks.multi_label import MultiLabel
from uer.finetuning.tasks.ner import Ner
from uer.finetuning.tasks.regression import Regression
from uer.finetuning.tasks.siamese import Siamese
from uer.finetuning.tasks.simcse import Simcse
from uer.model import build_model

LETTERS = "丙丁戊己庚辛壬癸"


def texts(count: int, marks: str = "甲乙") -> list[str]:
    """Short texts that hold any of the marks half of the time."""
    generator = random.Random(count)
    return ["".join(generator.choices(LETTERS, k=generator.randint(2, 6))) +
            "".join(mark for mark in marks if generator.random() < 0.5) for _ in range(count)]


def train(tiny, task, content: str, name: str = "data.tsv", **changes) -> dict:
    path = tiny.write(name, content)
    finetune("test", task, tiny.flags(**{"train_path": path, "dev_path": path, "epochs_num": 6, **changes}))
    return json.loads(Path(tiny.path("out/model.json")).read_text("utf-8"))["training"]["dev"]


def predict(tiny, task, content: str, name: str = "test.tsv", *more: str) -> list[str]:
    path = tiny.write(name, content)
    infer("test", task, ["--load_model_path", tiny.path("out/model.bin"), "--test_path", path,
                         "--prediction_path", tiny.path("out.txt"), "--device", "cpu", *more])
    return Path(tiny.path("out.txt")).read_text("utf-8").splitlines()


def test_regression(tiny):
    rows = texts(96)
    table = "label\ttext_a\n" + "".join(f"{('甲' in row) - 0.5}\t{row}\n" for row in rows)
    assert train(tiny, Regression, table, epochs_num=10, batch_size=16, learning_rate=0.01)["pearson"] > 0.8
    lines = predict(tiny, Regression, "text_a\n丙甲\n丙丁\n")
    assert lines[0] == "label"
    assert float(lines[1]) > float(lines[2])
    with pytest.raises(UserError, match="--output_prob: the predictions of the task 'regression' have no such column"):
        predict(tiny, Regression, "text_a\n丙甲\n", "test.tsv", "--output_prob")
    with pytest.raises(UserError, match=r"data.tsv:2: the label 'x' is not a number"):
        train(tiny, Regression, "label\ttext_a\nx\t丙\n")


def test_multi_label(tiny):
    rows = texts(96)
    table = "label\ttext_a\n" + "".join(
        f"{','.join(name for mark, name in (('甲', 'a'), ('乙', 'b')) if mark in row)}\t{row}\n" for row in rows)
    metrics = train(tiny, MultiLabel, table)
    assert metrics["f1"] > 0.6
    lines = [line.split("\t") for line in predict(tiny, MultiLabel, table, "test.tsv", "--output_prob")]
    assert lines[0] == ["label", "prob"]
    wanted = [line.split("\t")[0] for line in table.splitlines()]
    assert np.mean([line[0] == gold for line, gold in zip(lines[1:], wanted[1:])]) == metrics["accuracy"]
    for label, prob in lines[1:]:
        assert label == ",".join(name for name, value in zip("ab", prob.split()) if float(value) > 0.5)
    with pytest.raises(UserError, match=r"dev.tsv:2: label 'z' is not one of the 2 labels"):
        train(tiny, MultiLabel, table, dev_path=tiny.write("dev.tsv", "label\ttext_a\nz\t丙\n"))


def test_siamese(tiny):
    rows = texts(96, "甲")
    table = "label\ttext_a\ttext_b\n" + "".join(
        f"{int('甲' in right)}\t{left}\t{right}\n" for left, right in zip(rows, rows[7:] + rows[:7]))
    assert train(tiny, Siamese, table, epochs_num=12, batch_size=16, learning_rate=0.006)["accuracy"] > 0.85
    assert len(predict(tiny, Siamese, "text_a\ttext_b\n丙甲\t丁甲\n", "t.tsv", "--output_logits")) == 2
    with pytest.raises(UserError, match="no column 'text_b'"):
        predict(tiny, Siamese, "text_a\n丙甲\n")


def test_siamese_with_the_dual_encoder(tiny, capsys):
    """A single encoder's weights, under names of before July 2023, fill both streams; these then learn apart."""
    stream = {**CONFIG, "vocab_size": 1}
    tiny.write("dual.json", json.dumps({"embedding": ["dual"], "encoder": "dual", "pooling": "max", "stream_0": stream,
                                        "stream_1": stream}))
    single = build_model(model_config(**CONFIG), 27).state_dict()
    save_weights({name.replace("word.embedding", "word_embedding"): value for name, value in single.items()},
                 tiny.path("single.bin"))
    rows = texts(64, "甲")
    table = "label\ttext_a\ttext_b\n" + "".join(
        f"{int('甲' in right)}\t{left}\t{right}\n" for left, right in zip(rows, rows[7:] + rows[:7]))
    flags = {"config_path": tiny.path("dual.json"), "pretrained_model_path": tiny.path("single.bin")}
    few = "".join(table.splitlines(keepends=True)[:9])
    train(tiny, Siamese, few, epochs_num=1, learning_rate=1e-9, log_level="INFO", **flags)
    out = capsys.readouterr().out
    assert "single.bin: UER-py's names of before July 2023 were translated into today's (1)" in out
    assert "parameters are not used: target.mlm" in out
    start = load_weights(tiny.path("out/model.bin"))
    for name, value in single.items():
        for number in (0, 1) if name.startswith(("embedding", "encoder")) else ():
            ours = name.replace("encoder.", f"encoder.encoder_{number}.").replace(
                "embedding.", f"embedding.dual.embedding_{number}.", 1)
            torch.testing.assert_close(start[ours], value, rtol=0, atol=1e-6)
    metrics = train(tiny, Siamese, table, epochs_num=12, batch_size=16, learning_rate=0.006, **flags)
    assert metrics["accuracy"] > 0.85
    trained = load_weights(tiny.path("out/model.bin"))
    word = "embedding.dual.embedding_{}.word.embedding.weight"
    assert (trained[word.format(0)] - trained[word.format(1)]).abs().max() > 0.01
    lines = predict(tiny, Siamese, table, "t.tsv")[1:]
    labels = [line.split("\t")[0] for line in table.splitlines()[1:]]
    assert np.mean([ours == label for ours, label in zip(lines, labels)]) == metrics["accuracy"]
    # The weights alone, as UER-py leaves them, under the names of before July 2023.
    save_weights({name.replace("embedding.dual.", "embedding."): value for name, value in trained.items()},
                 tiny.path("old.bin"))
    assert predict(tiny, Siamese, table, "t.tsv", "--load_model_path", tiny.path("old.bin"), "--labels_num", "2",
                   "--config_path", tiny.path("dual.json"), "--vocab_path", tiny.path("vocab.txt"), "--seq_length",
                   "16")[1:] == lines
    save_weights({**trained, "embedding.dual.stream_0_layer_norm.gamma": torch.ones(16)}, tiny.path("out/model.bin"))
    with pytest.raises(UserError, match="second layer norm"):
        predict(tiny, Siamese, table)


def test_only_pairs_go_through_a_dual_encoder(tiny):
    stream = {**CONFIG, "vocab_size": 1}
    path = tiny.write("dual.json", json.dumps({"embedding": "dual", "encoder": "dual", "stream_0": stream,
                                               "stream_1": stream}))
    with pytest.raises(UserError, match=r"'dual' encodes pairs of texts, .* only finetune/run_classifier_siamese\.py"):
        train(tiny, Regression, "label\ttext_a\n1\t丙\n2\t丁\n", config_path=path)


def test_ner(tiny):
    rows = texts(64)
    table = "label\ttext_a\n" + "".join(
        " ".join({"甲": "B-PER", "乙": "B-LOC"}.get(mark, "O") for mark in row) + "\t" + " ".join(row) + "\n"
        for row in rows)
    assert train(tiny, Ner, table)["f1"] > 0.95
    lines = predict(tiny, Ner, "text_a\n丙 丁 甲\n丙丁乙\n" + " ".join("甲" * 20) + "\n")
    assert lines[:3] == ["pred_label", "O O B-PER", "O O B-LOC"]
    assert len(lines[3].split()) == 20 and "B-PER" in lines[3].split()[14:]  # longer than a row: from two windows
    with pytest.raises(UserError, match=r"data.tsv:2: 1 tag for 2 words"):
        train(tiny, Ner, "label\ttext_a\nO\t丙 丁\n")
    with pytest.raises(UserError, match="reads the beginning"):
        train(tiny, Ner, table, truncation="tail")


def test_simcse(tiny):
    rows = texts(64)
    path = tiny.write("train.tsv", "text_a\n" + "".join(f"{row}\n" for row in rows))
    dev = "label\ttext_a\ttext_b\n" + "".join(
        f"{len(set(left) & set(right))}\t{left}\t{right}\n" for left, right in zip(rows, rows[1:] + rows[:1]))
    metrics = train(tiny, Simcse, dev, "dev.tsv", train_path=path, dropout=0.1, epochs_num=6, learning_rate=0.003)
    assert metrics["spearman"] > 0.3


def test_simcse_wants_labelled_pairs_before_it_trains(tiny):
    path = tiny.write("train.tsv", "text_a\n甲\n乙\n")
    for name, content in (("dev.tsv", "text_a\n甲\n"), ("dev.tsv", "label\ttext_a\n1\t甲\n")):
        with pytest.raises(UserError, match=r"dev.tsv:1: no column '(label|text_b)'"):
            train(tiny, Simcse, content, name, train_path=path)
    with pytest.raises(UserError, match=r"train.tsv:1: no column 'label'"):
        finetune("test", Simcse, tiny.flags(train_path=path, dev_path=path))


def test_c3(tiny):
    entries = [[["丙丁"], [{"question": "戊", "choice": ["己甲", "庚", "辛"][:2 + number % 2][::(-1) ** number],
                           "answer": "己甲"}], str(number)] for number in range(32)]
    content = json.dumps(entries, ensure_ascii=False)
    assert train(tiny, MultipleChoiceTask, content, "c3.json")["accuracy"] == 1.0
    lines = [json.loads(line) for line in predict(tiny, MultipleChoiceTask, content, "c3_test.json")]
    assert [(line["id"], line["label"]) for line in lines[:2]] == [("0-0", 0), ("1-0", 2)]
    entries[2][1][0]["choice"] += [f"壬{number}" for number in range(5)]
    more = json.dumps(entries, ensure_ascii=False)
    with pytest.raises(UserError, match="entry 3: more than --max_choices_num 4 choices"):
        predict(tiny, MultipleChoiceTask, more, "c3_test.json")
    wide = predict(tiny, MultipleChoiceTask, more, "c3_test.json", "--max_choices_num", "9")
    assert [json.loads(line)["label"] for line in wide[:2]] == [0, 2] and len(wide) == 32
    entries[3][1][0]["answer"] = "none"
    with pytest.raises(UserError, match="entry 4, question 1: the answer is none of the choices"):
        train(tiny, MultipleChoiceTask, json.dumps(entries), "c3.json", max_choices_num=9)


@pytest.mark.parametrize("task, content, message", [
    (MultipleChoiceTask, [{"question": "甲"}], "entry 1 must be a list"),
    (MultipleChoiceTask, [["甲", []]], "entry 1: its first item must be a list of sentences"),
    (MultipleChoiceTask, [[["甲"], "乙"]], "entry 1: its second item must be a list of questions"),
    (MultipleChoiceTask, [[["甲"], ["乙"]]], "entry 1, question 1 must be an object with 'choice', not a text"),
    (MultipleChoiceTask, [[["甲"], [{"choice": "乙"}]]], "entry 1, question 1: 'choice' must be a list, not a text"),
    (MultipleChoiceTask, [[["甲"], []]], "no question in the file"),
    (MultipleChoiceTask, {}, "a JSON list of texts"),
    (ReadingComprehension, [], "the file must be an object with 'data', not a list"),
    (ReadingComprehension, {"data": {}}, "'data' must be a list, not an object"),
    (ReadingComprehension, {"data": [{"paragraphs": [{"context": 5}]}]}, "article 1, paragraph 1: 'context' must be"),
    (ReadingComprehension, {"data": [{"paragraphs": [{"context": "甲", "qas": [[]]}]}]}, "question 1 must be an"),
    (ReadingComprehension, {"data": [{"paragraphs": [{"context": "甲", "qas": [
        {"id": "Q7", "question": "乙", "answers": [{"text": "甲", "answer_start": "0"}]}]}]}]},
     "question Q7, answer 1: 'answer_start' must be a whole number, not a text"),
    (ReadingComprehension, {"data": [{"paragraphs": [{"context": "甲", "qas": [{"id": 1, "question": "乙"}]}]}]},
     "question 1: 'answers' is missing"),
])
def test_files_of_another_shape_are_named_in_plain_words(tiny, task, content, message):
    with pytest.raises(UserError, match=message) as caught:
        train(tiny, task, json.dumps(content, ensure_ascii=False), "bad.json")
    assert "bad.json: " in str(caught.value)


def squad(rows: list[tuple[str, str, int]]) -> str:
    return json.dumps({"data": [{"paragraphs": [{"context": text, "qas": [
        {"id": f"Q{number}", "question": "丙", "answers": [{"text": answer, "answer_start": start}]}]}
        for number, (text, answer, start) in enumerate(rows)]}]}, ensure_ascii=False)


def test_cmrc_through_windows(tiny):
    generator = random.Random(1)
    rows = []
    for _ in range(48):
        text = "".join(generator.choices(LETTERS, k=generator.randint(4, 24)))
        start = generator.randrange(len(text))
        rows.append((f"{text[:start]}甲乙{text[start:]}", "甲乙", start))
    metrics = train(tiny, ReadingComprehension, squad(rows), "squad.json", doc_stride=6, epochs_num=8, batch_size=16)
    assert metrics["em"] > 0.9
    found = json.loads("\n".join(predict(tiny, ReadingComprehension, squad(rows), "squad_test.json")))
    assert sum(answer == "甲乙" for answer in found.values()) == round(metrics["em"] * 48)
    shorter = "\n".join(predict(tiny, ReadingComprehension, squad(rows), "squad_test.json", "--doc_stride", "3",
                                "--max_answer_length", "1"))
    assert all(len(answer) == 1 for answer in json.loads(shorter).values())
    with pytest.raises(UserError, match="question Q0: its answer is not in the text"):
        train(tiny, ReadingComprehension, squad([("丙丁", "甲", 0)]), "squad.json")
    with pytest.raises(UserError, match="paragraph 1: 'context' is missing"):
        train(tiny, ReadingComprehension, '{"data": [{"paragraphs": [{"qas": [{}]}]}]}', "squad.json")


def test_rows_without_room_for_a_text_are_refused_and_windows_always_end(tiny, caplog):
    text = squad([("丙丁戊己庚", "丁", 1)])
    for length in (4, 5, 6):
        with pytest.raises(UserError, match=f"--seq_length {length}: .*7 is the least"):
            train(tiny, ReadingComprehension, text.replace('"question": "丙"', '"question": "丙丁戊己"'), "squad.json",
                  seq_length=length)
    train(tiny, ReadingComprehension, text, "squad.json", seq_length=7, doc_stride=100, epochs_num=1)
    out = predict(tiny, ReadingComprehension, text, "squad_test.json")
    assert json.loads("\n".join(out)).keys() == {"Q0"}


def test_two_questions_of_one_id_have_one_prediction_only(tiny):
    questions = [{"id": "Q", "question": text} for text in "甲乙"]
    path = tiny.write("twice.json", json.dumps({"data": [{"paragraphs": [{"context": "丙", "qas": questions}]}]}))
    with pytest.raises(UserError, match=r"twice\.json: two questions have the id Q; the prediction file holds one"):
        read_squad(path, False)


def test_answers_are_counted_by_questions(tiny, capsys):
    text = squad([("丙丁戊己庚" * 6, "丁", 1), ("丁", "丁", 0)])
    train(tiny, ReadingComprehension, text, "squad.json", epochs_num=1, doc_stride=5)
    capsys.readouterr()
    predict(tiny, ReadingComprehension, text, "squad_test.json")
    assert "2 answers (from 6 windows) written to" in capsys.readouterr().out


def test_answers_are_compared_without_case_and_punctuation():
    assert [("1998年 in"[start:stop]) for start, stop in split_pieces("1998年 in")] == ["1998", "年", "in"]
    assert exact_match("《北京》 City", "北京city") == 1.0
    assert f1_score("在北京市", "北京") == pytest.approx(2 * 2 / 6)
    assert f1_score("", "北京") == 0.0
    scores = np.log(np.array([[0.1, 0.6, 0.2, 0.1], [0.5, 0.1, 0.1, 0.3]]))
    assert best_span(scores, 30)[1:] == (1, 3)
    assert best_span(scores, 2)[1:] == (1, 1)
