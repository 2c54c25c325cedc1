"""The ranks that train together and their collective operations.

    world = connect(rank_info, config)
    module = world.wrap(model)
    world.sum_(tensor)              # all-reduce, in place
    world.agree(problem)            # an error on any rank is raised on every rank
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property, partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from uer.config import ParallelConfig
from uer.errors import UserError
from uer.runtime import failures
from uer.runtime.failures import SharedError
from uer.runtime.heartbeat import Heartbeat
from uer.runtime.launch import RankInfo
from uer.runtime.memory import limit_cached_kernels
from uer.runtime.rendezvous import meet, start_heartbeat
from uer.runtime.sharding import described, distribute_like, is_sharded, local_part, make_mesh, shard
from uer.runtime.tensor_parallel import ModelRanks, Split, partial_owners, split_owners
from uer.runtime.threads import usable_cores
from uer.runtime.trees import put_back_tensors, take_out_tensors


@dataclass(frozen=True)
class World:
    """The process group of a run, and this process's rank and device.

    Every collective operation must be called by all ranks in the same order. With one rank they do nothing.

    With --tensor_parallel_size 2 two neighbouring ranks compute one model together, on the same batches:

        rank                              0  1  2  3
        model_ranks.rank, of .size 2      0  1  0  1
        data_rank, of data_world_size 2   0  0  1  1

    Attributes:
        splits: the parameters of which the model's ranks have a part each; `wrap` notes them.
        partial: those whose gradients are of a part of the tokens on each of the model's ranks; `wrap` notes them.
    """

    rank: int
    world_size: int
    device: torch.device
    config: ParallelConfig
    heartbeat: Heartbeat | None = None
    splits: dict[nn.Parameter, Split] = field(default_factory=dict)
    partial: list[nn.Parameter] = field(default_factory=list)

    @property
    def data_world_size(self) -> int:
        """How many batches are computed at the same time."""
        return self.world_size // self.config.tensor_parallel_size

    @property
    def data_rank(self) -> int:
        """Which of them is this rank's."""
        return self.rank // self.config.tensor_parallel_size

    @cached_property
    def mesh(self) -> Any:
        """torch's DeviceMesh of the axes "tp" and "dp". Its first use is a collective operation."""
        return make_mesh(self.device.type, self.world_size, self.config.tensor_parallel_size)

    @cached_property
    def model_ranks(self) -> ModelRanks | None:
        """The ranks that compute this rank's model together; None where it is alone."""
        size = self.config.tensor_parallel_size
        return ModelRanks(self.rank % size, size, self.mesh["tp"].get_group()) if size > 1 else None

    @cached_property
    def writing_group(self) -> Any:
        """A process group of all ranks for checkpoints, which a thread writes while the others are in use."""
        return dist.new_group(backend="gloo")

    @property
    def is_whole(self) -> bool:
        """Whether each rank has all parameters."""
        return self.config.sharding == "none" and self.config.tensor_parallel_size == 1

    @property
    def data_group(self) -> Any:
        """The process group of the ranks that have the same part of a model; None is that of all ranks."""
        return self.mesh["dp"].get_group() if self.config.tensor_parallel_size > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the only one that prints and writes files."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor`, of any shape, over the batches that are computed at the same time, in place."""
        if self.data_world_size > 1:
            self._enter()
            dist.all_reduce(tensor, group=self.data_group)
        return tensor

    def gather_rows(self, rows: Tensor) -> tuple[Tensor, int]:
        """The rows of all ranks, one rank's after another's; differentiable.

        The backward pass adds up the gradients that the ranks have for the rows, so that each rank gets, for its own
        rows, the gradient of the sum of the ranks' losses:

            rank 0 has rows a, b and rank 1 has row c: both get (a, b, c); rank 0 gets (.., 0) and rank 1 (.., 2)

        Args:
            rows: (N, ...), of which N may differ between ranks and may be 0.

        Returns:
            (sum of N, ...), and how many of the rows belong to the ranks before this one.
        """
        if self.world_size == 1:
            return rows, 0
        counts = torch.zeros(self.world_size, dtype=torch.int64, device=rows.device)
        counts[self.rank] = len(rows)
        before = self.sum_(counts).cumsum(0).tolist()
        start = before[self.rank] - len(rows)
        return _GatherRows.apply(rows, self, start, before[-1]), start

    def any(self, here: bool) -> bool:
        """Whether `here` is true on any rank. Waits for every rank, on the host."""
        if self.world_size == 1:
            return here
        self._enter()
        flag = torch.tensor(int(here))
        dist.all_reduce(flag)
        return bool(flag.item())

    def barrier(self) -> None:
        """Return when every rank has called this."""
        self.any(False)

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, a Python object that can be pickled, on every rank."""
        if self.world_size == 1:
            return value
        self._enter()
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def broadcast_tensors(self, tree: Any) -> Any:
        """Rank 0's nested dictionaries of CPU tensors on every rank; the others pass None."""
        if self.world_size == 1:
            return tree
        tensors: list[Tensor] = []
        skeleton, shapes = self.broadcast((take_out_tensors(tree, tensors), [(t.shape, t.dtype) for t in tensors])
                                      if self.is_main else None)
        received = tensors if self.is_main else [torch.empty(shape, dtype=dtype) for shape, dtype in shapes]
        for tensor in received:
            dist.broadcast(tensor, src=0)
        return put_back_tensors(skeleton, received)

    def agree(self, problem: str | None) -> None:
        """Raise an error on every rank if any rank has a problem.

        Raises:
            UserError: the problems, each once, with the ranks that have it where not all do.
        """
        if self.world_size == 1:
            problems: list[str | None] = [problem]
        else:
            self._enter()
            problems = [None] * self.world_size
            dist.all_gather_object(problems, problem)
        found: dict[str, list[int]] = {}
        for rank, text in enumerate(problems):
            if text:
                found.setdefault(text, []).append(rank)
        if found:
            raise SharedError("; ".join(text if len(ranks) == self.world_size else f"rank {ranks[0]}: {text}"
                                        for text, ranks in found.items()))

    def check(self, action: Callable[[], Any]) -> Any:
        """Run `action` on every rank; a `UserError` on one becomes a `UserError` on all."""
        result, problem = None, None
        try:
            result = action()
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        self.agree(problem)
        return result

    def wrap(self, module: nn.Module, accumulating: bool = False, dtype: torch.dtype | None = None) -> nn.Module:
        """Apply DistributedDataParallel or `fully_shard`, as `--sharding` says: the backward pass averages gradients.

        Args:
            accumulating: an update has several micro-batches. DistributedDataParallel's `static_graph` must synchronise
                in its first backward pass, so it is used for single micro-batches only.
            dtype: of autocast, None without it: `fully_shard` sends weights in it.
        """
        if self.config.sharding == "fsdp":
            module = shard(module, self.mesh["dp"], self.config.cpu_offload, dtype)
        self.splits.update(split_owners(module))
        self.partial.extend(partial_owners(module))
        if self.config.sharding == "fsdp" or self.data_world_size == 1:
            return module
        on_gpu = self.device.type == "cuda"
        wrapped = nn.parallel.DistributedDataParallel(
            module, device_ids=[self.device.index] if on_gpu else None, gradient_as_bucket_view=True,
            process_group=self.data_group, static_graph=not accumulating)
        if self.config.gradient_compression == "bf16":
            wrapped.register_comm_hook(None, _average_in_bf16)
        return wrapped

    @contextlib.contextmanager
    def synchronise(self, module: nn.Module, now: bool) -> Iterator[None]:
        """A context for a forward and backward pass: gradients are averaged over the ranks only if `now`, which is true
        for the last micro-batch."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
            with module.no_sync():
                yield
            return
        if self.config.sharding == "fsdp":
            module.set_requires_gradient_sync(now)
        yield

    def complete_gradients(self) -> None:
        """Add up the gradients of norms and biases of which each of the model's ranks has those of its own tokens, once
        for all micro-batches."""
        gradients = [local_part(parameter.grad) for parameter in self.partial if parameter.grad is not None]
        if gradients:
            together = self.model_ranks.sum_(torch.cat([gradient.flatten() for gradient in gradients]))
            for gradient, part in zip(gradients, together.split([each.numel() for each in gradients])):
                gradient.copy_(part.view_as(gradient))

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The Euclidean norm of all gradients after a synchronised backward pass, 0-dim, on the device."""
        return self.norm(parameters, lambda parameter: parameter.grad)

    def norm(self, parameters: Iterable[nn.Parameter],
             value: Callable[[nn.Parameter], Tensor | None] = nn.Parameter.detach) -> Tensor:
        """The Euclidean norm of all parameters, or of a value of each, such as its gradient; 0-dim, on the device. A
        collective operation where some are sharded or split."""
        whole, split = [], []
        for parameter in parameters:
            if (tensor := value(parameter)) is not None:
                (split if parameter in self.splits else whole).append(tensor)
        if not self.model_ranks:
            return self._norm(whole)
        return torch.stack([self._norm(whole), self.model_ranks.sum_(self._norm(split).square()).sqrt()]).norm()

    def _norm(self, tensors: list[Tensor]) -> Tensor:
        """As `norm`, of this rank's part of split tensors."""
        parts = [local_part(tensor) for tensor in tensors]
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for part in parts:
            if part.numel():
                by_dtype.setdefault(part.dtype, []).append(part)
        norm = torch.zeros((), device=self.device)
        if by_dtype:
            norms = [each for same in by_dtype.values() for each in torch._foreach_norm(same, 2, torch.float32)]
            norm = torch.stack(norms).norm()
        if any(is_sharded(tensor) for tensor in tensors):
            norm = self.sum_(norm.square().to(self.device)).sqrt()
        return norm.to(self.device)

    def described(self, tensor: Tensor, split: Split | None = None) -> Tensor:
        """A DTensor that tells which part of a whole tensor this rank has, in the same memory; `tensor` itself where it
        is whole.

        Args:
            tensor: a parameter, or what has its shape.
            split: how the parameter is divided among the model's ranks.
        """
        return described(tensor, split, self.mesh) if self.model_ranks else tensor

    def full_tensor(self, tensor: Tensor, split: Split | None = None) -> Tensor:
        """A sharded or split tensor put together (a collective operation); others as they are."""
        if split is None:
            return tensor.full_tensor() if is_sharded(tensor) else tensor
        return self.described(tensor, split).full_tensor()

    def distribute(self, tensor: Tensor, like: Tensor, split: Split | None = None) -> Tensor:
        """`tensor`, whole and the same on every rank, laid out as `like` is, which `split` tells how it is divided."""
        if split is not None and tensor.dim() > split.dim and tensor.shape[split.dim] == split.size:
            tensor = self.model_ranks.part(tensor, split.dim)
        if is_sharded(like) and tensor.shape == like.shape:
            return distribute_like(tensor, like)
        return tensor.to(like.device)

    def load_(self, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor],
              splits: Mapping[str, Split]) -> None:
        """Overwrite every tensor of `parameters` with its namesake in `state`; `splits` tells which are divided."""
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor.copy_(self.distribute(state[name], tensor, splits.get(name)))

    def _enter(self) -> None:
        """Count a collective operation, for the heartbeat."""
        if self.heartbeat is not None:
            self.heartbeat.calls += 1

    def close(self) -> None:
        """End the process group, at the end of a run."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        if self.world_size > 1 or self.config.sharding == "fsdp":
            dist.destroy_process_group()


class _GatherRows(torch.autograd.Function):
    """See `World.gather_rows`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, world: World, start: int, total: int) -> Tensor:
        ctx.world, ctx.own = world, slice(start, start + len(rows))
        every = rows.new_zeros(total, *rows.shape[1:])
        every[ctx.own] = rows
        return world.sum_(every)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.world.sum_(gradient.clone(memory_format=torch.contiguous_format))[ctx.own], None, None, None


