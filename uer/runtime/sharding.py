"""Fully sharded data parallelism: parameters, gradients and optimizer state are split over the ranks."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from uer.runtime.tensor_parallel import Split


def make_mesh(device_type: str, world_size: int, tensor_parallel_size: int) -> Any:
    """A DeviceMesh of the axes "tp" and "dp", of "dp" alone without tensor parallelism. Neighbours in "tp" are
    neighbouring ranks. "tp" is the first axis, because fully sharded data parallelism divides what tensor parallelism
    has divided before:

        4 ranks, tensor_parallel_size 2:  [[0, 2],
                                           [1, 3]]
    """
    if tensor_parallel_size == 1:
        return dist.device_mesh.init_device_mesh(device_type, (world_size,), mesh_dim_names=("dp",))
    ranks = torch.arange(world_size, device="cpu").view(-1, tensor_parallel_size).t().contiguous()
    return dist.device_mesh.DeviceMesh(device_type, ranks, mesh_dim_names=("tp", "dp"))


def shard(module: nn.Module, mesh: Any, cpu_offload: bool, dtype: torch.dtype | None = None) -> nn.Module:
    """Apply `fully_shard` block by block, and to the rest as one group.

    With `dtype` the ranks send one another the weights of the blocks in it: autocast would round the matrices to it
    after they have arrived, so half the bytes give the same products. What each rank owns, the gradients that are
    averaged and the rest (embeddings, output layers) stay in float32. Inputs are not cast: the numbers of predictions,
    by which the loss is divided, are among them.

    Args:
        mesh: a DeviceMesh with one axis.
        cpu_offload: parameters and optimizer state stay in the memory of the host.
        dtype: bfloat16 or float16, that of autocast; None without it.
    """
    from torch.distributed.fsdp import (  # loads torch's compiler
        CPUOffloadPolicy,
        MixedPrecisionPolicy,
        OffloadPolicy,
        fully_shard,
    )

    offload = CPUOffloadPolicy() if cpu_offload else OffloadPolicy()
    narrow = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in _blocks(module):
        fully_shard(block, mesh=mesh, offload_policy=offload, mp_policy=narrow if dtype else MixedPrecisionPolicy())
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

    # It is on the mesh's device afterwards; `like` may be in the memory of the host.
    return distribute_tensor(tensor, like.device_mesh, like.placements).to(like.device)


def described(tensor: Tensor, split: Split | None, mesh: Any) -> Tensor:
    """This rank's part of a tensor as a DTensor on the mesh ("tp", "dp"), in the same memory."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    placements = [Replicate() if split is None else Shard(split.dim), Shard(0) if is_sharded(tensor) else Replicate()]
    shape = list(tensor.shape)
    if split is not None:
        shape[split.dim] = split.size
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(local_part(tensor), mesh, placements, run_check=False, shape=torch.Size(shape),
                              stride=stride)
