"""An update whose kernels are captured once as CUDA graphs and then launched together: the host launches a few graphs
instead of hundreds of kernels.

    count        predictions of a micro-batch                           one graph for each size of batch
    gradients    forward and backward, added to the gradients           one graph for each size of batch
    apply        norm, clipping, optimizer, bookkeeping                 one graph

    count, count | all-reduce | gradients, gradients | all-reduce | apply          an update of two micro-batches

So accumulation needs no graph of its own, and the collective operations of several ranks are outside of the graphs. A
captured graph repeats the same kernels on the same memory: batches are copied into buffers, gradients are views of
buffers that are never freed (`FlatGradients`), and everything else that an update stores is written in place.
"""

import dataclasses
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from uer.config import TrainConfig
from uer.runtime.parallel import World
from uer.training.update import Parts, Update

WARM_UPS = 3

Replay = Callable[[], Any]


class CaptureError(Exception):
    """The kernels cannot be captured. The device's state is not known afterwards: the process has to start again."""


class Capture:
    """How work is captured on a CUDA device; tests replace it.

    All graphs share one memory pool. They never run at the same time, and nothing in the pool outlives a replay.
    """

    def __init__(self) -> None:
        self._pool: Any = None

    def warm_up(self, work: Replay) -> None:
        """Run the work on a side stream, as a capture needs it before."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)

    def capture(self, work: Replay) -> Replay:
        """Capture the work, which computes nothing yet; returns what replays it."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        # "thread_local": other threads, such as one that saves a checkpoint, may use CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            work()
        self._pool = graph.pool()
        return graph.replay


class Graphed:
    """`work(inputs)`, captured for each shape of its inputs: the first `WARM_UPS` calls run directly.

    Args:
        work: runs on the device; its result is not used.
        how: captures it.
        buffers: of `Buffers`, shared with other work on the same inputs.

    Raises:
        CaptureError: when called.
    """

    def __init__(self, work: Callable[[Any], Any], how: Capture, buffers: "Buffers") -> None:
        self.work, self.how, self.buffers = work, how, buffers
        self._calls: dict[Hashable, int] = {}
        self._replays: dict[Hashable, Replay] = {}

    def __call__(self, inputs: Any) -> None:
        """Do the work."""
        key, held = self.buffers.fill(inputs)
        if key in self._replays:
            self._replays[key]()
            return
        self._calls[key] = self._calls.get(key, 0) + 1
        if self._calls[key] <= WARM_UPS:
            self.how.warm_up(lambda: self.work(held))
            return
        try:
            self._replays[key] = self.how.capture(lambda: self.work(held))
        except Exception as error:
            raise CaptureError(causes(error)) from error
        self._replays[key]()


