"""Renaming a checkpoint's tensors by one table of names, in either direction.

A table lists every tensor of an architecture once: UER's name, Hugging Face's name, its shape in words, and how one
becomes the other (`uer.convert.changes`). Both directions read the same row, so that they cannot drift apart; the
shapes give the architecture's sizes and find a tensor that does not fit the others. This module renames and measures;
it reads no file and builds no model.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from uer.convert.changes import DOES_NOT_FIT, SAME, Change, Tensors
from uer.errors import UserError

Side = Literal["uer", "hugging_face"]

WORD_EMBEDDING = "embedding.word.embedding.weight"
"""UER's name of it, in every model that has one."""
TGT_WORD_EMBEDDING = "tgt_embedding.word.embedding.weight"
"""That of the target side."""


@dataclass(frozen=True)
class Row:
    """One tensor of Hugging Face, and the tensor or tensors of UER that it is made from.

    Attributes:
        uer: UER's name, or several names where Hugging Face keeps several tensors as one.
        hugging_face: Hugging Face's name.
        shape: the name of each dimension of UER's tensor (of each, where there are several), separated by spaces:
            "vocab hidden".
        change: how UER's tensors become Hugging Face's, and back.
        tied_to: UER's name of the tensor that this one equals where a checkpoint leaves it out.
    """

    uer: str | tuple[str, ...]
    hugging_face: str
    shape: str
    change: Change = SAME
    tied_to: str = ""

    def names(self, side: Side) -> tuple[str, ...]:
        """The names on one side."""
        if side == "hugging_face":
            return (self.hugging_face,)
        return (self.uer,) if isinstance(self.uer, str) else self.uer

    def under(self, uer: str, hugging_face: str) -> "Row":
        """The row with a prefix before the names of each side."""
        names = tuple(uer + name for name in self.names("uer"))
        return Row(names[0] if len(names) == 1 else names, hugging_face + self.hugging_face, self.shape, self.change,
                   self.tied_to)

    def converted(self, tensors: Tensors, target: Side) -> Tensors:
        """The tensors of the other side, in `names(target)`'s order; they may be views."""
        return self.change.to_hugging_face(tensors) if target == "hugging_face" else self.change.to_uer(tensors)


def linear(uer: str | tuple[str, ...], hugging_face: str, shape: str, change: Change = SAME, bias_change: Change = SAME
           ) -> tuple[Row, Row]:
    """The rows of a linear layer's weight and bias; `shape` is the weight's, (outputs, inputs) as torch has it."""
    return (_part(uer, hugging_face, "weight", "weight", shape, change),
            _part(uer, hugging_face, "bias", "bias", shape.split()[0], bias_change))


def layer_norm(uer: str, hugging_face: str, shape: str = "hidden") -> tuple[Row, Row]:
    """The rows of a layer norm: UER's gamma and beta are Hugging Face's weight and bias."""
    return (_part(uer, hugging_face, "gamma", "weight", shape), _part(uer, hugging_face, "beta", "bias", shape))


def _part(uer: str | tuple[str, ...], hugging_face: str, ours: str, theirs: str, shape: str, change: Change = SAME
          ) -> Row:
    names = f"{uer}.{ours}" if isinstance(uer, str) else tuple(f"{name}.{ours}" for name in uer)
    return Row(names, f"{hugging_face}.{theirs}", shape, change)


