"""Tasks whose files are tables: a TSV or JSON lines, one example in each row (`uer.finetuning.readers`)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from uer.finetuning.batches import Examples
from uer.finetuning.inputs import texts_or_pairs
from uer.finetuning.readers import Table, read_table, read_tables
from uer.finetuning.task import InputFile, Task, TextToRows


class TableTask(Task):
    """A task that reads the columns `text_a`, maybe `text_b`, and `label`.

    A subclass gives `targets`, and `of_texts` where its rows are not [CLS] text [SEP], or those of pairs.

    Attributes:
        evaluated_columns: columns beside `label` and `text_a` that files with labels must have.
        optional_columns: columns that are read where a file has them.
        pairs: whether the model reads pairs of texts; None if unknown.
    """

    evaluated_columns: tuple[str, ...] = ()
    optional_columns: tuple[str, ...] = ("text_b",)
    pairs: bool | None = None

    def examples(self, path: str, encoder: TextToRows, labelled: bool = True) -> Examples:
        required = ("label", "text_a", *self.evaluated_columns) if labelled else ("text_a",)
        table = read_table(path, required, self.optional_columns, self.columns)
        return replace(self.of_table(table, encoder, labelled), hash=table.hash, skipped=table.skipped)

    def inputs(self, path: str, encoder: TextToRows) -> InputFile:
        """The file in tables of bounded size. It is read twice: a wrong line is found before any prediction."""
        tables = partial(read_tables, path, ("text_a",), self.optional_columns, self.columns)
        count, skipped = 0, Counter()
        for table in tables():
            count, skipped = count + len(table), table.skipped
        return InputFile(count, skipped, (self.of_table(table, encoder, False) for table in tables()))

    def of_table(self, table: Table, encoder: TextToRows, labelled: bool) -> Examples:
        """The examples of a table, with targets where it is `labelled`.

        Raises:
            UserError: a row does not fit; named by file and line.
        """
        examples = self.of_texts(table["text_a"], table.get("text_b"), encoder)
        if labelled:
            examples.targets.update(self.targets(table, encoder))
        return examples

    def of_texts(self, first: Sequence[str], second: Sequence[str] | None, encoder: TextToRows) -> Examples:
        """Examples of texts, or of pairs, without targets of the loss."""
        return Examples(encoder.sequences(first, second))

    def targets(self, table: Table, encoder: TextToRows) -> dict[str, np.ndarray]:
        """What the loss and the metrics ask for, arrays (N, ...) by name.

        Raises:
            UserError: a row does not fit; named by file and line.
        """
        raise NotImplementedError

    def input_examples(self, inputs: Sequence[Any], encoder: TextToRows) -> Examples:
        return self.of_texts(*texts_or_pairs(inputs, self.name, self.pairs), encoder)
