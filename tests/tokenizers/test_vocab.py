"""The vocabulary file: what is read, and what is refused with which message."""

import hashlib
import json
from pathlib import Path

import pytest

from uer.config import TokenizerConfig
from uer.convert.tokenizer_files import divided_tokens, read_tokenizer, tokenizer_settings
from uer.errors import UserError
from uer.json_files import read_json_object
from uer.tokenizers import Vocab, build_tokenizer
from uer.tokenizers import vocab as vocab_module

ENTRIES = ["[PAD]", "a", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "##b", "\u2028", "\u3000", "中"]


def write(folder: Path, content: bytes) -> Path:
    path = folder / "vocab.txt"
    path.write_bytes(content)
    return path


def lines(entries: list[str], end: str = "\n") -> bytes:
    return "".join(entry + end for entry in entries).encode()


def test_entries_and_special_ids(tmp_path):
    vocab = Vocab.load(write(tmp_path, lines(ENTRIES)))
    assert vocab.tokens == ENTRIES
    assert len(vocab) == 10
    assert vocab.ids["中"] == 9
    assert (vocab.pad_id, vocab.unk_id, vocab.cls_id, vocab.sep_id, vocab.mask_id) == (0, 2, 3, 4, 5)
    assert vocab.special_ids == {"pad": 0, "unk": 2, "cls": 3, "sep": 4, "mask": 5}
    assert vocab.fingerprint == hashlib.sha256(lines(ENTRIES)).hexdigest()


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + lines(ENTRIES), lines(ENTRIES, "\r\n"), lines(ENTRIES)[:-1],
                                     lines([f"{entry}\t7" for entry in ENTRIES]), lines(ENTRIES, " \n")])
def test_bom_crlf_counts_and_a_missing_last_line_feed_change_nothing(content, tmp_path):
    assert Vocab.load(write(tmp_path, content)).fingerprint == hashlib.sha256(lines(ENTRIES)).hexdigest()


def test_the_google_vocabulary(google_vocab):
    vocab = Vocab.load(google_vocab)
    assert len(vocab) == 21128
    assert vocab.special_ids == {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}
    assert [vocab.ids[char] for char in "北南东普望"] == [1266, 1298, 691, 3249, 3307]
    assert vocab.fingerprint == "45bbac6b341c319adc98a532532882e91a9cefc0329aa57bac9ae761c27b291c"


@pytest.mark.parametrize("content, message", [
    (b"", "empty"),
    (b"\n\n", "empty"),
    (lines(ENTRIES[:3] + ["", *ENTRIES[3:]]), "line 4: a blank"),
    (lines(ENTRIES[:3] + [" ", *ENTRIES[3:]]), "line 4: a blank"),
    (lines(ENTRIES + ["a"]), "line 11: 'a' already stands at line 2"),
    (lines(ENTRIES[:-1]) + b"\xff\xfe\n", "line 10: not UTF-8"),
    (lines(ENTRIES[1:]), r"no entry '\[PAD\]' \(pad_token\)"),
    (lines(ENTRIES[:5]), r"no entry '\[MASK\]' \(mask_token\)"),
])
def test_a_bad_file_is_named_with_its_line(content, message, tmp_path):
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message) as caught:
        Vocab.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("model", [3, None, ["a"], {"vocab": [["a", 0.5]]}])
def test_a_tokenizer_json_without_entries_and_ids_is_named(model, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": model}))
    with pytest.raises(UserError, match=r"tokenizer\.json: holds no WordPiece"):
        build_tokenizer(TokenizerConfig(vocab_path=str(tmp_path / "tokenizer.json")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.txt"):
        Vocab.load(tmp_path / "none.txt")


def test_special_names_of_the_folder(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"pad_token": "<pad>", "mask_token": {"content": "<mask>"}, "eos_token": "</s>"}), encoding="utf-8")
    vocab = Vocab.load(write(tmp_path, lines(["<pad>", "[UNK]", "[CLS]", "[SEP]", "<mask>"])))
    assert vocab.special_ids == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.mark.parametrize("content", ["[1]", "{", '{"pad_token": 3}'])
def test_a_bad_special_tokens_map_is_named(content, tmp_path):
    (tmp_path / "special_tokens_map.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"special_tokens_map\.json"):
        Vocab.load(write(tmp_path, lines(ENTRIES)))


def test_the_shipped_special_tokens_map_names_the_defaults(root):
    shipped = json.loads((root / "models" / "special_tokens_map.json").read_text(encoding="utf-8"))
    assert shipped == {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]",
                       "mask_token": "[MASK]"}


@pytest.mark.parametrize("entry", ["New York", "a\tb", "a\n"])
def test_an_entry_that_no_file_could_hold_is_refused(entry):
    with pytest.raises(UserError, match=r"the list, line 11: .* holds whitespace"):
        Vocab([*ENTRIES, entry], source="the list")


def test_a_tokenizer_json_is_parsed_once_until_it_changes(tmp_path, monkeypatch):
    """A folder's entries, merges, added tokens and rules are asked for one after another; each parsing takes long."""
    parsed = []
    monkeypatch.setattr(vocab_module, "read_json_object", lambda path: parsed.append(path) or read_json_object(path))
    path, entries = tmp_path / "tokenizer.json", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    for number, more in enumerate((["b"], ["b", "c"]), start=1):
        vocab = {entry: index for index, entry in enumerate([*entries, *more])}
        path.write_text(json.dumps({"normalizer": {"lowercase": False}, "model": {"vocab": vocab}}))
        tokenizer = read_tokenizer(tmp_path)
        assert tokenizer.vocab.tokens == [*entries, *more] and not tokenizer.do_lower_case
        flags = TokenizerConfig(**tokenizer_settings(tmp_path))
        assert build_tokenizer(flags).vocab.tokens == tokenizer.vocab.tokens and not divided_tokens(tmp_path, tokenizer)
        assert list(map(str, parsed)) == [str(path)] * number