@dataclass(frozen=True)
class Stack:
    """Layers that have the same rows.

    Attributes:
        uer, hugging_face: what the names of a layer begin with on each side; `{n}` stands for the layer's number. A
            stack without `{n}` is one layer that is used several times, and does not tell how often.
        rows: the rows of a layer, their names without that beginning.
        later: further rows of every layer but the first.
        size: what `Conversion.sizes` calls the number of layers.
    """

    uer: str
    hugging_face: str
    rows: tuple[Row, ...]
    size: str = "layers"
    later: tuple[Row, ...] = ()

    @property
    def numbered(self) -> bool:
        """Whether each layer has tensors of its own."""
        return "{n}" in self.uer

    def layers(self, count: int) -> list[Row]:
        """The rows of so many layers, with whole names; those of the one shared layer where there are no numbers."""
        return [row.under(self.uer.format(n=n), self.hugging_face.format(n=n))
                for n in range(count if self.numbered else 1) for row in (*self.rows, *(self.later if n else ()))]

    def count(self, names: Mapping[str, Tensor], side: Side) -> int:
        """How many layers the names speak of: 1 + the largest number, but no more than there are names."""
        if not self.numbered:
            return 1
        start, end = (self.uer if side == "uer" else self.hugging_face).split("{n}")
        numbered = (re.match(re.escape(start) + r"(\d{1,9})" + re.escape(end), name) for name in names)
        return min(1 + max((int(match[1]) for match in numbered if match), default=-1), len(names))


@dataclass(frozen=True)
class NameTable:
    """All names of one architecture.

    Attributes:
        body: the rows outside the layers. The first is the word embedding's.
        stacks: the layers, by the part of the model that has them: "encoder", "decoder".
        heads: the rows of what may stand on top, by the head's name.
        prefixes: on each side, how the names of body and layers begin: there, no tensor may be left over.
        fixed: dimensions whose size the architecture gives.
        aliases: endings of Hugging Face's older names, and the endings that replaced them.
        buffers: endings of Hugging Face's names that hold no weights.
        duplicates: Hugging Face's names of tensors that may be stored twice, and the names they have once. Where the
            two differ, the first is what its models compute with.
        base_prefix: what Hugging Face's names begin with, except in a file of the model without a head (BertModel).
        stores_output_layer: whether transformers needs the output layer in a file even where it is tied.
        stores_duplicates: whether a file needs the names of `duplicates` even where the output layer is tied, because
            transformers 4 reads those alone.
    """

    body: tuple[Row, ...]
    stacks: Mapping[str, Stack]
    heads: Mapping[str, tuple[Row, ...]]
    prefixes: Mapping[Side, tuple[str, ...]]
    fixed: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    buffers: tuple[str, ...] = ()
    duplicates: Mapping[str, str] = field(default_factory=dict)
    base_prefix: str = ""
    stores_output_layer: bool = False
    stores_duplicates: bool = False

    def rows(self, layers: Mapping[str, int], head: str) -> list[Row]:
        """Every row of a model under this head.

        Args:
            layers: how many layers each stack has, by the stack's name.
            head: a key of `heads`; "" is the model without a head.
        """
        inner = [row for name, stack in self.stacks.items() for row in stack.layers(layers[name])]
        return [*self.body, *inner, *(self.heads[head] if head else ())]

    def count_layers(self, names: Mapping[str, Tensor], side: Side) -> dict[str, int]:
        """How many layers of each stack the names speak of."""
        return {name: stack.count(names, side) for name, stack in self.stacks.items()}

    def tied_rows(self, head: str) -> list[Row]:
        """The rows of a head that a checkpoint may leave out."""
        return [row for row in (self.heads[head] if head else ()) if row.tied_to]

    def shared_rows(self) -> list[Row]:
        """The rows of the body that equal another: a decoder's word embedding."""
        return [row for row in self.body if row.tied_to]

    def row_of(self, uer: str) -> Row:
        """The row of the body that has this name in UER."""
        return next(row for row in self.body if uer in row.names("uer"))


