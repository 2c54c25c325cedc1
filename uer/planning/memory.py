"""The memory of training on each GPU, by part, without one: a model on the meta device counts what autograd would keep,
and what the ranks would send one another.

Models with one and with two layers are counted, as in `uer.planning.flops`. Autocast and torch's fused attention, which
the meta device has not, are put in their place: matrix products take and give bfloat16, norms and losses float32.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from uer.config import ModelConfig, ParallelConfig
from uer.data.processors import Processor
from uer.layers.recompute import OFF, SELECTIVE
from uer.layers.transformer import TransformerLayer
from uer.meta_device import Unfilled, extrapolated_model
from uer.model import Model, build_model
from uer.planning.flops import example_batch
from uer.runtime.tensor_parallel import ModelRanks
from uer.tensor_parallel import split_model

MOMENTS = 8
"""Bytes of AdamW's two moments of a parameter."""
GATHERED_BLOCKS = 2
"""Blocks of a sharded model that a rank has whole at a time: the one that computes and the next."""
_PRODUCTS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)
_WIDE = (F.layer_norm, F.rms_norm, torch.softmax, Tensor.softmax, F.cross_entropy, F.log_softmax, Tensor.log_softmax)


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights: in fp32, their copies for autocast, and what `fully_shard` gathers.
        gradients, moments: in fp32.
        activations: what is kept for the backward pass before the loss is computed.
        logits: the output layers' logits, what their losses keep, and the gradient of the logits.
        recomputed: with activation checkpointing, what one layer keeps when it is computed again; the logits are gone
            by then.
        teacher: weights and logits of a teacher.
        host: with --cpu_offload, what is in the host's memory instead, which `total` leaves out: weights, gradients and
            moments in fp32. The device has the weights that are gathered and the gradients of one block at a time.
    """

    weights: int
    gradients: int
    moments: int
    activations: int
    logits: int
    recomputed: int = 0
    teacher: int = 0
    host: int = 0

    @property
    def total(self) -> int:
        """An upper estimate: gradients are complete only when the activations are gone."""
        return (self.weights + self.gradients + self.moments + self.activations + self.teacher
                + max(self.logits, self.recomputed))


class Exchange(NamedTuple):
    """What the ranks of a group send one another. An all-gather or a reduce-scatter counts once; an all-reduce is both
    and counts twice.

    Attributes:
        size: bytes of the whole tensors. Of them each of n ranks sends (n - 1) / n, whatever the operation's way.
        number: operations.
    """

    size: int
    number: int

    def sent(self, ranks: int) -> float:
        """Bytes that each rank sends."""
        return self.size * (ranks - 1) / ranks


@dataclass(frozen=True)
class Traffic:
    """What the ranks send one another.

    Attributes:
        gradients: for an update, among the ranks that have the same part of the model and other batches.
        weights: for a micro-batch, among the same ranks: what `fully_shard` gathers, each block twice, the rest once.
        activations: for a micro-batch, among the ranks that compute one model together.
    """

    gradients: Exchange
    weights: Exchange
    activations: Exchange


class _Counts(NamedTuple):
    """Of one model and some rows: numbers of parameters, and bytes."""

    parameters: int
    matrices: int
    """Parameters that autocast copies."""
    block: int
    """Parameters of the largest layer."""
    rest: int
    """Parameters that are in no layer."""
    outside: int
    """Bytes that autograd keeps outside of the layers and of the targets."""
    layers: int
    """The same inside of the layers."""
    logits: int
    """The same of the targets, with the gradient of the logits."""
    kept: int
    """Bytes of the results of matrix products and attention in the layers."""
    entered: int
    """Bytes of the layers' inputs."""
    exchanged: int
    """`Exchange.size` of the ranks that compute the model together."""
    exchanges: int
    """`Exchange.number` of them."""
    repeated: int
    """Those bytes that the layers exchange in the forward pass."""
    repeats: int
    """The number of these operations."""


