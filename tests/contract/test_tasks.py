"""What every entry of TASKS must do. A new entry needs a small file in CASES; all tests then run it."""

import copy
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tools.closeness import relative_error
from tests.tools.configs import model_config
from uer.config import ModelConfig, ParallelConfig
from uer.errors import UserError
from uer.finetuning import infer as infer_module
from uer.finetuning import progress, table_task
from uer.finetuning.batches import IGNORED, Batch, Examples, collate, evaluation_batches
from uer.finetuning.infer import infer
from uer.finetuning.loop import EVALUATION_ROWS, FitSettings, Updater, predict
from uer.finetuning.readers import read_tables
from uer.finetuning.saved_model import load_finetuned, load_settings, save_finetuned, task_of
from uer.finetuning.table_task import TableTask
from uer.finetuning.task import Task, TextToRows
from uer.finetuning.tasks import TASKS
from uer.runtime.launch import RankInfo
from uer.runtime.parallel import connect
from uer.runtime.precision import Precision
from uer.runtime.threads import Split
from uer.tokenizers import BertTokenizer, Vocab

CHARACTERS = "甲乙丙丁戊己庚辛壬癸"
EXAMPLES = 11  # unlike the sizes below, so that a swapped axis fails
MODEL = {"emb_size": 16, "hidden_size": 16, "feedforward_size": 19, "heads_num": 2, "layers_num": 1, "dropout": 0.0,
         "max_seq_length": 29, "embedding": ("word", "pos", "seg"), "pooling": "mean"}
SEQ_LENGTH = 17


def texts(seed: int, longest: int = 24) -> list[str]:
    """Some of them are longer than a row."""
    draw = random.Random(seed)
    return ["".join(draw.choices(CHARACTERS, k=draw.randint(1, longest))) for _ in range(EXAMPLES)]


