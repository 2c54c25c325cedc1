"""The files of an output folder, and the commands that make them: preprocess.py, pretrain.py and scripts of scripts/.

    family.json                             settings of the family; a start with other settings is refused
    datasets/seq128.pt, seq512.pt           from preprocess.py, once for each sequence length
    L-8_H-512/stage1_seq128.bin-1000000     from pretrain.py, with its training states and .metrics.jsonl
    L-8_H-512/stage2_seq512.bin-250000
    L-8_H-512/chinese_roberta_L-8_H-512     the converted model, until it is complete
    chinese_roberta_L-8_H-512               the finished model
    logs/                                   output of each command

A file gets its final name only when it is complete. So a command is left to run if its file does not exist.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from uer.data.store import open_dataset
from uer.errors import UserError
from uer.family.card import card_notes
from uer.family.config import FamilyConfig, MachineConfig
from uer.family.costs import Cost
from uer.family.recipe import Recipe, Stage
from uer.family.sizes import Size
from uer.family.teaching import Teaching
from uer.runtime.threads import quota_of_group

FIRST_PORT = 12345
PICTURE = "training_curve.png"
FRACTION_FOR_DATA = 0.15
"""Of a GPU's memory, for the datasets of all models that train on it at the same time."""


@dataclass(frozen=True)
class Command:
    """A command that makes one file or folder.

    Attributes:
        title: its name on the terminal.
        argv: Python interpreter, script and arguments.
        log: file for its output.
        done: returns whether the file or folder exists.
        prepare: called before the command starts.
        finish: called after the command succeeded.
        metrics: the metrics file that it writes, in JSON lines; None if it writes none.
        total_steps: of a training.
    """

    title: str
    argv: Sequence[str]
    log: Path
    done: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None
    metrics: Path | None = None
    total_steps: int = 0

    @property
    def program(self) -> str:
        """The script's file name."""
        return Path(self.argv[1]).name


