"""Renaming a checkpoint's tensors by one table of names, in either direction.

A table lists every tensor of an architecture once: UER's name, Hugging Face's name, and its shape in words. Both
directions read the same row, so that they cannot drift apart; the shapes give the architecture's sizes and find a
tensor that does not fit the others. This module renames and measures; it reads no file and builds no model.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from uer.errors import UserError

Side = Literal["uer", "hugging_face"]


@dataclass(frozen=True)
class Row:
    """One tensor under its two names.

    Attributes:
        uer, hugging_face: the names; `{n}` stands for the layer's number.
        shape: the name of each dimension, separated by spaces: "vocab hidden".
        padding_rows: rows at the top that UER's tensor has and Hugging Face's has not. They belong to padding, which
            attention never sees: dropped on the way there, zeros on the way back.
        tied_to: UER's name of the tensor that this one equals where a checkpoint leaves it out.
    """

    uer: str
    hugging_face: str
    shape: str
    padding_rows: int = 0
    tied_to: str = ""

    def name(self, side: Side) -> str:
        """Its name on one side."""
        return self.uer if side == "uer" else self.hugging_face


@dataclass(frozen=True)
class NameTable:
    """All names of one architecture.

    Attributes:
        body: the rows outside the layers.
        layer: the rows of each layer.
        heads: the rows of what may stand on top, by the head's name.
        aliases: endings of Hugging Face's older names, and the endings that replaced them.
        buffers: endings of Hugging Face's names that hold no weights.
        duplicates: Hugging Face's names of tensors that may be stored twice, and the names they have once. Where the
            two differ, the first is what its models compute with.
        fixed: dimensions whose size the architecture gives.
        prefixes: on each side, how the names of body and layers begin: there, no tensor may be left over.
        base_prefix: what Hugging Face's names begin with, except in a file of the encoder alone (BertModel).
    """

    body: tuple[Row, ...]
    layer: tuple[Row, ...]
    heads: Mapping[str, tuple[Row, ...]]
    aliases: Mapping[str, str]
    buffers: tuple[str, ...]
    duplicates: Mapping[str, str]
    fixed: Mapping[str, int]
    prefixes: Mapping[Side, tuple[str, ...]]
    base_prefix: str = ""

    def rows(self, layers_num: int, head: str) -> list[Row]:
        """Every row of a model with so many layers under this head; "" is the encoder without a head."""
        return [*self.body, *self.layers(layers_num), *(self.heads[head] if head else ())]

    def layers(self, layers_num: int) -> list[Row]:
        """The rows of so many layers, numbered."""
        return [Row(row.uer.format(n=n), row.hugging_face.format(n=n), row.shape, row.padding_rows, row.tied_to)
                for n in range(layers_num) for row in self.layer]

    def count_layers(self, names: Mapping[str, Tensor], side: Side) -> int:
        """How many layers the names speak of: 1 + the largest number, but no more than there are names."""
        start, _ = self.layer[0].name(side).split("{n}")
        numbered = (re.match(re.escape(start) + r"(\d{1,9})\.", name) for name in names)
        return min(1 + max((int(match[1]) for match in numbered if match), default=-1), len(names))


@dataclass(frozen=True)
class Conversion:
    """A renamed checkpoint.

    Attributes:
        weights: the tensors under their new names, in the table's order; contiguous.
        sizes: what each dimension of the table measures ("vocab": 21128, ...), and "layers".
        left_out: the source's names that have no place under this head.
    """

    weights: dict[str, Tensor]
    sizes: dict[str, int]
    left_out: tuple[str, ...]


def from_uer(weights: Mapping[str, Tensor], table: NameTable, head: str, path: str) -> Conversion:
    """UER's names -> Hugging Face's: `embedding.word.embedding.weight` -> `bert.embeddings.word_embeddings.weight`.

    Args:
        weights: a checkpoint's tensors.
        table: the architecture's names.
        head: a key of `table.heads`.
        path: where the checkpoint came from, for the error messages.

    Raises:
        UserError: a tensor is missing, has another shape than its neighbours imply, or belongs to another architecture.
    """
    return _rename(weights, table, head, path, "uer")


def from_hugging_face(weights: Mapping[str, Tensor], table: NameTable, head: str, path: str) -> Conversion:
    """Hugging Face's names, old or new -> UER's; arguments and errors as `from_uer`."""
    return _rename(tidy(weights, table), table, head, path, "hugging_face")


def measure(weights: Mapping[str, Tensor], table: NameTable, source: Side, path: str) -> dict[str, int]:
    """The sizes of embeddings and layers, whatever stands on top; errors as `from_uer`."""
    layers_num = table.count_layers(weights, source)
    rows = [*table.body, *table.layers(max(layers_num, 1))]
    _refuse_missing(weights, table, "", rows, path, source)
    sizes = {"layers": layers_num, **table.fixed}
    for row in rows:
        _measure(sizes, row, weights[row.name(source)], path, source)
    return sizes


def fitting_heads(weights: Mapping[str, Tensor], table: NameTable, source: Side) -> list[str]:
    """The heads of which the checkpoint has every tensor."""
    return [head for head, rows in table.heads.items()
            if all(row.name(source) in weights or row.tied_to for row in rows)]


def tidy(weights: Mapping[str, Tensor], table: NameTable) -> dict[str, Tensor]:
    """Hugging Face's weights under today's names, without buffers and second copies.

    The names of an encoder alone (`embeddings.word_embeddings.weight`) get the prefix that they have in other models.
    """
    tidied: dict[str, Tensor] = {}
    alone = table.base_prefix and table.body[0].hugging_face.removeprefix(table.base_prefix) in weights
    for name, tensor in weights.items():
        name = table.base_prefix + name if alone else name
        if name.endswith(table.buffers):
            continue
        for old, new in table.aliases.items():
            if name.endswith(old):
                name = name.removesuffix(old) + new
        tidied[name] = tensor
    for copy, home in table.duplicates.items():
        if copy in tidied:
            tidied[home] = tidied.pop(copy)
    return tidied


def is_tied(weights: Mapping[str, Tensor], row: Row, side: Side, table: NameTable) -> bool:
    """Whether the tensor of `row` equals the one that it is tied to, bit for bit."""
    home = next(other for other in table.body if other.uer == row.tied_to)
    return torch.equal(weights[row.name(side)], weights[home.name(side)])


def _rename(weights: Mapping[str, Tensor], table: NameTable, head: str, path: str, source: Side) -> Conversion:
    target: Side = "hugging_face" if source == "uer" else "uer"
    layers_num = table.count_layers(weights, source)
    rows = table.rows(max(layers_num, 1), head)
    _refuse_missing(weights, table, head, rows, path, source)
    left_out = _left_over(weights, table, rows, path, source)
    sizes = {"layers": layers_num, **table.fixed}
    renamed: dict[str, Tensor] = {}
    names = {row.uer: row for row in rows}
    for row in rows:
        tensor = weights.get(row.name(source))
        if tensor is None:
            renamed[row.name(target)] = renamed[names[row.tied_to].name(target)]
            continue
        _measure(sizes, row, tensor, path, source)
        renamed[row.name(target)] = _fit(tensor, row.padding_rows, target)
    return Conversion(renamed, sizes, left_out)


def _fit(tensor: Tensor, padding_rows: int, target: Side) -> Tensor:
    """The tensor with the padding rows that the target side wants; unchanged (not copied) where there are none."""
    if not padding_rows:
        return tensor.contiguous()
    if target == "hugging_face":
        return tensor[padding_rows:].clone()
    return torch.cat([tensor.new_zeros(padding_rows, *tensor.shape[1:]), tensor])


def _measure(sizes: dict[str, int], row: Row, tensor: Tensor, path: str, source: Side) -> None:
    """Read the sizes off a tensor's shape, or check it against the sizes already read."""
    name, dimensions = row.name(source), row.shape.split()
    extra = row.padding_rows if source == "uer" else 0
    if not tensor.is_floating_point():
        raise UserError(f"{path}: {name} holds {tensor.dtype} instead of floating-point numbers")
    found = tuple(tensor.shape)
    if len(found) == len(dimensions):
        found = (found[0] - extra, *found[1:])
        expected = tuple(sizes.setdefault(dimension, size) for dimension, size in zip(dimensions, found))
    else:
        expected = tuple(sizes.get(dimension, 0) for dimension in dimensions)
    if found != expected or min(found, default=0) < 1:
        wanted = (expected[0] + extra, *expected[1:])
        raise UserError(f"{path}: {name} has shape {list(tensor.shape)}, the rest of the checkpoint implies "
                        f"{list(wanted)} ({row.shape.replace(' ', ' x ')})")


