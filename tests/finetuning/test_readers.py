"""Every format is read; every bad row is named by file and line."""

import json
from pathlib import Path

import numpy as np
import pytest

from uer.errors import UserError
from uer.finetuning.labels import LabelSet, parse_logits, train_labels
from uer.finetuning.readers import read_json, read_table, read_tables


def write(tmp_path: Path, text: str | bytes, name: str = "train.tsv") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_tsv_with_bom_crlf_blank_lines_and_columns_in_any_order(tmp_path):
    path = write(tmp_path, b"\xef\xbb\xbf" + "text_a\tlabel\textra\r\n好\t1\tx\r\n\r\n坏 书\t0\ty\r\n".encode())
    table = read_table(path, ("label", "text_a"), ("text_b",))
    assert table.columns == {"text_a": ["好", "坏 书"], "label": ["1", "0"]}
    assert table.lines == [2, 4]
    assert table.skipped["blank line"] == 1
    assert "text_b" not in table


@pytest.mark.parametrize("record, expected", [
    ({"label": "108", "label_desc": "news_edu", "sentence": "上课", "keywords": ""}, ("108", "上课", None)),
    ({"label": 3, "label_des": "打车", "sentence": "应用"}, ("3", "应用", None)),
    ({"sentence1": "甲", "sentence2": "乙", "label": "neutral", "id": 0}, ("neutral", "甲", "乙")),
    ({"text_a": "甲", "text_b": "乙", "label": 1, "logits": [0.5, 1]}, ("1", "甲", "乙")),
])
def test_json_lines_of_clue_and_ours(tmp_path, record, expected):
    path = write(tmp_path, json.dumps(record, ensure_ascii=False) + "\n", "dev.json")
    table = read_table(path, ("label", "text_a"), ("text_b", "logits"))
    assert (table["label"][0], table["text_a"][0], table["text_b"][0] if "text_b" in table else None) == expected
    if "logits" in table:
        assert parse_logits(table, 2).tolist() == [[0.5, 1.0]]


def test_rows_without_an_agreed_label_are_left_out_and_counted(tmp_path):
    lines = [{"sentence1": "甲", "sentence2": "乙", "label": label} for label in ("-", "neutral", " -")]
    path = write(tmp_path, "\n".join(map(json.dumps, lines)))
    table = read_table(path, ("label", "text_a", "text_b"))
    assert table.lines == [2]
    assert table.skipped["unlabelled row"] == 2


def test_json_lines_have_the_columns_of_the_first(tmp_path):
    pair, text = {"label": 1, "text_a": "甲", "text_b": "乙"}, {"label": 0, "text_a": "甲"}
    for number, lines in enumerate(((pair, text), (text, pair))):
        path = write(tmp_path, "\n".join(map(json.dumps, lines)))
        with pytest.raises(UserError, match=f":2: {('no', 'a')[number]} 'text_b', which earlier rows"):
            read_table(path, ("label", "text_a"), ("text_b",))


def test_names_in_a_header_may_have_spaces_and_capitals(tmp_path):
    path = write(tmp_path, "Label\t Text_A \tId\n1\t好\t7\n")
    for columns in ((), ("label", "text_a", "id")):  # by --columns alone the header would be a row of a third label
        assert read_table(path, ("label", "text_a"), columns=columns).columns == {"label": ["1"], "text_a": ["好"]}


@pytest.mark.parametrize("text, hint", [('[{"label": 1, "text_a": "a"},\n', "an object on every line, not a list"),
                                        ("1,good\n0,bad\n", "columns have tabs between them")])
def test_files_of_other_formats_are_told_what_is_read(tmp_path, text, hint):
    with pytest.raises(UserError, match=f"no header: .*; .*{hint}$"):
        read_table(write(tmp_path, text), ("label", "text_a"))


def test_lcqmc_as_published_has_no_header(tmp_path):
    table = read_table(write(tmp_path, "喜欢打篮球\t爱打篮球\t1\n我要\t你要\t0\n"), ("label", "text_a"), ("text_b",))
    assert table.columns == {"text_a": ["喜欢打篮球", "我要"], "text_b": ["爱打篮球", "你要"], "label": ["1", "0"]}


