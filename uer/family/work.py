"""The files of an output folder, and the commands that make them: the same scripts that a person would run.

    family.json                             what the family is made of; another start with other settings is refused
    datasets/seq128.pt, seq512.pt           preprocess.py, once for each length
    L-8_H-512/stage1_seq128.bin-1000000     pretrain.py, with its training states and .metrics.jsonl beside it
    L-8_H-512/stage2_seq512.bin-250000
    L-8_H-512/chinese_roberta_L-8_H-512     the conversion, until its card is complete
    chinese_roberta_L-8_H-512               the finished model
    logs/                                   what each command printed
    launch.json                             with several machines: the training that they are to join

A name exists only when what it names is whole, so what is left to do is what has no name yet.
"""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from uer.data.store import DatasetInfo, open_dataset
from uer.errors import UserError
from uer.family.card import card_notes
from uer.family.config import FamilyConfig, MachineConfig
from uer.family.nodes import Launch, Torchrun, write_launch
from uer.family.recipe import Recipe, Stage
from uer.family.sizes import Size
from uer.family.teaching import Teaching

FIRST_PORT = 12345
PICTURE = "training_curve.png"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        title: what it is called on the terminal.
        argv: program and arguments.
        log: gets what it prints.
        done: whether there is nothing left to do.
        prepare: called before it starts.
        finish: called after it succeeded.
        metrics: JSON lines of its progress, where it writes some.
        total_steps: where it has steps.
        training: what several machines know it by, where they do it together; "" where one does it.
    """

    title: str
    argv: Sequence[str]
    log: Path
    done: Callable[[], bool]
    prepare: Callable[[], None] = lambda: None
    finish: Callable[[], None] = lambda: None
    metrics: Path | None = None
    total_steps: int = 0
    training: str = ""

    @property
    def program(self) -> str:
        """The script's name."""
        return next((Path(word).name for word in self.argv[1:] if word.endswith(".py")), self.argv[1])

    @property
    def flags(self) -> tuple[str, ...]:
        """What follows the script's path."""
        return tuple(self.argv[[Path(word).name for word in self.argv].index(self.program) + 1:])


