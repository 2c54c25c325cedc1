"""Pooling looks at real tokens only; heads have UER's names."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tools.configs import model_config
from uer.checkpoint.files import load_into
from uer.config import ModelConfig
from uer.finetuning.batches import Batch, Examples, collate
from uer.finetuning.heads import (
    Classifier,
    MultipleChoice,
    PooledModel,
    SiameseClassifier,
    Tagger,
    initialise_head,
)
from uer.finetuning.rows import Ragged, build_sequences

SIZES = {"emb_size": 12, "hidden_size": 12, "feedforward_size": 20, "heads_num": 3, "layers_num": 2, "dropout": 0.0,
         "max_seq_length": 16, "embedding": ("word", "pos", "seg")}


def batch_of(lengths: tuple[int, ...], pairs: bool = False):
    """Texts of these lengths, or pairs of each text with the one of the next length."""
    generator = np.random.default_rng(0)
    rows = [Ragged.of([generator.integers(5, 30, length) for length in (*lengths[first:], *lengths[:first])])
            for first in (0, 1)]
    examples = Examples(build_sequences(rows[0], rows[1] if pairs else None, 16, "head", 2, 3))
    return collate(examples, np.arange(len(lengths)), 0)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("pooling", ["first", "last", "mean", "max"])
def test_pooling_equals_its_formula_row_by_row(pooling, pairs):
    """Tokens of both segments count once, and padding not at all."""
    torch.manual_seed(0)
    model = PooledModel(ModelConfig(**SIZES, pooling=pooling), 30).eval()
    batch = batch_of((3, 9, 1, 5), pairs)
    assert batch.seg.max() == (2 if pairs else 1)
    pooled = model.pooled(batch)
    for row, length in enumerate(batch.real_tokens.tolist()):
        hidden = model.encode(batch.src[row:row + 1, :length], batch.seg[row:row + 1, :length])[0]
        expected = {"first": hidden[0], "last": hidden[-1], "mean": hidden.mean(0), "max": hidden.amax(0)}[pooling]
        torch.testing.assert_close(pooled[row], expected, rtol=1e-4, atol=1e-5)


def test_names_and_shapes():
    config, batch = ModelConfig(**SIZES), batch_of((3, 9, 1, 5, 2, 2))
    heads = {"output_layer_1.weight", "output_layer_1.bias", "output_layer_2.weight", "output_layer_2.bias"}
    for model, shape, names in ((Classifier(config, 30, 5), (6, 5), heads),
                                (Tagger(config, 30, 7), (6, 11, 7), {"output_layer.weight", "output_layer.bias"}),
                                (SiameseClassifier(config, 30, 2), (3, 2), {"classifier.weight", "classifier.bias"}),
                                (MultipleChoice(config, 30, 3), (2, 3), {"output_layer.weight", "output_layer.bias"})):
        assert model(batch).shape == shape
        own = {name for name in model.state_dict() if not name.startswith(("embedding.", "encoder."))}
        assert own == names


@pytest.mark.parametrize("name", ["sbert_siamese", "sbert_siamese_untied_mean", "lstm_siamese"])
def test_the_dual_encoder_computes_what_the_original_does(name, golden):
    """With one layer norm behind each stream's embedding; the file has the original's second ones too."""
    folder = golden / "breadth" / "models"
    content = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    settings = {key: value for key, value in content["config"].items() if key != "labels_num"}
    model = SiameseClassifier(model_config(**settings), content["vocab_size"], 3).eval()
    weights = load_file(folder / f"{name}.safetensors")
    second = [key for key in weights if "stream_" in key]
    assert model.state_dict().keys() == dict(content["keys"]).keys() - set(second)
    report = load_into(model, weights, name)
    assert not report.missing and not report.other_shape and sorted(report.left_over) == sorted(second)
    assert sum(weight.numel() for weight in model.parameters()) == content["parameters"] - sum(
        weights[key].numel() for key in second)
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / f"{name}.npz").items()}
    src, seg = (torch.stack([arrays[f"in_{key}_0"], arrays[f"in_{key}_1"]], 1).flatten(0, 1) for key in ("src", "seg"))
    with torch.no_grad():
        found = [*model.both(Batch(src, seg)), model(Batch(src, seg))]
    for ours, key in zip(found, ("out_features_0", "out_features_1", "out_logits")):
        assert (ours - arrays[key]).abs().max() <= 1e-5 * arrays[key].abs().max(), key


@pytest.mark.parametrize("head", [Classifier, Tagger, SiameseClassifier, MultipleChoice])
def test_a_head_on_pretrained_weights_starts_as_torch_does(head):
    """Uniform in +-1/sqrt(inputs), biases too; nothing else of the model changes, and the seed decides."""
    torch.manual_seed(1)
    model = head(ModelConfig(**SIZES), 30, 64)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = []
    for _ in range(2):
        torch.manual_seed(2)
        initialise_head(model)
        drawn.append({name: value.clone() for name, value in model.state_dict().items()})
    for name, value in model.state_dict().items():
        assert torch.equal(drawn[0][name], drawn[1][name])
        if name.startswith(("embedding.", "encoder.")):
            assert torch.equal(value, before[name])
    for module in (part for part in model.children() if isinstance(part, torch.nn.Linear)):
        bound = module.in_features ** -0.5
        assert module.weight.abs().max() <= bound and module.bias.abs().max() <= bound
        assert module.bias.abs().min() > 0
        if module.weight.numel() > 500:
            assert module.weight.std().item() == pytest.approx(bound / 3 ** 0.5, rel=0.1)
