"""A corpus of any size to a dataset file: shards, worked on by several processes, put together by copying.

    corpus -> shards of whole lines -> column files in the work folder -> one dataset, by rename

Memory does not grow with the corpus. A killed run goes on with the shards that are not finished yet, and the file does
not depend on the number of processes or on interruptions.
"""

import errno
import hashlib
import os
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from uer.config import DatasetConfig, MaskingConfig
from uer.data import store
from uer.data.corpus import CorpusFile, find_files, unchanged
from uer.data.estimate import forecast, require_space
from uer.data.line_cleaner import DamagedLine
from uer.data.processors import PLANNED, PROCESSORS
from uer.data.shard_plan import ShardPlan, lines_before, usual_shard_bytes
from uer.data.shards import Account, Recipe, Shard, build_shard, read_account
from uer.data.summary import Progress, Summary
from uer.data.word_starts import WordFinder, import_jieba
from uer.data.work_folder import WorkFolder
from uer.errors import UserError
from uer.files import prepare_file
from uer.registry import choose
from uer.runtime.memory import peak_host_bytes
from uer.runtime.processes import run_jobs
from uer.terminal import printable
from uer.tokenizers.base import Tokenizer

COPIED_VALUES = 1 << 20
RUN_FLAGS = ("--processes_num", "--dataset_path")  # they do not change what is in the file


def build_dataset(dataset: DatasetConfig, masking: MaskingConfig, tokenizer: Tokenizer, arguments: Sequence[str] = (),
                  note: Callable[[str], None] = print, shard_bytes: int | None = None) -> Summary:
    """Make the dataset that the flags ask for.

    Args:
        dataset, masking: the flags.
        tokenizer: text to ids.
        arguments: the command line, kept in the metadata.
        note: where remarks on the work go; takes one line.
        shard_bytes: how much text a shard holds; by default it depends on the size of the corpus. Where lines are
            whole, the result does not depend on it.

    Raises:
        UserError: bad input, a full disk, a killed worker. Started again, the same command goes on where it stopped.
    """
    start = time.monotonic()
    path = Path(dataset.dataset_path)
    path = path.resolve() if path.is_symlink() else path
    files = _corpus_files(dataset, path)
    recipe = _recipe(dataset, masking, tokenizer)
    shard_bytes = shard_bytes or usual_shard_bytes(files)
    summary = Summary(path, dataset.seq_length, corpus_bytes=sum(file.size for file in files))
    try:
        with WorkFolder(path, _inputs(files, recipe, shard_bytes)) as work:
            _look_ahead(path, work, files, recipe, note)
            build = _Build(files, recipe, work.path, shard_bytes)
            with Progress(summary.corpus_bytes) as progress:
                summary.peak_memory = build.run(dataset.processes_num, progress)
            build.gather(summary)
            if not summary.totals.instances:
                work.remove()
                raise UserError(_no_document(dataset, summary))
            info = _info(dataset, masking, recipe, summary, arguments)
            made = work.path / "dataset"
            store.write_dataset(made, info, build.columns(summary))
            summary.dataset_bytes = made.stat().st_size
            work.publish(made)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{path.parent}: {os.strerror(error.errno)}; free some space and start the same command "
                            "again: it goes on where it stopped") from None
        if error.filename is None and error.errno is not None:
            raise UserError(f"{path}: {error.strerror}") from None
        raise
    summary.peak_memory = max(summary.peak_memory, peak_host_bytes())
    summary.seconds = time.monotonic() - start
    return summary


def _corpus_files(dataset: DatasetConfig, path: Path) -> list[CorpusFile]:
    """The corpus, without the dataset itself and its work folders where a folder of the corpus holds them."""
    target, found = os.path.realpath(path), find_files(dataset.corpus_path)
    if path.exists() and not store.is_dataset(path) and any(os.path.samefile(file.path, path) for file in found):
        raise UserError(f"--dataset_path: {path} is read by this command (--corpus_path) and would be overwritten")
    files = [file for file in found
             if os.path.realpath(file.path) != target and not os.path.realpath(file.path).startswith(f"{target}.work-")]
    if not files:
        raise UserError(f"--corpus_path {' '.join(dataset.corpus_path)}: holds nothing but the dataset {path}")
    prepare_file(path, "--dataset_path")
    return files


def _recipe(dataset: DatasetConfig, masking: MaskingConfig, tokenizer: Tokenizer) -> Recipe:
    processor = choose(PROCESSORS, dataset.data_processor, "--data_processor", PLANNED)()
    if dataset.user_dict and not masking.whole_word_masking:
        raise UserError("--user_dict needs --whole_word_masking")
    return Recipe(tokenizer, processor, dataset.seq_length, dataset.full_sentences, dataset.text_field,
                  dataset.encoding_errors, masking.whole_word_masking, dataset.user_dict)


def _no_document(dataset: DatasetConfig, summary: Summary) -> str:
    totals = summary.totals
    message = (f"--corpus_path {' '.join(dataset.corpus_path)}: no document among {totals.lines:,} lines: "
               f"{totals.blank_lines:,} are blank, {totals.left_out_lines:,} were left out")
    for path, line, kind in summary.places[:1]:
        message += f"; the first damaged one: {path}: line {line}: {kind}"
    return message


