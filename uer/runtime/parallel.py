"""The processes that train together, and everything they say to one another. Only this module uses torch.distributed.

    world = connect(place, config)
    module = world.wrap(model)
    world.sum_(tensor)              # in place, over all ranks
    world.agree(problem)            # an error on any rank is an error on every rank
"""

import contextlib
import copy
import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from uer.config import ParallelConfig
from uer.errors import UserError
from uer.runtime import launch
from uer.runtime.launch import RankInfo, SharedError
from uer.runtime.pulse import Pulse

PATIENCE_SECONDS = 10
CACHED_KERNELS = 32


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    config: ParallelConfig
    pulse: Pulse | None = None

    @property
    def is_main(self) -> bool:
        """Whether this rank speaks for all: it prints and writes."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up `tensor` over the ranks, in place."""
        if self.world_size > 1:
            self._enter()
            dist.all_reduce(tensor)
        return tensor

    def any(self, here: bool) -> bool:
        """Whether `here` is true on any rank. Waits for every rank, on the host."""
        if self.world_size == 1:
            return here
        self._enter()
        flag = torch.tensor(int(here))
        dist.all_reduce(flag)
        return bool(flag.item())

    def barrier(self) -> None:
        """Return when every rank has come here."""
        self.any(False)

    def share(self, value: Any) -> Any:
        """Rank 0's value, a plain Python object, on every rank."""
        if self.world_size == 1:
            return value
        self._enter()
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def share_tensors(self, tree: Any) -> Any:
        """Rank 0's nested dictionaries of CPU tensors on every rank; the others pass None."""
        if self.world_size == 1:
            return tree
        tensors: list[Tensor] = []
        skeleton, shapes = self.share((_take_out(tree, tensors), [(t.shape, t.dtype) for t in tensors])
                                      if self.is_main else None)
        received = tensors if self.is_main else [torch.empty(shape, dtype=dtype) for shape, dtype in shapes]
        for tensor in received:
            dist.broadcast(tensor, src=0)
        return _put_back(skeleton, received)

    def agree(self, problem: str | None) -> None:
        """Raise on every rank when any rank has a problem.

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

    def wrap(self, module: nn.Module, accumulating: bool = False) -> nn.Module:
        """Make `module`'s backward pass average gradients over the ranks, as `--sharding` says.

        Args:
            accumulating: several micro-batches make an update; torch's static graph has to see its first backward pass
                synchronised, so it is for single ones.
        """
        if self.config.sharding == "fsdp":
            return _shard(module, self)
        if self.world_size == 1:
            return module
        on_gpu = self.device.type == "cuda"
        return nn.parallel.DistributedDataParallel(
            module, device_ids=[self.device.index] if on_gpu else None, gradient_as_bucket_view=True,
            static_graph=not accumulating)

    @contextlib.contextmanager
    def synchronise(self, module: nn.Module, now: bool) -> Iterator[None]:
        """Around a forward and backward pass: gradients travel between ranks only `now`, at the last micro-batch."""
        if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
            with module.no_sync():
                yield
            return
        if self.config.sharding == "fsdp":
            module.set_requires_gradient_sync(now)
        yield

    def gradient_norm(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The Euclidean norm of all gradients after a synchronised backward pass, 0-dim, on the device."""
        return self.norm(parameter.grad for parameter in parameters if parameter.grad is not None)

    def norm(self, tensors: Iterable[Tensor]) -> Tensor:
        """The Euclidean norm of all tensors, 0-dim, on the device; every rank has to ask for that of sharded ones."""
        tensors = list(tensors)
        parts = [tensor.to_local() if _is_sharded(tensor) else tensor for tensor in tensors]
        parts = [part for part in parts if part.numel()]
        norm = torch.zeros((), device=self.device)
        if parts:
            norm = torch.stack([part.float() for part in torch._foreach_norm(parts)]).norm()
        if any(_is_sharded(tensor) for tensor in tensors):
            norm = self.sum_(norm.square().to(self.device)).sqrt()
        return norm.to(self.device)

    def whole(self, tensor: Tensor) -> Tensor:
        """A sharded tensor put together (every rank has to ask); others as they are."""
        return tensor.full_tensor() if _is_sharded(tensor) else tensor

    def part(self, tensor: Tensor, like: Tensor) -> Tensor:
        """`tensor`, whole and the same on every rank, laid out as `like` is."""
        if _is_sharded(like) and tensor.shape == like.shape:
            from torch.distributed.tensor import distribute_tensor

            return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
        return tensor.to(like.device)

    def identity(self, tensor: Tensor) -> tuple:
        """Equal for tensors that are the same memory."""
        local = tensor.to_local() if _is_sharded(tensor) else tensor
        return (local.data_ptr(), tensor.shape) if local.numel() else (id(tensor), tensor.shape)

    def load_(self, parameters: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
        """Overwrite every tensor of `parameters` with its namesake in `state`."""
        with torch.no_grad():
            for name, tensor in parameters.items():
                tensor.copy_(self.part(state[name], tensor))

    def _enter(self) -> None:
        """Count a collective operation: the ranks that have entered fewer are behind."""
        if self.pulse is not None:
            self.pulse.calls += 1

    def close(self) -> None:
        """Leave the others, when all is done."""
        if self.pulse is not None:
            self.pulse.stop()
        if self.world_size > 1 or self.config.sharding == "fsdp":
            dist.destroy_process_group()


def connect(place: RankInfo, config: ParallelConfig) -> World:
    """Meet the other ranks.

    Raises:
        UserError: the device this place needs is not there, or a rank did not come within `--collective_timeout`.
    """
    device = _device(place, config)
    if device.type == "cpu":
        _forget_old_shapes()
    world = World(place.rank, place.world_size, place.local_rank, device, config)
    if place.world_size == 1 and config.sharding == "none":
        return world
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // place.local_size))
    if place.host in ("localhost", "127.0.0.1") and "lo" in [name for _, name in socket.if_nameindex()]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    timeout = timedelta(seconds=config.collective_timeout)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" and config.backend == "nccl" else "gloo"
    store: Any = dist.HashStore() if place.world_size == 1 else _meet(place, timeout)
    dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.world_size, timeout=timeout)
    present = world.sum_(torch.ones((), device=device))
    assert int(present.item()) == place.world_size, f"{present} of {place.world_size} ranks answered"
    return _with_pulse(world, place, timeout) if place.world_size > 1 else world


