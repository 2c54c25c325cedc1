"""The files of the tokenizers that are not BERT's: byte-level BPE (GPT-2's, Qwen's), and XLM-R's SentencePiece model.

    vocab.json, merges.txt      byte-level BPE; tokenizer.json says the same to the Rust tokenizer, and what is joined
    sentencepiece.bpe.model     XLM-R's, as it was trained
    tokenizer_config.json, special_tokens_map.json    as for BERT's
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uer.convert.hugging_face_files import read_json, write_json
from uer.reading import read_bytes
from uer.tokenizers.bpe import BpeTokenizer, read_merges
from uer.tokenizers.qwen import PATTERN, QwenTokenizer
from uer.tokenizers.sentence_piece import XlmRobertaTokenizer, open_model, pieces_of
from uer.tokenizers.vocab import Vocab, read_special_tokens, read_vocab_json

SPM_FILE = "sentencepiece.bpe.model"
MERGES_FILE = "merges.txt"
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_WITHOUT_REGEX = {**_BYTE_LEVEL, "trim_offsets": False, "use_regex": False}
# For each kind what tokenizer.json says of normalising and splitting text, and transformers' class.
_RULES: dict[str, tuple[dict[str, Any], str]] = {
    "bpe": ({"normalizer": None, "pre_tokenizer": _BYTE_LEVEL}, "GPT2Tokenizer"),
    "qwen": ({"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, _WITHOUT_REGEX]}},
             "Qwen2Tokenizer"),
}


def write_byte_level(tokens: Sequence[str], special_tokens: Mapping[str, str], merges: Sequence[str], max_length: int,
                     folder: str | os.PathLike, kind: str = "bpe") -> None:
    """Write the files of GPT2Tokenizer, or of Qwen2Tokenizer.

    Args:
        kind: "bpe" or "qwen".
        tokens: the vocabulary; an entry's position is its number.
        special_tokens: role -> entry; a text begins with the cls token and ends with the sep token.
        merges: pairs such as "Ġ t", the first to be applied first.
        max_length: the longest sequence the model takes.
        folder: an existing folder.
    """
    folder, ids = Path(folder), {token: number for number, token in enumerate(tokens)}
    begin, end = (special_tokens.get(role) or special_tokens[other] for role, other in (
        ("bos_token", "cls_token"), ("eos_token", "sep_token")))
    roles = {"bos_token": begin, "eos_token": end, "unk_token": special_tokens.get("unk_token", end),
             "pad_token": special_tokens["pad_token"]}
    write_json(ids, folder / "vocab.json")
    (folder / MERGES_FILE).write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8", newline="\n")
    specials, (rules, tokenizer_class) = sorted(set(roles.values()), key=ids.__getitem__), _RULES[kind]
    write_json({**_byte_level_json(ids, specials, merges), **rules}, folder / "tokenizer.json")
    write_json({"tokenizer_class": tokenizer_class, "add_prefix_space": False, "errors": "replace",
                "clean_up_tokenization_spaces": False, "model_max_length": max_length, **roles},
               folder / "tokenizer_config.json")
    write_json({**special_tokens, **roles}, folder / "special_tokens_map.json")


def _byte_level_json(ids: Mapping[str, int], specials: Sequence[str], merges: Sequence[str]) -> dict[str, Any]:
    """The content of tokenizer.json, but for the rules of its kind."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for token in specials],
        "post_processor": {**_BYTE_LEVEL, "trim_offsets": False},
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": ids,
                  "merges": list(merges)},
    }


def write_sentence_piece(model: bytes, special_tokens: Mapping[str, str], max_length: int, folder: str | os.PathLike
                         ) -> None:
    """Write the files of XLMRobertaTokenizer.

    Args:
        model: the content of the SentencePiece model's file.
        special_tokens: role -> entry.
        max_length, folder: as for `write_byte_level`.
    """
    folder = Path(folder)
    (folder / SPM_FILE).write_bytes(model)
    roles = {**special_tokens, "bos_token": special_tokens["cls_token"], "eos_token": special_tokens["sep_token"]}
    write_json({"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": max_length, **roles},
               folder / "tokenizer_config.json")
    write_json(roles, folder / "special_tokens_map.json")


def read_byte_level(folder: str | os.PathLike) -> BpeTokenizer:
    """The tokenizer of a folder with vocab.json and merges.txt; the roles of special tokens are those that it names.

    Raises:
        UserError: a file is missing or damaged, or the two do not fit.
    """
    folder = Path(folder)
    named = read_special_tokens(folder / "special_tokens_map.json")
    roles: dict[str, str] = {}
    for role in sorted(named, key="unk_token".__eq__):  # where roles share an entry: bytes are never unknown
        if named[role] not in roles.values():
            roles[role] = named[role]
    kind = QwenTokenizer if byte_level_kind(folder) == "qwen" else BpeTokenizer
    vocab = Vocab(byte_level_entries(folder), roles, str(folder), {})
    return kind(vocab, read_merges(folder / MERGES_FILE), str(folder / MERGES_FILE))


def byte_level_kind(folder: str | os.PathLike) -> str:
    """"qwen" where the folder is one of Qwen's tokenizer, else "bpe"."""
    path = Path(folder) / "tokenizer_config.json"
    named = read_json(path).get("tokenizer_class") if path.is_file() else None
    return "qwen" if str(named).removesuffix("Fast") == _RULES["qwen"][1] else "bpe"


def byte_level_entries(folder: str | os.PathLike) -> list[str]:
    """The entries of vocab.json, and behind them those that tokenizer.json adds, such as Qwen's special tokens."""
    entries, path = read_vocab_json(Path(folder) / "vocab.json"), Path(folder) / "tokenizer.json"
    added = read_json(path).get("added_tokens", []) if path.is_file() else []
    for token in sorted(added, key=lambda token: token["id"]):
        if token["id"] == len(entries):
            entries.append(token["content"])
    return entries


def read_sentence_piece(folder: str | os.PathLike) -> XlmRobertaTokenizer:
    """XLM-R's tokenizer of a folder with sentencepiece.bpe.model.

    Raises:
        UserError: the package sentencepiece is missing, or the file is no such model.
    """
    path = Path(folder) / SPM_FILE
    model = read_bytes(path)
    entries = XlmRobertaTokenizer.entries(pieces_of(open_model(model, str(path))))
    defaults = XlmRobertaTokenizer.default_special_tokens
    return XlmRobertaTokenizer(Vocab(entries, dict(defaults), str(path), defaults), model)
