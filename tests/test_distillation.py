"""A teacher beside a model in training: what it changes, and everything that it must not."""

import dataclasses
import json

import pytest
import torch

from tests.tools.configs import model_config
from uer.checkpoint.files import save_weights
from uer.config import DistillationConfig, ModelConfig
from uer.data.batch import Batch, Labels, Side
from uer.distillation import DistillationStep, Teacher, load_teacher
from uer.errors import UserError
from uer.model import build_model
from uer.training.update import StepModule

CONFIG = ModelConfig(emb_size=20, hidden_size=20, feedforward_size=31, heads_num=5, layers_num=2, dropout=0.1,
                     max_seq_length=13, embedding=("word", "pos", "seg"), target=("mlm",), tie_weights=True)
LARGER = dataclasses.replace(CONFIG, emb_size=24, hidden_size=24, heads_num=3, layers_num=3)
VOCAB = 37


def make_batch():
    src = torch.randint(1, VOCAB, (3, 13), generator=torch.Generator().manual_seed(1))
    seg = (torch.arange(13)[None] < torch.tensor([6, 13, 9])[:, None]).long()
    positions, labels = torch.tensor([[4, 0], [1, 12], [8, 2]]), torch.tensor([[17, -100], [5, 36], [0, 9]])
    return Batch(Side(src, seg), {"mlm": Labels(labels, positions)}, torch.arange(3))


def make_teacher(unpad="auto", config=LARGER, **settings):
    torch.manual_seed(2)
    return Teacher(build_model(config, VOCAB, unpad=unpad), DistillationConfig("t.bin", "t.json", **settings))


def make_student(unpad="auto", config=CONFIG):
    torch.manual_seed(3)
    return build_model(config, VOCAB, unpad=unpad)


def gradients(step, batch):
    torch.manual_seed(4)  # dropout
    loss, metrics = step(batch)
    loss.backward()
    return loss.detach(), metrics, {name: parameter.grad for name, parameter in step.named_parameters()}


def predictions(model, batch):
    """The logits at the predicted places, one by one."""
    hidden = model.encode(batch.src.values, batch.src.seg)
    places = [(0, 4), (1, 1), (1, 12), (2, 8), (2, 2)]
    return torch.stack([model.target["mlm"].logits(hidden[place]) for place in places])


@pytest.mark.parametrize("unpad", ["on", "off"])
def test_the_step_learns_what_the_formula_says(unpad):
    config = dataclasses.replace(CONFIG, dropout=0.0)
    batch, teacher = make_batch(), make_teacher(unpad, soft_alpha=0.3, soft_temperature=2.0)
    loss, metrics, found = gradients(DistillationStep(make_student(unpad, config), teacher), batch)
    student = make_student(unpad, config)
    logits, taught = predictions(student, batch), predictions(teacher.model, batch).detach()
    hard = -logits.log_softmax(-1)[range(5), [17, 5, 36, 0, 9]].mean()
    answer = (taught / 2).softmax(-1)
    soft = 4 * (answer * (answer.log() - (logits / 2).log_softmax(-1))).sum(-1).mean()
    (0.7 * hard + 0.3 * soft).backward()
    torch.testing.assert_close(loss, hard.detach())  # reported is what compares with any other run
    assert metrics["mlm"]["loss"][0].item() / 5 == pytest.approx(hard.item(), abs=1e-5)
    assert metrics["mlm"]["distillation loss"][0].item() / 5 == pytest.approx(soft.item(), abs=1e-5)
    assert metrics["mlm"]["loss"][1] == metrics["mlm"]["distillation loss"][1] == 5
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[f"model.{name}"], parameter.grad, rtol=1e-4, atol=1e-5)


RECURRENT = model_config(emb_size=20, hidden_size=20, layers_num=1, dropout=0.0, max_seq_length=13, embedding=["word"],
                         encoder="lstm", bidirectional=True, target=["mlm"])
PLAIN = dataclasses.replace(CONFIG, dropout=0.0)


