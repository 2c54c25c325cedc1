"""The gated convolutional encoder (Dauphin et al., 2017, https://arxiv.org/abs/1612.08083)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.config import ModelConfig, flag
from uer.encoders.base import Encoder, select
from uer.layers.layout import Layout, Queries
from uer.layers.linear import INITIAL_STD


@dataclass(frozen=True)
class GatedCnnConfig:
    """Gated convolutional encoder (--encoder gatedcnn)"""

    kernel_size: int = flag(4, "Kernel size of the convolutions: a token and the kernel_size - 1 tokens before it.")
    block_size: int = flag(2, "Layers per residual block.")

    def problems(self) -> list[str]:
        return [f"{name} must be at least 1" for name in ("kernel_size", "block_size") if getattr(self, name) < 1]


class GatedCnnEncoder(Encoder):
    """`layers_num` layers (x * conv + b) * sigmoid(x * gate + c), each with kernel_size - 1 zeros before the row.

    The first layer goes from E to H features. Hidden states depend on earlier tokens only.
    """

    config_class = GatedCnnConfig

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own = config.of(GatedCnnConfig)
        self.block_size, later = own.block_size, config.layers_num - 1
        first = (1, config.hidden_size, (own.kernel_size, config.emb_size))
        other = (config.hidden_size, config.hidden_size, (own.kernel_size, 1))
        self.conv_1, self.gate_1 = _Convolution(*first), _Convolution(*first)
        self.conv = nn.ModuleList(_Convolution(*other) for _ in range(later))
        self.gate = nn.ModuleList(_Convolution(*other) for _ in range(later))
        # UER-py adds these to the biases that the convolutions have already.
        self.conv_b1, self.gate_b1 = _bias(config.hidden_size), _bias(config.hidden_size)
        self.conv_b = nn.ParameterList(_bias(config.hidden_size) for _ in range(later))
        self.gate_b = nn.ParameterList(_bias(config.hidden_size) for _ in range(later))
        self.reset_parameters()

    @classmethod
    def sees(cls, config: ModelConfig) -> str:
        """Zeros stand before a row, and nothing behind it is read."""
        return "earlier"

    def reset_parameters(self) -> None:
        for parameter in (self.conv_b1, self.gate_b1, *self.conv_b, *self.gate_b):
            nn.init.zeros_(parameter)

    def forward(self, embedded: Tensor, layout: Layout, queries: Queries | None = None) -> Tensor:
        """(N, E) -> (N, H), or (K, H) for the tokens that are wanted."""
        rows = layout.scatter(embedded).unsqueeze(1)  # (B, 1, S, E)
        hidden = block_input = _gated(rows, self.conv_1, self.conv_b1, self.gate_1, self.gate_b1)  # (B, H, S, 1)
        for number, layer in enumerate(zip(self.conv, self.conv_b, self.gate, self.gate_b), start=1):
            hidden = _gated(hidden, *layer)
            if number % self.block_size == 0:
                hidden = block_input = hidden + block_input
        return select(layout.gather(hidden.squeeze(3).transpose(1, 2)), queries)


class _Convolution(nn.Conv2d):
    """`torch.nn.Conv2d` with weights N(0, 0.02) and biases 0; its kernel is as wide as its input."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, INITIAL_STD)
        nn.init.zeros_(self.bias)

    def forward(self, rows: Tensor) -> Tensor:
        """(B, channels, S, width) -> (B, H, S - kernel_size + 1, 1)

        In bfloat16 on a CPU oneDNN has no kernel for the gradient of one wide channel: it took 40 times as long as in
        float32 (8 rows of 128 tokens of 256 features: 3.2 s). A one-dimensional convolution has fast ones.
        """
        if rows.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(rows)
        weight = self.weight
        if self.in_channels == 1:  # the first layer's features are the width: they become the channels
            rows, weight = rows.transpose(1, 3), weight.transpose(1, 3)
        return F.conv1d(rows.squeeze(3), weight.squeeze(3), self.bias).unsqueeze(3)


def _bias(size: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(1, size, 1, 1))


def _gated(rows: Tensor, conv: _Convolution, conv_bias: Tensor, gate: _Convolution, gate_bias: Tensor) -> Tensor:
    """(B, channels, S, width) -> (B, H, S, 1); output s reads the inputs s - kernel_size + 1 to s."""
    rows = F.pad(rows, (0, 0, conv.kernel_size[0] - 1, 0))
    return (conv(rows) + conv_bias) * torch.sigmoid(gate(rows) + gate_bias)
