"""A BERT vocabulary as the files that transformers reads, written without transformers.

    vocab.txt                transformers 4 needs it (its slow tokenizer); transformers 5 no longer writes it
    tokenizer.json           the Rust tokenizer's description
    tokenizer_config.json    which class, its settings and the longest sequence
    special_tokens_map.json  the names of [CLS] and its kin
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from uer.convert.files import write_json
from uer.errors import UserError

SPECIAL_TOKENS = {"unk_token": "[UNK]", "sep_token": "[SEP]", "pad_token": "[PAD]", "cls_token": "[CLS]",
                  "mask_token": "[MASK]"}

# Google's and UER's limit. The Rust tokenizer's own default is 100; the file carries the number, so ids stay equal.
LONGEST_WORD = 200


def write_tokenizer(tokens: Sequence[str], do_lower_case: bool, max_length: int, folder: str | os.PathLike) -> None:
    """Write the four files.

    Args:
        tokens: the vocabulary; an entry's place is its number.
        do_lower_case: whether text is lower-cased and its accents stripped.
        max_length: the longest sequence the model takes.
        folder: an existing folder.

    Raises:
        UserError: one of the five special tokens is missing.
    """
    folder = Path(folder)
    for token in SPECIAL_TOKENS.values():
        if token not in tokens:
            raise UserError(f"the vocabulary has no {token}, which transformers' BertTokenizer needs")
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8", newline="\n")
    write_json(tokenizer_json(tokens, do_lower_case), folder / "tokenizer.json")
    write_json(tokenizer_config(do_lower_case, max_length), folder / "tokenizer_config.json")
    write_json(SPECIAL_TOKENS, folder / "special_tokens_map.json")


def tokenizer_config(do_lower_case: bool, max_length: int) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": do_lower_case, "do_basic_tokenize": True,
            "never_split": None, "strip_accents": None, "tokenize_chinese_chars": True,
            "clean_up_tokenization_spaces": True, "model_max_length": max_length, **SPECIAL_TOKENS}


def tokenizer_json(tokens: Sequence[str], do_lower_case: bool) -> dict[str, Any]:
    """The content of tokenizer.json: normalizer, splitter, WordPiece, and [CLS] A [SEP] B [SEP] around the result.

    `strip_accents` null means "as `lowercase` says", which is Google's rule.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    specials = sorted(SPECIAL_TOKENS.values(), key=ids.__getitem__)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for token in specials],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": do_lower_case},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": _template(ids),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": LONGEST_WORD, "vocab": ids},
    }


def _template(ids: dict[str, int]) -> dict[str, Any]:
    """[CLS] and [SEP] around one sequence (all segment 0) or two (segments 0 and 1)."""
    cls, sep = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("[CLS]", "[SEP]"))
    single = [cls, {"Sequence": {"id": "A", "type_id": 0}}, sep]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": single + second,
            "special_tokens": {token: {"id": token, "ids": [ids[token]], "tokens": [token]}
                               for token in ("[CLS]", "[SEP]")}}
