"""What every entry of TOKENIZERS must do. A new entry needs files and a little text in CASES; all tests then run it."""

import io
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from sentencepiece import SentencePieceTrainer

from uer.config import TokenizerConfig
from uer.convert.tokenizer_files import read_tokenizer, read_tokens, tokenizer_settings
from uer.errors import UserError
from uer.tokenizers import TOKENIZERS, Tokenizer, Vocab, build_tokenizer
from uer.tokenizers.bpe import BYTE_CHARACTERS
from uer.tokenizers.qwen import QwenTokenizer
from uer.tokenizers.vocab import ROBERTA_SPECIAL_TOKENS

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS, IDEOGRAPHS, SIGNS = "abcdefgh", "北京东西南中国语言", ".,-!?()。，"


@dataclass(frozen=True)
class Case:
    """How a tokenizer is tried.

    Attributes:
        files: writes its files to a folder; -> the flags that name them, without `tokenizer`.
        known: draws a text of which no part is unknown.
        mask: the tokens of "a [MASK] b".
        spaces_are_tokens: whether whitespace inside a line is a token.
        line_feeds_are_tokens: whether `encode`, of one text, gives them; `encode_lines` never does.
        flags: what names its files.
    """

    files: Callable[[Path], dict[str, object]]
    known: Callable[[random.Random], str]
    mask: list[str]
    spaces_are_tokens: bool = False
    line_feeds_are_tokens: bool = False
    flags: tuple[str, ...] = ("vocab_path",)


def vocabulary(*entries: str) -> Callable[[Path], dict[str, object]]:
    """Files of a tokenizer that reads nothing but a vocabulary."""
    def write(folder: Path) -> dict[str, object]:
        (folder / "vocab.txt").write_text("".join(f"{entry}\n" for entry in [*SPECIAL, *entries]), encoding="utf-8")
        return {"vocab_path": str(folder / "vocab.txt"), "do_lower_case": True}
    return write


def byte_level(folder: Path, special: Iterable[str] = ROBERTA_SPECIAL_TOKENS.values()) -> dict[str, object]:
    """Files of bpe and qwen: the bytes of ASCII and of some ideographs and signs, and merges that make these whole."""
    merges = ["a b", "c ab", "Ġ cab", "e d"]
    for char in dict.fromkeys(IDEOGRAPHS + SIGNS):
        pieces = [BYTE_CHARACTERS[byte] for byte in char.encode()]
        merges += ["".join(pieces[:end]) + " " + pieces[end] for end in range(1, len(pieces))]
    known = sorted({BYTE_CHARACTERS[byte] for byte in [*range(128), *(IDEOGRAPHS + SIGNS).encode()]})
    entries = [*special, *known, *(pair.replace(" ", "") for pair in dict.fromkeys(merges))]
    (folder / "bpe.json").write_text(json.dumps({entry: index for index, entry in enumerate(dict.fromkeys(entries))}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{pair}\n" for pair in dict.fromkeys(merges)),
                                       encoding="utf-8")
    return {"vocab_path": str(folder / "bpe.json"), "merges_path": str(folder / "merges.txt")}


def sentence_pieces(folder: Path) -> dict[str, object]:
    """A small model, by the package or by its stand-in."""
    model = io.BytesIO()
    lines = [" ".join(["a b cab ed fgh", *LETTERS, *IDEOGRAPHS, *".,-!?()。"]), "a b a b a b cab ed 北京"] * 10
    SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, vocab_size=60, minloglevel=2,
                               hard_vocab_limit=False, num_threads=1)
    (folder / "m.model").write_bytes(model.getvalue())
    return {"spm_model_path": str(folder / "m.model")}


def words(draw: random.Random, signs: str = SIGNS) -> str:
    """Words of letters, ideographs and signs, in any order with spaces between."""
    parts = ["".join(draw.choices(LETTERS, k=draw.randint(1, 6))), draw.choice(IDEOGRAPHS), draw.choice(signs)]
    return " ".join("".join(draw.choices(parts, k=2)) for _ in range(draw.randint(1, 5)))


