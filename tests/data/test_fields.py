"""Corpora of tab-separated fields: rows worked by hand, and the lines of which none is made."""

import numpy as np
import pytest
import torch

from tests.tools.datasets import make_dataset, whole_batch
from uer.config import DatasetConfig, MaskingConfig
from uer.data.build import build_dataset
from uer.data.line_cleaner import LineCleaner
from uer.data.loader import Loader, open_processor
from uer.data.processors.base import Ragged
from uer.data.processors.fields import Mark, assembled
from uer.data.row_fetcher import RowFetcher
from uer.errors import UserError
from uer.tokenizers.char import CharTokenizer
from uer.tokenizers.vocab import Vocab

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefg一二三"]
A, B, C = 5, 6, 7  # ids of a, b, c; [CLS] is 2, [SEP] 3


@pytest.fixture(scope="module")
def tokenizer():
    return CharTokenizer(Vocab(TOKENS))


@pytest.fixture
def made(tmp_path, tokenizer):
    """The dataset of some text, and the lines of its summary."""
    def make(name: str, content: str | bytes, **settings):
        corpus, path = tmp_path / "corpus.tsv", tmp_path / f"{name}.pt"
        corpus.write_bytes(content if isinstance(content, bytes) else content.encode())
        config = DatasetConfig(corpus_path=(str(corpus),), dataset_path=str(path), data_processor=name,
                               **{"seq_length": 6, **settings})
        tokenizers = {"src": tokenizer, "tgt": tokenizer}
        summary = build_dataset(config, tokenizers, note=lambda line: None)
        return summary.lines(0, tokenizers.values())
    return make


def test_parts_are_chained_and_cut():
    first = Ragged(np.array([7, 8, 5], np.uint16), np.array([0, 2, 2, 3]), np.array([1, 0, 1], np.uint8))
    rows = assembled([Mark(2), first, Mark(3, np.array([True, True, False]))], np.array([0, 2]), 3)
    assert rows.ids.tolist() == [2, 7, 8, 2, 5] and rows.offsets.tolist() == [0, 3, 5]
    assert rows.ids.dtype == np.uint16 and rows.word_start.tolist() == [1, 1, 0, 1, 1]
    assert assembled([Mark(2), first], np.array([], np.int64), 3).offsets.tolist() == [0]


@pytest.mark.parametrize("line, src, seg", [
    ("1\tab", [2, A, B, 0, 0, 0], [1, 1, 1, 0, 0, 0]),
    ("1\ta\tb", [2, A, 3, B, 3, 0], [1, 1, 1, 2, 2, 0]),
    ("1\tab\t", [2, A, B, 0, 0, 0], [1, 1, 1, 0, 0, 0]),  # an empty last field is none
    ("1\tabcabcabc", [2, A, B, C, A, B], [1] * 6),
    ("1\tab\tcc", [2, A, B, 3, C, C], [1, 1, 1, 1, 2, 2]),  # cut: no [SEP]
    ("1\tabcabcabc\tb", [2, A, B, C, A, B], [1] * 6),  # no room for the second part
    (" 01 \tab\r", [2, A, B, 0, 0, 0], [1, 1, 1, 0, 0, 0])])
def test_rows_of_cls(tmp_path, tokenizer, line, src, seg):
    (tmp_path / "c.tsv").write_text(line + "\n", encoding="utf-8", newline="")
    batch = whole_batch(make_dataset(tmp_path / "d.pt", tmp_path / "c.tsv", "cls", tokenizer, seq_length=6))
    assert batch.src.values.tolist() == [src] and batch.src.seg.tolist() == [seg]
    assert batch.labels["cls"].values.tolist() == [[1]] and batch.labels["cls"].positions.tolist() == [[0]]


def test_rows_of_prefixlm(tmp_path, tokenizer):
    """The last label of a row that is cut is the token behind the cut; a prefix of S - 2 tokens is left out."""
    (tmp_path / "c.tsv").write_text("ab\tc\na\tbcbcbc\nabc\tabc\nabca\tc\n")
    batch = whole_batch(make_dataset(tmp_path / "d.pt", tmp_path / "c.tsv", "prefixlm", tokenizer, seq_length=6))
    assert batch.src.values.tolist() == [[2, A, B, 3, C, 3], [2, A, 3, B, C, B], [2, A, B, C, 3, A]]
    assert batch.src.seg.tolist() == [[1, 1, 1, 1, 2, 2], [1, 1, 1, 2, 2, 2], [1, 1, 1, 1, 1, 2]]
    assert batch.labels["lm"].values.tolist() == [[-100, -100, -100, C, 3, -100], [-100, -100, B, C, B, C],
                                                  [-100, -100, -100, -100, A, B]]


def test_rows_of_mt(tmp_path, tokenizer):
    (tmp_path / "c.tsv").write_text("a\tb\nab\tabcabc\nabcabc\tcc\n")
    batch = whole_batch(make_dataset(tmp_path / "d.pt", tmp_path / "c.tsv", "mt", tokenizer, seq_length=5,
                                     members={"tgt_seq_length": 4}))
    assert batch.src.values.tolist() == [[2, A, 3, 0, 0], [2, A, B, 3, 0], [2, A, B, C, A]]
    assert batch.tgt.values.tolist() == [[2, B, 3, 0], [2, A, B, C], [2, C, C, 3]]
    assert batch.labels["lm"].values.tolist() == [[B, 3, -100, -100], [A, B, C, A], [C, C, 3, -100]]
    assert batch.tgt.seg.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert batch.labels["lm"].side == "tgt" and batch.real_tokens() == 12 + 11