def memory_of(config: ModelConfig, vocab_size: int, processor: Processor, rows: int, parallel: ParallelConfig,
              dtype: torch.dtype | None) -> Memory:
    """The memory of each device of a mesh that trains with AdamW.

    Args:
        config: the model.
        vocab_size: entries of the vocabulary.
        processor: makes the batches; its rows are full.
        rows: of a micro-batch.
        parallel: the mesh and the other settings; `world_size` is the number of devices.
        dtype: of autocast; None without it.
    """
    of_layers = _counter_of_layers(config, vocab_size, processor, rows, parallel, dtype)
    found = _Counts(*(round(extrapolated_model(lambda layers, name=name: getattr(of_layers(layers), name), config))
                      for name in _Counts._fields))
    one = of_layers(_with_layers(config, 1))
    width, mode = 4 if dtype is None else dtype.itemsize, parallel.activation_checkpointing
    copies, parameters, gathered = 0 if dtype is None else width * found.matrices, found.parameters, 0
    if parallel.sharding == "fsdp":
        parameters = -(-parameters // (parallel.world_size // parallel.tensor_parallel_size))
        gathered = width * GATHERED_BLOCKS * one.block + 4 * one.rest
        copies = 0 if dtype is None else width * one.rest
    activations = found.outside + (found.layers if mode == OFF else
                                   found.entered + (found.kept if mode == SELECTIVE else 0))
    recomputed = 0 if mode == OFF else one.layers
    if parallel.cpu_offload:
        return Memory(copies + gathered, 4 * max(one.block, one.rest), 0, activations, found.logits, recomputed,
                      host=(4 + 4 + MOMENTS) * parameters)
    return Memory(4 * parameters + copies + gathered, 4 * parameters, MOMENTS * parameters, activations, found.logits,
                  recomputed)


def traffic_of(config: ModelConfig, vocab_size: int, processor: Processor, rows: int, parallel: ParallelConfig,
               dtype: torch.dtype | None) -> Traffic:
    """What each rank of a mesh exchanges with the others; arguments as `memory_of`.

    With activation checkpointing the layers' forward passes run again, and so do their exchanges.
    """
    of_layers = _counter_of_layers(config, vocab_size, processor, rows, parallel, dtype)
    layers = config.layers_num + (config.decoder_layers_num if config.decoder else 0)
    found, again = _exchanges(of_layers, config), parallel.activation_checkpointing != OFF
    activations = Exchange(found.exchanged + again * found.repeated, found.exchanges + again * found.repeats)
    if parallel.sharding == "none":
        width = 2 if parallel.gradient_compression == "bf16" else 4
        return Traffic(Exchange(2 * width * found.parameters, 2), Exchange(0, 0), activations)
    width = 4 if dtype is None else dtype.itemsize
    weights = 2 * width * (found.parameters - found.rest) + 4 * found.rest
    return Traffic(Exchange(4 * found.parameters, layers + 1), Exchange(weights, 2 * layers + 1), activations)


def _exchanges(of_layers: Callable[[ModelConfig], _Counts], config: ModelConfig) -> _Counts:
    """The counts of the model, as far as they are proportional to the number of layers: parameters and exchanges.

    An encoder with one layer has no layer whose input is divided by tokens, so that two and three are counted.
    """
    encoder = config.layers_num
    two, three = (of_layers(_with_layers(config, number)) for number in (2, 3))
    start, parts = two, [(encoder - 2, two, three)]
    if encoder == 1:
        start, parts = of_layers(_with_layers(config, 1)), []
    if config.decoder:
        parts.append((config.decoder_layers_num - 1, two, of_layers(_with_layers(config, 2, 2))))
    return _Counts(*(first + sum(times * (more[at] - less[at]) for times, less, more in parts)
                     for at, first in enumerate(start)))


def _with_layers(config: ModelConfig, encoder: int, decoder: int = 1) -> ModelConfig:
    return replace(config, layers_num=encoder, **({"decoder_layers_num": decoder} if config.decoder else {}))


def _counter_of_layers(config: ModelConfig, vocab_size: int, processor: Processor, rows: int, parallel: ParallelConfig,
                       dtype: torch.dtype | None) -> Callable[[ModelConfig], _Counts]:
    """Counts a model that differs in its numbers of layers; arguments as `memory_of`."""
    @functools.cache
    def counted(encoder: int, decoder: int, rows: int) -> _Counts:
        layers = _with_layers(config, encoder, decoder)
        return _count(layers, vocab_size, processor, rows, parallel.tensor_parallel_size, dtype)

    def of_layers(layers: ModelConfig) -> _Counts:
        """What a micro-batch needs: some bytes for each row, and some for the batch."""
        one, two = (counted(layers.layers_num, layers.decoder_layers_num or 0, number) for number in (1, 2))
        return _Counts(*(first + (rows - 1) * (second - first) for first, second in zip(one, two)))

    return of_layers


def largest_batch(memory: Callable[[int], Memory], room: int) -> int:
    """The largest number of rows whose memory is no more than `room` bytes; 0 where one row is too many.

    Args:
        memory: that of a micro-batch of so many rows.
    """
    few, many = (memory(rows).total for rows in (1, 1001))
    return 0 if few > room else 1 + int((room - few) * 1000 // (many - few))


def _count(config: ModelConfig, vocab_size: int, processor: Processor, rows: int, parts: int,
           dtype: torch.dtype | None) -> _Counts:
    tgt = processor.vocabs["tgt"].size if "tgt" in processor.vocabs else None
    with Unfilled():
        model = build_model(config, vocab_size, tgt_vocab_size=tgt, unpad="off")
    ranks = _Alone(0, parts)
    if parts > 1:
        split_model(model, ranks)
    blocks = [block for block in model.modules() if isinstance(block, TransformerLayer)]
    in_blocks = {parameter for block in blocks for parameter in block.parameters()}
    counter = ranks.counter = _Counter(model, blocks, dtype)
    batch = example_batch(processor, rows).to("meta")
    with counter, torch.autograd.graph.saved_tensors_hooks(counter.note, lambda tensor: tensor):
        model(batch)
    sizes = [(parameter, parameter.numel()) for parameter in model.parameters()]
    return _Counts(
        parameters=sum(size for _, size in sizes),
        matrices=sum(size for parameter, size in sizes if parameter.dim() > 1),
        block=max((sum(parameter.numel() for parameter in block.parameters()) for block in blocks), default=0),
        rest=sum(size for parameter, size in sizes if parameter not in in_blocks),
        **counter.saved, kept=counter.kept, entered=counter.entered,
        exchanged=ranks.exchanged.size, exchanges=ranks.exchanged.number,
        repeated=ranks.repeated.size, repeats=ranks.repeated.number)


class _Alone(ModelRanks):
    """A rank without others: shapes are those of one of many ranks. It counts what it would exchange with them.

    Attributes:
        counter: knows whether a layer computes.
        exchanged: in the forward and the backward pass.
        repeated: in the forward passes of layers.
    """

    counter: "_Counter"

    def __init__(self, rank: int, size: int) -> None:
        super().__init__(rank, size)
        self.exchanged, self.repeated = Exchange(0, 0), Exchange(0, 0)

    def _count(self, size: int, number: int, forward: bool = True) -> None:
        self.exchanged = Exchange(self.exchanged.size + size * number, self.exchanged.number + number)
        if forward and self.counter.part == "layers":
            self.repeated = Exchange(self.repeated.size + size * number, self.repeated.number + number)

    def sum_(self, tensor: Tensor) -> Tensor:
        self._count(tensor.nbytes, 2)
        return tensor

    def max_(self, tensor: Tensor) -> Tensor:
        return self.sum_(tensor)

    def gather_(self, part: Tensor) -> Tensor:
        together = part.new_empty(self.size * len(part), *part.shape[1:])
        self._count(together.nbytes, 1)
        return together

    def reduce_scatter_(self, tensor: Tensor) -> Tensor:
        self._count(tensor.nbytes, 1)
        return tensor.new_empty(len(tensor) // self.size, *tensor.shape[1:])

    # What the backward passes, which do not run here, would exchange.

    def copy(self, whole: Tensor) -> Tensor:
        self._count(whole.nbytes, 2, forward=False)
        return super().copy(whole)

    def gather(self, part: Tensor, tokens: int) -> Tensor:
        self._count(self.size * part.nbytes, 1, forward=False)
        return super().gather(part, tokens)

    def scatter_sum(self, part: Tensor) -> Tensor:
        self._count(part.nbytes, 1, forward=False)
        return super().scatter_sum(part)

    def divide(self, whole: Tensor) -> Tensor:
        self._count(whole.nbytes, 1, forward=False)
        return super().divide(whole)


class _Counter(TorchFunctionMode):
    """Counts what autograd keeps while a model on the meta device computes with autocast to `dtype`."""

    def __init__(self, model: Model, blocks: Sequence[nn.Module], dtype: torch.dtype | None) -> None:
        super().__init__()
        self.dtype = dtype
        self.saved, self.kept, self.entered = {"outside": 0, "layers": 0, "logits": 0}, 0, 0
        self.part = "outside"
        # Storages that are counted already, or are parameters'; held, so that no other storage gets their address.
        self.seen: dict[int, Tensor] = {}
        for parameter in model.parameters():
            self.seen[parameter.untyped_storage()._cdata] = parameter
        for part, modules in (("layers", blocks), ("logits", model.target.values())):
            for module in modules:
                module.register_forward_pre_hook(partial(self._enter, part))
                module.register_forward_hook(self._leave)

    def _enter(self, part: str, _: nn.Module, inputs: tuple) -> None:
        self.part = part
        self.entered += inputs[0].nbytes if part == "layers" else 0

    def _leave(self, *_: Any) -> None:
        self.part = "outside"

    def note(self, tensor: Tensor) -> Tensor:
        """Count a tensor that autograd keeps."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen[storage._cdata] = tensor
            self.saved[self.part] += storage.nbytes()
        return tensor

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._keep(_FusedAttention.apply(*map(self._narrow, args[:4])))
        if func is F.dropout:
            return torch.native_dropout(args[0], 0.5, True)[0]  # a GPU's keeps a byte for each number
        if func in _PRODUCTS:
            result = func(*map(self._narrow, args), **kwargs)
            if self.part == "logits":  # and its gradient; beside its float32 form
                self.saved["logits"] += 4 * result.numel() + (result.nbytes if self.dtype else 0)
            return self._keep(result)
        if func in _WIDE and self.dtype is not None:
            args = tuple(arg.float() if isinstance(arg, Tensor) and arg.dtype == self.dtype else arg for arg in args)
        return func(*args, **kwargs)

    def _keep(self, result: Tensor) -> Tensor:
        self.kept += result.nbytes if self.part == "layers" else 0
        return result

    def _narrow(self, value: Any) -> Any:
        """An argument in autocast's type. The copy of a parameter is no activation."""
        if self.dtype is None or not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        copy = value.to(self.dtype)
        if isinstance(value, nn.Parameter):
            self.seen[copy.untyped_storage()._cdata] = copy
        return copy


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: its arguments, its result, token after token, and a number for each query."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """query (rows, heads, queries, size) -> the same shape"""
        output = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        sums = torch.empty(query.shape[:3], device=query.device)
        context.save_for_backward(query, key, value, output, sums, *([] if mask is None else [mask]))
        return output

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> None:
        raise NotImplementedError("nothing is computed here")
