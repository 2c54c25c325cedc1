"""Checks before a run starts: disk space, lengths, memory, vocabulary, processor, targets. They take seconds and find
mistakes that would otherwise stop the run later.

Each check raises a `UserError`, or an `OSError` that names its reason; `World.check` raises it on all ranks.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from uer.errors import UserError
from uer.files import prepare_folder
from uer.text import in_bytes

SLOT_BYTES = 32
"""Memory for each position while a batch is made: tokens, segments, masks and their random numbers."""


def check_output(output_model_path: str, kept_bytes: int) -> None:
    """Check that the folder of the checkpoints can be written to and has enough free space.

    Args:
        kept_bytes: size of all checkpoints that the run will keep (see `checkpoint_bytes`).
    """
    if Path(output_model_path).name in ("", ".", "..") or output_model_path.endswith("/"):
        raise UserError(f"--output_model_path {output_model_path}: a file name is needed")
    if Path(output_model_path).is_dir():
        raise UserError(f"--output_model_path {output_model_path}: is a folder; the beginning of file names is needed, "
                        f"such as {Path(output_model_path) / 'model.bin'}")
    prepare_folder(output_model_path, "--output_model_path")
    folder = Path(output_model_path).parent
    free = shutil.disk_usage(folder).free
    if kept_bytes > free:
        raise UserError(f"--output_model_path {output_model_path}: the checkpoints to come need "
                        f"{in_bytes(kept_bytes)} and {folder} has {in_bytes(free)} free; save less often "
                        "(--save_checkpoint_steps), keep fewer states (--keep_checkpoints) or write elsewhere")


def saves_left(step: int, total_steps: int, save_every: int) -> int:
    """How many checkpoints a run still saves after `step` updates: every `save_every` updates, and at its end.

    >>> saves_left(0, 30, 10), saves_left(5, 25, 10)
    (3, 3)
    """
    return total_steps // save_every - step // save_every + (total_steps % save_every > 0)


def checkpoint_bytes(saved: int, trained: int, saves: int, keep: int, present: int = 0) -> int:
    """Bytes that the next `saves` checkpoints add: the weights of all, and training states until there are `keep` + 1.

    One training state more than `keep` exists while it is written. A state has three times the size of what is trained,
    with AdamW's two moments. All numbers in files are float32, whatever --weights_dtype.

    Args:
        saved: parameters in the weights of a checkpoint.
        trained: parameters in a training state.
        present: training states that are there, and are removed when there are newer ones.
    """
    return 4 * saved * saves + 12 * trained * max(0, min(keep + 1 - present, saves))


def check_lengths(path: str, seq_length: int, max_seq_length: int, flag: str = "--seq_length") -> None:
    """Check that the model has positions for the dataset's rows, whose length the flag of preprocess.py said."""
    if seq_length > max_seq_length:
        raise UserError(f"{path}: made with {flag} {seq_length}, but the model's max_seq_length is {max_seq_length}")


def check_classes(path: str, labels: np.ndarray, classes: int | None) -> None:
    """Check that a dataset's labels (instances,) are numbers below the number of classes; None: there is no limit."""
    largest = int(labels.max())
    if classes is not None and largest >= classes:
        raise UserError(f"{path}: instance {int(labels.argmax()):,} has the label {largest}, but --labels_num "
                        f"{classes} allows the labels 0 to {classes - 1}")


def check_prefix(prefix_lm_loss: bool, processor: str, has_prefix: bool) -> None:
    """Check that rows have a prefix where the loss is to leave it out."""
    if prefix_lm_loss and not has_prefix:
        raise UserError(f"--prefix_lm_loss: the rows of --data_processor {processor} have no prefix; those of prefixlm "
                        "have one")


def check_update(rows: int, seq_length: int) -> None:
    """Check that the batches of an update, which are made together, fit into memory.

    Args:
        rows: rows of an update in one process: --batch_size x --accumulation_steps.
    """
    needed = rows * seq_length * SLOT_BYTES
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise UserError(f"--batch_size x --accumulation_steps: {rows:,} rows of {seq_length} tokens need "
                        f"{needed / 2**30:,.0f} GiB; this machine has {present / 2**30:,.0f} GiB")


def check_vocabulary(path: str, dataset: tuple[str, int, dict], vocabulary: tuple[str, int, dict],
                     flag: str = "--vocab_path") -> None:
    """Check that the dataset was made with the vocabulary of this run.

    Args:
        path: path of the dataset.
        dataset: fingerprint and size of its vocabulary, and the settings of its tokenizer.
        vocabulary: the same of this run.
        flag: which flag names the vocabulary.
    """
    (theirs, their_size, their_settings), (ours, our_size, our_settings) = dataset, vocabulary
    if theirs != ours:
        raise UserError(f"{path}: made with another vocabulary ({their_size} entries, hash {theirs[:8]}) than "
                        f"{flag} ({our_size} entries, hash {ours[:8]})")
    different = sorted(name for name in their_settings.keys() | our_settings.keys()
                       if their_settings.get(name) != our_settings.get(name))
    if different:
        theirs, ours = ({name: settings.get(name) for name in different} for settings in (their_settings, our_settings))
        raise UserError(f"{path}: made with tokenizer settings {_listed(theirs)}, but this run has {_listed(ours)}")


def _listed(settings: dict) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


def check_processor(path: str, theirs: str, ours: str) -> None:
    """Check that the dataset was made by this run's processor: --data_processor, or that of the first dataset."""
    if theirs != ours:
        raise UserError(f"{path}: made with --data_processor {theirs}, not {ours}")


def check_targets(targets: Sequence[str], processor: str, labels: Sequence[str]) -> None:
    """Check that the processor's batches have labels for every target."""
    without = [target for target in targets if target not in labels]
    if without:
        raise UserError(f"--target {' '.join(targets)}: --data_processor {processor} has labels for "
                        f"{' and '.join(labels)}, none for {' and '.join(without)}")
