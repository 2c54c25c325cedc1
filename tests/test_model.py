"""The model as a whole: against transformers' BertForMaskedLM, against the original's figures, and with itself."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from tests.tools.configs import model_config
from tests.tools.layouts import exact_layout
from uer.config import ModelConfig
from uer.data.batch import Batch, Labels, Packing, Side
from uer.data.packing import measured
from uer.encoders.base import select
from uer.errors import UserError
from uer.layers import view
from uer.meta_device import Unfilled
from uer.model import Model, build_model
from uer.target_inputs import inputs_from_queries

VOCAB, LENGTH, PREDICTED = 37, 13, 3
CONFIG = ModelConfig(emb_size=28, hidden_size=28, feedforward_size=45, heads_num=7, layers_num=3, dropout=0.0,
                     max_seq_length=17, embedding=("word", "pos", "seg"), target=("mlm",), tie_weights=True)
SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768),
         "large": (24, 1024)}


def make_batch(lengths=(13, 7, 1, 7, 10), seed=0):
    """Rows of these lengths; the later a row, the more of its predictions are left out."""
    generator = torch.Generator().manual_seed(seed)
    rows = len(lengths)
    seg = (torch.arange(LENGTH)[None] < torch.tensor(lengths)[:, None]).long()
    src = torch.randint(1, VOCAB, (rows, LENGTH), generator=generator) * seg
    positions = torch.zeros(rows, PREDICTED, dtype=torch.int64)
    labels = torch.full((rows, PREDICTED), -100)
    for row, length in enumerate(lengths):
        count = min(length, PREDICTED - row % 2)
        positions[row, :count] = torch.randperm(length, generator=generator)[:count]
        labels[row, :count] = torch.randint(1, VOCAB, (count,), generator=generator)
    return Batch(Side(src, seg), {"mlm": Labels(labels, positions)}, torch.arange(rows))


def make_model(unpad="auto", **settings) -> Model:
    torch.manual_seed(4)
    model = build_model(dataclasses.replace(CONFIG, **settings), VOCAB, unpad=unpad)
    for parameter in model.parameters():  # far from their start, so that every term weighs
        nn.init.normal_(parameter, std=0.2)
    return model


def bert_of_transformers(model: Model):
    """A BertForMaskedLM with the model's parameters, and the map from our names to its parameters."""
    from transformers import BertConfig, BertForMaskedLM

    config = model.config
    theirs = BertForMaskedLM(BertConfig(
        vocab_size=VOCAB, hidden_size=config.hidden_size, num_hidden_layers=config.layers_num,
        num_attention_heads=config.heads_num, intermediate_size=config.feedforward_size, hidden_act="gelu",
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, max_position_embeddings=config.max_seq_length,
        type_vocab_size=2, layer_norm_eps=1e-12)).eval()
    names = {"embedding.word.embedding": "bert.embeddings.word_embeddings",
             "embedding.pos.embedding": "bert.embeddings.position_embeddings",
             "embedding.seg.embedding": "bert.embeddings.token_type_embeddings",
             "embedding.layer_norm": "bert.embeddings.LayerNorm",
             "target.mlm.linear_1": "cls.predictions.transform.dense",
             "target.mlm.layer_norm": "cls.predictions.transform.LayerNorm", "target.mlm.linear_2": "cls.predictions"}
    for number in range(config.layers_num):
        our, their = f"encoder.transformer.{number}.", f"bert.encoder.layer.{number}."
        names |= {our + "self_attn.linear_layers.0": their + "attention.self.query",
                  our + "self_attn.linear_layers.1": their + "attention.self.key",
                  our + "self_attn.linear_layers.2": their + "attention.self.value",
                  our + "self_attn.final_linear": their + "attention.output.dense",
                  our + "layer_norm_1": their + "attention.output.LayerNorm",
                  our + "feed_forward.linear_1": their + "intermediate.dense",
                  our + "feed_forward.linear_2": their + "output.dense",
                  our + "layer_norm_2": their + "output.LayerNorm"}
    endings = {"weight": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
    parameters, pairs = dict(theirs.named_parameters()), {}
    for name, parameter in model.named_parameters():
        module, ending = name.rsplit(".", 1)
        pairs[name] = parameters[f"{names[module]}.{endings[ending]}"]
        pairs[name].data.copy_(parameter[1:3] if "seg" in name else parameter)
    return theirs, pairs


@pytest.mark.parametrize("unpad", ["on", "off"])
def test_equals_bert_of_transformers(unpad):
    """Hidden states, logits, loss and every parameter's gradient."""
    model, batch = make_model(unpad), make_batch()
    theirs, pairs = bert_of_transformers(model)
    src, seg = batch.src.values, batch.src.seg
    real = seg > 0
    labels = torch.full_like(src, -100)
    for row, (positions, wanted) in enumerate(zip(batch.labels["mlm"].positions, batch.labels["mlm"].values)):
        labels[row, positions[wanted >= 0]] = wanted[wanted >= 0]
    expected = theirs(src, attention_mask=seg, token_type_ids=torch.zeros_like(src), labels=labels,
                      output_hidden_states=True)
    hidden = model.encode(src, seg)
    torch.testing.assert_close(hidden[real], expected.hidden_states[-1][real], rtol=1e-5, atol=1e-5)
    logits = model.target["mlm"].logits(hidden)
    torch.testing.assert_close(logits[real], expected.logits[real], rtol=1e-5, atol=1e-5)
    output = model(batch)
    torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=1e-6)
    output.loss.backward()
    expected.loss.backward()
    assert len(pairs) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        gradient = parameter.grad[1:3] if "seg" in name else parameter.grad
        torch.testing.assert_close(gradient, pairs[name].grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def golden_batch(golden):
    expected = json.loads((golden / "original_tiny_expected.json").read_text(encoding="utf-8"))
    src, labels, seg = (torch.tensor(expected["batch"][name]) for name in ("src", "tgt", "seg"))
    width = int((labels > 0).sum(1).max())
    found = [row.nonzero()[:, 0] for row in labels]
    positions = torch.stack([nn.functional.pad(row, (0, width - len(row))) for row in found])
    wanted = labels.gather(1, positions)
    wanted[torch.arange(width)[None] >= torch.tensor([len(row) for row in found])[:, None]] = -100
    batch = Batch(Side(src, seg), {"mlm": Labels(wanted, positions)}, torch.arange(len(src)))
    return expected, batch


@pytest.mark.parametrize("unpad", ["on", "off"])
def test_the_originals_checkpoint_gives_the_originals_figures(golden, unpad):
    expected, batch = golden_batch(golden)
    config = dataclasses.replace(CONFIG, emb_size=128, hidden_size=128, feedforward_size=512, heads_num=2,
                                 layers_num=2, max_seq_length=512)
    model = build_model(config, 21128, unpad=unpad).eval()
    model.load_state_dict(torch.load(golden / "original_tiny_300steps.bin", weights_only=True))
    with torch.no_grad():
        output = model(batch)
        src = torch.tensor([expected["input_ids"]])
        hidden = model.encode(src, torch.ones_like(src))[0, expected["mask_position"]]
        probabilities = model.target["mlm"].logits(hidden).softmax(-1)
    assert abs(output.loss.item() - expected["batch"]["loss"]) < 0.005
    assert output.metrics["mlm"]["acc"][0] == expected["batch"]["correct"]
    assert output.metrics["mlm"]["loss"][1] == expected["batch"]["masked"]
    assert (hidden[:8] - torch.tensor(expected["hidden_first8_at_mask"])).abs().max() < 0.02
    top = [entry["id"] for entry in expected["top10"]]
    assert probabilities.topk(10).indices.tolist() == top
    for entry in expected["top10"]:
        assert abs(probabilities[entry["id"]].item() / entry["prob"] - 1) < 0.02


def test_names_and_shapes_of_the_state_dict(golden):
    expected = json.loads((golden / "state_dict_keys_bert_mlm.json").read_text(encoding="utf-8"))
    assert set(expected) == set(SIZES)
    for size, (layers, hidden) in SIZES.items():
        config = dataclasses.replace(CONFIG, layers_num=layers, hidden_size=hidden, emb_size=hidden,
                                     feedforward_size=4 * hidden, heads_num=hidden // 64, max_seq_length=512)
        with Unfilled():
            state = build_model(config, 21128).state_dict()
        assert {name: list(tensor.shape) for name, tensor in state.items()} == expected[size]


@pytest.mark.parametrize("tie", [True, False])
def test_padding_left_out_changes_neither_loss_nor_gradients(tie):
    batch = make_batch()
    results = []
    for unpad in ("off", "on"):
        model = make_model(unpad, tie_weights=tie)
        loss = model(batch).loss
        loss.backward()
        results.append((loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    torch.testing.assert_close(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("unpad", ["on", "off"])
def test_the_narrow_last_layer_changes_neither_loss_nor_gradients(unpad):
    batch, results = make_batch(), []
    for narrow in (False, True):
        model = make_model(unpad)
        encoder = model.encoder
        if not narrow:
            encoder.forward = lambda embedded, layout, queries, encoder=encoder: select(
                type(encoder).forward(encoder, embedded, layout), queries)
        loss = model(batch).loss
        loss.backward()
        results.append((loss, [parameter.grad for parameter in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0])
    for wide, narrow in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-6)


def test_more_padding_changes_nothing():
    batch, model = make_batch((9, 7, 1)), make_model("off")
    short = batch.trimmed()
    assert short.src.values.shape == (3, 9)
    torch.testing.assert_close(model(batch).loss, model(short).loss)


def test_given_counts_divide_the_loss():
    """As accumulation and several ranks do: parts divided by the whole's number add up to the whole."""
    model, whole = make_model(), make_batch()
    parts = [whole.rows(0, 1), whole.rows(1, 5)]
    counts = model.counts(whole)
    assert counts.tolist() == [sum((part.labels["mlm"].values >= 0).sum().item() for part in parts)]
    torch.testing.assert_close(sum(model(part, counts).loss for part in parts), model(whole).loss)


def test_the_same_random_state_gives_the_same_step():
    """A resumed run draws the dropout masks the killed one would have drawn."""
    model, batch = make_model(dropout=0.1), make_batch()
    state = torch.get_rng_state()
    gradients = []
    for _ in range(2):
        torch.set_rng_state(state)
        model.zero_grad()
        model(batch).loss.backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients))
    assert not torch.equal(model(batch).loss, model(batch).loss)


@pytest.mark.parametrize("settings", [{"layers_num": 1}, {
    "layers_num": 2, "rotary_position_embedding": True, "attention_head_size": 8, "attention_window": 4,
    "global_attention_every": 2}], ids=["bert", "modern"])
def test_with_static_shapes_the_step_is_one_graph(settings):
    """What `torch.compile` needs on a GPU: no shape depends on a value and nothing is read back to the host."""
    batch, model = make_batch(), make_model("off", **settings)
    expected = model(batch)
    tokens, predictions, sequences = measured(batch, len(batch.samples), None)[0].tolist()
    batch = dataclasses.replace(batch, packing=Packing(tokens + 5, predictions + 3, sequences))
    expected.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    output = torch.compile(model, backend="eager", fullgraph=True)(batch)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected.loss)
    assert torch.equal(output.metrics["mlm"]["acc"][0], expected.metrics["mlm"]["acc"][0])
    for parameter, gradient in zip(model.parameters(), gradients):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def test_bf16_autocast_is_close(monkeypatch):
    batch, model = make_batch(), make_model()
    expected = model(batch).loss
    for tiled in (True, False):
        with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
            if not tiled:
                patch.setattr(view, "usable", lambda _: False)
            loss = model(batch).loss
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, expected, rtol=0.03, atol=0)
        loss.backward()


def test_a_tied_weight_may_be_missing_but_not_contradict():
    model = make_model()
    state = model.state_dict()
    assert model.tied == {"target.mlm.linear_2.weight": "embedding.word.embedding.weight"}
    assert state["target.mlm.linear_2.weight"].data_ptr() == state["embedding.word.embedding.weight"].data_ptr()
    del state["target.mlm.linear_2.weight"]
    other = make_model()
    other.load_state_dict(state)
    state["target.mlm.linear_2.weight"] = state["embedding.word.embedding.weight"] + 1
    with pytest.raises(UserError, match="tie_weights"):
        other.load_state_dict(state)
    make_model(tie_weights=False).load_state_dict(state)


def test_activation_checkpointing_gives_the_same_loss():
    results = []
    for recompute in ("off", "full", "selective"):
        torch.manual_seed(4)
        model = build_model(dataclasses.replace(CONFIG, dropout=0.1), VOCAB, activation_checkpointing=recompute)
        loss = model(make_batch()).loss
        loss.backward()
        results.append((loss, model.embedding.word.embedding.weight.grad))
    assert all(torch.equal(*same) for other in results[1:] for same in zip(results[0], other))


def test_auto_leaves_padding_out_on_a_cpu():
    batch = make_batch()
    auto, on = make_model("auto"), make_model("on")
    assert torch.equal(auto(batch).loss, on(batch).loss)


def test_the_example_of_a_union_of_positions():
    """The table of its docstring: mlm at 2 positions a row, sp at 1, nothing to predict in entry (2, 1) of mlm."""
    mlm = Labels(torch.tensor([[10, 11], [12, 13], [14, -100]]), torch.tensor([[1, 2], [2, 0], [1, 0]]))
    sp = Labels(torch.tensor([[20], [21], [22]]), torch.zeros(3, 1, dtype=torch.int64))
    asked = {"mlm": mlm, "sp": sp}
    layout = exact_layout(torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]))
    queries = layout.queries(torch.cat([mlm.positions, sp.positions], dim=1),
                             torch.cat([mlm.wanted(), sp.wanted()], dim=1))
    assert queries.requests.tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    hidden = queries.requests[:, None].float()  # (K, 1): each state is the number of its entry
    inputs = inputs_from_queries(hidden, layout, queries, asked)
    assert (inputs["mlm"].hidden.squeeze(1).tolist(), inputs["mlm"].labels.tolist()) == (
        [0, 1, 3, 4, 6], [10, 11, 12, 13, 14])
    assert (inputs["sp"].hidden.squeeze(1).tolist(), inputs["sp"].labels.tolist()) == ([2, 5, 8], [20, 21, 22])