def _with_pulse(world: World, place: RankInfo, timeout: timedelta) -> World:
    """The world with a pulse, over a connection of its own: the other one may be waiting when it is needed."""
    store = dist.TCPStore(place.host, place.port, None, is_master=False, timeout=timeout, wait_for_workers=False)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    pulse = Pulse(dist.PrefixStore(f"uer-{attempt}", store), world.rank, world.world_size)
    world.barrier()  # every pulse has beaten once
    seconds = int(timeout.total_seconds())

    def explain(error: BaseException) -> str:
        who = pulse.diagnose() if launch.is_timeout(error) else ""
        return f"waited {seconds} s (--collective_timeout) for another rank: {who}" if who else ""

    launch.explain = explain
    return replace(world, pulse=pulse)


def _forget_old_shapes() -> None:
    """Let oneDNN keep the code it compiled for the newest shapes alone, instead of 1,024 of them.

    Rows without padding bring new shapes with every batch, which hardly ever come again. What is kept for them lies
    scattered over the heap, so that freed memory between it cannot be used for larger tensors: a run of small batches
    grew from 0.6 to 1.2 GiB. A step needs about ten. To be called before the first operation; a setting of the
    environment is left as it is.
    """
    if "DNNL_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(CACHED_KERNELS))


def _device(place: RankInfo, config: ParallelConfig) -> torch.device:
    count = torch.cuda.device_count()
    if config.device == "cpu" or (config.device == "auto" and count == 0):
        return torch.device("cpu")
    if count == 0:
        raise UserError("--device cuda: torch sees no GPU on this machine")
    number = 0 if place.may_see_one_gpu and count == 1 else place.local_rank
    if number >= count:
        raise UserError(f"--gpu_ranks: rank {place.rank} needs GPU {number}, but this machine has {count}")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def _meet(place: RankInfo, timeout: timedelta) -> dist.Store:
    """The store all ranks share, once every rank has signed in."""
    where = f"{place.host}:{place.port}"
    patience = threading.Timer(PATIENCE_SECONDS, print, [f"rank {place.rank} waits for rank 0 at {where}"],
                               {"flush": True})
    patience.start()
    try:
        store = dist.TCPStore(place.host, place.port, place.world_size, is_master=place.rank == 0
                              and not place.store_exists, timeout=timeout, wait_for_workers=False)
    except (RuntimeError, ValueError) as error:
        if "in use" in str(error).lower():
            raise UserError(f"--master_ip: the port of {where} is in use; name another one") from None
        raise UserError(f"rank {place.rank} could not reach rank 0 at {where} within {timeout.total_seconds():.0f} s "
                        "(--master_ip, --collective_timeout)") from None
    finally:
        patience.cancel()
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store = dist.PrefixStore(f"uer-{attempt}", store)
    store.set(f"rank {place.rank}", "here")
    _await_all(store, place, timeout.total_seconds())
    return store


