"""Which tokens begin a word, for whole-word masking: jieba's words mapped onto tokens."""

import warnings
from types import ModuleType

import numpy as np

from uer.errors import UserError
from uer.tokenizers.base import Tokenizer


class WordFinder:
    """jieba, loaded once a process, and the tokenizer whose tokens are marked.

    A border between two of jieba's words counts only where the tokenizer too begins a new token whatever stands beside
    it, so that a piece from the inside of a word never begins one:

        text     使用 iPhone6s 语言模型
        words    使用| |iPhone6s| |语言|模型
        tokens   使 用 iphone ##6 ##s 语 言 模 型        (of BERT)
        starts   1  0  1      0   0   1  0  1  0
    """

    def __init__(self, tokenizer: Tokenizer, user_dict: str | None = None):
        """Raises UserError when jieba is missing, the user dictionary cannot be read, or the tokens cross words."""
        require_words(tokenizer)
        self._tokenizer = tokenizer
        self._continues = np.array([tokenizer.continues(token) for token in tokenizer.vocab.tokens])
        self._segmenter = import_jieba().Tokenizer()
        if user_dict:
            self._load(user_dict)
        self._segmenter.initialize()

    def _load(self, user_dict: str) -> None:
        try:
            self._segmenter.load_userdict(user_dict)
        except OSError as error:
            raise UserError(f"--user_dict {user_dict}: {error.strerror}") from None
        except ValueError as error:  # an entry that jieba cannot parse, or bytes that are not UTF-8
            raise UserError(f"--user_dict {user_dict}: {error}") from None

    def word_starts(self, text: str, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """(tokens,) uint8, 1 where a token begins a word.

        Args:
            text: lines, each ended by "\\n".
            ids: (tokens,) what `encode_lines` made of them.
            offsets: (lines + 1,) where each line begins in `ids`.
        """
        lines = text.split("\n")[:-1]
        words = [self._words(line) for line in lines]
        word_ids, word_offsets = self._tokenizer.encode_lines("".join(f"{word}\n" for line in words for word in line))
        counts = np.cumsum([0] + [len(line) for line in words])
        starts = np.zeros(len(ids), np.uint8)
        if len(word_ids) == len(ids) and np.array_equal(word_ids, ids) and (
                np.array_equal(word_offsets[counts], offsets)):
            starts[word_offsets[:-1][np.diff(word_offsets) > 0]] = 1
            return starts
        for number in range(len(lines)):
            self._mark_line(starts, ids, offsets, number, word_ids, word_offsets[counts[number]:counts[number + 1] + 1])
        return starts

    def _mark_line(self, starts: np.ndarray, ids: np.ndarray, offsets: np.ndarray, number: int, word_ids: np.ndarray,
                   word_offsets: np.ndarray) -> None:
        """One line; where its words alone give other tokens than the whole line, every token is a word."""
        begin, end = int(offsets[number]), int(offsets[number + 1])
        if len(word_offsets) > 1 and np.array_equal(word_ids[word_offsets[0]:word_offsets[-1]], ids[begin:end]):
            inside = word_offsets[:-1][np.diff(word_offsets) > 0] - word_offsets[0]
            starts[begin + inside] = 1
        else:
            starts[begin:end] = ~self._continues[ids[begin:end]]

    def _words(self, line: str) -> list[str]:
        """The line in pieces whose tokens do not depend on one another; put together they are the line."""
        pieces: list[str] = []
        for word in self._segmenter.cut(line):
            if pieces and not self._tokenizer.splits_between(pieces[-1][-1], word[0]):
                pieces[-1] += word
            else:
                pieces.append(word)
        return pieces


def require_words(tokenizer: Tokenizer) -> None:
    """Raises UserError where tokens of this kind may reach across the words of Chinese."""
    if not tokenizer.finds_words:
        model = " and a SentencePiece model" * (tokenizer.kind not in ("bpe", "qwen"))
        raise UserError(f"--whole_word_masking does not work with the tokens of --tokenizer {tokenizer.kind}{model}, "
                        "which may cross the words that jieba finds; take bert, char or space with a vocabulary")


def import_jieba() -> ModuleType:
    """Raises UserError when it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba's own source warns on recent Pythons
        try:
            import jieba  # only --whole_word_masking needs it
        except ImportError:
            raise UserError("--whole_word_masking needs the package jieba (pip install jieba)") from None
    jieba.setLogLevel("WARNING")
    return jieba
