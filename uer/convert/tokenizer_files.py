"""A BERT vocabulary as the files that transformers reads, written without transformers.

    vocab.txt                transformers 4 needs it (its slow tokenizer); transformers 5 no longer writes it
    tokenizer.json           the Rust tokenizer's description
    tokenizer_config.json    which class, its settings and the longest sequence
    special_tokens_map.json  the names of [CLS], [SEP] and the other special tokens
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uer.convert.hugging_face_files import read_json, write_json
from uer.convert.other_tokenizers import (
    MERGES_FILE,
    SPM_FILE,
    byte_level_entries,
    byte_level_kind,
    read_byte_level,
    read_sentence_piece,
)
from uer.errors import UserError
from uer.tokenizers.base import Tokenizer
from uer.tokenizers.bert import CONTINUATION, MAX_WORD_CHARS, BertTokenizer
from uer.tokenizers.vocab import Vocab, read_special_tokens, read_tokenizer_json


def write_tokenizer(tokens: Sequence[str], special_tokens: Mapping[str, str], do_lower_case: bool, max_length: int,
                    folder: str | os.PathLike, segments: bool = True) -> None:
    """Write the four files.

    Args:
        tokens: the vocabulary; an entry's line is its number.
        special_tokens: role -> entry: {"pad_token": "[PAD]", "unk_token": ..., "cls_token", "sep_token", "mask_token"}
            and maybe further roles.
        do_lower_case: whether text is lower-cased and its accents stripped.
        max_length: the longest sequence the model takes.
        folder: an existing folder.
        segments: whether the model has segments; without them the tokenizer gives no token_type_ids.
    """
    folder = Path(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    write_json(tokenizer_json(tokens, special_tokens, do_lower_case), folder / "tokenizer.json")
    config = tokenizer_config(special_tokens, do_lower_case, max_length)
    if not segments:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    if sentinels := sentinels_of(tokens, special_tokens):
        config["additional_special_tokens"] = sentinels
    write_json(config, folder / "tokenizer_config.json")
    write_json(special_tokens, folder / "special_tokens_map.json")


def sentinels_of(tokens: Sequence[str], special_tokens: Mapping[str, str]) -> list[str]:
    """T5's sentinels: the entry whose role is sentinel_token, and those behind it that are numbered on."""
    if "sentinel_token" not in special_tokens:
        return []
    ids = Vocab(tokens, special_tokens).special_ids
    return list(tokens[ids["sentinel"]:ids["last_sentinel"] + 1])


def read_tokens(folder: str | os.PathLike) -> list[str]:
    """The vocabulary of a Hugging Face folder, from vocab.txt or, where there is none, vocab.json or tokenizer.json.

    Raises:
        UserError: the folder has none of them, or a tokenizer of another kind.
    """
    path = vocab_file(folder)
    if (Path(folder) / SPM_FILE).is_file():
        raise UserError(f"{folder}: its vocabulary is a SentencePiece model: use {SPM_FILE} as --spm_model_path with "
                        "--tokenizer xlmroberta")
    if path is None:
        raise UserError(f"{folder}: holds neither vocab.txt nor tokenizer.json")
    if path.name == "vocab.json":
        return byte_level_entries(folder)
    if path.name == "tokenizer.json":
        return read_tokenizer_json(path)
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def vocab_file(folder: str | os.PathLike) -> Path | None:
    """The file of a Hugging Face folder that holds its vocabulary, None where there is none."""
    paths = (Path(folder) / name for name in ("vocab.txt", "vocab.json", "tokenizer.json"))
    return next((path for path in paths if path.is_file()), None)


def tokenizer_settings(folder: str | os.PathLike) -> dict[str, Any]:
    """The tokenizer of a Hugging Face folder as flags of ours, {} where it has no files; errors as `lower_cases`."""
    model, merges, vocabulary = Path(folder) / SPM_FILE, Path(folder) / MERGES_FILE, vocab_file(folder)
    if model.is_file():
        return {"tokenizer": "xlmroberta", "spm_model_path": str(model)}
    if merges.is_file() and vocabulary:
        return {"tokenizer": byte_level_kind(folder), "vocab_path": str(vocabulary), "merges_path": str(merges)}
    return {"vocab_path": str(vocabulary), "do_lower_case": lower_cases(folder)} if vocabulary else {}


