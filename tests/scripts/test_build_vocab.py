"""scripts/build_vocab.py through its command line."""

from pathlib import Path

import pytest

from uer.errors import UserError
from uer.tokenizers import BertTokenizer, CharTokenizer, SpaceTokenizer, Vocab

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = "中国 北京 中国\n北 [MASK] 中国\nab  ab\tabc\u3000\n\n"


@pytest.fixture
def build(run_forked, tmp_path):
    def run(*flags: str, status: int = 0) -> str:
        (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
        result = run_forked("scripts/build_vocab.py", "--corpus_path", tmp_path / "corpus.txt", "--output_path",
                            tmp_path / "vocab.txt", *flags)
        assert result.returncode == status, result.stderr
        return result.stderr

    return run


def entries(tmp_path: Path) -> list[str]:
    return (tmp_path / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def test_characters_by_falling_count(build, tmp_path):
    build("--tokenizer", "char")
    found = entries(tmp_path)
    assert found[:13] == [*SPECIAL, "a", "b", "中", "国", "北", "A", "K", "M"]
    assert "\u3000" in found
    assert not {" ", "\t"} & set(found)
    assert CharTokenizer(Vocab.load(tmp_path / "vocab.txt")).encode("北ab") == [9, 5, 6]


def test_words_with_a_least_count_and_a_size(build, tmp_path):
    build("--tokenizer", "space", "--min_count", "2")
    assert entries(tmp_path) == [*SPECIAL, "中国", "ab"]
    build("--tokenizer", "space", "--vocab_size", "6")
    assert entries(tmp_path) == [*SPECIAL, "中国"]
    assert SpaceTokenizer(Vocab.load(tmp_path / "vocab.txt")).encode("中国 ab") == [5, 1]


@pytest.mark.parametrize("kind", ["char", "space"])
def test_uer_pys_flags_and_several_processes(build, tmp_path, kind):
    build("--tokenizer", kind)
    expected = entries(tmp_path)
    build("--delimiter", kind, "--workers_num", "3")
    assert entries(tmp_path) == expected


def test_wordpiece(build, tmp_path):
    pytest.importorskip("tokenizers")
    build("--tokenizer", "bert")
    assert entries(tmp_path)[:5] == SPECIAL
    tokenizer = BertTokenizer(Vocab.load(tmp_path / "vocab.txt"))
    assert tokenizer.tokenize("中国 AB abc") == ["中", "国", "ab", "abc"]


def test_a_wordpiece_vocabulary_holds_every_ideograph(run_forked, tmp_path):
    pytest.importorskip("tokenizers")
    text = "".join(chr(0x4E00 + number) for number in range(2000))
    (tmp_path / "many.txt").write_text(text, encoding="utf-8")
    done = run_forked("scripts/build_vocab.py", "--corpus_path", tmp_path / "many.txt", "--output_path",
                      tmp_path / "vocab.txt", "--tokenizer", "bert")
    assert done.returncode == 0, done.stderr
    assert set(text) <= set(entries(tmp_path))


@pytest.mark.parametrize("flags", [
    ["--min_count", "0"], ["--vocab_size", "3"], ["--min_count", "1000"], ["--tokenizer", "bpe"],
    ["--workers_num", "0"], ["--tokenizer", "space", "--delimiter", "char"]])
def test_bad_settings_are_one_line(run_script, tmp_path, flags):
    (tmp_path / "corpus.txt").write_text(TEXT, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        run_script("build_vocab.py", "--corpus_path", tmp_path / "corpus.txt", "--output_path", tmp_path / "v", *flags)
    assert "\n" not in str(caught.value) and not (tmp_path / "v").exists()