@pytest.mark.parametrize("config, taught_by", [(PLAIN, RECURRENT), (RECURRENT, PLAIN)])
def test_one_of_the_two_may_read_padding(config, taught_by):
    """The layout of the one that does is then that of both: the same predictions, in the same order."""
    batch, teacher = make_batch(), make_teacher(config=taught_by, soft_alpha=0.3)
    for parameter in teacher.model.parameters():
        torch.nn.init.normal_(parameter)
    student = make_student(config=config)
    _, metrics, _ = gradients(DistillationStep(student, teacher), batch)
    logits, taught = (predictions(model, batch).detach() for model in (student, teacher.model))
    answer = taught.softmax(-1)
    soft = (answer * (answer.log() - logits.log_softmax(-1))).sum()
    assert metrics["mlm"]["distillation loss"][0].item() == pytest.approx(soft.item(), rel=1e-4)


def test_without_weight_it_is_plain_pretraining_bit_for_bit():
    batch = make_batch()
    loss, metrics, found = gradients(DistillationStep(make_student(), make_teacher(soft_alpha=0.0)), batch)
    expected_loss, expected_metrics, expected = gradients(StepModule(make_student()), batch)
    assert torch.equal(loss, expected_loss) and metrics["mlm"]["distillation loss"][0] > 0
    assert all(torch.equal(metrics["mlm"][name][0], figure)
               for name, (figure, _) in expected_metrics["mlm"].items())
    assert all(torch.equal(found[name], gradient) for name, gradient in expected.items())


def test_a_student_that_is_the_teacher_has_nothing_to_learn():
    config = dataclasses.replace(CONFIG, dropout=0.0)
    teacher = make_teacher(config=config, soft_alpha=1.0)
    student = build_model(config, VOCAB)
    student.load_state_dict(teacher.model.state_dict())
    _, metrics, found = gradients(DistillationStep(student, teacher), make_batch())
    assert abs(metrics["mlm"]["distillation loss"][0].item()) < 1e-5
    assert all(gradient.abs().max() < 1e-6 for gradient in found.values())


