"""Linear and embedding modules that start as BERT's do: weights N(0, 0.02), biases 0."""

from torch import Tensor, nn

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


def weight_and_bias(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """The parameters of a linear layer that is not called, because its product is computed in blocks.

    A parametrised layer (`torch.nn.utils.parametrize`) gives the weight that it computes.

    Raises:
        TypeError: the layer is wrapped or has hooks, so its weight alone does not say what it computes.
    """
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    if not isinstance(layer, nn.Linear) or "forward" in vars(layer) or any(hooks):
        raise TypeError(f"{type(layer).__name__}: an output layer over the vocabulary must be a plain linear layer; "
                        "a wrapper would be ignored. Use torch.nn.utils.parametrize, or wrap other layers")
    return layer.weight, layer.bias
