"""What a character is to BERT's tokenization, one code point at a time.

Categories and case come from Python's `unicodedata`, so code points that are newer than the running Python's Unicode
version count as unassigned.
"""

from unicodedata import category, combining, normalize

# Blocks of ideographs as Google's BERT lists them (Hangul and kana are written with spaces and are not among them).
IDEOGRAPH_RANGES = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F),
                    (0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
CAPITAL_SIGMA = "\u03a3"  # the one letter whose lower case depends on its neighbours


def is_ideograph(char: str) -> bool:
    """Whether `char` is a token of its own for being a CJK ideograph."""
    return any(first <= ord(char) <= last for first, last in IDEOGRAPH_RANGES)


def is_whitespace(char: str) -> bool:
    """Whether `char` separates words: what Google's BERT calls whitespace, and the two Unicode line separators."""
    return char in " \t\n\r\u2028\u2029" or category(char) == "Zs"


def is_dropped(char: str) -> bool:
    """Whether `char` vanishes before anything else: control (Cc) but tab and line ends, format (Cf), U+FFFD.

    Private and unassigned code points stay, as in Google's code (Hugging Face's drops private ones). Lone surrogates,
    which no UTF-8 text holds, vanish too.
    """
    return char == "\ufffd" or (category(char) in ("Cc", "Cf", "Cs") and char not in "\t\n\r")


def is_punctuation(char: str) -> bool:
    """Whether `char` is a token of its own for being punctuation: P* and all of ASCII's signs ("$", "+", "`", ...)."""
    code_point = ord(char)
    if code_point < 128:
        return 33 <= code_point <= 47 or 58 <= code_point <= 64 or 91 <= code_point <= 96 or 123 <= code_point <= 126
    return category(char)[0] == "P"


def fold(text: str) -> str:
    """Lower-case, decompose (NFD) and strip the accents (Mn): `"Ångström"` -> `"angstrom"`."""
    text = text.lower()
    if text.isascii():
        return text
    return "".join(char for char in normalize("NFD", text) if category(char) != "Mn")


def folds_by_itself(char: str) -> bool:
    """Whether `fold` of a word can treat `char` alone and gets one character or none.

    Not so for capital sigma, for what decomposes into several letters (Hangul), and for marks that are no accents (Mc)
    but change places with their neighbours when decomposed.
    """
    if char == CAPITAL_SIGMA or (combining(char) and category(char) != "Mn"):
        return False
    return len(fold(char)) <= 1


def split_punctuation(word: str) -> list[str]:
    """`"e-mail:"` -> `["e", "-", "mail", ":"]`."""
    pieces = []
    start = 0
    for index, char in enumerate(word):
        if is_punctuation(char):
            pieces += [word[start:index], char]
            start = index + 1
    pieces.append(word[start:])
    return [piece for piece in pieces if piece]
