"""What every `--data_processor` offers; the corpus side without torch, which `preprocess.py` has no time for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from uer.config import MaskingConfig
    from uer.data.batch import Batch, InstanceRows
    from uer.data.store import DatasetInfo


@dataclass(frozen=True)
class Instances:
    """What one block of lines became.

    `tokens` (tokens,) follow the tokens of the block before; `starts` (instances that begin in this block,) count
    tokens from the first block on; `columns` hold one value a token.
    """

    tokens: np.ndarray
    starts: np.ndarray
    columns: dict[str, np.ndarray] = field(default_factory=dict)


class InstanceBuilder(Protocol):
    """Makes instances of one stretch of the corpus, block by block.

    Attributes:
        documents: finished documents so far, blank ones left out.
        blank_lines: lines so far that hold no document.
    """

    documents: int
    blank_lines: int

    def add(self, ids: np.ndarray, offsets: np.ndarray, word_start: np.ndarray | None = None,
            unfinished: bool = False) -> Instances:
        """Turn the next lines into instances.

        Args:
            ids: (ids,) token ids of the lines, one after another.
            offsets: (lines + 1,) where each line begins in `ids`.
            word_start: (ids,) 1 where a token begins a word.
            unfinished: the next block begins with the rest of this one's last line.
        """


class Processor(Protocol):
    """How documents become instances, and how instances become a batch. Its class takes no arguments."""

    def instance_builder(self, seq_length: int, special_ids: Mapping[str, int],
                         full_sentences: bool = False) -> InstanceBuilder:
        """A builder for one stretch of the corpus (a shard); shards are independent of one another."""

    def batch(self, rows: "InstanceRows", info: "DatasetInfo", masking: "MaskingConfig") -> "Batch":
        """What the model sees of these rows, which the processor may change in place."""