@dataclass(frozen=True)
class Workshop:
    """An output folder and the settings of its family."""

    root: Path
    config: FamilyConfig
    machine: MachineConfig
    recipe: Recipe
    kind: str
    per_model: int
    """Devices that train one model together."""
    vocab_size: int = 0
    teaching: Teaching | None = None
    torchrun: Torchrun | None = None
    launch_id: str = ""
    """Another one for every start of node 0."""

    @property
    def folder(self) -> Path:
        return Path(self.config.output_dir)

    def dataset_path(self, stage: Stage) -> Path:
        """Where the dataset of a stage's length is."""
        return self.folder / "datasets" / f"seq{stage.seq_length}.pt"

    def model_folder(self, size: Size) -> Path:
        """Where the finished model is."""
        return self.folder / f"{self.config.name_prefix}_{size.name}"

    def output_path(self, size: Size, number: int) -> Path:
        """`--output_model_path` of stage `number`, counted from 1."""
        return self.folder / size.name / f"stage{number}_seq{self.recipe.stages[number - 1].seq_length}.bin"

    def weights_path(self, size: Size, number: int) -> Path:
        """The weights at a stage's end."""
        path = self.output_path(size, number)
        return path.with_name(f"{path.name}-{self.recipe.stages[number - 1].total_steps}")

    def metrics_path(self, size: Size, number: int) -> Path:
        """The curve of a stage."""
        return self.output_path(size, number).with_suffix(".metrics.jsonl")

    def picture_path(self, size: Size) -> Path:
        """The curves of all stages."""
        return self.folder / size.name / PICTURE

    def trained(self, size: Size, number: int) -> bool:
        """Whether a stage, or a later one, has come to its end."""
        return any(self.weights_path(size, stage).exists() for stage in range(number, len(self.recipe.stages) + 1))

    def finished(self, size: Size) -> bool:
        """Whether the model's folder is there."""
        return self.model_folder(size).is_dir()

    def _script(self, name: str) -> list[str]:
        return [sys.executable, str(self.root / name)]

    def _tokenizer_flags(self) -> list[str]:
        return ["--vocab_path", self.config.vocab_path, "--do_lower_case", str(self.config.do_lower_case).lower()]

    def preprocess_steps(self) -> list[Step]:
        """One for each length."""
        lengths = {stage.seq_length: stage for stage in self.recipe.stages}
        return [self._preprocess(stage) for stage in lengths.values()]

    def _preprocess(self, stage: Stage) -> Step:
        path, recipe = self.dataset_path(stage), self.recipe
        argv = [*self._script("preprocess.py"), "--corpus_path", *self.config.corpus_path, *self._tokenizer_flags(),
                "--dataset_path", str(path), "--processes_num", str(self.machine.processes_num or os.cpu_count() or 1),
                "--seq_length", str(stage.seq_length), "--dynamic_masking", "--data_processor", "mlm"]
        argv += ["--full_sentences"] * recipe.full_sentences + ["--whole_word_masking"] * recipe.whole_word_masking
        return Step(f"dataset of length {stage.seq_length}", argv, self._log(f"preprocess_seq{stage.seq_length}"),
                    done=path.exists, prepare=lambda: path.parent.mkdir(parents=True, exist_ok=True))

    def model_steps(self, size: Size, port: int = FIRST_PORT) -> list[Step]:
        """Everything that makes one model of the datasets."""
        stages = [self._pretrain(size, number, port) for number in range(1, len(self.recipe.stages) + 1)]
        return [*stages, *self._plot(size), self._convert(size)]

    def _pretrain(self, size: Size, number: int, port: int) -> Step:
        stage, recipe, machine = self.recipe.stages[number - 1], self.recipe, self.machine
        batch_size, accumulation = stage.split(self.per_model)
        output, steps = self.output_path(size, number), stage.total_steps
        flags: dict[str, object] = {
            "dataset_path": self.dataset_path(stage), "config_path": size.config_path, "output_model_path": output,
            "total_steps": steps, "save_checkpoint_steps": machine.save_checkpoint_steps or max(1, steps // 10),
            "report_steps": min(steps, machine.report_steps or max(10, steps // 1000)),
            "learning_rate": stage.learning_rate, "scheduler": recipe.scheduler, "warmup": recipe.warmup,
            "lr_decay": recipe.lr_decay, "dropout": recipe.dropout,
            "max_grad_norm": recipe.max_grad_norm, "batch_size": batch_size,
            "accumulation_steps": accumulation, "data_processor": "mlm", "target": "mlm", "seed": recipe.seed,
            "precision": machine.precision, "compile": machine.compile,
            "metrics_path": self.metrics_path(size, number)}
        if number > 1:
            flags["pretrained_model_path"] = self.weights_path(size, number - 1)
        if machine.peak_flops:
            flags["peak_flops"] = machine.peak_flops
        flags |= self._teacher_flags(size)
        if machine.dev_fraction:
            flags["dev_fraction"] = machine.dev_fraction
        argv = [str(self.root / "pretrain.py"), *self._tokenizer_flags()]
        for name, value in flags.items():
            argv += [f"--{name}", str(value)]
        argv += ["--whole_word_masking"] * recipe.whole_word_masking
        argv += ["--document_attention"] * recipe.document_attention
        argv += self._device_flags(port)
        training = f"{size.name}-stage{number}"
        launcher = self.torchrun.command(f"{self.launch_id}-{training}") if self.torchrun else [sys.executable]

        def prepare() -> None:
            output.parent.mkdir(parents=True, exist_ok=True)
            if self.torchrun and self.torchrun.nodes > 1 and self.torchrun.node == 0:
                write_launch(self.folder, Launch(f"{self.launch_id}-{training}", training, tuple(argv[1:])))

        return Step(f"stage {number} of {len(recipe.stages)}", [*launcher, *argv], self._log(size.name),
                    done=lambda: self.trained(size, number), prepare=prepare, metrics=self.metrics_path(size, number),
                    total_steps=steps, training=training)

    def teacher_of(self, size: Size) -> Teaching | None:
        """Whom a size learns from."""
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

    def _device_flags(self, port: int) -> list[str]:
        if self.kind == "cpu":
            return ["--device", "cpu"]
        if self.per_model == 1 or self.torchrun:
            return []
        return ["--world_size", str(self.per_model), "--gpu_ranks", *map(str, range(self.per_model)),
                "--master_ip", f"tcp://localhost:{port}"]

    def _plot(self, size: Size) -> list[Step]:
        """The picture of the curve, where the optional matplotlib is installed."""
        if importlib.util.find_spec("matplotlib") is None:
            return []
        picture = self.picture_path(size)
        drawn = picture.with_name(f"unfinished_{picture.name}")
        metrics = [str(self.metrics_path(size, number)) for number in range(1, len(self.recipe.stages) + 1)]
        argv = [*self._script("scripts/plot_training.py"), "--metrics_path", *metrics, "--output_path", str(drawn)]
        return [Step("drawing the curve", argv, self._log(size.name), done=picture.exists,
                     finish=lambda: os.replace(drawn, picture))]

    def _convert(self, size: Size) -> Step:
        last = len(self.recipe.stages)
        final = self.model_folder(size)
        staged, notes = self.folder / size.name / final.name, self.folder / size.name / "card_notes.md"
        argv = [*self._script("scripts/convert_bert_from_uer_to_huggingface.py"),
                "--input_model_path", str(self.weights_path(size, last)), "--output_dir", str(staged),
                "--config_path", size.config_path, "--layers_num", str(size.config.layers_num), "--type", "mlm",
                "--card_notes_path", str(notes), *self._tokenizer_flags()]

        def prepare() -> None:
            shutil.rmtree(staged, ignore_errors=True)
            notes.write_text(self._notes(size), encoding="utf-8")

        def finish() -> None:
            if self.picture_path(size).exists():
                shutil.copy(self.picture_path(size), staged)
            os.replace(staged, final)

        return Step("conversion", argv + ["--no_check"] * self.machine.no_check, self._log(size.name),
                    done=final.is_dir, prepare=prepare, finish=finish)

    def _notes(self, size: Size) -> str:
        launcher = self.torchrun.shown() if self.torchrun else sys.executable
        commands = [*(step.argv for step in self.preprocess_steps()),
                    *([launcher, str(self.root / step.program), *step.flags]
                      for step in self.model_steps(size)[:len(self.recipe.stages)])]
        infos = {stage.seq_length: dataset_info(self.dataset_path(stage)) for stage in self.recipe.stages}
        metrics = [self.metrics_path(size, number) for number in range(1, len(self.recipe.stages) + 1)]
        picture = PICTURE if self.picture_path(size).exists() else ""
        teacher = self.teacher_of(size)
        return card_notes(self.recipe, self.config.corpus_path, infos, metrics, commands, self.root, picture,
                          teacher.describe() if teacher else "")

    def _log(self, name: str) -> Path:
        node = f".node{self.torchrun.node}" if self.torchrun and self.torchrun.node else ""
        return self.folder / "logs" / f"{name}{node}.log"


def dataset_info(path: Path) -> DatasetInfo:
    """What a dataset's file says of itself."""
    return open_dataset(path).info


def check_datasets(workshop: Workshop) -> None:
    """The datasets that are there are those of this recipe.

    Raises:
        UserError: one is not.
    """
    for stage in workshop.recipe.stages:
        path = workshop.dataset_path(stage)
        if not path.exists():
            continue
        info = dataset_info(path)
        if info.seq_length != stage.seq_length:
            raise UserError(f"{path}: made with --seq_length {info.seq_length}, not {stage.seq_length}")
        if info.processor_settings.get("whole_word_masking", False) != workshop.recipe.whole_word_masking:
            raise UserError(f"{path}: made with another --whole_word_masking than the recipe has; remove it")


def check_teacher(workshop: Workshop, sizes: Sequence[Size]) -> None:
    """A finished teacher's weights, which the sizes to come need, are still there.

    Raises:
        UserError: they are not.
    """
    pupils = [size for size in sizes if workshop.teacher_of(size) and not workshop.finished(size)]
    if pupils and workshop.finished(workshop.teaching.size) and not workshop.teacher_path().is_file():
        raise UserError(f"{workshop.teacher_path()}: the teacher's weights are gone, and {pupils[0].name} needs them; "
                        "put them back")
