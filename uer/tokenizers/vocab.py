"""The vocabulary: one entry a line, its id is its line number counted from 0."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from uer.errors import UserError
from uer.json_files import read_json_object
from uer.reading import read_bytes

ENTRY_END = re.compile("[ \t\r\n]")  # what ends an entry in a file; a count may follow

# Role -> the entry that plays it where no `special_tokens_map.json` stands beside the vocabulary.
DEFAULT_SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


class Vocab:
    """Entries and their ids.

    Attributes:
        tokens: the entries in the order of their ids.
        ids: entry -> id.
        special_tokens: role (`pad_token`, `unk_token`, `cls_token`, `sep_token`, `mask_token`) -> entry.
        pad_id, unk_id, cls_id, sep_id, mask_id: ids of the special entries.
        fingerprint: SHA-256 in hex of the entries, each followed by a line feed, in UTF-8. Two files that differ only
            in BOM or line ends have the same one.
    """

    def __init__(self, tokens: Sequence[str], special_tokens: dict[str, str] | None = None, source: str = "vocabulary"):
        """Args: tokens: the entries; special_tokens: role -> entry, default names where absent; source: for messages.

        Raises:
            UserError: an entry is blank, holds what ends an entry in a file, or stands there twice, a special entry is
                missing, or two roles share one.
        """
        self.tokens = list(tokens)
        self.ids = {token: index for index, token in enumerate(self.tokens)}
        _check_entries(self.tokens, self.ids, source)
        self.special_tokens = {**DEFAULT_SPECIAL_TOKENS, **(special_tokens or {})}
        _check_roles(self.special_tokens, source)
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = (
            _special_id(self.ids, self.special_tokens[role], role, source) for role in DEFAULT_SPECIAL_TOKENS)
        self.fingerprint = hashlib.sha256("".join(f"{token}\n" for token in self.tokens).encode()).hexdigest()

    @classmethod
    def load(cls, path: str | Path) -> "Vocab":
        """Read `path`: a text file (UTF-8, BOM and CRLF allowed), or Hugging Face's tokenizer.json.

        The names of the special entries are those of `special_tokens_map.json` in its folder.

        Raises:
            UserError: the file cannot be read, is not UTF-8, or its entries are not valid (see `__init__`).
        """
        path = Path(path)
        entries = read_tokenizer_json(path) if path.name == "tokenizer.json" else read_entries(path)
        return cls(entries, read_special_tokens(path.parent / "special_tokens_map.json"), str(path))

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def special_ids(self) -> dict[str, int]:
        """Short role -> id: {"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103}."""
        return {"pad": self.pad_id, "unk": self.unk_id, "cls": self.cls_id, "sep": self.sep_id, "mask": self.mask_id}


def read_entries(path: Path) -> list[str]:
    """The file's lines as entries: `"的\\t1023"`, where a count stands behind the entry, gives `"的"`.

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


def read_tokenizer_json(path: Path) -> list[str]:
    """The entries of Hugging Face's tokenizer.json, in the order of their ids.

    Raises:
        UserError: the file cannot be read, or is no WordPiece tokenizer with ids from 0 on.
    """
    model = read_json_object(path).get("model")
    ids = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(ids, dict) or {type(number) for number in ids.values()} != {int} or (
            sorted(ids.values()) != list(range(len(ids)))):
        raise UserError(f"{path}: holds no WordPiece vocabulary")
    return sorted(ids, key=ids.__getitem__)


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
    for role in DEFAULT_SPECIAL_TOKENS.keys() & content.keys():
        value = content[role]
        entry = value.get("content") if isinstance(value, dict) else value
        if not isinstance(entry, str):
            raise UserError(f"{path}: {role} must be a string")
        named[role] = entry
    return named


def special_entries(named: dict[str, str]) -> list[str]:
    """The special entries of a new vocabulary in their order, `named` as `read_special_tokens` gives it."""
    return list({**DEFAULT_SPECIAL_TOKENS, **named}.values())


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


def _check_roles(special_tokens: dict[str, str], source: str) -> None:
    roles: dict[str, str] = {}
    for role, entry in special_tokens.items():
        if not isinstance(entry, str):
            raise UserError(f"{source}: {role} must be a string, not {type(entry).__name__}")
        other = roles.setdefault(entry, role)
        if other != role:
            raise UserError(f"{source}: {other} and {role} are both '{entry}'; each role needs an entry of its own "
                            "(special_tokens_map.json beside the vocabulary)")


def _special_id(ids: dict[str, int], token: str, role: str, source: str) -> int:
    if token not in ids:
        raise UserError(f"{source}: no entry '{token}' ({role}); add it, or name another one in a "
                        "special_tokens_map.json in the vocabulary's folder")
    return ids[token]