class Buffers:
    """For each shape of inputs, one copy at addresses that stay the same, which every call fills."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Any] = {}
        self._filled: dict[Hashable, Any] = {}  # the inputs that each was filled with

    def fill(self, inputs: Any) -> tuple[Hashable, Any]:
        """Copy the inputs into their buffers; returns their shapes (and what else is no tensor) and the buffers."""
        key = shape_of(inputs)
        if key not in self._held:
            self._held[key] = cloned(inputs)
        elif inputs is not self._filled[key]:
            # One kernel for all tensors of a type.
            torch._foreach_copy_(list(tensors_of(self._held[key])), list(tensors_of(inputs)))
        self._filled[key] = inputs
        return key, self._held[key]


class FlatGradients:
    """The gradients of all parameters in one buffer for each type of theirs: cleared, summed over ranks and measured in
    one kernel each.

    Attributes:
        buffers: (n,) of each type.
        loss: 0-dim float32, behind the last gradient of that type.
        views: for each parameter its part of a buffer, which is its `.grad`.
    """

    def __init__(self, parameters: list[nn.Parameter], device: torch.device) -> None:
        self.parameters = parameters
        self.views = [torch.empty(0)] * len(parameters)
        self.buffers = []
        for dtype in dict.fromkeys([torch.float32, *(parameter.dtype for parameter in parameters)]):
            numbers = [number for number, parameter in enumerate(parameters) if parameter.dtype == dtype]
            sizes = [parameters[number].numel() for number in numbers]
            self.buffers.append(torch.zeros(sum(sizes) + 1, dtype=dtype, device=device))
            for number, part in zip(numbers, self.buffers[-1][:-1].split(sizes)):
                parameters[number].grad = self.views[number] = part.view_as(parameters[number])
        self.loss = self.buffers[0][-1]

    def add(self, loss: Tensor, scaled: Tensor) -> None:
        """Add the gradients of `scaled` and the loss (both 0-dim)."""
        gradients = torch.autograd.grad(scaled, self.parameters, allow_unused=True)
        used = [(view, grad) for view, grad in zip(self.views, gradients) if grad is not None]
        torch._foreach_add_([view for view, _ in used], [grad for _, grad in used])
        self.loss.add_(loss.detach())

    def norm(self) -> Tensor:
        """The Euclidean norm of the gradients, 0-dim float32."""
        norms = torch._foreach_norm([buffer[:-1] for buffer in self.buffers])
        return torch.stack([norm.float() for norm in norms]).norm()


class GraphedUpdate(Update):
    """`Update` with captured kernels; for an optimizer that keeps its learning rate in a tensor (`capturable`) and
    skips an update without the host.

    The module must not average gradients itself (no DistributedDataParallel): the flat buffer is summed over the ranks.

    Args:
        compiled: compile the scalar operations between gradients and optimizer into few kernels.
        how: captures the kernels.
    """

    def __init__(self, parts: Parts, config: TrainConfig, world: World, compiled: bool = False,
                 how: Capture | None = None) -> None:
        super().__init__(parts, config, world)
        self.flat = FlatGradients(self.parameters, world.device)
        if compiled:
            self.judge = torch.compile(self.judge, dynamic=False)
        self._counts: Tensor | None = None
        how, buffers = how or Capture(), Buffers()
        self._count = Graphed(self._add_counts, how, buffers)
        self._gradients = Graphed(self._add_gradients, how, buffers)
        self._apply = Graphed(self._apply_all, how, buffers)

    def __call__(self, batches: list[Any], step: int) -> None:
        """See `Update`.

        Raises:
            CaptureError: the kernels cannot be captured.
        """
        self._step.fill_(step)
        if self._counts is None:
            self._counts = self.parts.model.counts(batches[0])
        torch._foreach_zero_([self._counts, *self.flat.buffers])
        for batch in batches:
            self._count(batch)
        self.world.sum_(self._counts)
        for micro, batch in enumerate(batches):
            self.seed(step, micro)
            self._gradients(batch)
        for buffer in self.flat.buffers:
            self.world.sum_(buffer)
        self._apply(None)

    def _add_counts(self, batch: Any) -> None:
        self._counts += self.parts.model.counts(batch)
        self.real_tokens += batch.real_tokens()

    def _add_gradients(self, batch: Any) -> None:
        self.flat.add(*self.forward(batch, self._counts))

    def _apply_all(self, _: None) -> None:
        self._step_optimizer(*self.judge(self.flat.loss, self.flat.norm()))


def causes(error: BaseException) -> str:
    """An error and what it was raised from or beside, the first cause first. When a capture fails, its end fails too,
    and that last error says nothing of the cause."""
    found: list[str] = []
    while error is not None:
        lines = str(error).strip().splitlines()
        found.insert(0, f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__)
        error = error.__cause__ or error.__context__
    return "; then ".join(dict.fromkeys(found))


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Every tensor in lists, dictionaries and dataclasses, in order."""
    if isinstance(tree, Tensor):
        yield tree
    else:
        for part in parts_of(tree):
            yield from tensors_of(part)


def parts_of(tree: Any) -> list[Any]:
    """The entries of a list, dictionary or dataclass; [] of anything else."""
    if isinstance(tree, (list, tuple)):
        return list(tree)
    if isinstance(tree, dict):
        return list(tree.values())
    if dataclasses.is_dataclass(tree):
        return [getattr(tree, field.name) for field in dataclasses.fields(tree)]
    return []


def shape_of(tree: Any) -> Hashable:
    """The shapes and types of all tensors, and every other value: what a captured graph depends on."""
    if isinstance(tree, Tensor):
        return tuple(tree.shape), tree.dtype
    parts = parts_of(tree)
    return tuple(shape_of(part) for part in parts) if parts else repr(tree)


def cloned(tree: Any) -> Any:
    """The same tree with tensors of its own."""
    if isinstance(tree, Tensor):
        return tree.clone()
    if isinstance(tree, (list, tuple)):
        return type(tree)(cloned(item) for item in tree)
    if isinstance(tree, dict):
        return {key: cloned(value) for key, value in tree.items()}
    if dataclasses.is_dataclass(tree):
        return dataclasses.replace(tree, **{field.name: cloned(getattr(tree, field.name))
                                            for field in dataclasses.fields(tree)})
    return tree
