"""The interface of a decoder.

A new decoder is one file with one class, one line in `uer.decoders` and one entry in tests/contract.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from uer.config import ModelConfig
from uer.errors import UserError
from uer.layers.layout import Layout, Queries
from uer.layers.recompute import OFF
from uer.layers.view import Cache


@dataclass
class DecoderCache:
    """What a decoder keeps from step to step of a generation."""

    own: Cache = field(default_factory=Cache)
    """Of the tokens that were decoded so far."""
    context: Cache = field(default_factory=Cache)
    """Of the encoder's output, whose keys and values are computed in the first step."""

    @property
    def length(self) -> int:
        """How many tokens of a row were decoded: the column of the next one."""
        return self.own.length

    def select_rows(self, rows: Tensor) -> None:
        """Keep the decoded rows (R,) of the B, in this order, once or more often each.

        The encoder's rows stay, so that row r must have the same source as before: what the beams of a prompt share.
        """
        self.own.select_rows(rows)


class Decoder(nn.Module):
    """Turns embedded tokens of the target side and an encoder's output into hidden states. An entry of `DECODERS` is a
    subclass, built from a `ModelConfig`.

    The hidden state of a token depends on the tokens up to its own and on all real tokens of the same row of the
    encoder's output, and on nothing else.
    """

    config_class: ClassVar[type] = type(None)
    """The settings that only this decoder has; see `uer.config.Members`."""

    @classmethod
    def problems(cls, config: ModelConfig) -> list[str]:
        """Settings that this decoder does not support, a line for each."""
        return []

    def forward(self, embedded: Tensor, layout: Layout, memory: Tensor | None, memory_layout: Layout,
                queries: Queries | None = None, cache: DecoderCache | None = None) -> Tensor:
        """Compute hidden states.

        Args:
            embedded: (N, E) the tokens of `layout`.
            layout: which of the N tokens belong to which row.
            memory: (Ns, H) the encoder's output; None in later steps of a generation.
            memory_layout: which of the Ns tokens belong to which row.
            queries: the tokens whose hidden states are returned; all tokens when None.
            cache: for generation: `layout` then has the tokens that follow those of the forwards before,
                `padded_layout(seg, first=cache.length)`.

        Returns:
            (N, H), or (K, H) for `queries`. What stands at padding positions has no meaning.
        """
        raise NotImplementedError

    def checkpoint_activations(self, mode: str) -> None:
        """Recompute activations in the backward pass, as `Encoder.checkpoint_activations`."""
        if mode != OFF:
            raise UserError(f"--activation_checkpointing: {type(self).__name__} cannot recompute its activations")