@dataclass(frozen=True)
class Conversion:
    """A renamed checkpoint.

    Attributes:
        weights: the tensors under their new names, in the table's order; contiguous.
        sizes: what each dimension of the table measures ("vocab": 21128, ...), and the number of layers of each stack.
        left_out: the source's names that have no row under this head.
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
    sizes, rows = _layers_and_rows(weights, table, "", source)
    _refuse_missing(weights, table, "", rows, path, source)
    for row in rows:
        _measure(sizes, row, _tensors(weights, row, source), path, source)
    return sizes


def fitting_heads(weights: Mapping[str, Tensor], table: NameTable, source: Side) -> list[str]:
    """The heads of which the checkpoint has every tensor."""
    return [head for head, rows in table.heads.items() if has_rows(weights, rows, source)]


def has_rows(weights: Mapping[str, Tensor], rows: Iterable[Row], side: Side) -> bool:
    """Whether a checkpoint has every tensor of these rows; those that are tied may be left out."""
    return not _missing(weights, rows, side)


def fits(weights: Mapping[str, Tensor], table: NameTable, side: Side) -> bool:
    """Whether a checkpoint's names (Hugging Face's tidied) are those of this architecture, whatever stands on top."""
    return not any(misfits(weights, table, side))


def misfits(weights: Mapping[str, Tensor], table: NameTable, side: Side) -> tuple[list[str], list[str]]:
    """The names of body and layers that a checkpoint lacks, and those that it has and the architecture does not."""
    rows = table.rows({name: max(count, 1) for name, count in table.count_layers(weights, side).items()}, "")
    return _missing(weights, rows, side), _foreign(weights, table, rows, side)


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


def is_tied(weights: Mapping[str, Tensor], table: NameTable, head: str, side: Side) -> bool:
    """Whether each tied tensor of a head equals the one that it is tied to, bit for bit; true where there is none."""
    return all(torch.equal(weights[name], weights[home]) for row in table.tied_rows(head)
               for name, home in zip(row.names(side), table.row_of(row.tied_to).names(side)))


def _rename(weights: Mapping[str, Tensor], table: NameTable, head: str, path: str, source: Side) -> Conversion:
    target: Side = "hugging_face" if source == "uer" else "uer"
    sizes, rows = _layers_and_rows(weights, table, head, source)
    _refuse_missing(weights, table, head, rows, path, source)
    left_out = _left_over(weights, table, rows, path, source)
    _refuse_unshared(weights, table, path, source)
    renamed: dict[str, Tensor] = {}
    for row in rows:
        tensors = _tensors(weights, row, source)
        if not tensors:
            renamed.update(zip(row.names(target), (renamed[name] for name in table.row_of(row.tied_to).names(target))))
            continue
        _measure(sizes, row, tensors, path, source)
        renamed.update(zip(row.names(target), _changed(row, tensors, target), strict=True))
    return Conversion(renamed, sizes, left_out)


def _layers_and_rows(weights: Mapping[str, Tensor], table: NameTable, head: str, source: Side
                     ) -> tuple[dict[str, int], list[Row]]:
    """The sizes that are known before a tensor is measured, and the rows that the checkpoint should have."""
    layers = table.count_layers(weights, source)
    sizes = {stack.size: layers[name] for name, stack in table.stacks.items() if stack.numbered}
    return {**sizes, **table.fixed}, table.rows({name: max(count, 1) for name, count in layers.items()}, head)


def _tensors(weights: Mapping[str, Tensor], row: Row, source: Side) -> Tensors:
    """The tensors of a row; () where a tied one is left out."""
    return tuple(weights[name] for name in row.names(source) if name in weights)


def _changed(row: Row, tensors: Tensors, target: Side) -> Iterator[Tensor]:
    """The tensors of the other side, each contiguous and with memory of its own; not copied where nothing changes."""
    for tensor in row.converted(tensors, target):
        yield tensor.contiguous() if row.change == SAME else tensor.clone(memory_format=torch.contiguous_format)


def _measure(sizes: dict[str, int], row: Row, tensors: Tensors, path: str, source: Side) -> None:
    """Read the sizes off the tensors' shapes, or check them against the sizes already read."""
    dimensions = row.shape.split()
    for name, tensor in zip(row.names(source), tensors):
        if not tensor.is_floating_point():
            raise UserError(f"{path}: {name} holds {tensor.dtype} instead of floating-point numbers")
    for name, tensor, shape in zip(row.names(source), tensors, _uer_shapes(row, tensors, source)):
        expected = tuple(sizes.get(dimension, 0) for dimension in dimensions)
        if len(shape) == len(dimensions):
            expected = tuple(sizes.setdefault(dimension, size) for dimension, size in zip(dimensions, shape))
        if shape != expected or min(shape, default=0) < 1:
            changed = source == "hugging_face" and row.change != SAME
            wanted, whose = (_hugging_face_shape(row, expected), "UER's ") if changed else (expected, "")
            raise UserError(f"{path}: {name} has shape {list(tensor.shape)}, the rest of the checkpoint implies "
                            f"{list(wanted)} ({whose}{row.shape.replace(' ', ' x ')})")


