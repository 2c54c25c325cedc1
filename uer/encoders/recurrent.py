"""Recurrent encoders: rnn, lstm and gru, and the two-directional birnn, bilstm and bigru.

A layer reads the rows (B, S) from left to right with initial state 0, so a real token's hidden state does not depend on
the padding that follows it. Where a layer also reads from right to left (`bidirectional`, or one of the last three), it
reads the row's padding first, as UER-py does: its released weights were trained in this way.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from uer.config import ModelConfig, flag
from uer.encoders.base import Encoder, select
from uer.errors import UserError
from uer.layers.dropout import Dropout
from uer.layers.layout import Layout, Queries
from uer.layers.recurrent import RECURRENT


@dataclass(frozen=True)
class RecurrentConfig:
    """Recurrent encoders (--encoder rnn, lstm and gru)"""

    bidirectional: bool = flag(False, "Bidirectional layers, with hidden_size / 2 for each direction.")


class RecurrentEncoder(Encoder):
    """`rnn`: a stack of `layers_num` recurrent layers, with dropout between them and on the output.

    With `bidirectional` each layer has two directions of H / 2, whose states are concatenated for the next layer.
    """

    config_class = RecurrentConfig
    kind: str

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.reads_padding = config.of(RecurrentConfig).bidirectional
        self.rnn = _stack(self.kind, config, 2 if self.reads_padding else 1)
        self.dropout = Dropout(config.dropout)

    @classmethod
    def sees(cls, config: ModelConfig) -> str:
        """A second layer mixes the two directions."""
        return "all" if config.of(RecurrentConfig).bidirectional else "earlier"

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None) -> Tensor:
        """(N, E) -> (N, H), or (K, H) for the tokens that are wanted."""
        assert layout.index is None or not self.reads_padding, "padding is read, so the layout must have it"
        output, _ = self.rnn(layout.scatter(embedded))  # (B, S, E) -> (B, S, H)
        return self.dropout(select(layout.gather(output), queries))


class BidirectionalEncoder(Encoder):
    """`rnn_forward` and `rnn_backward`: two stacks of H / 2, neither of which reads the other's states.

    The first half of a hidden state depends on the tokens up to its own, the second half on those from its own to the
    end of the row: what the bilm target needs (Peters et al., 2018, ELMo).
    """

    kind: str
    reads_padding = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.rnn_forward = _stack(self.kind, config, 1, config.hidden_size // 2)
        self.rnn_backward = _stack(self.kind, config, 1, config.hidden_size // 2)
        self.dropout = Dropout(config.dropout)

    @classmethod
    def sees(cls, config: ModelConfig) -> str:
        """The directions never meet."""
        return "halves"

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None) -> Tensor:
        """(N, E) -> (N, H), or (K, H) for the tokens that are wanted."""
        assert layout.index is None, "padding is read, so the layout must have it"
        rows = layout.scatter(embedded)  # (B, S, E)
        forward, _ = self.rnn_forward(rows)
        backward, _ = self.rnn_backward(rows.flip(1))
        output = torch.cat([forward, backward.flip(1)], dim=-1)  # (B, S, H)
        return self.dropout(select(layout.gather(output), queries))


def _stack(kind: str, config: ModelConfig, directions: int, hidden_size: int | None = None) -> nn.RNNBase:
    """(B, S, E) -> (B, S, H); `hidden_size` is that of all directions together, the configuration's when None."""
    if config.hidden_size % 2 and (directions == 2 or hidden_size is not None):
        raise UserError(f"hidden_size {config.hidden_size} must be even: each direction of the encoder has half of it")
    between = config.dropout if config.layers_num > 1 else 0.0  # torch warns of a dropout that has no layer after it
    return RECURRENT[kind](config.emb_size, (hidden_size or config.hidden_size) // directions, config.layers_num,
                           batch_first=True, dropout=between, bidirectional=directions == 2)


class RnnEncoder(RecurrentEncoder):
    kind = "rnn"


class LstmEncoder(RecurrentEncoder):
    kind = "lstm"


class GruEncoder(RecurrentEncoder):
    kind = "gru"


class BirnnEncoder(BidirectionalEncoder):
    kind = "rnn"


class BilstmEncoder(BidirectionalEncoder):
    kind = "lstm"


class BigruEncoder(BidirectionalEncoder):
    kind = "gru"
