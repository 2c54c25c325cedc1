"""Makes a dataset file from a corpus of any size. Several processes turn shards of the corpus into column files, which
are then copied into one file.

    corpus -> shards of whole documents -> column files in the work folder -> one dataset, by rename

Memory does not grow with the corpus. After an interruption the same command continues with the unfinished shards. The
file does not depend on the number of processes or on interruptions.
"""

import contextlib
import errno
import hashlib
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from uer.config import DatasetConfig, recorded
from uer.data import store
from uer.data.corpus import CorpusFile, find_files, unchanged
from uer.data.estimate import forecast, require_space
from uer.data.line_cleaner import DamagedLine
from uer.data.processors import PROCESSORS, Processor
from uer.data.schema import INSTANCE, VocabInfo
from uer.data.shard_plan import ShardPlan, lines_before, text_outside, usual_shard_bytes
from uer.data.shards import Account, BuildSettings, Shard, build_shard, read_account
from uer.data.summary import Progress, Summary
from uer.data.word_starts import WordFinder, import_jieba, require_words
from uer.data.work_folder import WorkFolder
from uer.errors import UserError
from uer.files import prepare_file
from uer.registry import choose
from uer.runtime.memory import peak_host_bytes
from uer.runtime.processes import run_jobs
from uer.terminal import printable
from uer.text import amount
from uer.tokenizers.base import Tokenizer

COPIED_VALUES = 1 << 20
RUN_FLAGS = ("--processes_num", "--dataset_path")  # they do not change what is in the file


def build_dataset(dataset: DatasetConfig, tokenizers: Mapping[str, Tokenizer], arguments: Sequence[str] = (),
                  note: Callable[[str], None] = print, shard_bytes: int | None = None) -> Summary:
    """Make the dataset that the flags ask for.

    Args:
        dataset: the flags.
        tokenizers: text to ids, by the vocabularies' names: "src", and "tgt" for processors of two sequences.
        arguments: the command line, kept in the metadata.
        note: called with one line for each remark, such as a warning.
        shard_bytes: how much text a shard holds; by default it depends on the size of the corpus. Where lines are
            whole and nothing is drawn, the result does not depend on it.

    Raises:
        UserError: bad input, a full disk, a killed worker. Started again, the same command goes on where it stopped.
    """
    start = time.monotonic()
    for name in sorted(unused_flags(dataset)):
        note(f"note: --{name} has no effect with --data_processor {dataset.data_processor}")
    path = Path(dataset.dataset_path)
    path = path.resolve() if path.is_symlink() else path
    files = _corpus_files(dataset, path)
    settings = build_settings(dataset, tokenizers)
    shard_bytes = shard_bytes or usual_shard_bytes(files)
    lengths = settings.processor.lengths()
    summary = Summary(path, lengths["src"], corpus_bytes=sum(file.size for file in files))
    with _disk_errors(path), WorkFolder(path, _inputs(files, settings, shard_bytes)) as work:
        _look_ahead(path, work, files, settings, note)
        build = _Build(files, settings, work.path, shard_bytes)
        with Progress(summary.corpus_bytes) as progress:
            summary.peak_memory = build.run(dataset.processes_num, progress)
        build.gather(summary)
        if not summary.totals.instances:
            work.remove()
            raise UserError(_no_document(dataset, summary))
        if summary.totals.documents < settings.processor.least_documents:
            note("warning: the whole corpus is one document (no blank line between sentences), so what "
                 f"--data_processor {dataset.data_processor} labels as a part of another document is of the same")
        made = work.path / "dataset"
        store.write_dataset(made, _info(dataset, settings, summary, arguments), *build.columns(summary))
        summary.dataset_bytes = made.stat().st_size
        work.publish(made)
    summary.peak_memory = max(summary.peak_memory, peak_host_bytes())
    summary.seconds = time.monotonic() - start
    return summary


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a full disk into a UserError that says how to continue."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path.parent}: {os.strerror(error.errno)}; free some space and start the same command "
                            "again: it goes on where it stopped") from None
        if error.filename is None and error.errno is not None:
            raise UserError(f"{path}: {error.strerror}") from None
        raise


def _corpus_files(dataset: DatasetConfig, path: Path) -> list[CorpusFile]:
    """The files of the corpus; the dataset, and earlier ones, may be in a folder of it."""
    files = find_files(dataset.corpus_path)
    if path.exists() and any(os.path.samefile(file.path, path) for file in files):
        raise UserError(f"--dataset_path: {path} is read by this command (--corpus_path) and would be overwritten")
    prepare_file(path, "--dataset_path")
    return files


def unused_flags(dataset: DatasetConfig) -> set[str]:
    """The flags given that belong to other processors than the chosen one."""
    own = getattr(PROCESSORS.get(dataset.data_processor), "config_class", type(None))
    return dataset.members.keys() - {known.name for known in (fields(own) if own is not type(None) else ())}


