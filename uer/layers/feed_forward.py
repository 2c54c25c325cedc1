"""The position-wise layers of a transformer."""

from collections.abc import Callable

from torch import Tensor, nn

from uer.layers.linear import Linear


class DenseFeedForward(nn.Module):
    """linear_2(activation(linear_1(x)))"""

    def __init__(self, hidden_size: int, feedforward_size: int, activation: Callable[[Tensor], Tensor],
                 bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.linear_1 = Linear(hidden_size, feedforward_size, bias)
        self.linear_2 = Linear(feedforward_size, hidden_size, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., H)"""
        return self.linear_2(self.activation(self.linear_1(hidden)))


class GatedFeedForward(nn.Module):
    """linear_2(activation(linear_gate(x)) * linear_1(x)) (Shazeer, 2020)"""

    def __init__(self, hidden_size: int, feedforward_size: int, activation: Callable[[Tensor], Tensor],
                 bias: bool = True) -> None:
        super().__init__()
        self.activation = activation
        self.linear_gate = Linear(hidden_size, feedforward_size, bias)
        self.linear_1 = Linear(hidden_size, feedforward_size, bias)
        self.linear_2 = Linear(feedforward_size, hidden_size, bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., H) -> (..., H)"""
        return self.linear_2(self.activation(self.linear_gate(hidden)) * self.linear_1(hidden))


FEED_FORWARDS = {"dense": DenseFeedForward, "gated": GatedFeedForward}
