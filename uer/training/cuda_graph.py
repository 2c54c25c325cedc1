"""The whole update of a small model as one CUDA graph: one launch from the host instead of hundreds.

A captured graph repeats the same kernels on the same memory. So what an update reads must be at the same addresses as
during the capture (batches are copied into buffers; learning rate and step are tensors), and what it stores must be
written in place.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

WARM_UPS = 3

Replay = Callable[[], Any]


def _on_side_stream(work: Replay) -> None:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)


def _captured(work: Replay) -> Replay:
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


class GraphedUpdate:
    """Calls `compute(batches)`: the first `WARM_UPS` times directly, then as a captured graph if it can be captured.

    Args:
        compute: the part of an update that runs on the device; its result is not used.
        say: called with the reason if there is no graph.
        warm_up, capture: functions that run and capture it; those of CUDA by default. Tests replace them.
    """

    def __init__(self, compute: Callable[[list[Any]], Any], say: Callable[[str], None],
                 warm_up: Callable[[Replay], Any] = _on_side_stream,
                 capture: Callable[[Replay], Replay] = _captured) -> None:
        self.compute = compute
        self.say = say
        self._warm_up = warm_up
        self._capture = capture
        self._calls = 0
        self._replay: Replay | None = None
        self._buffers: list[Any] = []
        self._failed = False

    def __call__(self, batches: list[Any]) -> None:
        """One update."""
        self._calls += 1
        if self._failed:
            self.compute(batches)
        elif self._calls <= WARM_UPS:
            self._warm_up(lambda: self.compute(batches))
        elif self._replay is None:
            self._begin(batches)
        else:
            for buffer, tensor in zip(tensors_of(self._buffers), tensors_of(batches)):
                buffer.copy_(tensor, non_blocking=True)
            self._replay()

    def _begin(self, batches: list[Any]) -> None:
        self._buffers = cloned(batches)
        try:
            self._replay = self._capture(lambda: self.compute(self._buffers))
        except RuntimeError as error:
            self._failed = True
            self.say(f"no CUDA graph: {str(error).splitlines()[0]}")
            self.compute(batches)
        else:
            self._replay()  # capturing computes nothing


def tensors_of(tree: Any) -> Iterator[Tensor]:
    """Every tensor in lists, dictionaries and dataclasses, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from tensors_of(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from tensors_of(item)
    elif dataclasses.is_dataclass(tree):
        for field in dataclasses.fields(tree):
            yield from tensors_of(getattr(tree, field.name))


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
