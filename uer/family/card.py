"""The parts of a model card that describe the training: data counts, loss curve and commands.

The conversion adds the recipe, which it finds in the checkpoint.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from uer.data.store import DatasetInfo
from uer.family.recipe import Recipe
from uer.json_files import parse_json

POINTS = 10


def card_notes(recipe: Recipe, corpus_path: Sequence[str], infos: Mapping[int, DatasetInfo],
               metrics: Sequence[Path], commands: Sequence[Sequence[str]], root: Path, picture: str,
               teacher: str = "") -> str:
    """Markdown for the card.

    Args:
        recipe: the stages.
        corpus_path: what was preprocessed; the card has file names only, no folders.
        infos: sequence length -> counts of its dataset.
        metrics: the metrics file of each stage, in JSON lines.
        commands: the commands that were run.
        root: the repository's folder; it is removed from paths in the commands.
        picture: file name of the loss curve's picture beside the card; "" if there is none.
        teacher: description of the teacher; "" if there is none.
    """
    parts = ["## Data", "", *_data(corpus_path, infos)]
    if teacher:
        parts += ["## Teacher", "", "In every stage the model was trained with the labels and with the predictions of "
                  f"a finished larger model with the same vocabulary: {teacher}.", ""]
    parts += ["## Loss", ""]
    for number, (stage, path) in enumerate(zip(recipe.stages, metrics), start=1):
        parts += [f"Stage {number}, {stage.total_steps:,} steps of {stage.rows} x {stage.seq_length} tokens:", "",
                  *_curve(read_metrics(path))]
    if picture:
        parts += [f"![loss, accuracy, learning rate and throughput]({picture})", ""]
    shown = [shown_command(argv, root) for argv in commands]
    return "\n".join([*parts, "## Commands", "", "```bash", *shown, "```", ""])


def _data(corpus_path: Sequence[str], infos: Mapping[int, DatasetInfo]) -> list[str]:
    names = ", ".join(f"`{Path(path).name}`" for path in corpus_path)
    lines = [f"Corpus: {names}.", "", "| sequence length | documents | blank lines | instances | tokens |",
             "|---|---|---|---|---|"]
    for length, info in infos.items():
        counts = [f"{info.counts[name]:,}" if name in info.counts else "" for name in
                  ("documents", "blank_lines", "instances", "tokens")]
        lines.append(f"| {length} | {' | '.join(counts)} |")
    return [*lines, ""]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The training reports of a run, sorted by step.

    A run that was killed and resumed reports some steps twice: the later report is used. An incomplete last line is
    ignored.
    """
    records: dict[int, dict[str, Any]] = {}
    if not path.exists():
        return []
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            record = parse_json(line, path)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("kind") == "train":
            records[record["step"]] = record
    return [records[step] for step in sorted(records)]


def _curve(records: Sequence[Mapping[str, Any]]) -> list[str]:
    if not records:
        return ["No report was written.", ""]
    last = len(records) - 1
    chosen = sorted({round(last * point / (POINTS - 1)) for point in range(POINTS)})
    lines = ["| step | loss | accuracy | learning rate |", "|---|---|---|---|"]
    for record in (records[number] for number in chosen):
        accuracy = f"{record['acc']:.3f}" if "acc" in record else ""
        lines.append(f"| {record['step']:,} | {record['loss']:.3f} | {accuracy} | {record['learning_rate']:.2e} |")
    return [*lines, ""]


def shown_command(argv: Sequence[str], root: Path) -> str:
    """A command as one types it in the repository's root; other absolute paths are shortened to their file names.

    Args:
        argv: the Python interpreter, the script and its flags.
        root: the repository's folder.
    """
    words = [word.removeprefix(f"{root}/") for word in argv[1:]]
    return f"python3 {shlex.join(Path(word).name if word.startswith('/') else word for word in words)}"
