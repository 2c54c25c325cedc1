"""CoNLL files of tagged words: a word on every line, its tag in the last column, a blank line between sentences.

    北 B-LOC
    京 I-LOC
               (blank)
    我 O

Columns are separated by spaces or tabs; those between the word and the tag are not read, nor -DOCSTART- lines.
"""

import hashlib
import itertools
import re
from collections import Counter

from uer.finetuning.readers import Table, read_lines

TAG = re.compile(r"O|[BIESMLU](-.+)?")
DOCUMENT = "-DOCSTART-"


def read_conll(path: str, labelled: bool) -> tuple[Table, list[list[str]]] | None:
    """The sentences of a CoNLL file; None where the file is none.

    A file is one if every line has the same number of columns (with tags at least two), and if sentences are separated
    by blank lines or the last column holds tags such as B-PER and O.

    Returns:
        A table with the columns `text_a` and, if `labelled`, `label`: words and tags of each sentence, separated by
        spaces, with its first line; and the words of each sentence.

    Raises:
        UserError: the file is missing, or not UTF-8.
    """
    digest = hashlib.sha256()
    rest = ((number, line.split()) for number, line in read_lines(path, Counter(), digest))
    first = next(rest, None)
    if first is None or "text_a" in first[1] or first[1][0].startswith("{"):
        return None
    lines = [first, *rest]
    blank = any(after - before > 1 for (before, _), (after, _) in itertools.pairwise(lines))
    lines = [(number, fields) for number, fields in lines if fields[0] != DOCUMENT]
    widths = {len(fields) for _, fields in lines}
    if len(widths) != 1 or (labelled and widths == {1}):
        return None
    if not blank and (widths == {1} or not all(TAG.fullmatch(fields[-1]) for _, fields in lines)):
        return None
    sentences: list[list[tuple[int, list[str]]]] = []
    for number, fields in lines:
        if not sentences or number > sentences[-1][-1][0] + 1:
            sentences.append([])
        sentences[-1].append((number, fields))
    words = [[fields[0] for _, fields in sentence] for sentence in sentences]
    columns = {"text_a": [" ".join(sentence) for sentence in words]}
    if labelled:
        columns["label"] = [" ".join(fields[-1] for _, fields in sentence) for sentence in sentences]
    table = Table(path, [sentence[0][0] for sentence in sentences], columns, hash=digest.hexdigest())
    return table, words
