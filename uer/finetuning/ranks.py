"""Collective operations of fine-tuning: sums of gradients, gathered outputs (see `uer.runtime.parallel.World`)."""

import numpy as np
import torch
from torch import nn

from uer.runtime.parallel import World


def sum_gradients(world: World, model: nn.Module) -> None:
    """Replace every gradient by its sum over the ranks; a rank without examples adds nothing."""
    if world.world_size == 1:
        return
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    flat = world.sum_(torch.cat([parameter.grad.reshape(-1) for parameter in parameters]))
    for parameter, part in zip(parameters, flat.split([parameter.numel() for parameter in parameters])):
        parameter.grad.copy_(part.view_as(parameter))


def gather_outputs(world: World, mine: dict[int, np.ndarray], total: int) -> list[np.ndarray]:
    """Every rank's outputs on every rank, in order.

    Args:
        mine: example number -> its output, float32 of one axis, for the examples that this rank computed.
        total: how many examples there are; each must come from exactly one rank.
    """
    if world.world_size == 1:
        assert len(mine) == total
        return [mine[number] for number in range(total)]
    counts, sizes = np.zeros(total, dtype=np.int64), np.zeros(total, dtype=np.int64)
    for number, output in mine.items():
        counts[number], sizes[number] = 1, len(output)
    both = world.sum_(torch.from_numpy(np.stack([counts, sizes]))).numpy()
    assert (both[0] == 1).all(), "an example was computed by several ranks, or by none"
    ends = np.cumsum(both[1])
    flat = np.zeros(int(ends[-1]) if total else 0, dtype=np.float32)
    for number, output in mine.items():
        flat[ends[number] - len(output):ends[number]] = output
    return np.split(world.sum_(torch.from_numpy(flat)).numpy(), ends[:-1])