def test_unknown_and_missing_targets_are_refused():
    with pytest.raises(UserError, match="--target: 'nsp' is unknown; choose from: mlm, sp, lm, bilm, cls"):
        build_model(dataclasses.replace(CONFIG, target=("mlm", "nsp")), VOCAB)
    with pytest.raises(UserError, match="at least one"):
        build_model(dataclasses.replace(CONFIG, target=()), VOCAB)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_it_equals_the_cpu_and_never_waits():
    batch, model = make_batch(), make_model("off")
    expected = model(batch).loss
    model = model.cuda()
    on_device = batch.to("cuda")
    model(on_device).loss.backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss = model(on_device).loss
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=1e-4)


def test_labels_of_the_target_side_need_a_decoder():
    batch = make_batch()
    aside = dataclasses.replace(batch, labels={"mlm": dataclasses.replace(batch.labels["mlm"], side="tgt")})
    with pytest.raises(UserError, match="labels are on the target side, which needs a decoder"):
        build_model(CONFIG, VOCAB)(aside)


@pytest.mark.parametrize("target, encoder, mask, learns", [
    ("lm", "transformer", "causal", True), ("lm", "transformer", "fully_visible", False),
    ("lm", "gatedcnn", "causal", True),
    ("lm", "bilstm", "causal", False), ("bilm", "bilstm", "causal", True), ("bilm", "lstm", "causal", False),
    ("mlm", "transformer", "fully_visible", True)])
