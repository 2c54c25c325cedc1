"""BERT's tokenization as Google published it, for whole blocks of text at once.

Its rules, in this order: drop control characters; put spaces around CJK ideographs; split at whitespace; lower-case and
strip accents; split at punctuation; WordPiece. Here a table from code point to code settles ideographs and punctuation,
whose code is their id, and names the class of every other character; only runs of word characters are looked up as
strings. The table is filled for the code points that occur, by the plain definitions of `characters`.
"""

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from uer.config import TokenizerConfig
from uer.tokenizers.base import IDEOGRAPH, Tokenizer, WordTokenizer
from uer.tokenizers.characters import (
    IDEOGRAPH_RANGES,
    fold,
    folds_by_itself,
    is_dropped,
    is_ideograph,
    is_punctuation,
    is_whitespace,
    split_punctuation,
)
from uer.tokenizers.sentence_piece import SentencePieceTokenizer
from uer.tokenizers.vocab import Vocab
from uer.tokenizers.words import WordCache, WordPiece

CONTINUATION = "##"  # an entry that begins with it stands for the rest, inside a word

# Codes of characters that are not a token of their own (those that are have their id, 0 or more). Rarer classes have
# lower codes, so that a block's lowest code says what has to be done for it.
WORD, SPACE, NEWLINE, DROPPED, ACCENT, ENTANGLED, UNSEEN = range(-1, -8, -1)
COMMON = NEWLINE  # blocks whose lowest code is not below this skip `_settle_rare`

MAX_WORD_CHARS = 200
SHORTENED_CHARS = 4096