def _refuse_missing(weights: Mapping[str, Tensor], table: NameTable, head: str, rows: list[Row], path: str,
                    source: Side) -> None:
    missing = [row.name(source) for row in rows if row.name(source) not in weights and not row.tied_to]
    if not missing:
        return
    other: Side = "hugging_face" if source == "uer" else "uer"
    if all(row.name(other) in weights for row in table.body):
        raise UserError(f"{path}: its names are already those of {'Hugging Face' if source == 'uer' else 'UER'}")
    in_head = {row.name(source) for row in table.heads.get(head, ())}
    if in_head.issuperset(missing):
        fitting = fitting_heads(weights, table, source)
        raise UserError(f"{path}: no {head} head: {some(missing)} {'is' if len(missing) == 1 else 'are'} missing; "
                        + (f"it fits {' and '.join(fitting)}" if fitting else "it has no head that is known"))
    raise UserError(f"{path}: {len(missing)} of {len(rows)} tensors are missing: {some(missing)}")


def _left_over(weights: Mapping[str, Tensor], table: NameTable, rows: list[Row], path: str,
               source: Side) -> tuple[str, ...]:
    known = {row.name(source) for row in rows}
    left_over = [name for name in weights if name not in known]
    foreign = [name for name in left_over if name.startswith(table.prefixes[source])]
    if foreign:
        raise UserError(f"{path}: another architecture: no place for {some(foreign)}")
    return tuple(left_over)


def some(names: Sequence[str], shown: int = 4) -> str:
    """'a, b, c, d and 12 more'."""
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")
