"""Estimates the size of a dataset from a sample of its corpus, and warns of a corpus in another format."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from uer.data.corpus import CorpusFile, largest, refuse_gbk, take_sample
from uer.data.draws import Draws
from uer.data.line_cleaner import LineCleaner
from uer.data.processors.base import Lines, Ragged
from uer.data.schema import SENTENCES
from uer.data.shards import BuildSettings, tokenized
from uer.errors import UserError
from uer.text import in_bytes

SAMPLE_BYTES = 1 << 17
FEW_LINES = 20  # a smaller sample says nothing about the format


@dataclass(frozen=True)
class Forecast:
    """What a sample of the corpus says about the dataset."""

    dataset_bytes: int
    """About how large the dataset will be."""
    warnings: list[str]


def forecast(files: list[CorpusFile], settings: BuildSettings) -> Forecast:
    """Tokenize a sample, and estimate the size of the dataset from it.

    Raises:
        UserError: the sample is GBK.
    """
    sample = take_sample(files, SAMPLE_BYTES)
    refuse_gbk(sample.text, largest(files).path)
    cleaner = LineCleaner(files[0].path, "replace", settings.text_field, settings.field_counts)
    text = cleaner.clean(sample.text, False) if sample.text else ""

    def encode(lines: str, vocab: str) -> Ragged:
        return Ragged(*settings.tokenizers[vocab].encode_lines(lines))

    builder = settings.processor.builder(Draws(), settings.copies)
    made = [builder.add(Lines(tokenized(text or "\n", settings, encode))), builder.end_file(), builder.finish()]
    types = settings.column_types()
    sample_bytes = sum(dtype.itemsize * len(block.columns.get(name, block.columns["src"]))
                       for block in made if block.columns for name, dtype in types.items())
    sample_bytes += sum(8 * len(starts) for block in made for starts in block.starts.values())
    text_bytes = sum(file.size for file in files) * sample.expansion
    return Forecast(round(sample_bytes / max(len(sample.text), 1) * text_bytes), format_warnings(sample.text, settings))


def format_warnings(sample: bytes, settings: BuildSettings) -> list[str]:
    """Warnings if the corpus seems to be in another format than the processor reads."""
    if settings.field_counts:  # lines in another format are left out, and the summary says so
        return []
    text = sample.decode("utf-8-sig", "replace").replace("\0", "")  # as lines are cleaned
    lines = [line.strip() for line in text.removesuffix("\n").split("\n")]
    filled = [line for line in lines if line]
    if settings.text_field is None and filled and all(map(_is_json_object, filled[:FEW_LINES])):
        return ["the corpus looks like JSON lines; without --text_field its braces and keys become training text"]
    if len(filled) < FEW_LINES:
        return []
    paragraphs = sum(bool(line) and not before for before, line in zip(["", *lines], lines))
    blank = len(lines) - len(filled)
    if settings.processor.corpus is SENTENCES:
        return [] if blank else ["no blank line among the first lines of the corpus: --data_processor bert, albert, "
                                 "gsg and bart read a sentence a line and a blank line between documents; lines "
                                 "without one are taken for a single document"]
    if blank * 50 >= len(filled) and len(filled) >= 2 * paragraphs:
        return [f"the corpus looks like one sentence a line with blank lines between documents (about "
                f"{len(filled) / paragraphs:.0f} lines, then a blank one), as --data_processor bert reads it; this "
                "--data_processor makes a document of each line"]
    return []


def _is_json_object(line: str) -> bool:
    if not line.startswith("{"):
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
