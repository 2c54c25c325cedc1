"""Fully sharded data parallelism: parameters, gradients and optimizer state are split over the ranks."""

import torch.distributed as dist
from torch import Tensor, nn


def shard(module: nn.Module, device_type: str, world_size: int, cpu_offload: bool) -> nn.Module:
    """Apply `fully_shard` block by block, and to the rest as one group.

    Args:
        device_type: "cuda" or "cpu".
        cpu_offload: parameters and optimizer state stay in the memory of the host.
    """
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard  # loads torch's compiler

    mesh = dist.device_mesh.init_device_mesh(device_type, (world_size,))
    offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    for block in _blocks(module):
        fully_shard(block, mesh=mesh, offload_policy=offload)
    return fully_shard(module, mesh=mesh, offload_policy=offload)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model: the elements of its outermost module lists that are more than one layer each."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found.extend(block for block in child if any(True for _ in block.children()))
        else:
            found.extend(_blocks(child))
    return found


def is_sharded(tensor: Tensor) -> bool:
    """Whether this rank holds only a part of the tensor (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor: all of one that is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def distribute_like(tensor: Tensor, like: Tensor) -> Tensor:
    """`tensor`, whole and the same on every rank, split over the ranks as the sharded `like` is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
