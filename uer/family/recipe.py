"""The stages of pretraining and their numbers; every one of them can be overridden on the command line.

`uer` is the recipe of the published family: 1,000,000 updates of 8 x 64 rows of 128 tokens at 1e-4, then 250,000 of
8 x 16 rows of 512 at 5e-5, linear warmup over a tenth and linear decay to 0, single tokens masked anew in every epoch.

`modern` changes the recipe, not the model:

| what                           | flag                                         | source                          |
|--------------------------------|----------------------------------------------|---------------------------------|
| whole words are masked         | `--whole_word_masking`                       | Cui et al., 2019, 1906.08101    |
| rows without padding           | preprocess.py `--full_sentences`             | Liu et al., 2019, 1907.11692    |
| attention inside each document | pretrain.py `--document_attention`           | Krell et al., 2021, 2107.02027  |
| rise, hold, fall               | `--scheduler trapezoidal`, `--lr_decay 0.2`  | Hägele et al., 2024, 2405.18392 |
| 4 x the batch, 1/8 the updates | batch and steps                              | Liu et al., 2019, 1907.11692    |
| rate x 2 = sqrt(4)             | `--learning_rate`                            | You et al., 2019, 1904.00962    |

The numbers are arXiv's. Half the rows of `uer`: where documents are short, rows without padding hold as many more
tokens as that. The rate rises over 2,500 updates; a run of a few thousand updates needs a larger share, such as
`--warmup 0.1`: BENCHMARKS.md says what a rise of 48 updates did.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uer.data.corpus import find_files
from uer.errors import UserError
from uer.family.config import RecipeConfig
from uer.files import atomic_path
from uer.json_files import json_text, read_json_object


@dataclass(frozen=True)
class Stage:
    """One of the runs of pretrain.py that make a model.

    Attributes:
        seq_length: tokens of a row.
        total_steps: updates.
        rows: rows of an update, over all devices and micro-batches.
        batch_size: rows that a device computes at once, at most.
        learning_rate: peak rate.
    """

    seq_length: int
    total_steps: int
    rows: int
    batch_size: int
    learning_rate: float

    @property
    def tokens(self) -> int:
        """Token slots that the stage computes, padding included."""
        return self.seq_length * self.total_steps * self.rows

    def split(self, devices: int) -> tuple[int, int]:
        """(rows of a micro-batch, micro-batches of an update) that keep `rows` the same on so many devices.

        >>> Stage(128, 1000, 512, 64, 1e-4).split(8), Stage(128, 1000, 512, 64, 1e-4).split(2)
        ((64, 1), (64, 4))

        Raises:
            UserError: the rows cannot be shared out evenly.
        """
        if self.rows % devices:
            raise UserError(f"--global_batch_size {self.rows} cannot be shared evenly by {devices} devices")
        share = self.rows // devices
        batch_size = max(rows for rows in range(1, min(self.batch_size, share) + 1) if share % rows == 0)
        return batch_size, share // batch_size


@dataclass(frozen=True)
class Recipe:
    """How a model of the family is pretrained."""

    name: str
    stages: tuple[Stage, ...]
    scheduler: str = "linear"
    warmup: float = 0.1
    lr_decay: float = 0.5
    dropout: float = 0.1
    max_grad_norm: float = 0.0
    whole_word_masking: bool = False
    full_sentences: bool = False
    document_attention: bool = False
    seed: int = 7


RECIPES = {
    "uer": Recipe("uer", (Stage(128, 1_000_000, 512, 64, 1e-4), Stage(512, 250_000, 128, 16, 5e-5))),
    "modern": Recipe("modern", (Stage(128, 125_000, 2048, 64, 2e-4), Stage(512, 31_250, 512, 16, 1e-4)),
                     scheduler="trapezoidal", warmup=0.02, lr_decay=0.2, whole_word_masking=True, full_sentences=True,
                     document_attention=True),
}


def build_recipe(config: RecipeConfig) -> Recipe:
    """The named recipe with the command line's numbers in place of its own.

    Raises:
        UserError: lists that do not have one number for each stage, or numbers that cannot work.
    """
    base = RECIPES[config.recipe]
    changes = {name: getattr(config, name) for name in RecipeConfig.SINGLE if getattr(config, name) is not None}
    return dataclasses.replace(base, stages=_stages(base, config), **changes)


def _stages(base: Recipe, config: RecipeConfig) -> tuple[Stage, ...]:
    lists = {name: getattr(config, name) for name in RecipeConfig.PER_STAGE if getattr(config, name)}
    counts = {len(values) for values in lists.values()} or {len(base.stages)}
    if len(counts) > 1:
        given = ", ".join(f"--{name} {len(values)}" for name, values in lists.items())
        raise UserError(f"one number is needed for each stage, but there are different counts of them: {given}")
    count = counts.pop()
    if count > len(base.stages):
        missing = [name for name in RecipeConfig.PER_STAGE if name not in lists]
        if missing:
            raise UserError(f"{count} stages, but the recipe {base.name} has {len(base.stages)}: give --{missing[0]} "
                            "too")
    names = {"global_batch_size": "rows"}
    stages = []
    for number in range(count):
        given = {names.get(name, name): values[number] for name, values in lists.items()}
        stages.append(Stage(**given) if count > len(base.stages)
                      else dataclasses.replace(base.stages[number], **given))
    return tuple(stages)


def check_recipe_file(path: Path, settings: dict[str, Any]) -> None:
    """Write what a folder's models are made of, or check that an earlier start wrote the same.

    Args:
        path: the file of the output folder that remembers it.
        settings: recipe, corpus and vocabulary.

    Raises:
        UserError: the folder holds a family made otherwise; the message names what differs.
    """
    now = json.loads(json_text(settings))
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json_text(now, indent=2) + "\n", encoding="utf-8")
        return
    before = read_json_object(path)
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(f"{path}: this folder's family was begun with other settings: {name} was "
                            f"{_shown(before.get(name))} and is now {_shown(now.get(name))}; name another --output_dir")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def settings_of(recipe: Recipe, **sources: Any) -> dict[str, Any]:
    """What makes two families equal: the recipe but for the share of a device, and what they are made from."""
    settings = dataclasses.asdict(recipe)
    for stage in settings["stages"]:
        del stage["batch_size"]
    return {**settings, **sources}


def corpus_facts(paths: tuple[str, ...]) -> dict[str, Any]:
    """Names and size of the corpus' files.

    Raises:
        UserError: one is missing.
    """
    files = find_files(paths)
    return {"files": [Path(file.path).name for file in files], "bytes": sum(file.size for file in files)}