def _uer_shapes(row: Row, tensors: Tensors, source: Side) -> list[tuple[int, ...]]:
    """The shape that each tensor has in UER (several that are made from one have the same); () where it has none."""
    if source == "uer" or row.change == SAME:
        return [tuple(tensor.shape) for tensor in tensors]
    try:
        return [tuple(row.change.to_uer(tuple(tensor.to("meta") for tensor in tensors))[0].shape)]
    except DOES_NOT_FIT:
        return [()]


def _hugging_face_shape(row: Row, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of Hugging Face's tensor where UER's have this one."""
    empty = tuple(torch.empty(shape, device="meta") for _ in row.names("uer"))
    return tuple(row.change.to_hugging_face(empty)[0].shape)


def _refuse_missing(weights: Mapping[str, Tensor], table: NameTable, head: str, rows: list[Row], path: str,
                    source: Side) -> None:
    missing = _missing(weights, rows, source)
    if not missing:
        return
    other: Side = "hugging_face" if source == "uer" else "uer"
    if has_rows(weights, table.body, other):
        raise UserError(f"{path}: its names are already those of {'Hugging Face' if source == 'uer' else 'UER'}")
    in_head = {name for row in table.heads.get(head, ()) for name in row.names(source)}
    if in_head.issuperset(missing):
        fitting = fitting_heads(weights, table, source)
        raise UserError(f"{path}: no {head} head: {some(missing)} {'is' if len(missing) == 1 else 'are'} missing; "
                        + (f"it fits {' and '.join(fitting)}" if fitting else "it has no head that is known"))
    count = sum(len(row.names(source)) for row in rows)
    raise UserError(f"{path}: {len(missing)} of {count} tensors are missing: {some(missing)}")


def _missing(weights: Mapping[str, Tensor], rows: Iterable[Row], side: Side) -> list[str]:
    """The names of the rows that a checkpoint lacks; those that are tied may be left out."""
    return [name for row in rows if not row.tied_to for name in row.names(side) if name not in weights]


def _left_over(weights: Mapping[str, Tensor], table: NameTable, rows: list[Row], path: str,
               source: Side) -> tuple[str, ...]:
    foreign = _foreign(weights, table, rows, source)
    if foreign:
        raise UserError(f"{path}: another architecture: no row for {some(foreign)}")
    known = {name for row in rows for name in row.names(source)}
    return tuple(name for name in weights if name not in known)


def _refuse_unshared(weights: Mapping[str, Tensor], table: NameTable, path: str, source: Side) -> None:
    for row in table.shared_rows():
        for name, home in zip(row.names(source), table.row_of(row.tied_to).names(source)):
            if name in weights and not torch.equal(weights[name], weights[home]):
                raise UserError(f"{path}: {name} differs from {home}; Hugging Face's model has one of the two")


def _foreign(weights: Mapping[str, Tensor], table: NameTable, rows: Iterable[Row], side: Side) -> list[str]:
    """Names of the body or the layers that the architecture does not have."""
    known = {name for row in rows for name in row.names(side)}
    return [name for name in weights if name not in known and name.startswith(table.prefixes[side])]


def some(names: Sequence[str]) -> str:
    """'a, b, c, d and 12 more'."""
    rest = len(names) - 4
    return ", ".join(names[:4]) + (f" and {rest} more" if rest > 0 else "")