def build_settings(dataset: DatasetConfig, tokenizers: Mapping[str, Tokenizer]) -> BuildSettings:
    """The settings with which every shard is processed.

    Raises:
        UserError: the flags do not fit together, or the processor is not built.
    """
    kind = choose(PROCESSORS, dataset.data_processor, "--data_processor")
    vocabs = {name: VocabInfo(tokenizer.vocab.fingerprint, len(tokenizer.vocab), tokenizer.vocab.special_ids,
                              dict(tokenizer.settings)) for name, tokenizer in tokenizers.items()}
    processor = kind(dataset.seq_length, dataset.of(kind.config_class), vocabs)
    if dataset.seq_length < kind.least_length:
        raise UserError(f"--seq_length must be at least {kind.least_length} with --data_processor "
                        f"{dataset.data_processor}")
    if dataset.user_dict and not processor.stores_words:
        raise UserError("--user_dict needs --whole_word_masking")
    if dataset.text_field and (processor.corpus.fields or not processor.corpus.one_line):
        raise UserError(f"--text_field: --data_processor {dataset.data_processor} reads "
                        f"{processor.corpus.description}, no JSON lines")
    copies = dataset.dup_factor if processor.duplication == "build" and not dataset.dynamic_masking else 1
    return BuildSettings(tokenizers, processor, dataset.seed, copies, dataset.text_field, dataset.encoding_errors,
                         dataset.user_dict)


def _no_document(dataset: DatasetConfig, summary: Summary) -> str:
    totals = summary.totals
    message = (f"--corpus_path {' '.join(dataset.corpus_path)}: no document among {amount(totals.lines, 'line')}: "
               f"{totals.blank_lines:,} blank, {totals.left_out_lines:,} left out")
    for path, line, kind in summary.locations[:1]:
        message += f"; the first damaged one: {path}: line {line}: {kind}"
    return message


def _inputs(files: list[CorpusFile], settings: BuildSettings, shard_bytes: int) -> dict[str, Any]:
    """Everything that the content of the shards depends on; its hash is part of the work folder's name."""
    processor = settings.processor
    inputs = {"format": store.FORMAT_VERSION, "files": [[file.path, file.size, file.time] for file in files],
              "vocabs": {name: asdict(vocab) for name, vocab in processor.vocabs.items()},
              "processor": type(processor).__name__, "seq_length": processor.seq_length,
              "settings": processor_settings(processor), "text_field": settings.text_field,
              "encoding_errors": settings.encoding_errors, "shard_bytes": shard_bytes}
    if processor.duplication == "build":
        inputs |= {"seed": settings.seed, "copies": settings.copies}
    if processor.stores_words:
        require_words(settings.tokenizers["src"])
        inputs["jieba"] = import_jieba().__version__
        inputs["user_dict"] = _content_of(settings.user_dict) if settings.user_dict else None
    return inputs


def processor_settings(processor: Processor) -> dict[str, Any]:
    """The settings that only this processor has, as they are stored in the dataset's metadata."""
    return recorded(processor.config) if processor.config is not None else {}


def _content_of(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"--user_dict {path}: {error.strerror}") from None


def _look_ahead(path: Path, work: WorkFolder, files: list[CorpusFile], settings: BuildSettings,
                note: Callable[[str], None]) -> None:
    """Print warnings and notes before the work begins, and check that the disk has enough space."""
    expected = forecast(files, settings)
    for warning in expected.warnings:
        note(f"warning: {warning}")
    finished = work.finished_shards()
    if finished:
        note(f"note: going on with the {finished:,} shards that an earlier run of this command finished")
    for other in work.others():
        note(f"note: another command left {other}; remove it if that command is not to go on")
    require_space(path, expected.dataset_bytes, work.size())


