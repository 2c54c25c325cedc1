"""The vocabulary: one entry a line, its id is its line number counted from 0; some entries have a role."""

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from uer.errors import UserError
from uer.json_files import read_json_object
from uer.reading import read_bytes

TOKENIZER_JSON = "tokenizer.json"  # in which Hugging Face's library `tokenizers` keeps a whole tokenizer
ENTRY_END = re.compile("[ \t\r\n]")  # what ends an entry in a file; a count may follow

# The roles that an entry may have, by their names in `special_tokens_map.json`. The sentinels of T5 are entries with
# consecutive ids, of which the first is named.
ROLES = ("pad_token", "unk_token", "bos_token", "eos_token", "cls_token", "sep_token", "mask_token", "sentinel_token")
SHARED_ROLES = ("bos_token", "eos_token")  # their entries may have another role too: BART's [CLS] is its bos token

# The entries of BERT's five roles where no `special_tokens_map.json` stands beside the vocabulary.
BERT_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}

FIRST_SENTINEL = "<extra_id_0>"  # likewise, where the vocabulary has it

# The entries of RoBERTa's and XLM-R's roles.
ROBERTA_SPECIAL_TOKENS = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}


class Vocab:
    """Entries, their ids, and the roles that some of them have.

    Which roles a vocabulary must have depends on its tokenizer: BERT's five for BERT's. Code that needs a role asks
    for it (`special_id`, `cls_id` and so on), and the user is told where the vocabulary lacks it.

    Attributes:
        tokens: the entries in the order of their ids.
        ids: entry -> id.
        special_tokens: role, one of `ROLES`, -> entry, for the roles that the vocabulary has.
        special_ids: the same as ids, by short names: {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}. With
            sentinels, the first is "sentinel", and "last_sentinel" the last.
        fingerprint: SHA-256 in hex of the entries, each followed by a line feed, in UTF-8. Two files that differ only
            in BOM or line ends have the same one.
    """

    def __init__(self, tokens: Sequence[str], special_tokens: Mapping[str, str] | None = None,
                 source: str = "vocabulary", defaults: Mapping[str, str] = BERT_SPECIAL_TOKENS):
        """
        Args:
            tokens: the entries.
            special_tokens: role -> entry. A role that `defaults` lacks is passed over where its entry is missing.
            source: the vocabulary's name in messages.
            defaults: the roles that the vocabulary must have, with their entries where `special_tokens` lacks them.

        Raises:
            UserError: an entry is blank, holds what ends an entry in a file, or stands there twice, a special entry is
                missing, or two roles share one.
        """
        self.tokens = list(tokens)
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        self.source = source
        _check_entries(self.tokens, self.ids, source)
        named = {"sentinel_token": FIRST_SENTINEL, **defaults, **(special_tokens or {})}
        _check_strings(named, source)
        self.special_tokens = {role: entry for role, entry in named.items() if role in defaults or entry in self.ids}
        _check_roles(self.special_tokens, source)
        self.special_ids = {role.removesuffix("_token"): _id_of(self.ids, entry, role, source)
                            for role, entry in self.special_tokens.items()}
        if "sentinel" in self.special_ids:
            self.special_ids["last_sentinel"] = _last_sentinel(self.tokens, self.special_ids["sentinel"])
        self.fingerprint = hashlib.sha256("".join(f"{token}\n" for token in self.tokens).encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path, defaults: Mapping[str, str] = BERT_SPECIAL_TOKENS,
             special_tokens_map: str | None = None) -> "Vocab":
        """Read `path`: a text file (UTF-8, BOM and CRLF allowed), or Hugging Face's tokenizer.json.

        The names of the special entries are those of the file `special_tokens_map`, where it is given, or else of
        `special_tokens_map.json` in its folder; `defaults` as for `__init__`.

        Raises:
            UserError: the file cannot be read, is not UTF-8, or its entries are not valid (see `__init__`).
        """
        path = Path(path)
        entries = read_any_entries(path)
        return cls(entries, named_roles(entries, path, special_tokens_map), str(path), defaults)

    def __len__(self) -> int:
        return len(self.tokens)

    def special_id(self, role: str) -> int:
        """The id of the entry with a role, "pad" for instance.

        Raises:
            UserError: no entry has it.
        """
        if role not in self.special_ids:
            raise UserError(f"{self.source}: a {role} token is needed, and the vocabulary has none; name one of its "
                            f"entries as {role}_token in a special_tokens_map.json in its folder, or in the file of "
                            "--special_tokens_map")
        return self.special_ids[role]

    def special_token(self, role: str) -> str:
        """The entry with a role, "[PAD]" for instance; errors as `special_id`."""
        return self.tokens[self.special_id(role)]

    @property
    def pad_id(self) -> int:
        """The id of [PAD]; this and the next ones raise a UserError as `special_id` does."""
        return self.special_id("pad")

    @property
    def unk_id(self) -> int:
        """The id of [UNK]."""
        return self.special_id("unk")

    @property
    def cls_id(self) -> int:
        """The id of [CLS]."""
        return self.special_id("cls")

    @property
    def sep_id(self) -> int:
        """The id of [SEP]."""
        return self.special_id("sep")

    @property
    def mask_id(self) -> int:
        """The id of [MASK]."""
        return self.special_id("mask")