def test_targets_whose_labels_the_encoder_sees_are_named(target, encoder, mask, learns):
    config = model_config(emb_size=8, hidden_size=8, feedforward_size=16, heads_num=2, layers_num=1, embedding=["word"],
                          target=[target], encoder=encoder, mask=mask)
    warnings = build_model(config, 11).warnings()
    assert len(warnings) == (not learns) and all(f"--target {target}" in line for line in warnings)


LOCAL = {"attention_window": 4, "rotary_position_embedding": True, "heads_num": 4, "local_kv_heads_num": 2,
         "attention_head_size": 8}


@pytest.mark.parametrize(("settings", "queries"), [({}, 16), (LOCAL, 48), ({**LOCAL, "global_attention_every": 2}, 16)])
def test_packed_rows_reach_the_kernel_for_unlike_lengths(monkeypatch, settings, queries):
    """On the meta device, where tensors have shapes without values, which needs no GPU. With a window, the kernel takes
    all queries."""
    monkeypatch.setattr(view, "variable_length", lambda tensor, head_size: True)
    sizes, real = [], view.flash_attention

    def attention(query, key, *others):
        sizes.append((len(query), len(key)))
        return real(query, key, *others)

    monkeypatch.setattr(view, "flash_attention", attention)
    with torch.device("meta"):
        model = make_model("off", layers_num=3, **settings).bfloat16()
        batch = dataclasses.replace(make_batch().to("meta"), packing=Packing(48, 16, 8))
        model(batch).loss.backward()
    assert sizes == [(48, 48), (48, 48), (queries, 48)]
    assert all(parameter.grad.shape == parameter.shape for parameter in model.parameters())