class _Build:
    """Processes the shards of a corpus and puts their results together."""

    def __init__(self, files: list[CorpusFile], settings: BuildSettings, folder: Path, shard_bytes: int):
        self._files = files
        self._settings = settings
        self._folder = folder
        self._document_end = settings.processor.corpus.document_end
        self._plan = ShardPlan(files, folder, shard_bytes, self._document_end,
                               lends=settings.processor.least_documents > 1)

    def run(self, processes: int, progress: Progress) -> int:
        """Process every unfinished shard; returns the peak memory of the largest worker in bytes."""
        peak = 0
        for shard, memory in run_jobs(self._plan.unfinished(progress.add), self._start_task, processes):
            peak = max(peak, memory)
            if not shard.path:
                progress.add(shard.stop - shard.start)
        for file in self._files:
            if not unchanged(file):
                raise UserError(f"--corpus_path {file.path}: the file was changed while it was read")
        return peak

    def _start_task(self, worker: int) -> Callable[[Shard], int]:
        """Called once in each worker. Returns a function that processes a shard and returns the peak memory."""
        settings = self._settings
        words = WordFinder(settings.tokenizers["src"], settings.user_dict) if settings.processor.stores_words else None

        def work(shard: Shard) -> int:
            try:
                build_shard(shard, settings, self._folder, words,
                            partial(text_outside, self._files, shard, self._document_end))
            except DamagedLine as error:
                before = lines_before(self._files[shard.file], shard, self._document_end)
                raise UserError(f"{error.path}: line {before + error.line}: {error.reason}") from None
            return peak_host_bytes()

        return work

    def gather(self, summary: Summary) -> None:
        """Add up the shards' accounts, in the order of the corpus."""
        paths = [file.path for file in self._files]
        lines = 0
        for shard, account in self._accounts():
            lines = lines if shard.index else 0
            summary.include(account, paths, lines)
            lines += account.lines
        totals = summary.totals
        if self._settings.processor.joined:
            size = self._settings.processor.lengths()["src"]
            totals.full_instances, totals.instances = totals.tokens // size, -(-totals.tokens // size)

    def columns(self, summary: Summary) -> tuple[dict[str, store.StreamedColumn], dict[str, store.StreamedColumn]]:
        """The dataset's columns, and where instances begin on each axis, streamed from the shards' files."""
        totals, schema = summary.totals, self._settings.processor.schema()
        sizes = {**totals.axis_tokens, INSTANCE: totals.instances}
        columns = {name: store.StreamedColumn(dtype, sizes[schema[name].axis], self._copied(name, dtype))
                   for name, dtype in self._settings.column_types().items()}
        offsets = {axis: store.StreamedColumn(np.dtype(np.int64), totals.instances + 1, self._offsets(axis, size))
                   for axis, size in totals.axis_tokens.items()}
        return columns, offsets

    def _accounts(self) -> Iterator[tuple[Shard, Account]]:
        for shard in self._plan.shards:
            account = read_account(self._folder, shard)
            if account is None:
                raise UserError(f"{self._folder}: the files of {shard} are gone; start the same command again")
            yield shard, account

    def _copied(self, column: str, dtype: np.dtype) -> Iterator[np.ndarray]:
        for shard in self._plan.shards:
            yield from _pieces(self._folder / f"{shard.name}.{column}", dtype)

    def _offsets(self, axis: str, tokens: int) -> Iterator[np.ndarray]:
        """The offsets of all instances: those in the shards, plus the tokens of the shards before."""
        if self._settings.processor.joined:
            yield from _even_offsets(tokens, self._settings.processor.lengths()[axis])
            return
        earlier = 0
        for shard, account in self._accounts():
            for starts in _pieces(self._folder / f"{shard.name}.{axis}.starts", np.dtype(np.int64)):
                yield starts + earlier
            earlier += account.axis_tokens[axis]
        yield np.array([tokens], np.int64)


def _even_offsets(tokens: int, size: int) -> Iterator[np.ndarray]:
    """Joined documents are cut at every size-th token: 10 tokens, size 4 -> 0, 4, 8, 10."""
    for first in range(0, tokens, COPIED_VALUES * size):
        yield np.arange(first, min(first + COPIED_VALUES * size, tokens), size)
    yield np.array([tokens], np.int64)


def _pieces(path: Path, dtype: np.dtype) -> Iterator[np.ndarray]:
    with open(path, "rb") as file:
        while data := file.read(COPIED_VALUES * dtype.itemsize):
            yield np.frombuffer(data, dtype)


def _info(dataset: DatasetConfig, settings: BuildSettings, summary: Summary,
          arguments: Sequence[str]) -> store.DatasetInfo:
    processor = settings.processor
    dynamic = dataset.dynamic_masking or processor.always_dynamic
    drawn = processor.duplication == "load" and not dynamic
    return store.DatasetInfo(
        format_version=store.FORMAT_VERSION, processor=dataset.data_processor, seq_length=dataset.seq_length,
        schema=processor.schema(), lengths=processor.lengths(), vocabs=dict(processor.vocabs),
        processor_settings=processor_settings(processor), dynamic_masking=dynamic,
        dup_factor=dataset.dup_factor if drawn else 1, seed=dataset.seed, counts=summary.counts(),
        command=_command(arguments))


def _command(arguments: Sequence[str]) -> str:
    """The command line without the flags that do not change the content, so that equal content gives equal files."""
    kept: list[str] = []
    passed_over = False
    for argument in arguments:
        if not passed_over and argument.partition("=")[0] not in RUN_FLAGS:
            kept.append(argument)
        passed_over = argument in RUN_FLAGS
    return printable(shlex.join(kept))
