"""Parameter groups: which parameters an optimizer updates, and which of them have weight decay."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import nn

WEIGHT_DECAY = 0.01
NOT_DECAYED = ("bias", "gamma", "beta", "layer_norm")
# Whose matrices are looked up or give logits, instead of mapping one hidden state to another.
NOT_HIDDEN = ("embedding", "tgt_embedding", "target", "relative_pos_emb", "output_layer")


def parameter_groups(model: nn.Module, weight_decay: float = WEIGHT_DECAY,
                     matrices: bool = False) -> list[dict[str, Any]]:
    """Two groups, as in UER-py: one with weight decay, and one without it.

    No weight decay for parameters whose name contains `bias`, `gamma`, `beta` or `layer_norm`: so for the weight of a
    T5 or RMS layer norm and for `bias_ih_l0` of a recurrent layer, but not for `conv_b` of a gated CNN. A parameter
    with several names (a tied weight) is taken once, under its first name. Frozen parameters are left out.

    Args:
        matrices: put the matrices between hidden states into a group of their own, with `muon`.
    """
    decayed, undecayed, hidden = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            if any(part in name for part in NOT_DECAYED):
                undecayed.append(parameter)
            else:
                between = parameter.dim() == 2 and not set(name.split(".")) & set(NOT_HIDDEN)
                (hidden if matrices and between else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": undecayed, "weight_decay": 0.0},
              {"params": hidden, "weight_decay": weight_decay, "muon": True}]
    groups = [group for group in groups if group["params"]]
    check_ownership(model, groups)
    return groups


def check_ownership(model: nn.Module, groups: Sequence[dict[str, Any]]) -> None:
    """Assert that every trainable parameter of the model is in exactly one group, once, and nothing else is."""
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    owned = Counter(id(parameter) for group in groups for parameter in group["params"])
    missing = [name for key, name in names.items() if key not in owned]
    twice = [names.get(key, "a parameter of no name") for key, times in owned.items() if times > 1]
    foreign = len(owned.keys() - names.keys())
    assert not missing, f"parameters that no group owns: {', '.join(missing)}"
    assert not twice, f"parameters that groups own twice: {', '.join(twice)}"
    assert not foreign, f"{foreign} parameters in the groups are not trainable ones of the model"
