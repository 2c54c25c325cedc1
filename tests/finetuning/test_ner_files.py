"""Files and long texts of sequence labelling."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from uer.errors import UserError
from uer.finetuning.command import finetune
from uer.finetuning.conll import read_conll
from uer.finetuning.infer import infer
from uer.finetuning.labels import LabelSet
from uer.finetuning.metrics import entity_scores
from uer.finetuning.task import TextToRows
from uer.finetuning.tasks.ner import Ner, read_sentences, split_words, word_windows
from uer.tokenizers import BertTokenizer, Vocab

CONLL = "-DOCSTART- O\n\n甲 B-PER\n乙 I-PER\n\n\n丙丁 O\n"


def write(folder: Path, text: str) -> str:
    path = folder / "data"
    path.write_text(text, "utf-8")
    return str(path)


def test_a_conll_file(tmp_path):
    table, words = read_conll(write(tmp_path, CONLL), True)
    assert words == [["甲", "乙"], ["丙丁"]] and table["label"] == ["B-PER I-PER", "O"] and table.lines == [3, 7]
    table, words = read_conll(write(tmp_path, "甲\n乙\n\n丙\n"), False)
    assert words == [["甲", "乙"], ["丙"]] and "label" not in table
    for text in ("label\ttext_a\nO\t甲\n", "甲 乙 丙\n丁\n", "甲\n乙\n", '{"text_a": "甲"}\n'):
        assert read_conll(write(tmp_path, text), False) is None


def test_a_text_of_one_word_with_one_tag(tmp_path):
    path = write(tmp_path, "label\ttext_a\nB-LOC I-LOC\tNew York\nB-LOC\tLondon\nB-LOC I-LOC\t北京\n")
    wanted = [["New", "York"], ["London"], ["北", "京"]]
    assert read_sentences(path, True, ())[1] == read_sentences(path, False, ())[1] == wanted


@pytest.mark.parametrize("text, words", [("Zürich", 1), ("Москва", 1), ("U.S.", 1), ("don\u2019t", 1), ("Hà Nội", 2),
                                         ("CNN记者", 5), ("さくら", 3), ("北京。", 3), ("ＣＮＮ", 3), (" London ", 1)])
def test_words_of_a_text_without_tags(tmp_path, text, words):
    assert len(split_words(text, 0)) == words
    assert list(map(len, read_sentences(write(tmp_path, f"text_a\n{text}\n"), False, ())[1])) == [words]


def test_tags_for_each_character_of_a_text_without_spaces(tmp_path):
    path = write(tmp_path, "label\ttext_a\nB-T I-T\t24\nO\t24\n")
    assert read_sentences(path, True, ())[1] == [["2", "4"], ["24"]]


def test_an_unknown_tag_of_a_conll_file_is_named_by_its_sentence(tmp_path):
    encoder = TextToRows(BertTokenizer(Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "甲"])), 8)
    with pytest.raises(UserError, match="data:3: tag 'I-PER' is not one of"):
        Ner(LabelSet(("O", "B-PER"))).examples(write(tmp_path, CONLL), encoder)


def test_windows_have_every_word():
    draw = random.Random(1)
    for _ in range(200):
        room = draw.randint(1, 12)
        sizes = [draw.randint(1, min(room, 4)) for _ in range(draw.randint(0, 40))]
        windows = word_windows(sizes, room)
        assert all(sum(sizes[first:last]) <= room for first, last in windows)
        assert all(one[0] < other[0] <= one[1] < other[1] for one, other in itertools.pairwise(windows))
        assert windows[0][0] == 0 and windows[-1][1] == len(sizes)


@pytest.mark.parametrize("bare", [False, True])
def test_tags_of_long_texts_lose_nothing(tmp_path, bare):
    """A model that repeats the tags of its rows gives back the tags of the texts."""
    draw, names = random.Random(2), ("O", "B-PER", "I-PER")
    rows = [[draw.choice(names) for _ in range(draw.randint(1, 30))] for _ in range(9)]
    path = write(tmp_path, "".join("".join(f"甲 {tag}\n" for tag in row) + "\n" for row in rows))
    encoder = TextToRows(BertTokenizer(Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "甲"])), 8)
    task = Ner(LabelSet(names), bare=bare)
    examples = task.examples(path, encoder)
    assert examples.rows.lengths.max() == 8 and len(examples) > len(rows)
    outputs = [own[own >= 0].astype(np.float32) for own in map(examples.token_targets["tag"].__getitem__,
                                                                range(len(examples)))]
    assert task.tags(outputs, examples) == rows == examples.info["tags"]


def test_a_conll_file_is_learned_and_tagged(tiny):
    rows = [line.split("\t")[1] for line in Path(tiny.path("dev.tsv")).read_text("utf-8").splitlines()[1:]]
    tagged = [[(word, "S-X" if word == "甲" else "O") for word in row] for row in rows]
    path = tiny.write("data.txt", "".join("".join(f"{word} {tag}\n" for word, tag in row) + "\n" for row in tagged))
    finetune("test", Ner, tiny.flags(train_path=path, dev_path=path, seq_length=6, epochs_num=3))
    infer("test", Ner, ["--load_model_path", tiny.path("out/model.bin"), "--test_path", path, "--prediction_path",
                        tiny.path("out.txt"), "--device", "cpu"])
    found = [line.split() for line in Path(tiny.path("out.txt")).read_text("utf-8").splitlines()[1:]]
    saved = json.loads(Path(tiny.path("out/model.json")).read_text("utf-8"))
    gold = [[tag for _, tag in row] for row in tagged]
    assert saved["scheme"] == "BIOES" and [len(row) for row in found] == [len(row) for row in gold]
    assert entity_scores(found, gold, "BIOES")["f1"] == saved["training"]["dev"]["f1"]


@pytest.mark.parametrize("scheme, letters", [("BIO", "BI"), ("BIOES", "BIES"), ("BMES", "BMES")])
def test_scores_are_those_of_seqeval(scheme, letters):
    """seqeval has no BMES in its default mode: M is I there."""
    seqeval = pytest.importorskip("seqeval.metrics")
    draw = random.Random(3)
    tags = ["O", *(f"{letter}-{kind}" for letter in letters for kind in ("PER", "LOC"))]
    predicted, gold = ([[draw.choice(tags) for _ in range(12)] for _ in range(300)] for _ in range(2))
    ours = entity_scores(predicted, gold, scheme)
    theirs = [[[tag.replace("M-", "I-") for tag in row] for row in rows] for rows in (gold, predicted)]
    for name, score in (("precision", seqeval.precision_score), ("recall", seqeval.recall_score),
                        ("f1", seqeval.f1_score)):
        assert ours[name] == pytest.approx(score(*theirs)), name