def test_the_teacher_is_no_part_of_the_step():
    student, teacher = make_student(), make_teacher()
    step = DistillationStep(student, teacher).train()
    assert {name.removeprefix("model.") for name in step.state_dict()} == set(student.state_dict())
    assert sum(parameter.numel() for parameter in step.parameters()) == student.num_parameters()
    assert not teacher.model.training
    first, second = (teacher.soft_targets(make_batch())["mlm"][0].hidden for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad  # no dropout, no graph


def test_a_loss_that_is_not_finite_is_seen():
    batch, teacher = make_batch(), make_teacher()
    with torch.no_grad():
        teacher.model.embedding.word.embedding.weight[3] = float("nan")
    loss, metrics = DistillationStep(make_student(), teacher)(batch)
    assert not torch.isfinite(loss)  # the trainer leaves the update out
    assert metrics["mlm"]["distillation loss"][0] == metrics["mlm"]["distillation loss"][1] == 0


def test_fingerprints_tell_weights_and_architectures_apart():
    teacher = make_teacher()
    assert teacher.fingerprint == make_teacher(soft_alpha=0.9).fingerprint
    with torch.no_grad():
        teacher.model.target["mlm"].linear_2.bias[0] = 1.0
    others = [make_teacher(config=dataclasses.replace(LARGER, heads_num=4)), Teacher(teacher.model, teacher.config)]
    assert len({make_teacher().fingerprint, *(other.fingerprint for other in others)}) == 3


TRANSLATOR = dataclasses.replace(CONFIG, embedding=("word", "pos"), target=("lm",), decoder="transformer",
                                 tgt_embedding=("word", "pos"), tie_weights=False, decoder_layers_num=1)


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """The two files of a teacher that reads 13 positions on each side, of 37 and of 29 entries; and one encoder's."""
    folder = tmp_path_factory.mktemp("teacher")
    for name, config in (("both", TRANSLATOR), ("encoder", dataclasses.replace(TRANSLATOR, decoder=None))):
        values = {key: value for key, value in config.values().items() if key not in ("stream_0", "stream_1")}
        (folder / f"{name}.json").write_text(json.dumps(values))
        save_weights(build_model(config, VOCAB, tgt_vocab_size=29).state_dict(), folder / f"{name}.bin")
    return folder


@pytest.mark.parametrize("name, lengths, tgt_vocab, message", [
    ("both", (13, 14), 29, "max_seq_length is 13, but the dataset's rows have 14 tokens on the target side"),
    ("both", (14, 13), 29, "max_seq_length is 13, but the dataset's rows have 14 tokens$"),
    ("both", (13, 13), 30, "a vocabulary of 29 entries of the target side, but this run's has 30"),
    ("both", (13, 0), 29, "the teacher has a decoder, but the dataset has no target side"),
    ("encoder", (13, 13), 29, "the teacher has no decoder, but the dataset has a target side")])
def test_a_teacher_that_does_not_fit_the_target_side_is_refused(translator, name, lengths, tgt_vocab, message):
    config = DistillationConfig(str(translator / f"{name}.bin"), str(translator / f"{name}.json"))
    with pytest.raises(UserError, match=message):
        load_teacher(config, ("lm",), VOCAB, lengths[0], print, lengths[1], tgt_vocab_size=tgt_vocab)


def test_a_teacher_of_another_size_is_refused(translator):
    (translator / "wide.json").write_text(json.dumps({**json.loads((translator / "encoder.json").read_text()),
                                                      "feedforward_size": 77}))
    config = DistillationConfig(str(translator / "encoder.bin"), str(translator / "wide.json"))
    with pytest.raises(UserError, match=r"feed-forward 77 in .*wide\.json: give the --teacher_config_path"):
        load_teacher(config, ("lm",), VOCAB, 13, print)


def test_a_teacher_with_a_decoder_teaches(translator):
    config = DistillationConfig(str(translator / "both.bin"), str(translator / "both.json"), soft_alpha=1.0)
    teacher = load_teacher(config, ("lm",), VOCAB, 13, lambda line: None, 13, tgt_vocab_size=29)
    tgt = Side(torch.randint(5, 29, (3, 9)), torch.ones(3, 9, dtype=torch.int64))
    batch = dataclasses.replace(make_batch(), tgt=tgt, labels={"lm": Labels(tgt.values, side="tgt")})
    student = build_model(dataclasses.replace(TRANSLATOR, dropout=0.0), VOCAB, tgt_vocab_size=29)
    _, metrics, found = gradients(DistillationStep(student, teacher), batch)
    assert metrics["lm"]["distillation loss"][0] > 0 and metrics["lm"]["distillation loss"][1] == 27
    assert found["model.tgt_embedding.word.embedding.weight"].abs().max() > 0
    assert teacher.bytes(39, 27) - 4 * teacher.model.num_parameters() == 12 * 27 * 29


def test_a_student_with_smoothed_labels_is_refused():
    """The mixed objective has the labels' plain cross-entropy: smoothing would be left out without a word."""
    student = build_model(model_config(**{**CONFIG.values(), "target": ["lm"], "label_smoothing": 0.1}), VOCAB)
    with pytest.raises(UserError, match="set label_smoothing to 0"):
        DistillationStep(student, make_teacher())


FILES = {"teacher_model_path": "t.bin", "teacher_config_path": "t.json"}


@pytest.mark.parametrize("changes, message", [
    ({"teacher_model_path": "t.bin"}, "--teacher_model_path and --teacher_config_path need one another"),
    ({"soft_alpha": 0.9}, "--soft_alpha and --soft_temperature need --teacher_model_path"),
    ({"soft_alpha": 1.1, **FILES}, "--soft_alpha must lie between 0 and 1"),
    ({"soft_temperature": 0.0, **FILES}, "--soft_temperature must be positive")])
def test_settings_that_contradict_one_another(changes, message):
    problems = DistillationConfig(**changes).problems()
    assert len(problems) == 1 and message in problems[0]


def test_the_step_compiles_as_one_graph():
    batch, config = make_batch(), dataclasses.replace(CONFIG, dropout=0.0, layers_num=1)
    teacher = make_teacher("off", dataclasses.replace(LARGER, layers_num=1), soft_temperature=2.0)
    steps = [DistillationStep(make_student("off", config), teacher) for _ in range(2)]
    steps[1].compile(backend="eager", fullgraph=True)
    (loss, _, plain), (compiled_loss, _, compiled) = (gradients(step, batch) for step in steps)
    torch.testing.assert_close(compiled_loss, loss)
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6)
