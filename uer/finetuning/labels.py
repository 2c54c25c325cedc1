"""Label names <-> class numbers, in an order that depends only on the set of names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from uer.errors import UserError
from uer.finetuning.readers import Table

LONGEST_NUMBER = 100  # digits; Python refuses to read numbers of thousands


@dataclass(frozen=True)
class LabelSet:
    """Holds the names of the labels; label number i is `names[i]`."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, labels: Iterable[str]) -> "LabelSet":
        """The distinct labels in order: whole numbers by value, anything else by code points.

        >>> LabelSet.of(["10", "2", "2"]).names
        ('2', '10')

        Raises:
            UserError: a label of JSON lines holds a tab or a line end, so that no TSV of predictions can hold it.
        """
        distinct = {label.strip() for label in labels}
        if broken := [label for label in distinct if "\t" in label or len(label.splitlines()) > 1]:
            raise UserError(f"the label {min(broken)!r} holds a tab or a line end; predictions are written as a TSV")
        if all(_is_whole_number(label) for label in distinct):
            return cls(tuple(sorted(distinct, key=int)))
        return cls(tuple(sorted(distinct)))

    def __len__(self) -> int:
        return len(self.names)

    def numbers_to_names(self, numbers: np.ndarray) -> list[str]:
        """The names of label numbers (n,)."""
        return [self.names[number] for number in numbers]

    def numbers(self, table: Table, column: str = "label", source: str = "the training file") -> np.ndarray:
        """The label number of every row, int64 (rows,).

        Args:
            source: what the labels come from, for the message.

        Raises:
            UserError: a label that is not in the set, named by file and line.
        """
        index = {name: number for number, name in enumerate(self.names)}
        numbers = np.empty(len(table), dtype=np.int64)
        for row, label in enumerate(table[column]):
            number = index.get(label.strip())
            if number is None:
                raise table.error(row, f"label '{label.strip()}' is not one of the {len(self)} labels of "
                                       f"{source}: {shorten(self.names)}")
            numbers[row] = number
        return numbers


def shorten(names: Sequence[str], most: int = 8) -> str:
    """At most `most` names as text, and how many more there are: `a, b, ... (3 more)`."""
    rest = f", ... ({len(names) - most} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def train_labels(table: Table) -> LabelSet:
    """The labels of a training table.

    Raises:
        UserError: there are fewer than two different labels, or a label is empty.
    """
    for row, label in enumerate(table["label"]):
        if not label.strip():
            raise table.error(row, "the label is empty")
    labels = LabelSet.of(table["label"])
    if len(labels) < 2:
        raise UserError(f"{table.path}: only one label ('{labels.names[0]}'); a classifier needs two")
    return labels


def numbered_labels(labels_num: int | None) -> LabelSet:
    """The labels 0, 1, 2, ... of weights without a settings file.

    Raises:
        UserError: their number is not given.
    """
    if labels_num is None:
        raise UserError("--labels_num is required: there is no settings file beside --load_model_path")
    return LabelSet(tuple(map(str, range(labels_num))))


def parse_logits(table: Table, labels_num: int) -> np.ndarray:
    """The column `logits`, numbers separated by spaces, as float32 (rows, labels_num).

    Raises:
        UserError: a row has another number of values, or one that is not a finite number; named by file and line.
    """
    logits = np.empty((len(table), labels_num), dtype=np.float32)
    for row, text in enumerate(table["logits"]):
        try:
            values = [float(word) for word in text.split()]
        except ValueError:
            raise table.error(row, "'logits' must be numbers with spaces between") from None
        if len(values) != labels_num:
            raise table.error(row, f"{len(values)} logits for {labels_num} labels")
        logits[row] = values
        if not np.isfinite(logits[row]).all():
            raise table.error(row, "'logits' holds a number that is not finite")
    return logits


def _is_whole_number(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isdecimal() and text.isascii() and len(digits) < LONGEST_NUMBER and str(int(text)) == text