@dataclass(frozen=True)
class FamilyFolder:
    """An output folder and the settings of its family.

    Attributes:
        root: the repository's folder.
        config, machine, recipe: the flags.
        kind: device type, cuda or cpu.
        devices_per_model: devices that train one model together.
        vocab_size: entries of the vocabulary; needed with a teacher only.
        teaching: the teacher, if there is one.
        costs: by the size's name, what the plan says: the rows of micro-batches, and how many models share a GPU.
        memory_bytes: of one device.
    """

    root: Path
    config: FamilyConfig
    machine: MachineConfig
    recipe: Recipe
    kind: str
    devices_per_model: int
    vocab_size: int = 0
    teaching: Teaching | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    memory_bytes: int = 0

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    def dataset_path(self, stage: Stage) -> Path:
        """The dataset with the stage's sequence length."""
        return dataset_paths(self.config, self.recipe)[stage.seq_length]

    def model_folder(self, size: Size) -> Path:
        """The folder of the finished model."""
        return self.folder / f"{self.config.prefix}_{size.name}"

    def output_path(self, size: Size, number: int) -> Path:
        """`--output_model_path` of stage `number`, counted from 1."""
        return self.folder / size.name / f"stage{number}_seq{self.recipe.stages[number - 1].seq_length}.bin"

    def weights_path(self, size: Size, number: int) -> Path:
        """The weights at the end of a stage."""
        path = self.output_path(size, number)
        return path.with_name(f"{path.name}-{self.recipe.stages[number - 1].total_steps}")

    def metrics_path(self, size: Size, number: int) -> Path:
        """The metrics file of a stage."""
        return self.output_path(size, number).with_suffix(".metrics.jsonl")

    def picture_path(self, size: Size) -> Path:
        """The picture of the loss curves of all stages."""
        return self.folder / size.name / PICTURE

    def trained(self, size: Size, number: int) -> bool:
        """Whether a stage, or a later one, is complete."""
        return any(self.weights_path(size, stage).exists() for stage in range(number, len(self.recipe.stages) + 1))

    def finished(self, size: Size) -> bool:
        """Whether the folder of the finished model exists."""
        return self.model_folder(size).is_dir()

    def _script(self, name: str) -> list[str]:
        return [sys.executable, str(self.root / name)]

    def _tokenizer_flags(self) -> list[str]:
        return ["--vocab_path", self.config.vocab_path, "--do_lower_case", str(self.config.do_lower_case).lower()]

    def preprocess_commands(self) -> list[Command]:
        """One command for each sequence length."""
        lengths = {stage.seq_length: stage for stage in self.recipe.stages}
        return [self._preprocess(stage) for stage in lengths.values()]

    def _preprocess(self, stage: Stage) -> Command:
        path, recipe = self.dataset_path(stage), self.recipe
        argv = [*self._script("preprocess.py"), "--corpus_path", *self.config.corpus_path, *self._tokenizer_flags(),
                "--dataset_path", str(path), "--processes_num", str(self.machine.processes_num or cores()),
                "--seq_length", str(stage.seq_length), "--dynamic_masking", "--data_processor", "mlm"]
        argv += ["--full_sentences"] * recipe.full_sentences + ["--whole_word_masking"] * recipe.whole_word_masking
        return Command(f"dataset of length {stage.seq_length}", argv, self._log(f"preprocess_seq{stage.seq_length}"),
                       done=path.exists, prepare=lambda: path.parent.mkdir(parents=True, exist_ok=True))

    def model_commands(self, size: Size, port: int = FIRST_PORT) -> list[Command]:
        """The commands that make one model from the datasets.

        Args:
            size: the model.
            port: for the model's processes, where several GPUs train it.
        """
        stages = [self._pretrain(size, number, port) for number in range(1, len(self.recipe.stages) + 1)]
        return [*stages, *self._plot(size), self._convert(size)]

    def _pretrain(self, size: Size, number: int, port: int) -> Command:
        output, recipe = self.output_path(size, number), self.recipe
        argv = [*self._script("pretrain.py"), *self._tokenizer_flags()]
        for name, value in (self._training_flags(size, number) | self._teacher_flags(size)
                            | self._data_flags(size, number)).items():
            argv += [f"--{name}", str(value)]
        argv += ["--whole_word_masking"] * recipe.whole_word_masking
        argv += ["--document_attention"] * recipe.document_attention
        return Command(f"stage {number} of {len(recipe.stages)}", argv + self._device_flags(port), self._log(size.name),
                       done=lambda: self.trained(size, number),
                       prepare=lambda: output.parent.mkdir(parents=True, exist_ok=True),
                       metrics=self.metrics_path(size, number), total_steps=recipe.stages[number - 1].total_steps)

    def _training_flags(self, size: Size, number: int) -> dict[str, object]:
        """Flags of pretrain.py that have one value."""
        stage, recipe, machine = self.recipe.stages[number - 1], self.recipe, self.machine
        planned = self.costs.get(size.name)
        batch_size, accumulation_steps = (planned.splits[number - 1] if planned else
                                          stage.split(self.devices_per_model))
        steps = stage.total_steps
        flags: dict[str, object] = {
            "dataset_path": self.dataset_path(stage), "config_path": size.config_path,
            "output_model_path": self.output_path(size, number), "total_steps": steps,
            "save_checkpoint_steps": machine.save_checkpoint_steps or max(1, steps // 10),
            "report_steps": min(steps, machine.report_steps or max(10, steps // 1000)),
            "learning_rate": stage.learning_rate, "scheduler": recipe.scheduler, "warmup": recipe.warmup,
            "lr_decay": recipe.lr_decay, "optimizer": recipe.optimizer, "mask_rate": recipe.mask_rate,
            "mask_token_rate": recipe.mask_token_rate, "dropout": recipe.dropout, "max_grad_norm": recipe.max_grad_norm,
            "batch_size": batch_size, "accumulation_steps": accumulation_steps, "data_processor": "mlm",
            "target": "mlm", "seed": recipe.seed, "precision": machine.precision, "compile": machine.compile,
            "metrics_path": self.metrics_path(size, number)}
        if number > 1:
            flags["pretrained_model_path"] = self.weights_path(size, number - 1)
        else:
            flags["output_bias_init"] = recipe.output_bias_init
        if machine.peak_flops:
            flags["peak_flops"] = machine.peak_flops
        if machine.dev_fraction:
            flags |= {"dev_fraction": machine.dev_fraction, "eval_masking": "tokens"}
        return flags

    def teacher_of(self, size: Size) -> Teaching | None:
        """The teacher of a size; None if it has none."""
        return self.teaching if self.teaching and self.teaching.teaches(size, self.vocab_size) else None

    def teacher_path(self) -> Path:
        """The teacher's weights."""
        assert self.teaching is not None
        return (Path(self.teaching.model_path) if self.teaching.model_path
                else self.weights_path(self.teaching.size, len(self.recipe.stages)))

    def _teacher_flags(self, size: Size) -> dict[str, object]:
        teacher = self.teacher_of(size)
        if teacher is None:
            return {}
        return {"teacher_model_path": self.teacher_path(), "teacher_config_path": teacher.size.config_path,
                "soft_alpha": teacher.soft_alpha, "soft_temperature": teacher.soft_temperature}

    def _data_flags(self, size: Size, number: int) -> dict[str, object]:
        """Where the dataset is while several models train on one GPU. Each would put a copy there, and each would ask
        for the free memory before the others have taken theirs, so it is decided here for all of them."""
        planned, path = self.costs.get(size.name), self.dataset_path(self.recipe.stages[number - 1])
        if self.kind == "cpu" or planned is None or planned.at_once == 1 or not path.exists():
            return {}
        fits = planned.at_once * path.stat().st_size < FRACTION_FOR_DATA * self.memory_bytes
        return {"dataset_device": "cuda" if fits else "cpu"}

    def _device_flags(self, port: int) -> list[str]:
        if self.kind == "cpu":
            return ["--device", "cpu"]
        if self.devices_per_model == 1:
            return []
        return ["--world_size", str(self.devices_per_model), "--gpu_ranks", *map(str, range(self.devices_per_model)),
                "--master_ip", f"tcp://localhost:{port}"]

    def _plot(self, size: Size) -> list[Command]:
        """The picture of the loss curves, if the optional package matplotlib is installed."""
        if importlib.util.find_spec("matplotlib") is None:
            return []
        picture = self.picture_path(size)
        unfinished = picture.with_name(f"unfinished_{picture.name}")
        metrics = [str(self.metrics_path(size, number)) for number in range(1, len(self.recipe.stages) + 1)]
        argv = [*self._script("scripts/plot_training.py"), "--metrics_path", *metrics, "--output_path", str(unfinished)]
        return [Command("drawing the curve", argv, self._log(size.name), done=picture.exists,
                        finish=lambda: os.replace(unfinished, picture))]

    def _convert(self, size: Size) -> Command:
        final = self.model_folder(size)
        unfinished, notes = self.folder / size.name / final.name, self.folder / size.name / "card_notes.md"
        argv = [*self._script(self.config.made.conversion),
                "--input_model_path", str(self.weights_path(size, len(self.recipe.stages))),
                "--output_dir", str(unfinished), "--config_path", size.config_path,
                "--layers_num", str(size.config.layers_num), "--type", "mlm", "--card_notes_path", str(notes),
                *self._tokenizer_flags()]

        def prepare() -> None:
            shutil.rmtree(unfinished, ignore_errors=True)
            notes.write_text(self._notes(size), encoding="utf-8")

        def finish() -> None:
            if self.picture_path(size).exists():
                shutil.copy(self.picture_path(size), unfinished)
            os.replace(unfinished, final)

        return Command("conversion", argv + ["--no_check"] * self.machine.no_check, self._log(size.name),
                       done=final.is_dir, prepare=prepare, finish=finish)

    def _notes(self, size: Size) -> str:
        """The text for the model card."""
        stages = range(1, len(self.recipe.stages) + 1)
        commands = [command.argv for command in [*self.preprocess_commands(), *self.model_commands(size)[:len(stages)]]]
        infos = {stage.seq_length: open_dataset(self.dataset_path(stage)).info for stage in self.recipe.stages}
        metrics = [self.metrics_path(size, number) for number in stages]
        picture = PICTURE if self.picture_path(size).exists() else ""
        teacher = self.teacher_of(size)
        return card_notes(self.recipe, self.config.corpus_path, infos, metrics, commands, self.root, picture,
                          teacher.describe() if teacher else "")

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"


def cores() -> int:
    """The CPU cores of this machine, or fewer where a container has a smaller share of them."""
    return min(os.cpu_count() or 1, quota_of_group())


def dataset_paths(config: FamilyConfig, recipe: Recipe) -> dict[int, Path]:
    """Sequence length -> the dataset in the output folder."""
    return {stage.seq_length: Path(config.output_dir) / "datasets" / f"seq{stage.seq_length}.pt"
            for stage in recipe.stages}


def check_datasets(family: FamilyFolder) -> None:
    """Check that the datasets in the folder were made with the recipe's settings.

    Raises:
        UserError: one was not.
    """
    for stage in family.recipe.stages:
        path = family.dataset_path(stage)
        if not path.exists():
            continue
        info = open_dataset(path).info
        if info.seq_length != stage.seq_length:
            raise UserError(f"{path}: made with --seq_length {info.seq_length}, not {stage.seq_length}")
        if info.processor_settings.get("whole_word_masking", False) != family.recipe.whole_word_masking:
            raise UserError(f"{path}: made with another --whole_word_masking than the recipe has; remove it")


def check_teacher(family: FamilyFolder, sizes: Sequence[Size]) -> None:
    """Check that the weights of a finished teacher still exist, if an unfinished size needs them.

    Raises:
        UserError: they do not.
    """
    students = [size for size in sizes if family.teacher_of(size) and not family.finished(size)]
    if students and family.finished(family.teaching.size) and not family.teacher_path().is_file():
        raise UserError(f"{family.teacher_path()}: the teacher's weights were removed, and {students[0].name} needs "
                        "them; restore them")