class BertTokenizer(WordTokenizer):
    """WordPiece with Google's rules; a word of over 200 characters is [UNK].

    Not for several threads at once: the table of characters and the cache of words grow as it reads.
    """

    kind = "bert"
    # whitespace, ideographs, and punctuation that no lower-casing rule looks across
    line_cuts = re.compile(rb"[ \t,;!?()\[\]{}\"]|" + IDEOGRAPH)

    def __init__(self, vocab: Vocab, do_lower_case: bool = True):
        super().__init__(vocab, do_lower_case)
        self._codes = np.full(0x110000, UNSEEN, np.int32)
        self._folded = np.zeros(0x110000, np.uint32)
        self._unk_id = vocab.unk_id
        inside = {self.surface(entry): index for entry, index in vocab.ids.items() if self.continues(entry)}
        self._wordpiece = WordPiece(vocab.ids, inside, MAX_WORD_CHARS)
        self._words = WordCache(self._encode_word)

    @classmethod
    def from_config(cls, config: TokenizerConfig, side: str = "src") -> Tokenizer:
        """With `--spm_model_path`, the tokenizer of that model."""
        if config.of_side(side).spm_model_path:
            return SentencePieceTokenizer.from_config(config, side)
        return super().from_config(config, side)

    @classmethod
    def from_saved(cls, vocab: Vocab, saved: Mapping[str, Any]) -> Tokenizer:
        """Of a SentencePiece model where one was saved."""
        return SentencePieceTokenizer.from_saved(vocab, saved) if "spm_model" in saved else super().from_saved(
            vocab, saved)

    def decode(self, ids: Sequence[int]) -> str:
        """Pieces of a word are joined, and there is no space beside ideographs and punctuation."""
        text = ""
        for token in (self.vocab.tokens[index] for index in ids):
            if self.continues(token) and text:
                text += self.surface(token)
            elif text and not _stands_alone(text[-1]) and not _stands_alone(token[0]):
                text += " " + token
            else:
                text += token
        return text

    def continues(self, token: str) -> bool:
        """`"##ken"` does; `"##"` alone is an entry like others."""
        return token.startswith(CONTINUATION) and token != CONTINUATION

    def surface(self, token: str) -> str:
        """`"##ken"` -> `"ken"`."""
        return token.removeprefix(CONTINUATION) if self.continues(token) else token

    def covers(self, char: str) -> bool:
        """As a word, or inside one."""
        return char in self.vocab.ids or CONTINUATION + char in self.vocab.ids

    def _encode_block(self, block: str, unknown: Counter | None) -> tuple[np.ndarray, np.ndarray]:
        points = _code_points(block)
        codes = self._classify(points)
        lowest = codes.min()
        if lowest < COMMON:
            points, codes = self._settle_rare(points, codes)
        if unknown is not None:
            self._count_unknown(points[codes == self._unk_id], unknown)
        is_word = codes == WORD
        begins = is_word.copy()
        np.greater(is_word[1:], is_word[:-1], out=begins[1:])
        places = np.flatnonzero(begins)
        if places.size:
            starts, counts, flat = self._words.look_up(self._word_strings(points, is_word), unknown)
            if lowest <= ENTANGLED:
                codes, places = _make_room(codes, places, counts)
            _write_words(codes, places, starts, counts, flat)
        positions = np.flatnonzero(codes >= 0)
        return codes.take(positions), np.searchsorted(positions, np.flatnonzero(codes == NEWLINE))

    def _classify(self, points: np.ndarray) -> np.ndarray:
        """The code of each character; code points met for the first time enter the table."""
        codes = self._codes.take(points)
        if codes.min() == UNSEEN:
            for point in np.unique(points[codes == UNSEEN]).tolist():
                self._codes[point], self._folded[point] = self._describe(chr(point))
            codes = self._codes.take(points)
        return codes

    def _describe(self, char: str) -> tuple[int, int]:
        """Code of `char`, and the code point it becomes within a word."""
        point = ord(char)
        if 0x4E00 <= point <= 0x9FFF:  # the ideographs that most text consists of; nothing below changes them
            return self.vocab.ids.get(char, self._unk_id), point
        if char == "\n":
            return NEWLINE, point
        if is_dropped(char):
            return DROPPED, point
        if is_whitespace(char):
            return SPACE, point
        folded = char
        if self.do_lower_case:
            if not folds_by_itself(char):
                return ENTANGLED, point
            folded = fold(char)
            if not folded:
                return ACCENT, point
        if is_ideograph(char) or is_punctuation(folded):
            return self.vocab.ids.get(folded, self._unk_id), ord(folded)
        return WORD, ord(folded)

    def _settle_rare(self, points: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Take out what vanishes; make one word of what stands between spaces and holds an entangled character."""
        kept = codes != DROPPED
        points, codes = points[kept], codes[kept]
        if (codes == ENTANGLED).any():
            separates = (codes == SPACE) | (codes == NEWLINE) | _are_ideographs(points)
            stretch = np.cumsum(separates)
            entangled = np.zeros(len(points) + 1, bool)
            entangled[stretch[codes == ENTANGLED]] = True
            codes[entangled[stretch] & ~separates] = WORD
        kept = codes != ACCENT
        return points[kept], codes[kept]

    def _word_strings(self, points: np.ndarray, is_word: np.ndarray) -> list[str]:
        """The runs of word characters, folded."""
        chosen = is_word.copy()
        chosen[1:] |= is_word[:-1]  # one more after each run, to become the space that separates it from the next
        chars = self._folded.take(points[chosen])
        chars[~is_word[chosen]] = 32
        return chars.astype("<u4", copy=False).tobytes().decode("utf-32-le").split()

    def _encode_word(self, word: str) -> tuple[list[int], list[str]]:
        """Ids of what stands between spaces, and the pieces of it that became [UNK]."""
        if word.isascii() and word.isalnum():  # already folded, character by character
            pieces = [word]
        else:
            pieces = split_punctuation(fold(word) if self.do_lower_case else word)
        ids: list[int] = []
        unknown = []
        for piece in pieces:
            found = self._wordpiece(piece)
            if found is None:
                found = [self._unk_id]
                unknown.append(piece[:MAX_WORD_CHARS])
            ids += found
        return ids, unknown

    def _count_unknown(self, points: np.ndarray, unknown: Counter) -> None:
        for point, count in zip(*(part.tolist() for part in np.unique(points, return_counts=True))):
            unknown[chr(self._folded[point])] += count

    def _separates(self, char: str) -> bool:
        return _stands_alone(char)

    def _shorten(self, word: str) -> str:
        vanishing = {ord(char) for char in set(word) if self._describe(char)[0] in (DROPPED, ACCENT)}
        return word.translate(dict.fromkeys(vanishing))[:SHORTENED_CHARS]


@functools.cache
def _stands_alone(char: str) -> bool:
    """Whether tokens end before and after a character."""
    return is_whitespace(char) or is_ideograph(char) or is_punctuation(char)


def _code_points(text: str) -> np.ndarray:
    """The code points of `text`; uint16 where none lies beyond U+FFFF."""
    narrow = np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
    if len(narrow) == len(text):
        return narrow
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _are_ideographs(points: np.ndarray) -> np.ndarray:
    found = np.zeros(len(points), bool)
    for first, last in IDEOGRAPH_RANGES:
        if first <= np.iinfo(points.dtype).max:
            found |= (points >= first) & (points <= last)
    return found


def _make_room(codes: np.ndarray, places: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengthen each run of word characters to at least as many as its pieces; -> codes, places of the runs' beginnings.

    Only words that become longer when they are decomposed have more pieces than characters.
    """
    is_word = codes == WORD
    ends = np.flatnonzero(is_word & ~np.append(is_word[1:], False)) + 1
    lacking = np.maximum(counts - (ends - places), 0)
    repeats = np.ones(len(codes), np.int64)
    repeats[places] += lacking
    return np.repeat(codes, repeats), places + np.cumsum(lacking) - lacking


def _write_words(codes: np.ndarray, places: np.ndarray, starts: np.ndarray, counts: np.ndarray,
                 flat: np.ndarray) -> None:
    """Write the ids `flat[starts[i]:starts[i] + counts[i]]` over the first characters of the word at `places[i]`."""
    codes[places] = flat[starts]
    longer = np.flatnonzero(counts > 1)
    more = counts[longer] - 1
    within = np.arange(1, more.sum() + 1) - np.repeat(np.cumsum(more) - more, more)
    codes[np.repeat(places[longer], more) + within] = flat[np.repeat(starts[longer], more) + within]
