"""Byte-level BPE beside a plain reference, and the files that it reads."""

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import regex
from tokenizers import ByteLevelBPETokenizer

from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.tokenizers import BpeTokenizer, Vocab, build_tokenizer
from uer.tokenizers.bpe import BYTE_CHARACTERS, read_merges
from uer.tokenizers.qwen import PATTERN as QWEN

PATTERN = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
PATTERNS = {"bpe": PATTERN, "qwen": regex.compile(QWEN)}
TEXT = ["The cat didn't see 23 dogs, the dogs they've seen.", "北京是中国的首都。 北京 2021年10月1日", "naïve café 😀",
        "  two  spaces\tand a tab ", "print(\"hello\\n\")", "don't DON'T 's 'll it's1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """A vocabulary and merges that the library trains; the flags that name them."""
    folder = tmp_path_factory.mktemp("bpe")
    trainer = ByteLevelBPETokenizer()
    trainer.train_from_iterator(TEXT * 3, vocab_size=400, min_frequency=2, show_progress=False,
                                special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    trainer.save_model(str(folder))
    return {"tokenizer": "bpe", "vocab_path": str(folder / "vocab.json"), "merges_path": str(folder / "merges.txt")}


def reference(text: str, tokenizer: BpeTokenizer) -> list[str]:
    """Pair by pair, as the first page about it describes."""
    ranks = {tuple(pair.split(" ")): rank for rank, pair in enumerate(tokenizer.merges)}
    found = []
    for word in PATTERNS[tokenizer.kind].findall(text):
        pieces = [BYTE_CHARACTERS[byte] for byte in word.encode()]
        while pairs := [(ranks[pair], at) for at, pair in enumerate(pairwise(pieces)) if pair in ranks]:
            at = min(pairs)[1]
            pieces[at:at + 2] = [pieces[at] + pieces[at + 1]]
        found += pieces
    return found


@pytest.mark.parametrize("kind", PATTERNS)
def test_tokens_are_those_of_the_reference(files, kind):
    roles = {"pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>"}
    (Path(files["vocab_path"]).parent / "special_tokens_map.json").write_text(json.dumps(roles))
    tokenizer, draw = build_tokenizer(TokenizerConfig(**{**files, "tokenizer": kind})), random.Random(3)
    alphabet = "".join(TEXT) + "\u3000\u00a0\u2028'ǅ²Ⅳ"
    texts = [*TEXT, "a\n\nb \n c\n", *("".join(draw.choices(alphabet, k=60)) for _ in range(100))]
    assert any(len(tokenizer.surface(token)) > 2 for token in tokenizer.tokenize(TEXT[0]))
    for text in texts:
        assert tokenizer.tokenize(text) == reference(text, tokenizer), text
        assert tokenizer.decode(tokenizer.encode(text)) == text
    lines, offsets = tokenizer.encode_lines("\n".join(TEXT))
    assert np.split(lines, offsets[1:-1])[1].tolist() == tokenizer.encode(TEXT[1])


def test_line_feeds_are_tokens_of_one_text_and_separate_many(files):
    tokenizer = build_tokenizer(TokenizerConfig(**files))
    assert tokenizer.tokenize("a\nb\n") == ["a", "Ċ", "b", "Ċ"]
    assert tokenizer.tokenize(" ") == ["Ġ"]
    ids, offsets = tokenizer.encode_lines("a\n \nb\n")
    assert tokenizer.decode(ids) == "ab" and offsets.tolist() == [0, 1, 1, 2]
    assert tokenizer.vocab.tokens[tokenizer.line_end] == "Ċ"


def test_the_vocabulary_as_lines_gives_the_same_ids(files, tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig(**files))
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in tokenizer.vocab.tokens), encoding="utf-8")
    lines = build_tokenizer(TokenizerConfig(**{**files, "vocab_path": str(tmp_path / "vocab.txt")}))
    assert lines.vocab.fingerprint == tokenizer.vocab.fingerprint
    assert all(lines.encode(text) == tokenizer.encode(text) for text in TEXT)


def test_other_merges_are_another_setting(files, tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig(**files))
    (tmp_path / "m.txt").write_text("".join(f"{pair}\n" for pair in tokenizer.merges[:-1]), encoding="utf-8")
    other = build_tokenizer(TokenizerConfig(**{**files, "merges_path": str(tmp_path / "m.txt")}))
    assert other.merges == tokenizer.merges[:-1]
    assert other.vocab.fingerprint == tokenizer.vocab.fingerprint and other.settings != tokenizer.settings


@pytest.mark.parametrize("entries, merges, message", [
    (BYTE_CHARACTERS, "a b c\n", r"line 1: 'a b c' is no pair"),
    (BYTE_CHARACTERS, "#version: 0.2\na b\n", r"merges.txt: does not fit the vocabulary .*v.txt"),
    ([char for char in BYTE_CHARACTERS if char != "Ċ"], "", "no entry 'Ċ', the line feed"),
    ([char for char in BYTE_CHARACTERS if char != "a"], "", "no entry for 1 of the 256 bytes, 'a' for instance"),
])
def test_files_that_do_not_fit_are_refused(entries, merges, message, tmp_path):
    (tmp_path / "v.txt").write_text("\n".join(["<s>", "</s>", "<pad>", *entries]), encoding="utf-8")
    (tmp_path / "merges.txt").write_text(merges, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        build_tokenizer(TokenizerConfig("bpe", str(tmp_path / "v.txt"), str(tmp_path / "merges.txt")))


def test_roles_by_a_file_of_the_user(files, tmp_path):
    roles = tmp_path / "roles.json"
    roles.write_text(json.dumps({"pad_token": "!", "eos_token": "</s>"}))
    vocab = build_tokenizer(TokenizerConfig(**files, special_tokens_map=str(roles))).vocab
    assert vocab.special_token("pad") == "!" and vocab.special_token("eos") == "</s>"
    assert vocab.special_token("cls") == "<s>"
    roles.write_text(json.dumps({"pad_token": "[PAD]"}))
    with pytest.raises(UserError, match=r"no entry '\[PAD\]' \(pad_token\), which .*roles.json names"):
        build_tokenizer(TokenizerConfig(**files, special_tokens_map=str(roles)))
    with pytest.raises(UserError, match=r"none\.json: no such file"):
        build_tokenizer(TokenizerConfig(**files, special_tokens_map=str(tmp_path / "none.json")))


def test_bert_s_roles_beside_the_file_give_way_to_roberta_s(files, tmp_path, root):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).write_bytes((Path(files["vocab_path"]).parent / name).read_bytes())
    (tmp_path / "special_tokens_map.json").write_bytes((root / "models" / "special_tokens_map.json").read_bytes())
    vocab = build_tokenizer(TokenizerConfig("bpe", str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))).vocab
    assert vocab.special_tokens["mask_token"] == "<mask>"


def test_unknown_bytes_are_counted_by_their_characters(files, tmp_path):
    entries = [char for char in build_tokenizer(TokenizerConfig(**files)).vocab.tokens if "ð" not in char]
    (tmp_path / "v.txt").write_text("\n".join(entries), encoding="utf-8")
    merges = [pair for pair in read_merges(Path(files["merges_path"])) if "ð" not in pair]
    (tmp_path / "m.txt").write_text("\n".join(merges), encoding="utf-8")
    tokenizer = build_tokenizer(TokenizerConfig("bpe", str(tmp_path / "v.txt"), str(tmp_path / "m.txt")))
    unknown = Counter()
    ids, _ = tokenizer.encode_lines("a😀\n北😀👍\n", unknown)
    assert unknown == {"😀": 2, "👍": 1} and (ids == tokenizer.vocab.unk_id).sum() == 3
    assert not tokenizer.covers("😀") and tokenizer.covers("北")


def test_golden_tokens_of_gpt2_s_merges(golden, root):
    """Needs the merges of `scripts/fetch_vocab.py`; the ids are RoBERTa's, so they are compared one to one."""
    path = root / "models" / "huggingface_gpt2_merges.txt"
    if not path.exists():
        pytest.skip("GPT-2's merges are not at hand")
    figures = json.loads((golden / "breadth" / "tokenizers" / "tokenizers.json").read_text(encoding="utf-8"))
    merges = read_merges(path)
    entries = ["<pad>", "<s>", "</s>", *BYTE_CHARACTERS, *dict.fromkeys(pair.replace(" ", "") for pair in merges)]
    tokenizer = BpeTokenizer(Vocab(entries, defaults=BpeTokenizer.default_special_tokens), merges)
    for text, tokens in zip(figures["texts"], figures["bpe_tokens_of_the_first_ten"]):
        assert tokenizer.tokenize(text) == tokens
    ours, theirs = ([index for ids in every for index in ids] for every in (
        map(tokenizer.encode, figures["texts"]), figures["bpe"]))
    assert [len(tokenizer.encode(text)) for text in figures["texts"]] == list(map(len, figures["bpe"]))
    assert len(set(zip(ours, theirs))) == len(set(ours)) == len(set(theirs))


def test_qwen_joins_signs_and_spaces_with_the_letters_behind_them():
    """The example of `uer.tokenizers.qwen`: which parts of a text are joined."""
    text = "don't (see) 23。北京"
    assert PATTERNS["bpe"].findall(text) == ["don", "'t", " (", "see", ")", " 23", "。", "北京"]
    assert PATTERNS["qwen"].findall(text) == ["don", "'t", " (", "see", ")", " ", "2", "3", "。北京"]
    assert PATTERNS["qwen"].findall("(a. \n b.\n\nC") == ["(a", ".", " \n", " b", ".\n\n", "C"]


@pytest.mark.parametrize("kind", ["bert", "char", "space"])
def test_its_vocabulary_is_no_other_tokenizer_s(kind, tmp_path):
    """Its entries are bytes, of which BERT's rules find the ASCII words alone: nearly all is unknown."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"type": "BPE", "merges": [], "vocab": {"[PAD]": 0, "[UNK]": 1, "a": 2}}}))
    with pytest.raises(UserError, match=f"of a byte-level BPE, not of --tokenizer {kind}: give bpe or qwen"):
        build_tokenizer(TokenizerConfig(kind, str(path)))