CASES: dict[str, Case] = {
    "bert": Case(vocabulary(*LETTERS, *IDEOGRAPHS, *SIGNS, *(f"##{char}" for char in LETTERS), "cab", "##ed", "##fgh",
                            "\u0661", "\u05d0", "😀", "\u3041", "##\u3042"),
                 words, ["a", "[UNK]", "[UNK]", "[UNK]", "b"]),
    "char": Case(vocabulary(*LETTERS, *IDEOGRAPHS, *SIGNS, "\u3000", "\u0301", "😀", "\u05d0"),
                 lambda draw: words(draw).replace(" ", ""), ["a", *["[UNK]"] * 8, "b"],
                 spaces_are_tokens=True),
    "space": Case(vocabulary(*IDEOGRAPHS, "北京", "中国", "a", "b", "cab", "\u0301", "😀"),
                  lambda draw: " ".join(draw.choices([*IDEOGRAPHS, "北京", "cab"], k=draw.randint(1, 6))),
                  ["a", "[MASK]", "b"]),
    "bpe": Case(byte_level, lambda draw: words(draw).replace(" ", ""),
                ["a", "Ġ", "[", "M", "A", "S", "K", "]", "Ġ", "b"], spaces_are_tokens=True, line_feeds_are_tokens=True,
                flags=("vocab_path", "merges_path")),
    "qwen": Case(lambda folder: byte_level(folder, [*QwenTokenizer.default_special_tokens.values(), "<unk>"]),
                 lambda draw: words(draw).replace(" ", ""), ["a", "Ġ", "[", "M", "A", "S", "K", "]", "Ġ", "b"],
                 spaces_are_tokens=True, line_feeds_are_tokens=True, flags=("vocab_path", "merges_path")),
    "xlmroberta": Case(sentence_pieces, lambda draw: words(draw, ".,-!?()。"), ["▁", "a", "▁", "<unk>", "▁", "b"],
                       flags=("spm_model_path",)),
}
EVERY = pytest.mark.parametrize("name", CASES)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes a tokenizer as the commands do, from flags."""
    folder = tmp_path_factory.mktemp("files")

    def made(name: str, prefix: str = "", **changes: object) -> Tokenizer:
        flags = {"tokenizer": name, **CASES[name].files(folder), **changes}
        return build_tokenizer(TokenizerConfig(**{prefix + flag: value for flag, value in flags.items()}),
                               "tgt" if prefix else "src")
    return made


def random_lines(count: int, seed: int = 6) -> list[str]:
    """Lines of all that Unicode has, and of what the rules of tokenizers speak of: marks, capital sigma, spaces."""
    draw = random.Random(seed)
    curious = ("\u0301\u0327\u0345\u0663\u05d0\u202e\u200d\u200b\ufeff\ufffd\0\x07\t\r\x0b\x85\u2028\u3000\u00a0\u00ad"
               "ΣσςİıßﬁÅ각\u1100\u1161\u0f71\U0001d165\U0001f1e6😀\U0010ffff\ue000#_'.")
    pools = [lambda: chr(draw.randrange(0x110000)), lambda: draw.choice(curious), lambda: draw.choice(" " + LETTERS),
             lambda: draw.choice(LETTERS.upper()), lambda: draw.choice(IDEOGRAPHS), lambda: draw.choice(SIGNS + " ")]

    def line() -> str:
        chosen = draw.sample(pools, 3)
        text = "".join(draw.choice(chosen)() for _ in range(draw.choice((0, 1, 5, 30, 60))))
        return "".join(char for char in text if char != "\n" and not "\ud800" <= char <= "\udfff")

    return [*(line() for _ in range(count - 4)), "[MASK]", " [CLS]a[SEP] ", "x" * 300, ""]


def alone(tokenizer: Tokenizer, line: str) -> list[int]:
    return tokenizer.encode_lines(f"{line}\n")[0].tolist()


def test_every_entry_has_a_case():
    assert CASES.keys() == TOKENIZERS.keys(), "a new entry of TOKENIZERS needs files and text in CASES"


@EVERY
def test_many_lines_are_encoded_as_each_alone(make, name):
    tokenizer, lines = make(name), random_lines(300)
    ids, offsets = tokenizer.encode_lines("".join(f"{line}\n" for line in lines))
    assert ids.dtype == tokenizer.dtype == np.uint16 and offsets.dtype == np.int64
    assert offsets[0] == 0 and offsets[-1] == len(ids) and len(offsets) == len(lines) + 1
    assert (np.diff(offsets) >= 0).all() and ids.max() < len(tokenizer.vocab)
    other = make(name)  # has seen nothing yet, so that a cache cannot hide an error
    for number, line in enumerate(lines):
        assert ids[offsets[number]:offsets[number + 1]].tolist() == alone(other, line), repr(line)


@EVERY
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_blocks_of_any_size_give_the_same_ids(make, name, block, monkeypatch):
    whole = random_lines(60, seed=block)
    text = "\n".join([*whole, " ".join(whole), "".join(whole)])
    expected = make(name).encode_lines(text)
    tokenizer = make(name)
    monkeypatch.setattr(type(tokenizer), "block_chars", block)
    for found, wanted in zip(tokenizer.encode_lines(text), expected):
        assert np.array_equal(found, wanted)


@EVERY
@pytest.mark.parametrize("text, lines", [("", 0), ("\n", 1), ("\n\n", 2), (" ", 1), ("\n \n", 2), ("\u3000\n\t\n", 2)])
def test_blank_lines_have_no_tokens(make, name, text, lines):
    ids, offsets = make(name).encode_lines(text)
    assert ids.tolist() == [] and offsets.tolist() == [0] * (lines + 1) and ids.dtype == np.uint16


@EVERY
def test_a_line_feed_at_the_end_may_be_absent(make, name):
    tokenizer = make(name)
    for text in ("北京\na", "北京\n\na"):
        for with_it, without in zip(tokenizer.encode_lines(text + "\n"), tokenizer.encode_lines(text)):
            assert np.array_equal(with_it, without)
    if not CASES[name].line_feeds_are_tokens:
        assert tokenizer.encode("a\n北") == tokenizer.encode("a 北")


@EVERY
def test_what_is_decoded_has_the_same_tokens(make, name):
    tokenizer, draw = make(name), random.Random(8)
    for _ in range(200):
        text = CASES[name].known(draw)
        ids = tokenizer.encode(text)
        assert ids and tokenizer.vocab.special_ids.get("unk") not in ids
        assert tokenizer.encode(tokenizer.decode(ids)) == ids, text
        tokens = tokenizer.tokenize(text)
        assert not tokenizer.continues(tokens[0])
        assert "".join(map(tokenizer.surface, tokens)) == "".join(text.split())
    assert tokenizer.decode([]) == ""


@EVERY
def test_a_long_line_can_be_cut_where_line_cuts_matches(make, name):
    tokenizer, cuts = make(name), 0
    for line in random_lines(200, seed=9):
        data, whole = line.encode(), alone(tokenizer, line)
        for match in list(tokenizer.line_cuts.finditer(data))[:12]:
            before, after = (part.decode() for part in (data[:match.end()], data[match.end():]))
            assert alone(tokenizer, before) + alone(tokenizer, after) == whole, (before, after)
            cuts += 1
    assert cuts > 100


@EVERY
def test_tokens_do_not_reach_across_where_a_tokenizer_splits(make, name):
    tokenizer, splits = make(name), 0
    for line in random_lines(260, seed=10):
        whole = alone(tokenizer, line)
        for at in range(1, min(len(line), 25)):
            kept = CASES[name].spaces_are_tokens and (line[at - 1].isspace() or line[at].isspace())
            if tokenizer.splits_between(line[at - 1], line[at]) and not kept:
                assert alone(tokenizer, line[:at]) + alone(tokenizer, line[at:]) == whole, (line[:at], line[at:])
                splits += 1
    assert splits > 200


@EVERY
def test_every_unknown_token_is_counted(make, name):
    tokenizer, unknown = make(name), Counter()
    lines = random_lines(300, seed=11)
    ids, _ = tokenizer.encode_lines("\n".join(lines), unknown)
    unk = tokenizer.vocab.special_ids.get("unk")
    assert sum(unknown.values()) == (0 if unk is None else int((ids == unk).sum()))
    assert unk is None or len(unknown) > 100
    assert all(unknown.values()) and "" not in unknown


@EVERY
def test_special_tokens_in_a_text(make, name):
    assert make(name).tokenize("a [MASK] b") == CASES[name].mask


@EVERY
def test_characters_with_an_entry_are_covered(make, name):
    tokenizer = make(name)
    surfaces = {tokenizer.surface(entry) for entry in tokenizer.vocab.tokens} - {"\ufffd"}  # a part of a character
    assert all(map(tokenizer.covers, (surface for surface in surfaces if len(surface) == 1)))
    assert not tokenizer.covers("龘") and not tokenizer.covers("")


@EVERY
def test_a_worker_gives_the_same_ids(make, name):
    """Tokenizers are handed to forked processes, which go on with what they remember."""
    tokenizer, text = make(name), "\n".join(random_lines(40, seed=12))
    expected = tokenizer.encode_lines(text)[0]
    child = os.fork()
    if not child:
        found = tokenizer.encode_lines("新\n" + text)[0]
        os._exit(0 if np.array_equal(found[-len(expected):], expected) else 3)
    assert os.waitpid(child, 0)[1] == 0


@EVERY
def test_a_saved_tokenizer_is_the_same(make, name):
    tokenizer = make(name)
    vocab = Vocab(tokenizer.vocab.tokens, tokenizer.vocab.special_tokens, "saved", tokenizer.default_special_tokens)
    again = TOKENIZERS[tokenizer.kind].from_saved(vocab, json.loads(json.dumps(tokenizer.saved_settings())))
    assert tokenizer.kind == name == tokenizer.settings["kind"] and again.settings == tokenizer.settings
    assert all(isinstance(value, str) for value in tokenizer.settings.values())
    text = "\n".join(random_lines(100, seed=13))
    assert np.array_equal(again.encode_lines(text)[0], tokenizer.encode_lines(text)[0])


@pytest.mark.parametrize("name", ["bpe", "qwen"])
def test_a_hugging_face_folder_of_tokenizer_json_alone(make, name, tmp_path):
    """As transformers 5 writes it: the special tokens are added to those of the model, and merges are pairs."""
    ours, lines = make(name), "\n".join(random_lines(60, seed=14))
    expected, roles = ours.encode_lines(lines)[0], dict(ours.vocab.special_tokens)
    path, config = tmp_path / "tokenizer.json", tmp_path / "tokenizer_config.json"
    content = json.loads(ours._encoder.to_str())
    assert isinstance(content["model"]["merges"][0], list)
    added = [{"id": index, "content": token} for token, index in ours.vocab.ids.items() if token in roles.values()]
    content["model"]["vocab"] = {token: index for token, index in ours.vocab.ids.items() if token not in roles.values()}
    content["added_tokens"] = [{**token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                                "special": True} for token in added]
    path.write_text(json.dumps(content))
    config.write_text(json.dumps({"bos_token": roles["cls_token"], "eos_token": roles["sep_token"], "unk_token": None}))
    folder = read_tokenizer(tmp_path)
    flags = build_tokenizer(TokenizerConfig(**tokenizer_settings(tmp_path)))
    alone = make(name, vocab_path=str(path), merges_path=None)
    for found in (folder, flags, alone):
        assert type(found) is type(ours) and found.settings == ours.settings
        assert found.vocab.fingerprint == ours.vocab.fingerprint and found.vocab.cls_id == ours.vocab.cls_id
        assert np.array_equal(found.encode_lines(lines)[0], expected)
    assert read_tokens(tmp_path) == ours.vocab.tokens
    assert read_tokens(tmp_path, len(ours.vocab) + 1)[-1] == f"<|unused_{len(ours.vocab)}|>"
    assert len(read_tokenizer(tmp_path, len(ours.vocab) + 3).vocab) == len(ours.vocab) + 3
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    path.write_text(json.dumps(content))
    for refused in (read_tokenizer, tokenizer_settings):
        with pytest.raises(UserError, match="divides text otherwise than --tokenizer bpe and qwen"):
            refused(tmp_path)
    with pytest.raises(UserError, match=f"divides text otherwise than --tokenizer {name}"):
        make(name, vocab_path=str(path))


@EVERY
def test_the_target_side_has_flags_of_its_own(make, name):
    target = make(name, prefix="tgt_")
    assert target.settings == make(name).settings and target.vocab.fingerprint == make(name).vocab.fingerprint
    assert target.encode("a 北京 cab") == make(name).encode("a 北京 cab")
    for flag_name in CASES[name].flags:
        with pytest.raises(UserError, match=rf"--tgt_{flag_name} is required for --tgt_tokenizer {name}"):
            make(name, prefix="tgt_", **{flag_name: None})


@EVERY
def test_roles_are_ids_and_those_that_it_needs_are_asked_for(make, name):
    vocab, kind = make(name).vocab, TOKENIZERS[name]
    assert {f"{role}_token": vocab.tokens[index] for role, index in vocab.special_ids.items()} == vocab.special_tokens
    assert kind.default_special_tokens.keys() <= vocab.special_tokens.keys()
    for role, entry in kind.default_special_tokens.items():
        with pytest.raises(UserError, match=role):
            Vocab([token for token in vocab.tokens if token != entry], source="v", defaults=kind.default_special_tokens)
    with pytest.raises(UserError, match="a sentinel token is needed, and the vocabulary has none"):
        vocab.special_id("sentinel")
