"""torch's recurrent layers, started as BERT's layers are: weights N(0, 0.02), biases 0."""

from torch import nn

from uer.layers.linear import INITIAL_STD


def _initialise(layer: nn.RNNBase) -> None:
    for parameter in layer.parameters(recurse=False):
        if parameter.dim() > 1:
            nn.init.normal_(parameter, 0.0, INITIAL_STD)
        else:
            nn.init.zeros_(parameter)


class Rnn(nn.RNN):
    """`torch.nn.RNN` with tanh (Elman, 1990)."""

    def reset_parameters(self) -> None:
        _initialise(self)


class Lstm(nn.LSTM):
    """`torch.nn.LSTM` (Hochreiter and Schmidhuber, 1997)."""

    def reset_parameters(self) -> None:
        _initialise(self)


class Gru(nn.GRU):
    """`torch.nn.GRU` (Cho et al., 2014)."""

    def reset_parameters(self) -> None:
        _initialise(self)


RECURRENT = {"rnn": Rnn, "lstm": Lstm, "gru": Gru}