def read_any_entries(path: Path) -> list[str]:
    """The entries of a vocabulary: a text file, Hugging Face's tokenizer.json, or a JSON object of entries and ids
    (GPT-2's vocab.json).

    Raises:
        UserError: the file cannot be read, or holds no vocabulary.
    """
    if path.name == TOKENIZER_JSON:
        return read_tokenizer_json(path)
    return read_vocab_json(path) if path.suffix == ".json" else read_entries(path)


def named_roles(entries: Sequence[str], path: Path, special_tokens_map: str | None,
                further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Which entry has which role, by the user's file, or by `special_tokens_map.json` beside `path`.

    Args:
        entries: the vocabulary's.
        path: the vocabulary's file.
        special_tokens_map: the user's file; every entry that it names must be in the vocabulary.
        further: names of a tokenizer that is not BERT's. The file beside it is often BERT's (in `models/`): an entry of
            it that the vocabulary lacks then gives way to the one named here.

    Raises:
        UserError: a file cannot be read, or names an entry that the vocabulary lacks.
    """
    if special_tokens_map:
        if not Path(special_tokens_map).is_file():
            raise UserError(f"{special_tokens_map}: no such file of special tokens")
        named, known = read_special_tokens(Path(special_tokens_map)), set(entries)
        for role, entry in named.items():
            if entry not in known:
                raise UserError(f"{path}: no entry '{entry}' ({role}), which {special_tokens_map} names")
        return {**(further or {}), **named}
    named = read_special_tokens(path.parent / "special_tokens_map.json")
    if further is None:
        return named
    known = set(entries)
    return {**further, **{role: entry for role, entry in named.items() if entry in known}}


def read_entries(path: Path) -> list[str]:
    """The file's lines as entries: `"的\\t1023"`, where a count stands after the entry, gives `"的"`.

    Raises:
        UserError: the file is missing, unreadable, empty or not UTF-8.
    """
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8") from None
    if not text.strip():
        raise UserError(f"{path}: the vocabulary is empty")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if not any(end in text for end in " \t\r"):
        return lines
    return [ENTRY_END.split(line, maxsplit=1)[0] for line in lines]


def described_tokenizer(path: str | Path) -> dict[str, Any]:
    """The content of Hugging Face's tokenizer.json, which must not be changed: the last file is kept.

    Opening a folder asks for the entries, the merges and the rules one after another, and a file of 250,000 entries
    takes most of a second.
    """
    try:
        status = os.stat(path)
    except OSError:
        return read_json_object(path)  # its error
    return _described_tokenizer(os.fspath(path), status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=1)
def _described_tokenizer(path: str, *state: int) -> dict[str, Any]:
    return read_json_object(path)


def read_tokenizer_json(path: Path) -> list[str]:
    """The entries of Hugging Face's tokenizer.json in the order of their ids, those that it adds to its model's, too.

    Raises:
        UserError: the file cannot be read, or is no tokenizer of WordPiece or BPE with ids from 0 on.
    """
    content, ids = described_tokenizer(path), None
    with contextlib.suppress(KeyError, TypeError):
        added = {token["content"]: token["id"] for token in content.get("added_tokens") or ()}
        ids = {**content["model"]["vocab"], **added}
    if not _numbers_entries(ids):
        raise UserError(f"{path}: holds no WordPiece vocabulary and no BPE with ids from 0 on")
    return sorted(ids, key=ids.__getitem__)


def holds_merges(path: str | Path) -> bool:
    """Whether the file is the tokenizer.json of a BPE; errors as `read_tokenizer_json`."""
    model = described_tokenizer(path).get("model") if Path(path).name == TOKENIZER_JSON else None
    return isinstance(model, dict) and "merges" in model


def read_vocab_json(path: Path) -> list[str]:
    """The entries of a JSON object `{"!": 0, "\"": 1, ...}`, such as GPT-2's vocab.json, in the order of their ids.

    Raises:
        UserError: the file cannot be read, or the ids are not the numbers from 0 on.
    """
    ids = read_json_object(path)
    if not _numbers_entries(ids):
        raise UserError(f"{path}: not a vocabulary: a JSON object of entries and ids from 0 on is needed")
    return sorted(ids, key=ids.__getitem__)


def _numbers_entries(ids: Any) -> bool:
    return isinstance(ids, dict) and {type(number) for number in ids.values()} == {int} and (
        sorted(ids.values()) == list(range(len(ids))))


def read_special_tokens(path: Path) -> dict[str, str]:
    """The roles that `special_tokens_map.json` names; empty where there is no such file.

    A value is an entry, or an object with the entry under `content`, as Hugging Face writes it.

    Raises:
        UserError: the file is not a JSON object of entries.
    """
    if not path.exists():
        return {}
    content = read_json_object(path)
    named = {}
    for role in (role for role in ROLES if role in content):
        value = content[role]
        entry = value.get("content") if isinstance(value, dict) else value
        if entry is None:  # as in tokenizer_config.json
            continue
        if not isinstance(entry, str):
            raise UserError(f"{path}: {role} must be a string")
        named[role] = entry
    return named


def special_entries(named: dict[str, str]) -> list[str]:
    """The special entries of a new BERT vocabulary in their order, `named` as `read_special_tokens` gives it."""
    return [named.get(role, entry) for role, entry in BERT_SPECIAL_TOKENS.items()]


def _check_entries(tokens: list[str], ids: dict[str, int], source: str) -> None:
    first: dict[str, int] = {}
    spaced = ENTRY_END.search("".join(tokens)) is not None
    for line, token in enumerate(tokens, start=1):
        if not token:
            raise UserError(f"{source}, line {line}: a blank vocabulary entry")
        if spaced and ENTRY_END.search(token):
            raise UserError(f"{source}, line {line}: {token!r} holds whitespace, which ends an entry in a file")
        if len(ids) != len(tokens) and first.setdefault(token, line) != line:
            raise UserError(f"{source}, line {line}: '{token}' already stands at line {first[token]}")


def _check_strings(special_tokens: dict[str, str], source: str) -> None:
    for role, entry in special_tokens.items():
        if not isinstance(entry, str):
            raise UserError(f"{source}: {role} must be a string, not {type(entry).__name__}")


def _check_roles(special_tokens: dict[str, str], source: str) -> None:
    roles: dict[str, str] = {}
    for role, entry in special_tokens.items():
        other = role if role in SHARED_ROLES else roles.setdefault(entry, role)
        if other != role:
            raise UserError(f"{source}: {other} and {role} are both '{entry}'; each role needs an entry of its own "
                            "(special_tokens_map.json beside the vocabulary)")


def _id_of(ids: dict[str, int], token: str, role: str, source: str) -> int:
    if token not in ids:
        raise UserError(f"{source}: no entry '{token}' ({role}); add it, or name another one in a "
                        "special_tokens_map.json in the vocabulary's folder")
    return ids[token]


def _last_sentinel(tokens: Sequence[str], first: int) -> int:
    """The id of the last of the entries that are numbered on from that with the id `first`: `<extra_id_0>`,
    `<extra_id_1>` and so on."""
    begin, number, end = re.fullmatch(r"(.*?)(\d*)(\D*)", tokens[first]).groups()
    last = first
    while number and last + 1 < len(tokens) and tokens[last + 1] == f"{begin}{int(number) + last + 1 - first}{end}":
        last += 1
    return last