def connect(rank_info: RankInfo, config: ParallelConfig) -> World:
    """Choose the device and form a process group with the other ranks, where there are others.

    Raises:
        UserError: the device that this rank needs is not there, or a rank did not come within `--collective_timeout`.
    """
    size = config.tensor_parallel_size
    if rank_info.world_size % size:
        raise UserError(f"--tensor_parallel_size {size} does not divide the number of ranks, {rank_info.world_size}")
    device = _device(rank_info, config)
    if device.type == "cpu":
        limit_cached_kernels()
    if rank_info.world_size == 1 and config.sharding == "none":
        return World(rank_info.rank, rank_info.world_size, device, config)
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, usable_cores() // rank_info.local_size))
    if rank_info.host in ("localhost", "127.0.0.1") and "lo" in [name for _, name in socket.if_nameindex()]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    timeout = timedelta(seconds=config.collective_timeout)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" and config.backend == "nccl" else "gloo"
    store: Any = dist.HashStore() if rank_info.world_size == 1 else meet(rank_info, timeout)
    dist.init_process_group(backend, store=store, rank=rank_info.rank, world_size=rank_info.world_size,
                            timeout=timeout)
    heartbeat = start_heartbeat(rank_info, timeout) if rank_info.world_size > 1 else None
    world = World(rank_info.rank, rank_info.world_size, device, config, heartbeat)
    world.barrier()  # every rank has written its first beat
    if heartbeat is not None:
        failures.explain = partial(_explain, heartbeat, config.collective_timeout)
    present = world.sum_(torch.ones((), device=device))
    assert int(present.item()) == world.data_world_size, f"{present} of {world.data_world_size} ranks responded"
    return world


def _average_in_bf16(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Average a bucket of gradients over the ranks in bfloat16: half the bytes.

    It is torch's `bf16_compress_hook` (https://docs.pytorch.org/docs/stable/ddp_comm_hooks.html), which
    DistributedDataParallel knows by its name and refuses without NCCL, although gloo adds bfloat16 as well.
    """
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

    return bf16_compress_hook(group, bucket)


def _explain(heartbeat: Heartbeat, seconds: int, error: BaseException) -> str:
    """For `failures.explain`: after a timeout, which rank did not respond."""
    who = heartbeat.diagnose() if failures.is_timeout(error) else ""
    return f"waited {seconds} s (--collective_timeout) for another rank: {who}" if who else ""


def _device(rank_info: RankInfo, config: ParallelConfig) -> torch.device:
    count = torch.cuda.device_count()
    if config.device == "cpu" or (config.device == "auto" and count == 0):
        return torch.device("cpu")
    if count == 0:
        raise UserError("--device cuda: torch sees no GPU on this machine")
    number = 0 if rank_info.may_see_one_gpu and count == 1 else rank_info.local_rank
    if number >= count:
        raise UserError(f"--gpu_ranks: rank {rank_info.rank} needs GPU {number}, but this machine has {count}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)
