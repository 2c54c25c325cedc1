"""Nested dictionaries of tensors, taken apart for sending: the tensors one by one, the rest as a Python object.

    {"a": Tensor, "b": {"c": Tensor, "d": 3}}  <->  {"a": ref 0, "b": {"c": ref 1, "d": 3}} and [Tensor, Tensor]
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class _TensorRef:
    """Stands where a tensor was: its number in the list."""

    number: int


def take_out_tensors(tree: Any, tensors: list[Tensor]) -> Any:
    """`tree` with each tensor replaced by its number in `tensors`, to which it is appended."""
    if isinstance(tree, Tensor):
        tensors.append(tree.contiguous())
        return _TensorRef(len(tensors) - 1)
    if isinstance(tree, Mapping):
        return {key: take_out_tensors(value, tensors) for key, value in tree.items()}
    return tree


def put_back_tensors(tree: Any, tensors: list[Tensor]) -> Any:
    """The opposite of `take_out_tensors`."""
    if isinstance(tree, _TensorRef):
        return tensors[tree.number]
    if isinstance(tree, Mapping):
        return {key: put_back_tensors(value, tensors) for key, value in tree.items()}
    return tree
