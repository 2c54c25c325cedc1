"""Linear and embedding modules that start as BERT's do: weights N(0, 0.02), biases 0."""

from torch import nn

INITIAL_STD = 0.02


class Linear(nn.Linear):
    """`torch.nn.Linear` with BERT's initialisation."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, INITIAL_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """`torch.nn.Embedding` with BERT's initialisation; no row is special, the padding entry's included."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, 0.0, INITIAL_STD)
