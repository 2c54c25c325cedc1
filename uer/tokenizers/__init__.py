"""Tokenizers: text to ids and back. They need no torch."""

from uer.config import TokenizerConfig
from uer.errors import UserError
from uer.registry import choose
from uer.tokenizers.base import Tokenizer
from uer.tokenizers.bert import BertTokenizer
from uer.tokenizers.char import CharTokenizer
from uer.tokenizers.fetch import ensure_vocab
from uer.tokenizers.space import SpaceTokenizer
from uer.tokenizers.vocab import Vocab

TOKENIZERS = {"bert": BertTokenizer, "char": CharTokenizer, "space": SpaceTokenizer}
PLANNED = ("bpe", "xlmroberta")

__all__ = ["PLANNED", "TOKENIZERS", "BertTokenizer", "CharTokenizer", "SpaceTokenizer", "Tokenizer", "Vocab",
           "build_tokenizer"]


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer that the flags ask for; a known vocabulary that is missing is fetched.

    Raises:
        UserError: an unknown kind, no `--vocab_path`, or a vocabulary that cannot be read or fetched.
    """
    kind = choose(TOKENIZERS, config.tokenizer, "--tokenizer", PLANNED)
    if not config.vocab_path:
        raise UserError(f"--vocab_path is required for --tokenizer {config.tokenizer}")
    return kind(Vocab.load(ensure_vocab(config.vocab_path)), config.do_lower_case)
