"""The base class of the processors that mask rows: mlm, bert, albert, t5, bart."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from uer.config import MaskingConfig
from uer.data.processors.base import Processor
from uer.data.schema import Column, VocabInfo

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from uer.data.batch import Labels, Rows
    from uer.data.masking import Masker


class MaskedProcessor(Processor):
    """A processor whose config is a `MaskingConfig`, or one with more fields.

    Raises:
        UserError: the vocabulary has no [MASK], [CLS], [SEP] or [PAD].
    """

    config: MaskingConfig
    duplication = "load"

    def __init__(self, seq_length: int, config: Any, vocabs: Mapping[str, VocabInfo]) -> None:
        super().__init__(seq_length, config, vocabs)
        self._special_ids = {role: self.special_id(role) for role in ("pad", "cls", "sep", "mask")}

    @property
    def stores_words(self) -> bool:
        """With whole-word masking."""
        return self.config.whole_word_masking

    def schema(self) -> dict[str, Column]:
        """The tokens, and with whole-word masking where words begin."""
        return {"src": Column(), **({"word_start": Column(dtype="uint8")} if self.stores_words else {})}

    def masked(self, rows: "Rows") -> tuple["Tensor", "Tensor", "Labels"]:
        """Pad and mask `src` in place.

        Returns:
            src (R, S), seg (R, S) with 1 on every token and 0 on padding, and the labels (R, P).
        """
        from uer.data.batch import Labels  # torch: `preprocess.py` does without it

        src, seg, real = self.padded(rows)
        mask = self.masker(src.device)
        positions, labels = mask(src, real, rows.lengths["src"], rows.keys, rows.columns.get("word_start"))
        return src, seg, Labels(labels, positions)

    def padded(self, rows: "Rows") -> tuple["Tensor", "Tensor", "Tensor"]:
        """Pad `src` in place.

        Returns:
            src (R, S), seg (R, S) with 1 on every token and 0 on padding, and the same as bool.
        """
        src = rows.columns["src"]
        real = self.masker(src.device).positions < rows.lengths["src"][:, None]
        seg, pad = real.long(), self.special_id("pad")
        # Behind a row's length the stored values are arbitrary: they become [PAD].
        src.mul_(seg)
        if pad:
            src.add_((1 - seg) * pad)
        return src, seg, real

    def masker(self, device: "torch.device") -> "Masker":
        """The masker on a device; it is made once for each device."""
        from uer.data import masking

        known = self.__dict__.setdefault("_maskers", {})
        if device not in known:
            known[device] = masking.masker(self.config, self.seq_length, self.vocabs["src"].size, self._special_ids,
                                           device)
        return known[device]
