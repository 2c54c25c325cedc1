"""The stages of pretraining and their settings; each setting has a flag that overrides it.

`uer` is the recipe of the published family: 1,000,000 updates of 8 x 64 sequences of 128 tokens with the peak learning
rate 1e-4, then 250,000 updates of 8 x 16 sequences of 512 tokens with 5e-5; linear warmup over a tenth of the steps,
linear decay to 0; single tokens are masked, and every epoch has new masks.

`modern` changes the recipe, not the model:

| what                           | flag                                         | source                          |
|--------------------------------|----------------------------------------------|---------------------------------|
| whole words are masked         | `--whole_word_masking`                       | Cui et al., 2019, 1906.08101    |
| sequences without padding      | preprocess.py `--full_sentences`             | Liu et al., 2019, 1907.11692    |
| attention inside each document | pretrain.py `--document_attention`           | Krell et al., 2021, 2107.02027  |
| warmup, constant, decay        | `--scheduler trapezoidal`, `--lr_decay 0.2`  | Hägele et al., 2024, 2405.18392 |
| 4 x the batch, 1/8 the updates | batch and steps                              | Liu et al., 2019, 1907.11692    |
| learning rate x 2 = sqrt(4)    | `--learning_rate`                            | You et al., 2019, 1904.00962    |

Sources are given by their arXiv numbers. `modern` trains on half as many sequences as `uer`: when documents are short,
a sequence without padding holds about twice as many tokens. Its warmup takes 2,500 updates; a run of only a few
thousand updates needs a larger part, such as `--warmup 0.1` (BENCHMARKS.md shows the effect of a warmup of 48 updates).

`modernbert` is for ModernBERT (`--architecture modern`), which reads 8,192 tokens and knows no padding. It trains on as
many tokens as `uer`, 82 billion, in updates of 524,288:

| what                           | flag                               | source                                |
|--------------------------------|------------------------------------|---------------------------------------|
| 30% of the tokens predicted    | `--mask_rate 0.3`                  | Wettig et al., 2022, 2202.08005       |
| rows of whole documents        | preprocess.py `--full_sentences`   | Warner et al., 2024, 2412.13663       |
| attention inside each document | pretrain.py `--document_attention` | the same                              |
| first 1,024 tokens, then 8,192 | two stages                         | the same                              |
| warmup, constant, decay        | `--scheduler trapezoidal`          | the same; Hu et al., 2024, 2404.06395 |
| no dropout                     | `--dropout 0`                      | as the files of models/modernbert     |
| biases of token frequencies    | `--output_bias_init frequencies`   | docs/recipes.md                       |

The batch is ours, a ninth of Warner et al.'s 4,608 rows, and so is the peak learning rate, about a third (the square
root) of their 8e-4, and half of that in the second stage. Each stage has a warmup and a decay of its own, so that its
weights can be used as they are.
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
    """One run of pretrain.py; a model is made by one run after another.

    Attributes:
        seq_length: tokens of a sequence.
        total_steps: optimizer updates.
        rows: sequences of an update, on all devices and in all micro-batches together.
        batch_size: largest number of sequences in a micro-batch of one device.
        learning_rate: peak learning rate.
        automatic: on a GPU, a micro-batch is as large as memory allows; False where --batch_size is given.
    """

    seq_length: int
    total_steps: int
    rows: int
    batch_size: int
    learning_rate: float
    automatic: bool = False

    @property
    def tokens(self) -> int:
        """Token slots of the whole stage: its tokens, padding included."""
        return self.seq_length * self.total_steps * self.rows

    def split(self, devices: int) -> tuple[int, int]:
        """(batch size of a device, accumulation steps), so that an update on `devices` devices has `rows` sequences.

        >>> Stage(128, 1000, 512, 64, 1e-4).split(8), Stage(128, 1000, 512, 64, 1e-4).split(2)
        ((64, 1), (64, 4))

        Raises:
            UserError: `rows` is not divisible by `devices`.
        """
        if self.rows % devices:
            raise UserError(f"--global_batch_size {self.rows} cannot be divided evenly by {devices} devices")
        rows = self.rows // devices  # of one device
        batch_size = max(size for size in range(1, min(self.batch_size, rows) + 1) if rows % size == 0)
        return batch_size, rows // batch_size


@dataclass(frozen=True)
class Recipe:
    """How every model of the family is pretrained."""

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
    optimizer: str = "adamw"
    mask_rate: float = 0.15
    mask_token_rate: float = 0.8
    output_bias_init: str = "zeros"


RECIPES = {
    "uer": Recipe("uer", (Stage(128, 1_000_000, 512, 64, 1e-4, True), Stage(512, 250_000, 128, 16, 5e-5, True))),
    "modern": Recipe("modern", (Stage(128, 125_000, 2048, 64, 2e-4, True), Stage(512, 31_250, 512, 16, 1e-4, True)),
                     scheduler="trapezoidal", warmup=0.02, lr_decay=0.2, whole_word_masking=True, full_sentences=True,
                     document_attention=True),
    "modernbert": Recipe("modernbert", (Stage(1024, 125_000, 512, 8, 3e-4, True),
                                        Stage(8192, 31_250, 64, 1, 1.5e-4, True)),
                         scheduler="trapezoidal", warmup=0.02, lr_decay=0.2, dropout=0.0, full_sentences=True,
                         document_attention=True, mask_rate=0.3, output_bias_init="frequencies"),
}


# Settings that families of earlier versions do not name -> what they were.
LATER_SETTINGS = {"optimizer": "adamw", "mask_rate": 0.15, "mask_token_rate": 0.8, "output_bias_init": "zeros"}


BEFORE_ARCHITECTURES = {"architecture": "bert"}
"""What families were that do not name their architecture; those of BERT never do."""


def build_recipe(config: RecipeConfig, default: str = "uer") -> Recipe:
    """The named recipe, or where none is named `default`, with the settings of the command line in place of its own.

    Raises:
        UserError: the lists of the command line do not have one number for each stage.
    """
    base = RECIPES[config.recipe or default]
    changes = {name: getattr(config, name) for name in RecipeConfig.SINGLE if getattr(config, name) is not None}
    return dataclasses.replace(base, stages=_stages(base, config), **changes)


def _stages(base: Recipe, config: RecipeConfig) -> tuple[Stage, ...]:
    lists = {name: getattr(config, name) for name in RecipeConfig.PER_STAGE if getattr(config, name)}
    counts = {len(values) for values in lists.values()} or {len(base.stages)}
    if len(counts) > 1:
        given = ", ".join(f"--{name} {len(values)}" for name, values in lists.items())
        raise UserError(f"one number is needed for each stage, but the flags have different counts: {given}")
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
        if "batch_size" in given:
            given["automatic"] = False
        stages.append(Stage(**given) if count > len(base.stages)
                      else dataclasses.replace(base.stages[number], **given))
    return tuple(stages)


def check_recipe_file(path: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a family to its folder, or check that they equal those of an earlier start.

    Args:
        path: `family.json` in the output folder.
        settings: recipe, corpus and vocabulary.

    Raises:
        UserError: the folder holds a family with other settings; the message names the first difference.
    """
    now = json.loads(json_text(settings))
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_text(json_text(now, indent=2) + "\n", encoding="utf-8")
        return
    before, now = {**BEFORE_ARCHITECTURES, **read_json_object(path)}, {**BEFORE_ARCHITECTURES, **now}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            raise UserError(f"{path}: the family in this folder was started with other settings: {name} was "
                            f"{_shown(before.get(name))} and is now {_shown(now.get(name))}; name another --output_dir")


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def settings_of(recipe: Recipe, **sources: Any) -> dict[str, Any]:
    """The settings that decide the result: the recipe without the devices' batch size, and the sources."""
    settings = dataclasses.asdict(recipe)
    for name, before in LATER_SETTINGS.items():
        if settings[name] == before:
            del settings[name]
    for stage in settings["stages"]:
        del stage["batch_size"], stage["automatic"]
    return {**settings, **sources}


def corpus_facts(paths: tuple[str, ...]) -> dict[str, Any]:
    """File names and total size of the corpus.

    Raises:
        UserError: a file is missing.
    """
    files = find_files(paths)
    return {"files": [Path(file.path).name for file in files], "bytes": sum(file.size for file in files)}
