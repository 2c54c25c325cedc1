"""jieba's words on tokens."""

import copy
import random

import numpy as np
import pytest

from uer.config import DatasetConfig
from uer.data.build import build_dataset
from uer.data.store import open_dataset
from uer.data.word_starts import WordFinder
from uer.errors import UserError
from uer.tokenizers import CharTokenizer, SpaceTokenizer

pytest.importorskip("jieba")


@pytest.fixture(scope="module")
def finder(small_tokenizer):
    return WordFinder(small_tokenizer)


def _words(finder, tokenizer, text):
    """Tokens of one line, grouped by their word starts."""
    ids, offsets = tokenizer.encode_lines(text + "\n")
    starts = finder.word_starts(text + "\n", ids, offsets)
    assert starts.dtype == np.uint8 and len(starts) == len(ids)
    groups = []
    for token, start in zip((tokenizer.vocab.tokens[index] for index in ids), starts):
        groups.append([]) if start else None
        groups[-1].append(token)
    return groups


def test_words_of_text_with_pieces_case_and_spaces(finder, small_tokenizer):
    text = "使用 Ab9c  语言模型，中国的首都是北京。"
    assert _words(finder, small_tokenizer, text) == [
        ["使", "用"], ["[UNK]"], ["语", "言"], ["模", "型"], ["，"], ["中", "国"],
        ["[UNK]"], ["首", "都"], ["[UNK]"], ["北", "京"], ["。"]]
    assert _words(finder, small_tokenizer, "hello语言") == [["h", "##e", "##l", "##l", "##o"], ["语", "言"]]


@pytest.mark.parametrize("text", ["ab\0cd语\u200b言", "Ab\ufffdc 北\0京", "caf\u00e9 na\u00efve",
                                  "a\u0301b语\u0301言", "ΑΣ ΑΣ.Α", "\u1fef", "ﬁre", "İb", "x" * 300])
def test_dropped_and_folded_characters_do_not_begin_words(text, finder, small_tokenizer):
    groups = _words(finder, small_tokenizer, text)
    assert all(group and not group[0].startswith("##") for group in groups)


def test_the_example_with_control_characters(finder, small_tokenizer):
    assert _words(finder, small_tokenizer, "ab\0cd北京") == [["a", "##b", "##c", "##d"], ["北", "京"]]


def test_many_lines_and_blank_ones(finder, small_tokenizer):
    text = "北京\n\n \n首都语言\n"
    ids, offsets = small_tokenizer.encode_lines(text)
    assert finder.word_starts(text, ids, offsets).tolist() == [1, 0, 1, 0, 1, 0]


def test_random_text_never_starts_a_word_at_a_continuation(finder, small_tokenizer):
    chance = random.Random(4)
    continues = np.array([token.startswith("##") and len(token) > 2 for token in small_tokenizer.vocab.tokens])
    for _ in range(150):
        points = [chance.choice([chance.randrange(0xD800), chance.randrange(0xE000, 0x110000), 0x4E00, 97, 32, 10, 0])
                  for _ in range(60)]
        text = "".join(map(chr, points)) + "\n"
        ids, offsets = small_tokenizer.encode_lines(text)
        starts = finder.word_starts(text, ids, offsets)
        assert not (starts.astype(bool) & continues[ids]).any()
        assert starts[offsets[:-1][np.diff(offsets) > 0]].all()


def test_other_tokenizers(finder, small_tokenizer):
    vocab = small_tokenizer.vocab
    char, space = CharTokenizer(vocab), SpaceTokenizer(vocab)
    assert _words(_with_tokenizer(finder, char), char, "北京语言") == [["北", "京"], ["语", "言"]]
    assert _words(_with_tokenizer(finder, space), space, "北京 语") == [["[UNK]"], ["语"]]


def _with_tokenizer(finder, tokenizer):
    """The same jieba, whose dictionary takes long to load, for another tokenizer."""
    other = copy.copy(finder)
    other._tokenizer = tokenizer
    return other


def test_a_user_dictionary_makes_words(tmp_path, small_tokenizer):
    (tmp_path / "words.txt").write_text("语言模型 100000\n", encoding="utf-8")
    finder = WordFinder(small_tokenizer, str(tmp_path / "words.txt"))
    assert _words(finder, small_tokenizer, "语言模型") == [["语", "言", "模", "型"]]


def test_a_damaged_user_dictionary_is_named(tmp_path, small_tokenizer):
    (tmp_path / "words.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match=r"--user_dict .*words.txt"):
        WordFinder(small_tokenizer, str(tmp_path / "words.txt"))


def test_the_dataset_has_the_column_for_any_number_of_processes(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_text("语言模型\n首都 abc\n" * 30, encoding="utf-8")
    made = []
    for processes in (1, 2):
        dataset = DatasetConfig(corpus_path=(str(tmp_path / "a.txt"),), dataset_path=str(tmp_path / "d.pt"),
                                data_processor="mlm", seq_length=8, processes_num=processes,
                                members={"whole_word_masking": True})
        build_dataset(dataset, {"src": small_tokenizer}, shard_bytes=300)
        made.append((tmp_path / "d.pt").read_bytes())
    assert made[0] == made[1]
    opened = open_dataset(tmp_path / "d.pt")
    assert opened.columns["word_start"][:len(opened[0])].tolist() == [1, 1, 0, 1, 0, 1]
    assert opened.info.processor_settings["whole_word_masking"] is True


def test_a_user_dictionary_without_whole_words_is_refused(tmp_path, small_tokenizer):
    (tmp_path / "a.txt").write_text("a\n")
    dataset = DatasetConfig(corpus_path=(str(tmp_path / "a.txt"),), dataset_path=str(tmp_path / "d.pt"),
                            data_processor="mlm", user_dict="words.txt")
    with pytest.raises(UserError, match="--user_dict needs --whole_word_masking"):
        build_dataset(dataset, {"src": small_tokenizer})