def _inputs(files: list[CorpusFile], recipe: Recipe, shard_bytes: int) -> dict[str, Any]:
    """What decides the content of the shards; the work folder is named after it."""
    inputs = {"format": store.FORMAT_VERSION, "files": [[file.path, file.size, file.time] for file in files],
              "vocab": recipe.tokenizer.vocab.fingerprint, "special_ids": recipe.tokenizer.vocab.special_ids,
              "tokenizer": recipe.tokenizer.settings, "processor": type(recipe.processor).__name__,
              "seq_length": recipe.seq_length, "full_sentences": recipe.full_sentences,
              "text_field": recipe.text_field, "encoding_errors": recipe.encoding_errors, "shard_bytes": shard_bytes}
    if recipe.whole_word_masking:
        inputs["jieba"] = import_jieba().__version__
        inputs["user_dict"] = _content_of(recipe.user_dict) if recipe.user_dict else None
    return inputs


def _content_of(path: str) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise UserError(f"--user_dict {path}: {error.strerror}") from None


def _look_ahead(path: Path, work: WorkFolder, files: list[CorpusFile], recipe: Recipe,
                note: Callable[[str], None]) -> None:
    expected = forecast(files, recipe)
    for warning in expected.warnings:
        note(f"warning: {warning}")
    finished = work.finished_shards()
    if finished:
        note(f"note: going on with the {finished:,} shards that an earlier run of this command finished")
    for other in work.others():
        note(f"note: another command left {other}; remove it if that command is not to go on")
    require_space(path, expected.dataset_bytes, work.size())


class _Build:
    """The work of one run on the shards of one corpus."""

    def __init__(self, files: list[CorpusFile], recipe: Recipe, folder: Path, shard_bytes: int):
        self._files = files
        self._recipe = recipe
        self._folder = folder
        self._plan = ShardPlan(files, folder, shard_bytes)

    def run(self, processes: int, progress: Progress) -> int:
        """Work on every shard that is not finished; -> the largest worker's peak memory in bytes."""
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
        """In a worker: load what it needs; -> a function that works on one shard and returns the peak memory so far."""
        recipe = self._recipe
        words = WordFinder(recipe.tokenizer, recipe.user_dict) if recipe.whole_word_masking else None

        def work(shard: Shard) -> int:
            try:
                build_shard(shard, recipe, self._folder, words)
            except DamagedLine as error:
                line = lines_before(self._files[shard.file], shard.start) + error.line
                raise UserError(f"{error.path}: line {line}: {error.reason}") from None
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
        if self._recipe.full_sentences:
            totals.full_instances = totals.tokens // self._recipe.seq_length
            totals.instances = -(-totals.tokens // self._recipe.seq_length)

    def columns(self, summary: Summary) -> dict[str, store.Column]:
        """The dataset's columns, streamed from the shards' files."""
        totals = summary.totals
        columns = {name: store.Column(dtype, totals.tokens, self._copied(name, dtype))
                   for name, dtype in self._recipe.columns().items()}
        offsets = self._even_offsets(totals.tokens) if self._recipe.full_sentences else self._offsets(totals.tokens)
        columns["offsets"] = store.Column(np.dtype(np.int64), totals.instances + 1, offsets)
        return columns

    def _accounts(self) -> Iterator[tuple[Shard, Account]]:
        for shard in self._plan.shards:
            account = read_account(self._folder, shard)
            if account is None:
                raise UserError(f"{self._folder}: the files of {shard} are gone; start the same command again")
            yield shard, account

    def _copied(self, column: str, dtype: np.dtype) -> Iterator[np.ndarray]:
        for shard in self._plan.shards:
            yield from _pieces(self._folder / f"{shard.name}.{column}", dtype)

    def _offsets(self, tokens: int) -> Iterator[np.ndarray]:
        """Where instances begin in the whole, from where they begin in their shards."""
        earlier = 0
        for shard, account in self._accounts():
            for starts in _pieces(self._folder / f"{shard.name}.starts", np.dtype(np.int64)):
                yield starts + earlier
            earlier += account.tokens
        yield np.array([tokens], np.int64)

    def _even_offsets(self, tokens: int) -> Iterator[np.ndarray]:
        """Joined documents are cut at every seq_length-th token."""
        size = self._recipe.seq_length
        for first in range(0, tokens, COPIED_VALUES * size):
            yield np.arange(first, min(first + COPIED_VALUES * size, tokens), size)
        yield np.array([tokens], np.int64)


def _pieces(path: Path, dtype: np.dtype) -> Iterator[np.ndarray]:
    with open(path, "rb") as file:
        while data := file.read(COPIED_VALUES * dtype.itemsize):
            yield np.frombuffer(data, dtype)


def _info(dataset: DatasetConfig, masking: MaskingConfig, recipe: Recipe, summary: Summary,
          arguments: Sequence[str]) -> store.DatasetInfo:
    vocab = recipe.tokenizer.vocab
    return store.DatasetInfo(
        format_version=store.FORMAT_VERSION, processor=dataset.data_processor, seq_length=dataset.seq_length,
        vocab_fingerprint=vocab.fingerprint, vocab_size=len(vocab), tokenizer=dict(recipe.tokenizer.settings),
        special_ids=vocab.special_ids, dynamic_masking=dataset.dynamic_masking,
        dup_factor=1 if dataset.dynamic_masking else dataset.dup_factor, seed=dataset.seed, masking=asdict(masking),
        counts=summary.counts(), command=_command(arguments))


def _command(arguments: Sequence[str]) -> str:
    """The command line without what does not change the file's content, so that equal content is equal bytes."""
    kept: list[str] = []
    passed_over = False
    for argument in arguments:
        if not passed_over and argument.partition("=")[0] not in RUN_FLAGS:
            kept.append(argument)
        passed_over = argument in RUN_FLAGS
    return printable(shlex.join(kept))