def _await_all(store: dist.Store, place: RankInfo, seconds: float) -> None:
    missing, waited = list(range(place.world_size)), 0.0
    while missing:
        patience = min(PATIENCE_SECONDS, seconds - waited)
        try:
            store.wait([f"rank {rank}" for rank in missing], timedelta(seconds=max(patience, 0.1)))
            return
        except RuntimeError:
            waited += patience
            missing = [rank for rank in missing if not store.check([f"rank {rank}"])]
        names = ", ".join(map(str, missing))
        if missing and waited >= seconds:
            raise UserError(f"no answer from rank {names} of {place.world_size} within {seconds:.0f} s "
                            "(--collective_timeout); is it running, and can it reach --master_ip?")
        if missing and place.rank == min(set(range(place.world_size)) - set(missing)):
            print(f"waiting for rank {names}", flush=True)


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a model: the elements of its outermost module lists that are more than one layer each."""
    found: list[nn.Module] = []
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            found.extend(block for block in child if any(True for _ in block.children()))
        else:
            found.extend(_blocks(child))
    return found


def _shard(module: nn.Module, world: World) -> nn.Module:
    """Split parameters, gradients and optimizer state over the ranks, block by block, the rest as one group."""
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    mesh = dist.device_mesh.init_device_mesh(world.device.type, (world.world_size,))
    offload = CPUOffloadPolicy() if world.config.cpu_offload else OffloadPolicy()
    for block in _blocks(module):
        fully_shard(block, mesh=mesh, offload_policy=offload)
    return fully_shard(module, mesh=mesh, offload_policy=offload)


def _is_sharded(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def _take_out(tree: Any, tensors: list[Tensor]) -> Any:
    """`tree` with each tensor replaced by its number in `tensors`."""
    if isinstance(tree, Tensor):
        tensors.append(tree.contiguous())
        return _Slot(len(tensors) - 1)
    if isinstance(tree, Mapping):
        return {key: _take_out(value, tensors) for key, value in tree.items()}
    return copy.copy(tree)


def _put_back(tree: Any, tensors: list[Tensor]) -> Any:
    if isinstance(tree, _Slot):
        return tensors[tree.number]
    if isinstance(tree, Mapping):
        return {key: _put_back(value, tensors) for key, value in tree.items()}
    return tree


@dataclass(frozen=True)
class _Slot:
    number: int
