"""The columns of a dataset and the format of a corpus, as a processor declares them. Imports no torch.

    {"src": Column(), "word_start": Column(dtype="uint8"), "is_next": Column(axis="instance", dtype="uint8")}

says: each instance has a row of token ids, a byte for each of these tokens, and one byte of its own. The sequences are
the axes; the column that has an axis' name holds that sequence's values.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from uer.tokenizers.base import token_dtype

INSTANCE = "instance"
AXES = ("src", "tgt")


@dataclass(frozen=True)
class Column:
    """One kind of value.

    Attributes:
        axis: "src" or "tgt": `width` values for each token of that sequence; "instance": for each instance.
        dtype: "ids": token ids, in uint16 or uint32 as the vocabulary demands; else numpy's name of an unsigned type.
        vocab: whose ids they are, a key of the dataset's vocabularies.
        width: values of a token.
    """

    axis: str = "src"
    dtype: str = "ids"
    vocab: str = "src"
    width: int = 1

    def numpy_type(self, vocabs: Mapping[str, "VocabInfo"]) -> np.dtype:
        """How the values are stored."""
        return token_dtype(vocabs[self.vocab].size) if self.dtype == "ids" else np.dtype(self.dtype)


def axes_of(schema: Mapping[str, Column]) -> tuple[str, ...]:
    """The sequences of an instance, in a fixed order: ("src",) or ("src", "tgt")."""
    return tuple(axis for axis in AXES if axis in schema)


def schema_problem(schema: Mapping[str, Column]) -> str | None:
    """Why these columns cannot be stored; None where they can."""
    if "src" not in schema:
        return "there is no column src"
    for name, column in schema.items():
        if name in AXES and column.axis != name:
            return f"the column {name} lies on the axis {column.axis}"
        if column.axis != INSTANCE and column.axis not in schema:
            return f"the column {name} lies on the axis {column.axis}, which has no column of its own"
        if column.dtype != "ids" and column.dtype not in ("uint8", "uint16", "uint32"):
            return f"the column {name} has the type {column.dtype}"
        if column.width != 1:
            return f"the column {name} has {column.width} values a token; only 1 is built yet"
    return None


@dataclass(frozen=True)
class VocabInfo:
    """The vocabulary that a column's ids belong to."""

    fingerprint: str
    size: int
    special_ids: dict[str, int]
    """The id of each role it has, by the short names of `uer.tokenizers.vocab.ROLES`: "pad", "cls" and so on."""
    tokenizer: dict[str, Any] = field(default_factory=dict)
    """Settings of the tokenizer."""


@dataclass(frozen=True)
class CorpusFormat:
    """The format of a corpus: what a document is.

    Attributes:
        name: for messages.
        description: the format in a few words, for messages.
        document_end: matches what stands between two documents; a shard ends only there.
        fields: lines are tab-separated fields, each tokenized on its own.
    """

    name: str
    description: str
    document_end: re.Pattern[bytes]
    fields: bool = False

    @property
    def one_line(self) -> bool:
        """Whether every line is a document."""
        return self.document_end.pattern == rb"\n"


LINES = CorpusFormat("lines", "a document a line", re.compile(rb"\n"))
BLANK = rb"(?:[ \t\r\v\f]|\xc2\xa0|\xe3\x80\x80)"  # a pattern; U+00A0 and U+3000 are blank, too
BLANK_LINE = BLANK + rb"*\n"
# No shard ends in a blank line of more characters: it would have more bytes than `uer.data.corpus.LOOK_BACK`.
SENTENCES = CorpusFormat("sentences", "a sentence a line, a blank line between documents",
                         re.compile(rb"\n" + BLANK + rb"{0,1024}\n"))
FIELDS = CorpusFormat("fields", "a document a line, its fields separated by tabs", re.compile(rb"\n"), fields=True)