def lower_cases(folder: str | os.PathLike) -> bool:
    """Whether the tokenizer of a Hugging Face folder lower-cases; true, transformers' default, where no file tells.

    Raises:
        UserError: the tokenizer treats Chinese characters or accents in a way that ours does not.
    """
    configured, described = Path(folder) / "tokenizer_config.json", Path(folder) / "tokenizer.json"
    settings = [read_json(configured)] if configured.is_file() else []
    if described.is_file():
        normalizer = read_json(described).get("normalizer")
        normalizer = normalizer if isinstance(normalizer, dict) else {}
        settings.append({"do_lower_case": normalizer.get("lowercase"), "strip_accents": normalizer.get("strip_accents"),
                         "tokenize_chinese_chars": normalizer.get("handle_chinese_chars")})

    def told(name: str, default: bool) -> bool:
        return next((content[name] for content in settings if isinstance(content.get(name), bool)), default)

    lower = told("do_lower_case", True)
    if not told("tokenize_chinese_chars", True):
        raise UserError(f"{folder}: its tokenizer does not split Chinese characters (tokenize_chinese_chars is false), "
                        "as UER's does")
    if told("strip_accents", lower) != lower:
        raise UserError(f"{folder}: its tokenizer has strip_accents {str(not lower).lower()} and do_lower_case "
                        f"{str(lower).lower()}; UER's strips accents where it lower-cases")
    return lower


def read_tokenizer(folder: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: BERT's, unless it has the files of GPT-2's or XLM-R's.

    Errors as `read_tokens`, `lower_cases` and `Vocab`, or `read_byte_level` and `read_sentence_piece`.
    """
    if (Path(folder) / SPM_FILE).is_file():
        return read_sentence_piece(folder)
    if (Path(folder) / MERGES_FILE).is_file():
        return read_byte_level(folder)
    special_tokens = read_special_tokens(Path(folder) / "special_tokens_map.json")
    return BertTokenizer(Vocab(read_tokens(folder), special_tokens, str(folder)), lower_cases(folder))


def tokenizer_config(special_tokens: Mapping[str, str], do_lower_case: bool, max_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": do_lower_case, "do_basic_tokenize": True,
            "never_split": None, "strip_accents": None, "tokenize_chinese_chars": True,
            "clean_up_tokenization_spaces": True, "model_max_length": max_length,
            **{role: entry for role, entry in special_tokens.items() if role != "sentinel_token"}}


def tokenizer_json(tokens: Sequence[str], special_tokens: Mapping[str, str], do_lower_case: bool) -> dict[str, Any]:
    """The content of tokenizer.json: normalizer, splitter, WordPiece, and [CLS] A [SEP] B [SEP] around the result.

    `strip_accents` null means "as `lowercase` says", which is Google's rule. The Rust tokenizer's own limit for a word
    is 100 characters; the file carries ours, and transformers 4 heeds it. transformers 5 does not, so there a word of
    101 to 200 characters is [UNK].
    """
    ids = {token: number for number, token in enumerate(tokens)}
    specials = sorted({*special_tokens.values(), *sentinels_of(tokens, special_tokens)}, key=ids.__getitem__)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for token in specials],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": do_lower_case},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _template(ids, special_tokens["cls_token"], special_tokens["sep_token"]),
        "decoder": {"type": "WordPiece", "prefix": CONTINUATION, "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": special_tokens["unk_token"],
                  "continuing_subword_prefix": CONTINUATION,
                  "max_input_chars_per_word": MAX_WORD_CHARS, "vocab": ids},
    }


def _template(ids: Mapping[str, int], cls: str, sep: str) -> dict[str, Any]:
    """[CLS] and [SEP] around one sequence (all segment 0) or two (segments 0 and 1)."""
    def special(token: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": token, "type_id": segment}}

    def sequence(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [special(cls, 0), sequence("A", 0), special(sep, 0)]
    return {"type": "TemplateProcessing", "single": single, "pair": [*single, sequence("B", 1), special(sep, 1)],
            "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (cls, sep)}}
