"""Tensor parallelism: several ranks compute one model's layers together, each with a part of their weights.

A rank's layers are smaller layers of the same kind, with plain tensors, so they run as they are. Their results come
together in a few functions, Megatron's f and g (Shoeybi et al., 2019, https://arxiv.org/abs/1909.08053):

    (N, H), whole on every rank --copy--> columns of linear_1 --> rows of linear_2 --sum--> (N, H), on each

Between the layers each rank needs some of the N tokens only, for norms, dropout and residual sums (Korthikanti et al.,
2022, https://arxiv.org/abs/2205.05198, sequence parallelism). This takes as many bytes between the ranks, because `sum`
is `scatter_sum` and `gather`:

    (N / n, H) --gather--> (N, H) --> linear_1 --> linear_2 --scatter_sum--> (N / n, H)

torch's `parallelize_module` computes the same with DTensors. We do without it in the layers: query, key and value would
be three products instead of one, each with a sum of gradients of its own, every operation would pass through Python,
and our kernels for CPUs take no DTensors. DTensors describe the parts in checkpoints (`World.described`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

# torch 2.13 renames them.
_ALL_GATHER = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
_REDUCE_SCATTER = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
# Large odd numbers: neighbouring ranks and neighbouring draws get unrelated seeds.
_MIXED, _OF_RANK = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9


class Split(NamedTuple):
    """A parameter of which each rank has a part: as `torch.chunk` divides `size` entries of the axis `dim`.

    Of linear_2, (8, 12), each of 2 ranks has (8, 6): Split(dim=1, size=12).
    """

    dim: int
    size: int


class ModelRanks:
    """The ranks that compute one model together.

    For 2 ranks and N = 3 tokens; a, b, c are rows of H numbers, a' those of the other rank, 0 a row of zeros:

        divide        [a, b, c] on both            ->  [a, b] on rank 0, [c, 0] on rank 1
        gather, join  [a, b] and [c, 0]            ->  [a, b, c] on both
        scatter_sum   [a, b, c] and [a', b', c']   ->  [a + a', b + b'] and [c + c', 0]
        sum           [a, b, c] and [a', b', c']   ->  [a + a', b + b', c + c'] on both

    Attributes:
        rank, size: this rank's number among them, and how many there are.
    """

    def __init__(self, rank: int, size: int, group: Any = None) -> None:
        self.rank, self.size, self.group = rank, size, group

    def copy(self, whole: Tensor) -> Tensor:
        """`whole`, which is the same on every rank; its gradient is the sum of all ranks' gradients."""
        return _Copy.apply(whole, self)

    def sum(self, part: Tensor) -> Tensor:
        """The sum of all ranks' tensors; its gradient is each rank's gradient."""
        return _Sum.apply(part, self)

    def gather(self, part: Tensor, tokens: int) -> Tensor:
        """The rows of all ranks (tokens, H), from (tokens / size, H) of each; the gradient of this rank's rows is the
        sum of all ranks' gradients."""
        return _Gather.apply(part, self, tokens, True)

    def join(self, part: Tensor, tokens: int) -> Tensor:
        """As `gather`, where every rank computes the same with the result: its gradient is that of its own rows."""
        return _Gather.apply(part, self, tokens, False)

    def scatter_sum(self, part: Tensor) -> Tensor:
        """The sum of all ranks' tensors (N, H), of which each rank gets some rows (N / size, H)."""
        return _Divide.apply(part, self, True)

    def divide(self, whole: Tensor) -> Tensor:
        """A rank's rows (N / size, H) of a tensor (N, H) that is the same on every rank. Rows of 0 are added where
        `size` does not divide N."""
        return _Divide.apply(whole, self, False)

    def padded(self, tensor: Tensor) -> Tensor:
        """(N, H) with rows of 0 added, so that all ranks get equally many."""
        return F.pad(tensor, (0, 0, 0, -len(tensor) % self.size))

    def gather_(self, part: Tensor) -> Tensor:
        """(n, H) of each rank -> (size * n, H), not differentiable."""
        together = part.new_empty(self.size * len(part), *part.shape[1:])
        _ALL_GATHER(together, part.contiguous(), group=self.group)
        return together

    def reduce_scatter_(self, tensor: Tensor) -> Tensor:
        """(size * n, H) of each rank -> this rank's rows (n, H) of the sum, not differentiable."""
        part = tensor.new_empty(len(tensor) // self.size, *tensor.shape[1:])
        _REDUCE_SCATTER(part, tensor.contiguous(), group=self.group)
        return part

    def sum_(self, tensor: Tensor) -> Tensor:
        """As `sum`, in place and not differentiable."""
        dist.all_reduce(tensor, group=self.group)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        """The largest values of all ranks, in place and not differentiable."""
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return tensor

    def part(self, whole: Tensor, dim: int) -> Tensor:
        """This rank's part of a tensor, a copy.

        >>> ModelRanks(1, 2).part(torch.arange(5), 0)
        tensor([3, 4])
        """
        return whole.tensor_split(_ends(whole.shape[dim], self.size), dim)[self.rank].clone()

    def first(self, size: int) -> int:
        """The number of the first of `size` entries that this rank has.

        >>> ModelRanks(1, 2).first(5)
        3
        """
        return min(size, self.rank * -(-size // self.size))

    @contextmanager
    def own_random(self, device: torch.device) -> Iterator[None]:
        """A context in which each rank draws numbers of its own, for tensors that are split. Afterwards all ranks draw
        the same numbers again, for tensors that all have."""
        generator = (torch.cuda.default_generators[device.index or 0] if device.type == "cuda" else
                     torch.default_generator)
        if device.type == "cuda":  # a counter of blocks of numbers: nothing waits for the device
            seed, offset = generator.initial_seed(), generator.get_offset()
            generator.manual_seed((seed ^ (offset + 1) * _MIXED + self.rank * _OF_RANK) % 2**64)
        else:
            seed = int(torch.empty((), dtype=torch.int64).random_())
            state = generator.get_state()
            generator.manual_seed((seed + (self.rank + 1) * _MIXED) % 2**64)
        try:
            yield
        finally:
            if device.type == "cuda":
                generator.manual_seed(seed)
                generator.set_offset(offset + 4)
            else:
                generator.set_state(state)


def _ends(size: int, parts: int) -> list[int]:
    """Where the parts of `torch.chunk` end, but the last; parts may be empty: 5 in 4 -> [2, 4, 5]"""
    chunk = -(-size // parts)
    return [min(size, chunk * number) for number in range(1, parts)]


class _Copy(torch.autograd.Function):
    """See `ModelRanks.copy`; Megatron's f."""

    @staticmethod
    def forward(context: Any, whole: Tensor, ranks: ModelRanks) -> Tensor:
        context.ranks = ranks
        return whole.view_as(whole)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return context.ranks.sum_(gradient.clone(memory_format=torch.contiguous_format)), None


class _Sum(torch.autograd.Function):
    """See `ModelRanks.sum`; Megatron's g."""

    @staticmethod
    def forward(context: Any, part: Tensor, ranks: ModelRanks) -> Tensor:
        return ranks.sum_(part.clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _Gather(torch.autograd.Function):
    """See `ModelRanks.gather` (`summed`) and `join`: (N / size, H) -> (N, H)."""

    @staticmethod
    def forward(context: Any, part: Tensor, ranks: ModelRanks, tokens: int, summed: bool) -> Tensor:
        context.ranks, context.summed = ranks, summed
        return ranks.gather_(part)[:tokens]

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        ranks, padded = context.ranks, context.ranks.padded(gradient)
        part = ranks.reduce_scatter_(padded) if context.summed else padded.chunk(ranks.size)[ranks.rank]
        return part, None, None, None


class _Divide(torch.autograd.Function):
    """See `ModelRanks.scatter_sum` (`summed`) and `divide`: (N, H) -> (N / size, H)."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, ranks: ModelRanks, summed: bool) -> Tensor:
        context.ranks, context.tokens = ranks, len(tensor)
        padded = ranks.padded(tensor)
        return ranks.reduce_scatter_(padded) if summed else padded.chunk(ranks.size)[ranks.rank].clone()

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return context.ranks.gather_(gradient)[:context.tokens], None, None


def split_parameters(module: nn.Module, dims: dict[str, int], ranks: ModelRanks,
                     done: dict[nn.Parameter, nn.Parameter]) -> None:
    """Replace parameters of a module by this rank's part.

    Args:
        dims: for each parameter's name the axis that is divided; those that the module has not are passed over.
        done: whole parameters and their parts, of all modules so far: tied ones stay tied.
    """
    splits = vars(module).setdefault("splits", {})
    for name, dim in dims.items():
        whole = module._parameters.get(name)
        if whole is None:
            continue
        if whole not in done:
            done[whole] = nn.Parameter(ranks.part(whole.detach(), dim), whole.requires_grad)
        splits[name] = Split(dim, whole.shape[dim])
        setattr(module, name, done[whole])


def splits_of(module: nn.Module) -> dict[str, Split]:
    """The parameters that `split_parameters` has divided, by their names in `module`; tied ones by each name."""
    return {f"{prefix}.{name}".lstrip("."): split for prefix, child in module.named_modules(remove_duplicate=False)
            for name, split in vars(child).get("splits", {}).items()}


def split_owners(module: nn.Module) -> dict[nn.Parameter, Split]:
    """The parameters that `split_parameters` has divided."""
    return {module.get_parameter(name): split for name, split in splits_of(module).items()}


def mark_partial(module: nn.Module) -> None:
    """Note that a rank's gradients of the parameters of `module` that are whole are of its own tokens, or heads, only:
    the gradient is the sum over the ranks."""
    for child in module.modules():
        vars(child)["partial"] = [name for name in child._parameters if name not in vars(child).get("splits", {})]


def partial_owners(module: nn.Module) -> list[nn.Parameter]:
    """The parameters that `mark_partial` has noted, in the same order on every rank."""
    return [child._parameters[name] for child in module.modules() for name in vars(child).get("partial", [])
            if child._parameters[name] is not None]
