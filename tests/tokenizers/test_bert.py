"""BERT tokenization: the golden ids, the slow reference, and transformers' own on random Unicode."""

import json
import random
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from uer.tokenizers import BertTokenizer, Vocab
from uer.tokenizers import base as base_module

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
RANGES = ((0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0, 0xFFFF),
          (0x10000, 0x2FFFF), (0, 0x10FFFF))


@pytest.fixture(scope="module")
def google(google_vocab: Path) -> dict[bool, BertTokenizer]:
    """do_lower_case -> tokenizer."""
    vocab = Vocab.load(google_vocab)
    return {lower: BertTokenizer(vocab, lower) for lower in (True, False)}


def lines_of(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, offsets[1:-1])]


def random_lines(count: int, seed: int) -> list[str]:
    """Lines of random code points, each from few ranges, so that words, marks and scripts meet."""
    draw = random.Random(seed)
    lines = []
    for _ in range(count):
        ranges = [RANGES[draw.randrange(len(RANGES))] for _ in range(2)]
        points = (draw.randint(*ranges[draw.randrange(2)]) for _ in range(draw.randrange(24)))
        lines.append("".join(chr(point) for point in points if not 0xD800 <= point < 0xE000 and point != 10))
    return lines


def character_vocab(lines: list[str]) -> list[str]:
    """Entries for most characters of the lines and what they decompose into, so that few words become [UNK]."""
    chars = set("".join(lines))
    chars |= set(unicodedata.normalize("NFD", "".join(sorted(chars)).lower())) | set("".join(chars).lower())
    kept = [char for char in sorted(chars) if char.strip() and ord(char) % 11]
    return SPECIAL + kept + ["##" + char for char in kept if ord(char) % 7] + ["ab", "##cd", "the"]


@pytest.mark.parametrize("name", ["CLUECorpusSmall_sampled", "CLUECorpusSmall_bert_sampled"])
def test_ids_of_real_text_equal_the_golden_ones(name, golden, shared_data, google):
    text = (shared_data / "corpora" / f"{name}.txt").read_bytes().decode()
    expected = np.load(golden / f"token_ids_{name}.npz")
    ids, offsets = google[True].encode_lines(text)
    assert ids.dtype == np.uint16
    assert offsets.dtype == np.int64
    np.testing.assert_array_equal(offsets, expected["offsets"])
    np.testing.assert_array_equal(ids, expected["ids"])


def test_hard_cases_equal_the_golden_ones(golden, google):
    for case in json.loads((golden / "tokenize_hard_cases.json").read_text(encoding="utf-8")):
        assert google[True].encode(case["text"]) == case["lower"], case["text"]
        assert google[False].encode(case["text"]) == case["cased"], case["text"]


@pytest.mark.parametrize("lower", [True, False])
def test_random_unicode_equals_the_reference(lower, reference_encode):
    lines = random_lines(3000, seed=1)
    # Sigmas, Hangul and marks that change places, beside the punctuation and spaces that decide what they do.
    tangle = ["Σ", "σ", "a", "Α", "'", ".", "-", ",", " ", "中", "\u0301", "\u302e", "\u302f", "\u1b44", "\u034f", "한",
              "\u200b", "\u0bca", "\u212b", "é", "\u2028", "1", "\t"]
    draw = random.Random(2)
    lines += ["".join(draw.choice(tangle) for _ in range(draw.randrange(14))) for _ in range(3000)]
    vocab = Vocab(character_vocab(lines))
    ids, offsets = BertTokenizer(vocab, lower).encode_lines("\n".join(lines) + "\n")
    assert len(offsets) == len(lines) + 1
    for line, found in zip(lines, lines_of(ids, offsets)):
        assert found == reference_encode(line, vocab.ids, lower), ascii(line)


@pytest.mark.parametrize("lower", [True, False])
def test_random_unicode_equals_transformers(lower, tmp_path, reference_words):
    """5,000 lines of all planes.

    Lines that are not the same are so without characters of which Hugging Face's Rust code differs from Google's:
    private code points (it drops them); U+2B820-2B91F (its list of ideographs begins later); characters whose category
    or case is not the same in its Unicode tables and Python's; capital sigma (its lower case knows no final form).
    """
    transformers = pytest.importorskip("transformers")
    lines = random_lines(5000, seed=3)
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in character_vocab(lines)), encoding="utf-8", newline="\n")
    ours = BertTokenizer(Vocab.load(path), lower)
    theirs = transformers.BertTokenizerFast(str(path), do_lower_case=lower)
    normalizer, splitter = theirs.backend_tokenizer.normalizer, theirs.backend_tokenizer.pre_tokenizer

    def both(lines: list[str]) -> list[tuple[str, list[int], list[int]]]:
        encoded = theirs.backend_tokenizer.encode_batch(lines, add_special_tokens=False)
        return list(zip(lines, lines_of(*ours.encode_lines("\n".join(lines) + "\n")), (item.ids for item in encoded),
                        strict=True))

    compared = both(lines)
    assert sum(ids.count(1) for *_, ids in compared) < 0.5 * sum(len(ids) for *_, ids in compared)
    differing = [line for line, found, expected in compared if found != expected]
    assert len(differing) < len(lines) / 2
    other = {"Σ"} if lower else set()
    for char in set("".join(differing)):
        words = [word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(f"x{char}y"))]
        if words != reference_words(f"x{char}y", lower):
            other.add(char)
    unexplained = [char for char in other - {"Σ"} if unicodedata.category(char) != "Co"
                   and not 0x2B820 <= ord(char) < 0x2B920]
    assert len(unexplained) < 200
    assert not [char for char in unexplained if ord(char) < 0x590 or 0x3000 <= ord(char) < 0xA000]
    for line, found, expected in both(["".join(char for char in line if char not in other) for line in differing]):
        assert found == expected, ascii(line)


