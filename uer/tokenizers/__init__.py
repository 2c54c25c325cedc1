"""Tokenizers by their `--tokenizer` names: text to ids and back, without torch; `base` says what a tokenizer is."""

from collections.abc import Iterable

from uer.config import TokenizerConfig
from uer.registry import choose
from uer.tokenizers.base import Tokenizer
from uer.tokenizers.bert import BertTokenizer
from uer.tokenizers.bpe import BpeTokenizer
from uer.tokenizers.char import CharTokenizer
from uer.tokenizers.qwen import QwenTokenizer
from uer.tokenizers.sentence_piece import XlmRobertaTokenizer
from uer.tokenizers.space import SpaceTokenizer
from uer.tokenizers.vocab import Vocab

TOKENIZERS: dict[str, type[Tokenizer]] = {
    "bert": BertTokenizer,
    "bpe": BpeTokenizer,
    "char": CharTokenizer,
    "qwen": QwenTokenizer,
    "space": SpaceTokenizer,
    "xlmroberta": XlmRobertaTokenizer,
}

__all__ = ["TOKENIZERS", "BertTokenizer", "BpeTokenizer", "CharTokenizer", "QwenTokenizer", "SpaceTokenizer",
           "Tokenizer", "Vocab", "XlmRobertaTokenizer", "build_tokenizer", "build_tokenizers"]


def build_tokenizer(config: TokenizerConfig, side: str = "src") -> Tokenizer:
    """The tokenizer that the flags ask for; a known vocabulary that is missing is fetched.

    Args:
        config: the flags.
        side: "src": `--tokenizer` and the flags beside it; "tgt": `--tgt_tokenizer` and the like.

    Raises:
        UserError: an unknown kind, no `--vocab_path`, or a file that cannot be read or fetched.
    """
    flag = "--tokenizer" if side == "src" else f"--{side}_tokenizer"
    return choose(TOKENIZERS, config.of_side(side).tokenizer, flag).from_config(config, side)


def build_tokenizers(config: TokenizerConfig, sides: Iterable[str]) -> dict[str, Tokenizer]:
    """The tokenizers of some sides by the sides' names; errors as `build_tokenizer`."""
    return {side: build_tokenizer(config, side) for side in dict.fromkeys(sides)}
