"""The interface of a `--data_processor`.

Instances are made with numpy, without torch, so that `preprocess.py` starts fast; batches are made with torch.

    line(s) --tokenizer--> Lines --Builder--> Block --store--> dataset --fetcher--> Rows --Processor.batch--> Batch

A new processor is one file with one class, one line in `uer.data.processors` and one entry in tests/contract.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from uer.config import LONGEST_ROW, flag
from uer.data.draws import Draws
from uer.data.schema import LINES, Column, CorpusFormat, VocabInfo
from uer.errors import UserError

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows

LEAST_TARGET = 4


@dataclass(frozen=True)
class Ragged:
    """Rows of unequal length, one after another: row i is `ids[offsets[i]:offsets[i + 1]]`."""

    ids: np.ndarray
    """(N,) token ids."""
    offsets: np.ndarray
    """(rows + 1,)"""
    word_start: np.ndarray | None = None
    """(N,) uint8, 1 where a token begins a word; only with whole-word masking."""

    @property
    def lengths(self) -> np.ndarray:
        """(rows,)"""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Lines:
    """The next lines of a shard, tokenized."""

    fields: tuple[Ragged | list[str], ...]
    """For each of the processor's `fields` all lines' values: token ids, or text where the field names no vocabulary;
    a field that a line does not have is empty."""
    unfinished: bool = False
    """The next block begins with the rest of this one's last line (only where a line has a single field)."""
    numbers: np.ndarray | None = None
    """(lines,) int64, what `Block.left_out` calls the lines; 0, 1, ... where it is None."""

    @property
    def tokens(self) -> Ragged:
        """The first field."""
        return self.fields[0]

    @property
    def names(self) -> np.ndarray:
        """(lines,) int64, the lines' numbers."""
        first = self.fields[0]
        count = len(first.offsets) - 1 if isinstance(first, Ragged) else len(first)
        return np.arange(count) if self.numbers is None else self.numbers


@dataclass(frozen=True)
class Block:
    """Columns made from some lines, which continue those of the block before."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """By the schema's names, in its types."""
    starts: dict[str, np.ndarray] = field(default_factory=dict)
    """For each sequence ("src", "tgt"): the first tokens of the instances that begin in this block, as numbers counted
    from the shard's first token. Empty if `Processor.joined`."""
    left_out: tuple[tuple[int, str], ...] = ()
    """Lines, of this block or of earlier ones, of which nothing is made: (number, why), ascending."""


@dataclass(frozen=True)
class TgtConfig:
    """Target side (--data_processor mt, gsg)"""

    tgt_seq_length: int = flag(128, "Maximum length of a target-side sequence in tokens.")

    def problems(self) -> list[str]:
        within = LEAST_TARGET <= self.tgt_seq_length <= LONGEST_ROW
        return [] if within else [f"--tgt_seq_length must lie between {LEAST_TARGET} and {LONGEST_ROW:,}"]


class Builder:
    """Makes instances of one shard, block by block, in constant memory.

    Attributes:
        documents: finished documents so far, blank ones left out.
        blank_lines: lines so far that hold no token.
        outside: gives lines of documents that are not in the shard; the caller sets it, where there may be some.
    """

    documents = 0
    blank_lines = 0
    outside: Callable[[], Ragged] | None = None

    def add(self, lines: Lines) -> Block:
        """Turn the next lines into instances."""
        raise NotImplementedError

    def end_file(self) -> Block:
        """A file ends, and with it its last document; the shard may go on with another."""
        return Block()

    def finish(self) -> Block:
        """Make the instances that are held back, at the end of the shard."""
        return Block()


class Processor:
    """How documents become instances, and how instances become a batch.

    Args:
        seq_length: --seq_length.
        config: an instance of `config_class`.
        vocabs: the vocabularies by the names that `fields` and the schema use.

    Raises:
        UserError: the settings do not fit together.
    """

    corpus: ClassVar[CorpusFormat] = LINES
    fields: ClassVar[tuple[str, ...]] = ("src",)
    """What the tab-separated fields of a line are: the name of the vocabulary that tokenizes each, "" for raw text."""
    field_counts: ClassVar[tuple[int, ...]] = ()
    """How many fields a line may have, where the corpus has fields; the last ones may then be absent."""
    labels: ClassVar[tuple[str, ...]] = ()
    """The targets that the batches have labels for."""
    class_columns: ClassVar[Mapping[str, str]] = {}
    """The columns that hold labels which number the classes of a target, by the target's name."""
    has_prefix: ClassVar[bool] = False
    """Whether the labels of lm leave out a row's prefix."""
    config_class: ClassVar[type] = type(None)
    """The settings that only this processor has, a dataclass of `uer.config.flag` fields; their flags come from it."""
    least_length: ClassVar[int] = 4
    """What --seq_length must be at least."""
    least_documents: ClassVar[int] = 1
    """A corpus of fewer documents gives labels without meaning."""
    duplication: ClassVar[str] = "none"
    """How --dup_factor is used. "load": training makes so many versions of each stored instance; "build": so many are
    stored; "none": it is not, since nothing in an instance is random."""

    always_dynamic: ClassVar[bool] = False
    """Whether every epoch draws anew even without --dynamic_masking, by the masking flags of `pretrain.py`."""

    def __init__(self, seq_length: int, config: Any, vocabs: Mapping[str, VocabInfo]) -> None:
        self.seq_length = seq_length
        self.config = config
        self.vocabs = vocabs

    @property
    def joined(self) -> bool:
        """Whether documents are joined and the stream is cut into instances of equal length."""
        return False

    @property
    def stores_words(self) -> bool:
        """Whether the corpus side has to find where words begin (jieba)."""
        return False

    def schema(self) -> dict[str, Column]:
        """The columns of a dataset."""
        return {"src": Column()}

    def lengths(self) -> dict[str, int]:
        """For each sequence, the most tokens that an instance stores."""
        return {"src": self.seq_length}

    def batch_lengths(self) -> dict[str, int]:
        """For each side of a batch, its width S before trimming; the model needs so many positions."""
        return self.lengths()

    def builder(self, draws: Draws, copies: int = 1) -> Builder:
        """A builder for one shard.

        Args:
            draws: the shard's random choices.
            copies: how often each document is worked on, where `duplication` is "build".
        """
        raise NotImplementedError

    def batch(self, rows: "Rows") -> "Batch":
        """Make a batch of these rows, whose tensors it may change in place, on the device of the rows."""
        raise NotImplementedError

    def special_id(self, role: str, vocab: str = "src") -> int:
        """The id of [CLS] ("cls") and so on.

        Raises:
            UserError: the vocabulary has no such entry.
        """
        known = self.vocabs[vocab].special_ids
        if role not in known:
            raise UserError(f"this processor needs a {role} token, and the vocabulary names none")
        return known[role]
