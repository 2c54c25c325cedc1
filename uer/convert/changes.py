"""How a tensor of UER becomes one of Hugging Face, and back: pairs of inverse functions, which can be chained.

A row of a name table has one or several UER tensors and one Hugging Face tensor, so a change maps a tuple of tensors to
a tuple of tensors. There and back gives the same tensors, but for rows that no model reads and one side does not have:
UER's of `DropRows` and Hugging Face's of `AddRows` come back as zeros.

>>> query, key, value = torch.eye(2), torch.zeros(2, 2), torch.ones(2, 2)
>>> (stacked,) = Chain((Fused(3), TRANSPOSED)).to_hugging_face((query, key, value))
>>> stacked.tolist()
[[1.0, 0.0, 0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 0.0, 0.0, 1.0, 1.0]]
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]

# What torch raises where a tensor has too few dimensions or a number of rows that cannot be divided.
DOES_NOT_FIT = (RuntimeError, IndexError, TypeError)


def reason(error: Exception) -> str:
    """What one of `DOES_NOT_FIT` says, without torch's list of C++ functions."""
    return " ".join(str(error).partition("Exception raised from")[0].split())


@dataclass(frozen=True)
class Change:
    """Leaves tensors as they are; the others override both functions.

    The results may be views of the arguments. A tensor that a function cannot change raises one of `DOES_NOT_FIT`.
    """

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        """UER's tensors -> Hugging Face's."""
        return tensors

    def to_uer(self, tensors: Tensors) -> Tensors:
        """Hugging Face's tensors -> UER's."""
        return tensors


@dataclass(frozen=True)
class Transposed(Change):
    """(M, N) <-> (N, M): Hugging Face's GPT-2 keeps its linear layers as (inputs, outputs)."""

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        return tuple(tensor.t() for tensor in tensors)

    to_uer = to_hugging_face


@dataclass(frozen=True)
class DropRows(Change):
    """UER's tensor has rows that Hugging Face's has not, such as the segment of padding: (N + count, ...) <-> (N, ...).

    Attributes:
        count: how many rows; zeros on the way back.
        last: whether they are the last rows instead of the first.
    """

    count: int
    last: bool = False

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        return tuple(_without_rows(tensor, self.count, self.last) for tensor in tensors)

    def to_uer(self, tensors: Tensors) -> Tensors:
        return tuple(_with_zero_rows(tensor, self.count, self.last) for tensor in tensors)


@dataclass(frozen=True)
class AddRows(Change):
    """Hugging Face's tensor has `count` more rows at its beginning, zeros: (N, ...) <-> (N + count, ...).

    Position embeddings of BART and RoBERTa have two such rows before position 0.
    """

    count: int

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        return tuple(_with_zero_rows(tensor, self.count) for tensor in tensors)

    def to_uer(self, tensors: Tensors) -> Tensors:
        return tuple(_without_rows(tensor, self.count) for tensor in tensors)


@dataclass(frozen=True)
class OneSegment(Change):
    """Hugging Face's model has one segment, UER's has three rows: (3, ...) <-> (1, ...).

    Of UER's, row 0 belongs to padding, and row 1 to the only text or the first of two. On the way back row 2 gets the
    same numbers, so that two texts are read as Hugging Face's model reads them: `[[7.0]]` <-> `[[0.0], [7.0], [7.0]]`.
    """

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        return tuple(tensor[1:2] for tensor in tensors)

    def to_uer(self, tensors: Tensors) -> Tensors:
        return tuple(torch.cat([tensor.new_zeros(1, *tensor.shape[1:]), tensor, tensor]) for tensor in tensors)


@dataclass(frozen=True)
class Fused(Change):
    """Several UER tensors of one shape are stacked into one, (N, ...) each <-> (count * N, ...): query, key, value."""

    count: int

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        assert len(tensors) == self.count
        return (torch.cat(tensors),)

    def to_uer(self, tensors: Tensors) -> Tensors:
        (stacked,) = tensors
        return stacked.unflatten(0, (self.count, -1)).unbind()


@dataclass(frozen=True)
class Halves(Change):
    """The rows of queries or keys, by the pairs of features that rotary positions turn: UER's are neighbours, Hugging
    Face's lie half a head apart. With heads of 4: rows 0 1 2 3 <-> rows 0 2 1 3.

    Attributes:
        head_size: rows of a head.
        fused: values follow queries and keys in the same tensor, and stay as they are.
    """

    head_size: int
    fused: bool = False

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        return self._reordered(tensors, (-1, self.head_size // 2, 2))

    def to_uer(self, tensors: Tensors) -> Tensors:
        return self._reordered(tensors, (-1, 2, self.head_size // 2))

    def _reordered(self, tensors: Tensors, shape: tuple[int, int, int]) -> Tensors:
        (tensor,) = tensors
        turned, values = tensor.tensor_split([len(tensor) * 2 // 3 if self.fused else len(tensor)])
        return (torch.cat([turned.unflatten(0, shape).transpose(1, 2).flatten(0, 2), values]),)


@dataclass(frozen=True)
class HeadByHead(Change):
    """Rows of all queries, keys and values <-> query, key and value of the first head, the second and so on (BLOOM).

    Attributes:
        head_size: rows of a head.
    """

    head_size: int

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        return tuple(tensor.unflatten(0, (3, -1, self.head_size)).transpose(0, 1).flatten(0, 2) for tensor in tensors)

    def to_uer(self, tensors: Tensors) -> Tensors:
        return tuple(tensor.unflatten(0, (-1, 3, self.head_size)).transpose(0, 1).flatten(0, 2) for tensor in tensors)


@dataclass(frozen=True)
class LeadingAxis(Change):
    """(N, ...) <-> (1, N, ...): the output bias of BART."""

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        return tuple(tensor.unsqueeze(0) for tensor in tensors)

    def to_uer(self, tensors: Tensors) -> Tensors:
        return tuple(tensor[0] if len(tensor) == 1 else tensor for tensor in tensors)


@dataclass(frozen=True)
class Chain(Change):
    """Several changes: from the first to the last on the way to Hugging Face, from the last to the first back."""

    changes: tuple[Change, ...]

    def to_hugging_face(self, tensors: Tensors) -> Tensors:
        for change in self.changes:
            tensors = change.to_hugging_face(tensors)
        return tensors

    def to_uer(self, tensors: Tensors) -> Tensors:
        for change in reversed(self.changes):
            tensors = change.to_uer(tensors)
        return tensors


SAME = Change()
TRANSPOSED = Transposed()


def _without_rows(tensor: Tensor, count: int, last: bool = False) -> Tensor:
    return tensor[:max(len(tensor) - count, 0)] if last else tensor[count:]


def _with_zero_rows(tensor: Tensor, count: int, last: bool = False) -> Tensor:
    zeros = tensor.new_zeros(count, *tensor.shape[1:])
    return torch.cat([tensor, zeros] if last else [zeros, tensor])
