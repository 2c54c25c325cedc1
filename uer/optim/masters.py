"""Weights in bfloat16 whose float32 masters the optimizer updates.

Autocast rounds the weights of linear layers to bfloat16 in every forward pass, and turns their gradients back. Weights
that are bfloat16 already need neither, and products see the same numbers. An update of a thousandth of a weight would
be lost in bfloat16's 8 bits, so the optimizer updates a float32 copy, the master, and rounds it into the weight.
Micikevicius et al., 2018, 3.1, https://arxiv.org/abs/1710.03740
"""

from torch import Tensor, nn


def narrow_linear_layers(model: nn.Module) -> dict[nn.Parameter, Tensor]:
    """Round weights and biases of the model's linear layers to bfloat16, in place.

    Norms and embeddings stay as they are, and so do output layers that share the weight of an embedding: autocast does
    not round these when they are looked up.

    Returns:
        The float32 master of each rounded parameter, for `Optimizer.masters`.
    """
    embedded = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    layers = [module for module in model.modules()
              if isinstance(module, nn.Linear) and id(module.weight) not in embedded]
    masters = {parameter: parameter.detach() for layer in layers for parameter in layer.parameters(recurse=False)}
    for parameter, master in masters.items():
        parameter.data = master.bfloat16()
    return masters
