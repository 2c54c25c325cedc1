"""Language model of a text that answers another (Raffel et al., 2020; Dong et al., 2019): `prefix TAB answer`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from uer.data.draws import Draws
from uer.data.processors.base import Processor, Ragged
from uer.data.processors.fields import FieldBuilder, Fields, Mark, assembled
from uer.data.processors.pairs import split_dtype
from uer.data.schema import FIELDS, INSTANCE, Column

if TYPE_CHECKING:
    from uer.data.batch import Batch, Rows


class PrefixlmProcessor(Processor):
    """`--data_processor prefixlm`: the answer is predicted, token by token, and nothing of the prefix.

        stored  [CLS] 7 8 [SEP] 9 5 [SEP]       src  [CLS] 7 8 [SEP] 9 5 [SEP]      seg  1 1 1 1 2 2 2
                                                predicted  - - - 9 5 [SEP] -

    With `--mask causal_with_prefix` the positions of seg 1 see one another, those of seg 2 also all before themselves.
    A row stores S + 1 tokens, the last one only as a label.
    """

    corpus = FIELDS
    fields = ("src", "src")
    field_counts = (2,)
    labels = ("lm",)
    has_prefix = True

    def schema(self) -> dict[str, Column]:
        """`split` is the position where the answer begins."""
        return {**super().schema(), "split": Column(INSTANCE, split_dtype(self.seq_length))}

    def lengths(self) -> dict[str, int]:
        """S inputs and the label of the last one."""
        return {"src": self.seq_length + 1}

    def batch_lengths(self) -> dict[str, int]:
        """S"""
        return {"src": self.seq_length}

    def builder(self, draws: Draws, copies: int = 1) -> "PrefixBuilder":
        """Nothing is drawn here."""
        return PrefixBuilder(self.seq_length, self.special_id("cls"), self.special_id("sep"))

    def batch(self, rows: "Rows") -> "Batch":
        """src and seg (R, S), and labels `lm` (R, S): the next token, from the first [SEP] on."""
        import torch  # `preprocess.py` does without it

        from uer.data.batch import IGNORED, Batch, Labels, Side
        from uer.data.sides import in_two_parts, next_tokens, padded

        split = rows.columns["split"]
        src = padded(rows, "src", self.seq_length, self.special_id("pad"))
        positions = torch.arange(self.seq_length, device=split.device)
        labels = next_tokens(rows, "src", self.seq_length).masked_fill(positions < split[:, None] - 1, IGNORED)
        return Batch(Side(src.values, in_two_parts(src.seg, split)), {"lm": Labels(labels)}, rows.samples)


class PrefixBuilder(FieldBuilder):
    """Rows [CLS] prefix [SEP] answer [SEP]; those without room for two tokens of the answer are left out, as in UER-py.

    Args:
        size: S.
        cls_id, sep_id: the ids of the special tokens.
    """

    def __init__(self, size: int, cls_id: int, sep_id: int) -> None:
        super().__init__()
        self.size, self.cls_id, self.sep_id = size, cls_id, sep_id

    def problems(self, fields: Fields) -> Mapping[str, np.ndarray]:
        """An empty field, or a prefix that fills the row."""
        return {**super().problems(fields),
                f"the prefix has more than --seq_length - 3 = {self.size - 3} tokens":
                    fields[0].lengths + 2 >= self.size}

    def instances(self, fields: Fields, kept: np.ndarray) -> tuple[dict[str, Ragged], dict[str, np.ndarray]]:
        prefix, answer = fields
        parts = [Mark(self.cls_id), prefix, Mark(self.sep_id), answer, Mark(self.sep_id)]
        split = (prefix.lengths[kept] + 2).astype(split_dtype(self.size))
        return {"src": assembled(parts, kept, self.size + 1)}, {"split": split}
