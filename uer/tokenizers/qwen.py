"""Qwen's byte-level BPE (Qwen2, Qwen2.5, Qwen3): GPT-2's with other rules for what is joined.

The text is brought into Unicode's form NFC. A sign or a space belongs to the letters that follow, each digit is a token
of its own, and line feeds belong to the signs before them:

    gpt2    "don't (see) 23。北京"  ->  "don" "'t" " (" "see" ")" " 23" "。" "北京"
    qwen    the same text           ->  "don" "'t" " (" "see" ")" " " "2" "3" "。北京"
"""

import re
import unicodedata
from collections.abc import Mapping
from typing import Any, ClassVar

from uer.tokenizers.bpe import LETTER, SIGN, SPACES, BpeTokenizer, class_of

PATTERN = (r"(?i:'(?:s|t|re|ve|m|ll|d))|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)"
           r"|\s+")
"""What is joined, as a regular expression of the library `tokenizers`: each match by itself."""


class QwenTokenizer(BpeTokenizer):
    """As `BpeTokenizer`, with `PATTERN` and the form NFC."""

    kind = "qwen"
    line_cuts = re.compile(LETTER + rb"(?= " + LETTER + rb"|" + SIGN + rb")")
    text_cuts = re.compile(r"(?<=\n)|(?<=[0-9A-Za-z\u4e00-\u8fff])(?= [0-9A-Za-z\u4e00-\u8fff]|[,.;:!?()\u3001\u3002"
                           r"\uff0c])")
    default_special_tokens: ClassVar[Mapping[str, str]] = {
        "pad_token": "<|endoftext|>", "cls_token": "<|im_start|>", "sep_token": "<|im_end|>"}
    further_special_tokens: ClassVar[Mapping[str, str]] = {**default_special_tokens, "unk_token": "<unk>"}

    @staticmethod
    def set_rules(encoder: Any) -> None:
        from tokenizers import Regex, normalizers, pre_tokenizers

        encoder.normalizer = normalizers.NFC()
        encoder.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    def splits_between(self, before: str, after: str) -> bool:
        """Behind digits, and between letters and what is no letter; but "'s" and the like are tokens, and a mark may
        become one character with what stands before it."""
        if SPACES.match(before) or before == "'" or unicodedata.category(after)[0] == "M":
            return False
        if class_of(before) == "":  # signs: letters and line feeds may belong to them
            return class_of(after) == "N" or (SPACES.match(after) is not None and after not in "\r\n")
        return class_of(before) == "N" or class_of(after) != "L"