def test_columns_name_those_of_a_file_without_a_header(tmp_path):
    path = write(tmp_path, "7\t好\t1\n8\t坏\t0\n")
    table = read_table(path, ("label", "text_a"), columns=("id", "text_a", "label"))
    assert table.columns == {"text_a": ["好", "坏"], "label": ["1", "0"]}
    assert table.lines == [1, 2]
    headed = read_table(write(tmp_path, "label\ttext_a\n1\t好\n"), ("label", "text_a"), columns=("text_a", "label"))
    assert headed["text_a"] == ["好"]
    with pytest.raises(UserError, match=r"train.tsv:1: 3 columns where --columns has 2"):
        read_table(write(tmp_path, "7\t好\t1\n"), ("label", "text_a"), columns=("text_a", "label"))
    with pytest.raises(UserError, match="no column 'label'"):
        read_table(path, ("label", "text_a"), columns=("a", "text_a", "b"))


@pytest.mark.parametrize("lines, required, proposed", [
    (["1\t很好的书", "0\t坏", "1\t好"], ("label", "text_a"), "label text_a"),
    (["很好的书\tpos", "坏书\tneg", "好书\tpos"], ("label", "text_a"), "text_a label"),
    (["今天好\t今天不错\tyes", "他走了\t她来\tno"], ("label", "text_a"), "text_a text_b label"),
    (["0\tpos\t好书啊", "1\tneg\t坏书啊", "2\tneg\t坏坏啊"], ("label", "text_a"), "text_a label text_b"),
    (["我 是 张 三 丰 啊 啦\tO O B-PER I-PER I-PER O O"], ("label", "text_a"), "text_a label"),
    (["0.5\t甲甲\t乙丙", "1.5\t丁丁\t戊"], ("label", "text_a"), "label text_a text_b"),
    (["好书", "坏书"], ("text_a",), "text_a"),
    (["好书\t甲乙", "坏书\t丙丁"], ("text_a",), "text_a text_b"),
])
def test_a_file_without_a_header_is_answered_by_a_proposal(tmp_path, lines, required, proposed):
    with pytest.raises(UserError) as caught:
        read_table(write(tmp_path, "\n".join(lines)), required, ("text_b",))
    are = " are" if " " in proposed else " is"
    assert f"{are} {' and '.join(proposed.split())}: --columns {proposed}" in str(caught.value)


@pytest.mark.parametrize("limits, sizes", [((2, None), [2, 2, 1]), ((None, 4), [2, 2, 1]), ((5, 100), [5])])
def test_a_file_is_read_in_tables_of_bounded_size(tmp_path, limits, sizes):
    path = write(tmp_path, "label\ttext_a\n0\tx\n\n1\ty\n0\tz\n-\tw\n1\tu\n0\tv\n")
    tables = list(read_tables(path, ("label", "text_a"), most_rows=limits[0], most_characters=limits[1]))
    whole = read_table(path, ("label", "text_a"))
    assert [len(table) for table in tables] == sizes and tables[-1].hash == whole.hash
    for name in ("label", "text_a"):
        assert [value for table in tables for value in table[name]] == whole[name]
    assert [line for table in tables for line in table.lines] == whole.lines == [2, 4, 5, 7, 8]
    assert tables[0].skipped == whole.skipped == {"blank line": 1, "unlabelled row": 1}


def test_what_cannot_be_guessed_is_not_proposed(tmp_path):
    for text in ("a\tb\nc\n", "a\nb\n"):
        with pytest.raises(UserError, match="no header: the first line, or --columns, must name the columns"):
            read_table(write(tmp_path, text), ("label", "text_a"))


