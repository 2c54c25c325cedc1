"""A look at the corpus before the work: does its format fit, and will the dataset fit on the disk?"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from uer.data.corpus import CorpusFile, take_sample
from uer.data.line_cleaner import LineCleaner
from uer.data.shards import Recipe
from uer.errors import UserError
from uer.text import in_bytes

SAMPLE_BYTES = 1 << 17
FEW_LINES = 20  # a smaller sample says nothing about the format


@dataclass(frozen=True)
class Forecast:
    """What a sample of the corpus promises."""

    dataset_bytes: int
    """About how large the dataset will be."""
    warnings: list[str]


def forecast(files: list[CorpusFile], recipe: Recipe) -> Forecast:
    """Tokenize a sample; expect the rest to be like it."""
    sample = take_sample(files, SAMPLE_BYTES)
    text = LineCleaner(files[0].path, "replace", recipe.text_field).clean(sample.text, False) if sample.text else ""
    ids, offsets = recipe.tokenizer.encode_lines(text or "\n")
    made = recipe.processor.instance_builder(recipe.seq_length, recipe.tokenizer.vocab.special_ids).add(ids, offsets)
    token_bytes = sum(dtype.itemsize for dtype in recipe.columns().values())
    sample_bytes = len(made.tokens) * token_bytes + len(made.starts) * 8
    text_bytes = sum(file.size for file in files) * sample.expansion
    return Forecast(round(sample_bytes / max(len(sample.text), 1) * text_bytes), format_warnings(sample.text, recipe))


def format_warnings(sample: bytes, recipe: Recipe) -> list[str]:
    """What looks as if the corpus were written for another command."""
    lines = [line.strip() for line in sample.removesuffix(b"\n").split(b"\n")]
    filled = [line for line in lines if line]
    if recipe.text_field is None and filled and all(map(_is_json_object, filled[:FEW_LINES])):
        return ["the corpus looks like JSON lines; without --text_field its braces and keys become training text"]
    paragraphs = sum(bool(line) and not before for before, line in zip([b"", *lines], lines))
    blank = len(lines) - len(filled)
    if len(filled) >= FEW_LINES and blank * 50 >= len(filled) and len(filled) >= 2 * paragraphs:
        return [f"the corpus looks like one sentence a line with blank lines between documents (about "
                f"{len(filled) / paragraphs:.0f} lines, then a blank one), as --data_processor bert reads it; "
                "mlm makes a document of each line"]
    return []


def _is_json_object(line: bytes) -> bool:
    if not line.startswith(b"{"):
        return False
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def require_space(dataset_path: Path, dataset_bytes: int, present: int) -> None:
    """Raise UserError unless the disk of `dataset_path` can take the work's files and the dataset beside them.

    Args:
        dataset_bytes: about how large the dataset will be; the finished shards together are as large again.
        present: bytes that an interrupted run of the same command has already written.
    """
    needed = 2 * dataset_bytes - present
    free = shutil.disk_usage(dataset_path.parent).free
    if needed > free:
        raise UserError(f"--dataset_path {dataset_path}: this needs about {in_bytes(needed)} while it is made "
                        f"({in_bytes(dataset_bytes)} in the end) and the disk has {in_bytes(free)} left")
