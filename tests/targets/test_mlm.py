import math

import torch

from uer.config import ModelConfig
from uer.data.batch import Batch, Labels, Side
from uer.model import build_model
from uer.targets import TARGETS

CONFIG = ModelConfig(emb_size=20, hidden_size=20, feedforward_size=31, heads_num=5, layers_num=2, dropout=0.0,
                     max_seq_length=13, embedding=("word", "pos", "seg"), target=("mlm",), tie_weights=True)
VOCAB = 37


def _batch():
    src = torch.randint(1, VOCAB, (3, 13), generator=torch.Generator().manual_seed(1))
    seg = (torch.arange(13)[None] < torch.tensor([13, 6, 9])[:, None]).long()
    positions = torch.tensor([[1, 12], [4, 0], [8, 0]])
    labels = torch.tensor([[5, 36], [17, -100], [0, -100]])
    return Batch(Side(src, seg), {"mlm": Labels(labels, positions)}, torch.arange(3))


def test_loss_and_accuracy_by_hand():
    torch.manual_seed(1)
    model = build_model(CONFIG, VOCAB).eval()
    batch = _batch()
    hidden = model.encode(batch.src.values, batch.src.seg)
    target = model.target["mlm"]
    predictions = [(0, 1, 5), (0, 12, 36), (1, 4, 17), (2, 8, 0)]
    logits = torch.stack([target.logits(hidden[row, place]) for row, place, _ in predictions])
    batch.labels["mlm"].values[1, 0] = label = logits[2].argmax().item()  # one is right
    labels = [5, 36, label, 0]
    probability = logits.detach().softmax(-1)
    loss = -sum(math.log(probability[number, label]) for number, label in enumerate(labels))
    correct = sum(logits[number].argmax().item() == label for number, label in enumerate(labels))
    output = model(batch)
    assert abs(output.loss.item() - loss / 4) < 1e-5
    assert abs(output.metrics["mlm"]["loss"][0].item() - loss) < 1e-5 and output.metrics["mlm"]["loss"][1] == 4
    assert output.metrics["mlm"]["acc"][0] == correct >= 1 and output.metrics["mlm"]["acc"][1] == 4


def test_the_head_is_linear_activation_norm_linear():
    model = build_model(CONFIG, VOCAB)
    target, hidden = model.target["mlm"], torch.randn(7, 20)
    inner = torch.nn.functional.gelu(target.linear_1(hidden))
    normed = torch.nn.functional.layer_norm(inner, (20,), eps=1e-12)
    torch.testing.assert_close(target.logits(hidden), normed @ model.embedding.word.embedding.weight.T)


def test_labels_of_minus_100_count_nowhere():
    model = build_model(CONFIG, VOCAB).eval()
    batch = _batch()
    expected = model(batch)
    batch.labels["mlm"].positions[1, 1] = 5  # another place, still ignored
    assert torch.equal(model(batch).loss, expected.loss)
    assert model.counts(batch).tolist() == [4.0]


def test_a_batch_without_predictions_has_loss_and_gradients_zero():
    model = build_model(CONFIG, VOCAB)
    batch = _batch()
    batch.labels["mlm"].values[:] = -100
    output = model(batch)
    assert output.loss.item() == 0 and output.metrics["mlm"]["loss"][1] == 0
    output.loss.backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.parameters())


def test_queries_of_the_target_answer_its_labels():
    model = build_model(CONFIG, VOCAB)
    batch = _batch()
    hidden = model.encode(batch.src.values, batch.src.seg)
    asked = model.target_inputs(batch)["mlm"]
    assert sorted(asked.labels.tolist()) == [0, 5, 17, 36]
    for (row, position), label in {(0, 1): 5, (0, 12): 36, (1, 4): 17, (2, 8): 0}.items():
        torch.testing.assert_close(asked.hidden[asked.labels == label][0], hidden[row, position])


def test_every_name_is_built():
    assert set(TARGETS) == {"sp", "lm", "mlm", "bilm", "cls"}