def table(columns: str, labels: Callable[[int, str], str], spaced: bool = False) -> str:
    """A TSV with a row for each text: `labels(row, text)` and one or two texts."""
    names, rows = columns.split(), []
    for row, (first, second) in enumerate(zip(texts(1), texts(2))):
        values = {"label": labels(row, first), "text_a": " ".join(first) if spaced else first, "text_b": second,
                  "qid": str(row // 3), "logits": f"{row / 7 - 1:.3f} {1 - row / 5:.3f}"}
        rows.append("\t".join(values[name] for name in names))
    return "\n".join(["\t".join(names), *rows]) + "\n"


def c3() -> str:
    """A list of [[sentences], [questions], id], with two choices or three."""
    return json.dumps([[[text], [{"question": text[:1], "choice": ["甲", "乙丙", "丁"][:2 + row % 2],
                                  "answer": "乙丙"}], str(row)] for row, text in enumerate(texts(3))])


def chid() -> str:
    """Lines with one blank or two, and three candidates or two."""
    return "".join(json.dumps({"content": [f"{text}#idiom{2 * row}#{text}"] + [f"甲#idiom{2 * row + 1}#"] * (row % 2),
                               "candidates": ["甲乙", "丙丁", "戊"][:2 + row % 2]}) + "\n"
                   for row, text in enumerate(texts(3)))


def squad() -> str:
    """The answer is the last character."""
    return json.dumps({"data": [{"paragraphs": [{"context": text, "qas": [
        {"id": f"Q{row}", "question": "甲乙", "answers": [{"text": text[-1], "answer_start": len(text) - 1}]}]}]}
        for row, text in enumerate(texts(4))]})


@dataclass(frozen=True)
class Case:
    """How a task is tried.

    Attributes:
        content: a file of examples with targets.
        settings: of the task's `config_class`.
        training: the training file, where it is another.
        predicts: whether the task has a prediction file.
        model: settings of the model that differ from MODEL.
    """

    content: str
    settings: dict[str, object] = field(default_factory=dict)
    training: str = ""
    predicts: bool = True
    model: dict[str, object] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return model_config(**MODEL | self.model)


def two_classes(row: int, text: str) -> str:
    return str(int("甲" in text))


def tags(row: int, text: str) -> str:
    return " ".join("B-PER" if char == "甲" else "I-PER" if char == "乙" else "O" for char in text)


def dual(first: dict[str, object], second: dict[str, object]) -> dict[str, object]:
    """The dual encoder of these streams, one of both where they are equal."""
    streams = [{"encoder": "transformer", **own, "embedding": ["word", "pos", "seg"]} for own in (first, second)]
    return {"encoder": "dual", "embedding": ["dual"], "stream_0": streams[0], "stream_1": streams[1],
            "tie_weights": first == second}


CHID_ANSWERS = dict.fromkeys(("train_answer_path", "dev_answer_path"),
                             str(Path(__file__).parent / "chid_answers.json"))
PROMPT = {"prompt_path": str(Path(__file__).parent / "prompts.json")}
CASES: dict[str, list[Case]] = {
    "classifier": [Case(table("label text_a", two_classes)),
                   Case(table("label text_a text_b logits", two_classes),
                        {"soft_targets": True, "soft_alpha": 0.3, "class_weights": "balanced"})],
    "multi_label": [Case(table("label text_a", lambda row, text: ",".join(sorted(set(text) & set("甲乙丙")))))],
    "regression": [Case(table("label text_a text_b", lambda row, text: str(row / 3 - 2)))],
    "siamese": [Case(table("label text_a text_b", two_classes)),
                Case(table("label text_a text_b", two_classes), model=dual(MODEL, {**MODEL, "layers_num": 2})),
                Case(table("label text_a text_b", two_classes), model=dual(MODEL, MODEL))],
    "simcse": [Case(table("label text_a text_b", lambda row, text: str(row % 6)), {"temperature": 0.1},
                    table("text_a", two_classes), predicts=False)],
    "ner": [Case(table("label text_a", tags, spaced=True)),
            Case(table("label text_a", tags, spaced=True), {"crf_target": True})],
    "cmrc": [Case(squad(), {"doc_stride": 5, "max_answer_length": 4})],
    "c3": [Case(c3(), {"max_choices_num": 3})],
    "classifier_prompt": [Case(table("label text_a", two_classes), PROMPT | {"prompt_id": "one"}),
                          Case(table("label text_a text_b", two_classes), PROMPT | {"prompt_id": "pair"})],
    "chid": [Case(chid(), CHID_ANSWERS | {"max_choices_num": 3})],
    "classifier_mt": [Case(table("label text_a", two_classes), {"dataset_path_list": ("folder",)})],
    "text2text": [Case(table("label text_a text_b", lambda row, text: text[:3]), {"tgt_seq_length": 6},
                       model={"decoder": "transformer", "decoder_layers_num": 2, "tgt_embedding": ("word", "pos"),
                              "tie_weights": True, "layernorm_positioning": "pre", "remove_attention_scale": True})],
    "dbqa": [Case(table("qid label text_a text_b", two_classes))],
}


@dataclass(frozen=True)
class Tried:
    """A task of a case, its model with random weights, and its examples."""

    case: Case
    path: str
    task: Task
    encoder: TextToRows
    model: torch.nn.Module
    train: Examples
    examples: Examples

    @property
    def pad_id(self) -> int:
        return self.encoder.tokenizer.vocab.pad_id

    @torch.no_grad()
    def predicted(self, batch: Batch, training: bool = False) -> Any:
        """What the model's forward returns."""
        return self.model.train(training)(batch)

    @torch.no_grad()
    def loss(self, chosen: np.ndarray) -> float:
        """Summed over these training examples."""
        batch = collate(self.train, chosen, self.pad_id)
        loss = self.task.loss(self.predicted(batch, training=True), batch)
        assert loss.shape == ()
        return float(loss)

    @torch.no_grad()
    def outputs(self, batch_size: int = EVALUATION_ROWS) -> list[np.ndarray]:
        """Of every example, from batches of so many rows."""
        found: dict[int, np.ndarray] = {}
        for chosen in evaluation_batches(self.examples, max(1, batch_size // self.examples.ways)):
            batch = collate(self.examples, chosen, self.pad_id)
            found.update(zip(chosen.tolist(), self.task.outputs(self.predicted(batch), batch)))
        return [found[number] for number in range(len(self.examples))]


@pytest.fixture(scope="module", params=[pytest.param((name, case), id=f"{name} {number}")
                                        for name, cases in CASES.items() for number, case in enumerate(cases)])
def tried(request, tmp_path_factory) -> Tried:
    name, case = request.param
    folder, kind = tmp_path_factory.mktemp("task"), TASKS[name]
    (folder / "data").write_text(case.content, encoding="utf-8")
    (folder / "train").write_text(case.training or case.content, encoding="utf-8")
    config = kind.config_class(**case.settings) if kind.config_class else None
    task = kind.of_training_file(str(folder / "train"), config)
    tokenizer = BertTokenizer(Vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *CHARACTERS]))
    encoder = TextToRows(tokenizer, SEQ_LENGTH)
    torch.manual_seed(5)
    model = task.build(case.config, len(tokenizer.vocab))
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that logits differ
            parameter.normal_(0.0, 0.4)
    return Tried(case, str(folder / "data"), task, encoder, model, task.examples(str(folder / "train"), encoder),
                 task.evaluation_examples(str(folder / "data"), encoder))


def close(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return len(one) == len(other) and all(np.allclose(a, b, atol=1e-5) for a, b in zip(one, other))


def test_every_entry_has_a_case():
    assert CASES.keys() == TASKS.keys(), "a new entry of TASKS needs a small file in CASES"
    assert all(task.name == name for name, task in TASKS.items()), "saved settings name the task by its `name`"


def test_examples_of_a_file(tried):
    examples = tried.examples
    assert len(examples) >= EXAMPLES and len(examples.rows) == len(examples) * examples.ways and examples.hash
    assert examples.rows.lengths.min() >= 2 and examples.rows.lengths.max() == SEQ_LENGTH
    assert all(len(values) == len(examples) for values in examples.targets.values())
    for ragged in examples.token_targets.values():
        assert np.array_equal(ragged.offsets, examples.rows.tokens.offsets)
    with pytest.raises(UserError, match="none"):
        tried.task.examples(tried.path + "none", tried.encoder)


def test_examples_without_targets_have_the_same_rows(tried):
    rows = tried.task.examples(tried.path, tried.encoder, labelled=False).rows
    assert np.array_equal(rows.tokens.values, tried.examples.rows.tokens.values)
    assert np.array_equal(rows.first, tried.examples.rows.first)


def test_the_loss_of_parts_adds_up_to_that_of_the_whole(tried):
    """Each rank's sum is divided by the denominator of the whole batch; so the denominators of parts add up too."""
    task, whole = tried.task, np.random.default_rng(3).permutation(len(tried.train))
    parts = [whole[:1], whole[1:6], whole[6:]]
    loss, denominator = tried.loss(whole), task.denominator(tried.train, whole)
    assert np.isfinite(loss) and loss > 0 and denominator > 0
    assert sum(task.denominator(tried.train, part) for part in parts) == pytest.approx(denominator)
    assert (sum(map(tried.loss, parts)) == pytest.approx(loss, rel=1e-5)) != task.whole_batch


def test_the_gradients_of_parts_are_those_of_the_whole(tried):
    """Threads compute parts of a batch, where the loss allows it."""
    if tried.task.whole_batch:
        pytest.skip("the loss compares the examples of a whole batch")
    world, chosen = connect(RankInfo(), ParallelConfig(device="cpu")), np.arange(len(tried.train))
    found = []
    for split in (None, Split(2, 1), Split(3, 1)):
        model = copy.deepcopy(tried.model).train()
        updater = Updater(model, tried.task, FitSettings(), 10, tried.pad_id, world, Precision("fp32", world.device),
                          split=split, threads=2)
        loss = updater.update(tried.train, chosen)
        found.append([loss, *(parameter.grad for parameter in model.parameters())])
    for parts in found[1:]:
        for left, right in zip(parts, found[0], strict=True):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_autocast_to_bfloat16_rounds_gradients(tried):
    """By a few percent with weights so far from their start. CPUs without such products emulate them."""
    world, found = connect(RankInfo(), ParallelConfig(device="cpu")), []
    for precision in (Precision("fp32", world.device), Precision("bf16", world.device)):
        model = copy.deepcopy(tried.model).train()
        updater = Updater(model, tried.task, FitSettings(), 10, tried.pad_id, world, precision)
        updater.update(tried.train, np.arange(len(tried.train)))
        found.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert 0 < relative_error(found[1], found[0]) < 0.1
    outputs = predict(tried.model, tried.task, tried.examples, tried.pad_id, world, precision)
    assert [output.shape for output in outputs] == [output.shape for output in tried.outputs()]
    assert all(output.dtype == np.float32 and not np.isnan(output).any() for output in outputs)
    scores = torch.from_numpy(np.concatenate([output.ravel() for output in outputs]))
    numbers_of_tags = torch.equal(scores, scores.round())
    assert numbers_of_tags or not torch.equal(scores, scores.bfloat16().float())  # the last layer computes float32


def test_the_loss_reaches_every_parameter(tried):
    batch = collate(tried.train, np.arange(len(tried.train)), tried.pad_id)
    tried.model.zero_grad()
    tried.task.loss(tried.model.train()(batch), batch).backward()
    silent = [name for name, parameter in tried.model.named_parameters() if parameter.grad is None]
    assert not silent and all(parameter.grad.isfinite().all() for parameter in tried.model.parameters())
    tried.model.zero_grad()


@torch.no_grad()
def test_padding_changes_nothing(tried):
    chosen = np.arange(len(tried.train))
    batch = collate(tried.train, chosen, tried.pad_id)

    def wider(tensor: Tensor, value: int) -> Tensor:
        return F.pad(tensor, (0, 5), value=value)

    padded = Batch(wider(batch.src, tried.pad_id), wider(batch.seg, 0),
                   {name: wider(value, IGNORED) if name in tried.train.token_targets else value
                    for name, value in batch.targets.items()})
    loss = tried.task.loss(tried.predicted(padded, training=True), padded)
    assert float(loss) == pytest.approx(tried.loss(chosen), rel=1e-5)
    assert close(tried.task.outputs(tried.predicted(padded), padded),
                 tried.task.outputs(tried.predicted(batch), batch))
    assert close(tried.outputs(batch_size=1), tried.outputs())


def test_outputs_are_one_array_for_each_example(tried):
    outputs = tried.outputs()
    assert len(outputs) == len(tried.examples)
    for output in outputs:
        assert isinstance(output, np.ndarray) and output.dtype == np.float32 and output.ndim == 1
        assert not np.isnan(output).any() and (len(output) == 0 or output.max() < np.inf)
    assert len({output.tobytes() for output in outputs}) > 1


def test_metrics_have_their_names_and_ranges(tried):
    task, metrics = tried.task, tried.task.metrics(tried.outputs(), tried.examples)
    assert task.metric_names and metrics.keys() >= set(task.metric_names)
    assert all(-1.0 <= metrics[name] <= 1.0 for name in task.metric_names)
    json.dumps(metrics)
    assert all(isinstance(line, str) for line in task.report(tried.outputs(), tried.examples))
    assert task.inputs_num(tried.examples) >= EXAMPLES


def test_saved_settings_make_the_same_task_and_model(tried, tmp_path):
    task, config = tried.task, tried.case.config
    again = type(task).from_settings(json.loads(json.dumps(task.settings())))
    assert again.settings() == task.settings()
    save_finetuned(tmp_path / "model.bin", tried.model.state_dict(), task, config, tried.encoder, {})
    saved = load_settings(tmp_path / "model.bin")
    assert saved.task == task.name and saved.model == config
    assert saved.encoder.tokenizer.vocab.tokens == tried.encoder.tokenizer.vocab.tokens
    loaded = task_of(saved, TASKS[saved.task])
    model = loaded.build(saved.model, len(saved.encoder.tokenizer.vocab))
    load_finetuned(model, loaded, tmp_path / "model.bin")
    batch = collate(tried.examples, np.arange(len(tried.examples)), tried.pad_id)
    with torch.no_grad():
        found = loaded.outputs(model.eval()(batch), batch)
    assert close(found, task.outputs(tried.predicted(batch), batch))


def test_the_prediction_file(tried, tmp_path):
    outputs = tried.outputs()
    if not tried.case.predicts:
        with pytest.raises(NotImplementedError):
            tried.task.predictions(outputs, tried.examples, False, False)
        return
    save_finetuned(tmp_path / "model.bin", tried.model.state_dict(), tried.task, tried.case.config, tried.encoder,
                   {})
    infer("predict", type(tried.task), ["--load_model_path", str(tmp_path / "model.bin"), "--test_path", tried.path,
                                        "--prediction_path", str(tmp_path / "out"), "--device", "cpu"])
    written = Path(tmp_path / "out").read_text("utf-8")
    assert written == "".join(f"{line}\n" for line in tried.task.predictions(outputs, tried.examples, False, False))
    assert written.count("\n") >= EXAMPLES


def test_a_file_in_pieces_has_the_same_predictions(tried, tmp_path, monkeypatch, capsys):
    """It is read in pieces of four rows, and the last line is wrong at first: that is found before any prediction."""
    if not isinstance(tried.task, TableTask) or tried.case is not CASES[tried.task.name][0]:
        pytest.skip("it is read as a whole, or tried in its first case")
    save_finetuned(tmp_path / "model.bin", tried.model.state_dict(), tried.task, tried.case.config, tried.encoder, {})
    path, pieces = tmp_path / "data", []
    flags = ["--load_model_path", str(tmp_path / "model.bin"), "--test_path", str(path), "--device", "cpu"]
    path.write_text(tried.case.content, "utf-8")
    infer("predict", type(tried.task), [*flags, "--prediction_path", str(tmp_path / "whole")])
    monkeypatch.setattr(table_task, "read_tables", partial(read_tables, most_rows=4))
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(infer_module, "predict", lambda *given: pieces.append(given[2]) or predict(*given))
    path.write_text(tried.case.content + "0\n", "utf-8")
    with pytest.raises(UserError, match=f"{path}:{EXAMPLES + 2}: 1 columns where"):
        infer("predict", type(tried.task), [*flags, "--prediction_path", str(tmp_path / "none")])
    assert not pieces and not (tmp_path / "none").exists()
    path.write_text(tried.case.content, "utf-8")
    capsys.readouterr()
    infer("predict", type(tried.task), [*flags, "--prediction_path", str(tmp_path / "pieces")])
    found, wanted = ((tmp_path / name).read_text("utf-8").splitlines() for name in ("pieces", "whole"))
    if tried.task.name == "regression":  # numbers of other batches
        found, wanted = (np.array(lines[1:], np.float64).round(4).tolist() for lines in (found, wanted))
    assert len(pieces) == 3 and found == wanted
    out, shown = capsys.readouterr()
    assert out.startswith("11 predictions ")
    assert re.findall(r"(\d+) of 11 predictions, 0:00:00 left", shown)[-1] == "11"
