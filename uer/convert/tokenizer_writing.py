"""Writing a tokenizer as the files that transformers reads, without transformers.

    vocab.txt                   BERT's entries; transformers 4 needs it, transformers 5 no longer writes it
    vocab.json, merges.txt      those of byte-level BPE (GPT-2's, Qwen's)
    sentencepiece.bpe.model     XLM-R's, as it was trained
    tokenizer.json              the Rust tokenizer's description, of BERT's and byte-level BPE
    tokenizer_config.json       which class, its settings and the longest sequence
    special_tokens_map.json     the names of [CLS], [SEP] and the other special tokens
"""

import base64
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from uer.convert.hugging_face_files import write_json
from uer.tokenizers import Tokenizer, Vocab
from uer.tokenizers.bert import CONTINUATION, MAX_WORD_CHARS
from uer.tokenizers.qwen import PATTERN

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_WITHOUT_REGEX = {**_BYTE_LEVEL, "trim_offsets": False, "use_regex": False}
# For each kind what tokenizer.json says of normalising and splitting text, and transformers' class.
_RULES: dict[str, tuple[dict[str, Any], str]] = {
    "bpe": ({"normalizer": None, "pre_tokenizer": _BYTE_LEVEL}, "GPT2Tokenizer"),
    "qwen": ({"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}, _WITHOUT_REGEX]}},
             "Qwen2Tokenizer"),
}


def write_tokenizer(tokenizer: Tokenizer, max_length: int, folder: str | os.PathLike, segments: bool = True,
                    truncation: str = "first") -> None:
    """Write the files of a tokenizer of ours.

    Args:
        max_length: the tokens to which a text is cut.
        folder: an existing folder.
        segments: whether the model has segments; without them BERT's tokenizer gives no token_type_ids.
        truncation: which part of a long text is kept, as in fine-tuning; transformers has no other than tail and first.
    """
    folder, vocab, saved = Path(folder), tokenizer.vocab, tokenizer.saved_settings()
    cutting = {"model_max_length": max_length, **({"truncation_side": "left"} if truncation == "tail" else {})}
    if tokenizer.kind in _RULES:
        _write_byte_level(vocab, saved["merges"], cutting, folder, tokenizer.kind)
    elif tokenizer.kind == "xlmroberta":
        _write_sentence_piece(base64.b64decode(saved["spm_model"]), vocab.special_tokens, cutting, folder)
    else:
        _write_wordpiece(vocab, tokenizer.do_lower_case, cutting, folder, segments)


def _write_wordpiece(vocab: Vocab, do_lower_case: bool, cutting: Mapping[str, Any], folder: Path, segments: bool
                     ) -> None:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocab.tokens), encoding="utf-8", newline="\n")
    write_json(_wordpiece_json(vocab, do_lower_case), folder / "tokenizer.json")
    config = _wordpiece_config(vocab.special_tokens, do_lower_case, cutting)
    if not segments:
        config["model_input_names"] = ["input_ids", "attention_mask"]
    if sentinels := _sentinels(vocab):
        config["additional_special_tokens"] = sentinels
    write_json(config, folder / "tokenizer_config.json")
    write_json(vocab.special_tokens, folder / "special_tokens_map.json")


def _sentinels(vocab: Vocab) -> list[str]:
    """T5's sentinels: the entry whose role is sentinel_token, and those after it that are numbered on."""
    ids = vocab.special_ids
    return vocab.tokens[ids["sentinel"]:ids["last_sentinel"] + 1] if "sentinel" in ids else []


def _wordpiece_config(special_tokens: Mapping[str, str], do_lower_case: bool, cutting: Mapping[str, Any]
                      ) -> dict[str, Any]:
    """The content of tokenizer_config.json."""
    return {"tokenizer_class": "BertTokenizer", "do_lower_case": do_lower_case, "do_basic_tokenize": True,
            "never_split": None, "strip_accents": None, "tokenize_chinese_chars": True,
            "clean_up_tokenization_spaces": True, **cutting,
            **{role: entry for role, entry in special_tokens.items() if role != "sentinel_token"}}


def _wordpiece_json(vocab: Vocab, do_lower_case: bool) -> dict[str, Any]:
    """The content of tokenizer.json: normalizer, splitter, WordPiece, and [CLS] A [SEP] B [SEP] around the result.

    `strip_accents` null means "as `lowercase` says", which is Google's rule. The Rust tokenizer's own limit for a word
    is 100 characters; the file carries ours, and transformers 4 heeds it. transformers 5 does not, so there a word of
    101 to 200 characters is [UNK].
    """
    ids, special_tokens = vocab.ids, vocab.special_tokens
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(ids, {*special_tokens.values(), *_sentinels(vocab)}),
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


def _added_tokens(ids: Mapping[str, int], special: Iterable[str]) -> list[dict[str, Any]]:
    """The special entries as tokenizer.json describes them."""
    return [{"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True} for token in sorted(special, key=ids.__getitem__)]


def _write_byte_level(vocab: Vocab, merges: Sequence[str], cutting: Mapping[str, Any], folder: Path, kind: str
                      ) -> None:
    """The files of GPT2Tokenizer ("bpe") or of Qwen2Tokenizer ("qwen"): a text begins with the cls token and ends with
    the sep token."""
    ids, special_tokens = vocab.ids, vocab.special_tokens
    begin, end = (special_tokens.get(role) or special_tokens[other] for role, other in (
        ("bos_token", "cls_token"), ("eos_token", "sep_token")))
    roles = {"bos_token": begin, "eos_token": end, "unk_token": special_tokens.get("unk_token", end),
             "pad_token": special_tokens["pad_token"]}
    write_json(ids, folder / "vocab.json")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8", newline="\n")
    rules, tokenizer_class = _RULES[kind]
    write_json({**_byte_level_json(ids, set(roles.values()), merges), **rules}, folder / "tokenizer.json")
    write_json({"tokenizer_class": tokenizer_class, "add_prefix_space": False, "errors": "replace",
                "clean_up_tokenization_spaces": False, **cutting, **roles},
               folder / "tokenizer_config.json")
    write_json({**special_tokens, **roles}, folder / "special_tokens_map.json")


def _byte_level_json(ids: Mapping[str, int], special: Iterable[str], merges: Sequence[str]) -> dict[str, Any]:
    """The content of tokenizer.json, but for the rules of its kind."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added_tokens(ids, special),
        "post_processor": {**_BYTE_LEVEL, "trim_offsets": False},
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "vocab": ids,
                  "merges": list(merges)},
    }


def _write_sentence_piece(model: bytes, special_tokens: Mapping[str, str], cutting: Mapping[str, Any], folder: Path
                          ) -> None:
    """The files of XLMRobertaTokenizer, `model` the content of the SentencePiece model's file."""
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    roles = {**special_tokens, "bos_token": special_tokens["cls_token"], "eos_token": special_tokens["sep_token"]}
    write_json({"tokenizer_class": "XLMRobertaTokenizer", **cutting, **roles},
               folder / "tokenizer_config.json")
    write_json(roles, folder / "special_tokens_map.json")