def test_a_word_of_200_characters_is_cut_and_one_of_201_is_unknown(google):
    assert len(google[True].encode("é" * 200)) > 1
    assert google[True].encode("a" * 201) == [100]
    assert google[True].encode("a" * 201 + "." + "b") == [100, 119, 144]


@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_of_any_size_give_the_same_ids(block, monkeypatch):
    lines = random_lines(150, seed=4) + ["中 " * 300, "word " * 90, "", "a.b'" * 70, "-,.Σ" * 50]
    text = "\n".join(lines)
    tokenizer = BertTokenizer(Vocab(character_vocab(lines)))
    whole = tokenizer.encode_lines(text)
    monkeypatch.setattr(BertTokenizer, "block_chars", block)
    if block < 40:  # a block shorter than a word may miss a sigma's neighbours, as documented
        text = text.replace("Σ", "-")
        monkeypatch.setattr(BertTokenizer, "block_chars", 1 << 16)
        whole = tokenizer.encode_lines(text)
        monkeypatch.setattr(BertTokenizer, "block_chars", block)
    pieces = tokenizer.encode_lines(text)
    np.testing.assert_array_equal(pieces[0], whole[0])
    np.testing.assert_array_equal(pieces[1], whole[1])


def test_a_huge_word_needs_bounded_memory(google):
    tracemalloc = pytest.importorskip("tracemalloc")
    text = "中" + "a" * 3_000_000 + "\u0301" * 100_000 + "北\n京"
    tracemalloc.start()
    ids, offsets = google[True].encode_lines(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert ids.tolist() == [704, 100, 1266, 776]
    assert offsets.tolist() == [0, 3, 4]
    assert peak < 8_000_000


def test_pieces_outnumber_the_characters_of_decomposed_words(google, reference_encode):
    text = "한국어 a형태소b\nÅΣ한.한,x 각각\n각"
    expected = [reference_encode(line, google[True].vocab.ids, True) for line in text.split("\n")]
    assert lines_of(*google[True].encode_lines(text)) == expected
    assert len(expected[2]) == 3


def test_lines_and_offsets():
    tokenizer = BertTokenizer(Vocab(SPECIAL + ["a", "##b", "中"]))
    for text, expected in [("", []), ("\n", [[]]), ("\n\n", [[], []]), ("a", [[5]]), ("a\n", [[5]]),
                           ("ab\r\n\n中a中", [[5, 6], [], [7, 5, 7]]), ("a\u2028a\u0085a\x0ba", [[5, 1]])]:
        ids, offsets = tokenizer.encode_lines(text)
        assert offsets[0] == 0
        assert lines_of(ids, offsets)[:len(offsets) - 1] == expected, repr(text)
    assert tokenizer.encode("a\na") == [5, 5]


def test_unknown_pieces_are_counted():
    tokenizer = BertTokenizer(Vocab(SPECIAL + ["a", "中"]))
    unknown = Counter()
    text = "中国 Zug,zug a 国\nabc Ｚ"
    ids, _ = tokenizer.encode_lines(text, unknown)
    tokenizer.encode_lines(text, unknown)
    assert unknown == {"国": 4, "zug": 4, ",": 2, "abc": 2, "ｚ": 2}
    assert (ids == 1).sum() == 7


def test_the_counter_of_unknown_pieces_stays_bounded(monkeypatch):
    monkeypatch.setattr(base_module, "UNKNOWN_SURFACES", 10)
    monkeypatch.setattr(BertTokenizer, "block_chars", 100)
    unknown = Counter()
    text = "\n".join(f"w{number} often" for number in range(500))
    BertTokenizer(Vocab(SPECIAL)).encode_lines(text, unknown)
    assert len(unknown) < 40
    assert unknown["often"] == 500


def test_tokenize_and_decode(google):
    tokenizer = google[True]
    assert tokenizer.tokenize("Tokens 北京") == ["to", "##ken", "##s", "北", "京"]
    assert tokenizer.decode(tokenizer.encode("中国的首都是北京。")) == "中国的首都是北京。"
    assert tokenizer.decode(tokenizer.encode("I like tokens 很 好 2020 年")) == "i like tokens很好2020年"
    assert tokenizer.decode([101, 103, 776, 102]) == "[CLS][MASK]京[SEP]"
    assert tokenizer.decode([]) == ""


def test_a_large_vocabulary_gives_uint32():
    vocab = Vocab(SPECIAL + [f"[unused{number}]" for number in range(70_000)] + ["中"])
    ids, _ = BertTokenizer(vocab).encode_lines("中")
    assert ids.dtype == np.uint32
    assert ids.tolist() == [70_005]


def test_settings_tell_cased_from_lower():
    vocab = Vocab(SPECIAL)
    assert BertTokenizer(vocab).settings != BertTokenizer(vocab, False).settings


def test_the_memory_of_words_is_bounded(monkeypatch, reference_encode):
    words = sys.modules["uer.tokenizers.words"]
    monkeypatch.setattr(words, "CACHED_WORDS", 20)
    monkeypatch.setattr(BertTokenizer, "block_chars", 50)
    vocab = Vocab(SPECIAL + [str(digit) for digit in range(10)] + [f"##{digit}" for digit in range(10)])
    tokenizer = BertTokenizer(vocab)
    text = " ".join(map(str, range(3000)))
    assert tokenizer.encode_lines(text)[0].tolist() == reference_encode(text, vocab.ids, True)
    assert len(tokenizer._words) < 60