@pytest.mark.parametrize("content, message", [
    ("", "the file is empty"),
    ("\n\n", "the file is empty"),
    ("label\ttext_a\n", "no example in the file"),
    ("text_a\n好\n", ":1: no column 'label'; found: text_a"),
    ("1\t好\n0\t坏\n", ":1: no header"),
    ("label\ttext_a\n1\t好\n0\n", ":3: 1 columns where the header has 2 (label, text_a)"),
    ("label\ttext_a\ttext_a\n", ":1: the header names a column twice: text_a"),
    (b"label\ttext_a\n1\t\xff\n", ":2: not UTF-8 at byte 3"),
    ('{"label": 1, "sentence": "x"}\n{"label": 1\n', ":2: not JSON"),
    ('{"label": 1, "sentence": "x"}\n[1]\n', ":2: a JSON object is needed"),
    ('{"label": 1, "sentence": "x"}\n{"label": 1}\n', ":2: no column 'text_a' (or sentence, sentence1); found: label"),
    ('{"label": {}, "sentence": "x"}\n', ":1: 'label' must be a string or a number, not dict"),
    ('{"label": 1, "sentence": "\\ud800"}\n', ":1: 'sentence' holds half of a surrogate pair"),
    ('{"label": ' + "[" * 100_000, ":1: JSON nested too deeply"),
    ("label\ttext_a\r1\t好\r0\t坏\r", ":1: a carriage return inside the line"),
])
def test_bad_files_are_named(tmp_path, content, message):
    path = write(tmp_path, content)
    with pytest.raises(UserError) as caught:
        read_table(path, ("label", "text_a"))
    assert str(caught.value).startswith(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_broken_json(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        read_table(str(tmp_path / "none.tsv"), ("text_a",))
    with pytest.raises(UserError, match=r"bad.json:2: not JSON"):
        read_json(write(tmp_path, '{"a":\n}', "bad.json"))


def test_real_tasks(shared_data):
    ocnli = read_table(str(shared_data / "tasks/ocnli/train.json"), ("label", "text_a", "text_b"))
    assert train_labels(ocnli).names == ("contradiction", "entailment", "neutral")
    assert ocnli.skipped["unlabelled row"] > 0
    book = read_table(str(shared_data / "tasks/book_review/test.tsv"), ("label", "text_a"))
    assert len(book) == 8000


def test_labels_are_ordered_by_value_or_by_name():
    assert LabelSet.of(["10", "9", "9", "-1"]).names == ("-1", "9", "10")
    assert LabelSet.of(["b", "a", "10"]).names == ("10", "a", "b")
    assert LabelSet.of(["01", "1"]).names == ("01", "1")
    assert LabelSet.of(["9" * 5000, "1"]).names == ("1", "9" * 5000)


@pytest.mark.parametrize("label", ["a\tb", "a\nb"])
def test_a_label_that_a_tsv_cannot_hold_is_refused(label):
    with pytest.raises(UserError, match=r"the label 'a\\[tn]b' holds a tab or a line end"):
        LabelSet.of(["a", label])


def test_label_problems_name_the_line(tmp_path):
    train = read_table(write(tmp_path, "label\ttext_a\n0\tx\n1\ty\n"), ("label", "text_a"))
    labels = train_labels(train)
    assert labels.numbers(train).tolist() == [0, 1]
    dev = read_table(write(tmp_path, "label\ttext_a\n0\tx\n2\ty\n", "dev.tsv"), ("label", "text_a"))
    with pytest.raises(UserError, match=r"dev.tsv:3: label '2' is not one of the 2 labels of the training file: 0, 1"):
        labels.numbers(dev)
    with pytest.raises(UserError, match="only one label"):
        train_labels(read_table(write(tmp_path, "label\ttext_a\n0\tx\n"), ("label", "text_a")))
    with pytest.raises(UserError, match=r":2: the label is empty"):
        train_labels(read_table(write(tmp_path, "label\ttext_a\n\tx\n"), ("label", "text_a")))


@pytest.mark.parametrize("logits, message", [("1 2 3", "3 logits for 2 labels"), ("1 x", "must be numbers"),
                                             ("1 nan", "not finite")])
def test_bad_logits(tmp_path, logits, message):
    table = read_table(write(tmp_path, f"label\ttext_a\tlogits\n0\tx\t{logits}\n"), ("label", "text_a"), ("logits",))
    with pytest.raises(UserError, match=f":2: .*{message}"):
        parse_logits(table, 2)
    assert parse_logits(read_table(write(tmp_path, "label\ttext_a\tlogits\n0\tx\t1 -2.5\n"),
                                   ("text_a", "logits")), 2).dtype == np.float32