def test_every_line_is_an_instance_blank_or_counted_and_located(made, tmp_path):
    report = made("cls", b"1\ta\npos\tb\n\n \t \n0\ta\tb\tc\n-1\ta\n65536\ta\n65535\ta\n2\t\n3\t\xff\n4\n\t\tb\n"
                         b"1\t\tb\n")
    assert report[0] == "documents: 3 (2 blank lines skipped)"
    corpus = tmp_path / "corpus.tsv"
    number = "the label is no whole number from 0 to 65,535, left out"
    assert report[1:-4] == [
        "damaged lines: 1 (1 tab-separated fields instead of 2 or 3, left out)",
        "damaged lines: 1 (4 tab-separated fields instead of 2 or 3, left out)",
        "damaged lines: 2 (field 2 has no text, left out)",
        "damaged lines: 1 (not UTF-8, replaced)",
        f"damaged lines: 4 ({number})",
        f"  {corpus}: line 2: {number}",
        f"  {corpus}: line 5: 4 tab-separated fields instead of 2 or 3, left out",
        f"  {corpus}: line 6: {number}",
        f"  {corpus}: line 7: {number}",
        f"  {corpus}: line 9: field 2 has no text, left out",
        f"  {corpus}: line 10: not UTF-8, replaced",
        f"  {corpus}: line 11: 1 tab-separated fields instead of 2 or 3, left out",
        f"  {corpus}: line 12: {number}",
        f"  {corpus}: line 13: field 2 has no text, left out"], report


def test_prefixes_without_room_are_counted(made, tmp_path):
    report = made("prefixlm", "a\tb\nabcd\ta\n\tb\na\tb\tc\nb\t\n")
    assert report[0] == "documents: 1 (0 blank lines skipped)"
    kind = "the prefix has more than --seq_length - 3 = 3 tokens, left out"
    assert f"  {tmp_path / 'corpus.tsv'}: line 2: {kind}" in report
    assert sum("left out" in line and ": line " in line for line in report) == 4


@pytest.mark.parametrize("name", ["cls", "cls_mlm", "prefixlm", "mt"])
def test_a_corpus_of_another_format_is_one_line(made, name):
    with pytest.raises(UserError, match=r"no document among 2 lines: .*line 1: 1 tab-separated fields instead of 2"):
        made(name, "一二三\n二三一\n")
    with pytest.raises(UserError, match="--text_field: --data_processor"):
        made(name, '{"text": "1\\ta"}\n', text_field="text")


def test_words_are_known_in_both_parts(tmp_path, tokenizer):
    """Whole-word masking: word starts of each field; the special tokens are words."""
    jieba = pytest.importorskip("jieba")
    assert jieba
    (tmp_path / "c.tsv").write_text("1\tab\t一二\n0\tabc\n")
    dataset = make_dataset(tmp_path / "d.pt", tmp_path / "c.tsv", "cls_mlm", tokenizer, seq_length=8,
                           members={"whole_word_masking": True})
    starts = dataset.columns["word_start"]
    assert len(starts) == len(dataset.tokens)
    assert starts[[0, 1, 3, 4, 6, 7, 8, 11]].all() and not starts[[2, 9, 10]].any()
    assert whole_batch(dataset, MaskingConfig(whole_word_masking=True)).labels["mlm"].wanted().any(1).all()


def test_two_sequences_are_fetched_from_a_copy_and_trimmed_each_by_itself(tmp_path, tokenizer):
    """The rows that a GPU gathers from its copy; the loader's batches are as long as the longest row of each side."""
    (tmp_path / "c.tsv").write_text("a\tb\nab\tabcabc\nabcabc\tcc\nc\tabc\n")
    dataset = make_dataset(tmp_path / "d.pt", tmp_path / "c.tsv", "mt", tokenizer, seq_length=9,
                           members={"tgt_seq_length": 11})
    found = [RowFetcher(dataset, ["src", "tgt"], torch.device("cpu"), mapped).fetch(torch.tensor([2, 0, 3]))
             for mapped in (True, False)]
    for axis in ("src", "tgt"):
        assert torch.equal(found[0][1][axis], found[1][1][axis])
        for length, *rows in zip(found[0][1][axis], found[0][0][axis], found[1][0][axis]):
            assert torch.equal(rows[0][:length], rows[1][:length])
    (batch,) = Loader([dataset], open_processor([dataset], MaskingConfig()), batch_size=4, trim=True).step(0)
    assert batch.src.values.shape == (4, 8) and batch.tgt.values.shape == (4, 8) == batch.labels["lm"].values.shape
    assert sorted(batch.samples.tolist()) == [0, 1, 2, 3] and int(batch.real_tokens()) == 3 + 4 + 8 + 3 + 3 + 8 + 4 + 5


@pytest.mark.parametrize("line", ["1\ta", "", " \t ", "\u3000", "1", "1\t\u3000", "\v\f"])
def test_what_is_left_out_does_not_depend_on_the_lines_around(line):
    """Chunks without damage are read in one operation, others line by line."""
    found = []
    for more in (b"", b"x\n", b"1\t\xff\n"):
        cleaner = LineCleaner("c.tsv", field_counts=(2, 3))
        text = cleaner.clean(b"0\tb\n" + line.encode() + b"\n" + more, False).split("\n")[:-1]
        found.append([content for number, content in zip(cleaner.kept, text) if number < 3])
    assert found[0] == found[1] == found[2]
