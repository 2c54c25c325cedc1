"""The interface of an encoder."""

from typing import ClassVar

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.errors import UserError
from uer.layers.layout import Layout, Queries
from uer.layers.recompute import OFF


class Encoder(nn.Module):
    """Turns embedded tokens into hidden states. An entry of `ENCODERS` is a subclass, built from a `ModelConfig`.

    The hidden states of a row must not depend on other rows, nor on padding unless `reads_padding` is true.

    Attributes:
        config_class: the settings that only this encoder has; see `uer.config.Members`.
        reads_padding: hidden states of real tokens depend on the row's padding, so it must be computed: the encoder
            takes padded layouts only.
        keeps_documents_apart: takes layouts with `starts`, whose rows have several documents.
        streams: how many encoders it consists of; `stream` gives each.
        has_cache: `forward` takes a `cache` (`uer.layers.view.Cache`) of the tokens before, for generation.
    """

    config_class: ClassVar[type] = type(None)
    reads_padding = False
    keeps_documents_apart = False
    has_cache = False
    streams = 1

    @classmethod
    def problems(cls, config: ModelConfig) -> list[str]:
        """Settings that this encoder does not support, a line for each."""
        return []

    @classmethod
    def sees(cls, config: ModelConfig) -> str:
        """Which tokens of its row a hidden state depends on.

        Returns:
            "all"; "earlier": its own and those before; "prefix": these and the row's prefix; "halves": its first half
            depends on its own token and those before, its second half on its own and those after.
        """
        return "all"

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None) -> Tensor:
        """Compute hidden states.

        Args:
            embedded: (N, E) the tokens of `layout`.
            layout: which of the N tokens belong to which row.
            queries: the tokens whose hidden states are returned; all tokens when None. An encoder may compute less for
                the other tokens.

        Returns:
            (N, H), or (K, H) for `queries`. What stands at padding positions has no meaning.
        """
        raise NotImplementedError

    def stream(self, number: int) -> "Encoder":
        """The encoder of one of its `streams`; itself where it has one only."""
        return self

    def checkpoint_activations(self, mode: str) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Args:
            mode: as for `uer.layers.recompute.run`.

        Raises:
            UserError: this encoder cannot.
        """
        if mode != OFF:
            raise UserError(f"--activation_checkpointing: {type(self).__name__} cannot recompute its activations")


def select(hidden: Tensor, queries: Queries | None) -> Tensor:
    """(N, H) -> (K, H): the wanted tokens' rows; all of them where `queries` is None."""
    return hidden if queries is None else hidden.index_select(0, queries.index)
