"""Generation beside the original's figures, and with itself: with and without a cache, alone and in a batch."""

import dataclasses
import json
import math

import pytest
import torch
from torch import nn

from tests.targets.test_golden_targets import open_model
from tests.tools.configs import model_config
from uer.config_fields import LONGEST_ROW
from uer.errors import UserError
from uer.generation import GREEDY, Beams, GenerationConfig, Seen, filtered, generate
from uer.generation.step import top_entries
from uer.layers.layout import padded_layout
from uer.model import build_model

GOLDEN = ("gpt2_lm", "megatron_gpt2_lm", "t5", "t5_v1_1", "bart", "pegasus", "transformer_mt")
BASE = {"emb_size": 24, "hidden_size": 24, "feedforward_size": 34, "heads_num": 3, "layers_num": 2, "dropout": 0.0,
        "decoder_layers_num": 2, "max_seq_length": 16, "embedding": ["word", "pos"], "tgt_embedding": ["word", "pos"],
        "target": ["lm"]}
CAUSAL = {"mask": "causal", "layernorm_positioning": "pre"}
MODELS = {"causal": CAUSAL, "prefix": {"mask": "causal_with_prefix", "embedding": ["word", "pos", "seg"]},
          "both sides": {"decoder": "transformer", "relative_position_embedding": True},
          "recurrent": {"encoder": "gru"},
          "bloom": {**CAUSAL, "embedding": ["word"], "alibi_position_embedding": True},
          "llama": {**CAUSAL, "embedding": ["word"], "rotary_position_embedding": True, "heads_num": 4,
                    "local_kv_heads_num": 2, "feed_forward": "gated", "layernorm": "rms", "hidden_act": "silu",
                    "remove_transformer_bias": True, "query_key_value_bias": True, "query_key_layernorm": True},
          "local": {**CAUSAL, "embedding": ["word"], "rotary_position_embedding": True, "attention_window": 4,
                    "global_attention_every": 2, "local_rotary_base": 30.0}}
ENTRIES, START, STOP = 11, 2, 3
PROMPTS = [[2, 5, 7, 9], [2, 4], [2, 8, 8, 8, 10]]


def make_model(entries=ENTRIES, std=1.0, **settings):
    torch.manual_seed(3)
    model = build_model(model_config(**{**BASE, **settings}), entries).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model


def run(model, prompts=PROMPTS, most=9, stop_id=STOP, **settings):
    cached = settings.pop("cached", True)
    return generate(model, prompts, most=most, stop_id=stop_id, start_id=START, cached=cached,
                    config=dataclasses.replace(GREEDY, **settings))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("name", GOLDEN)
def test_greedy_texts_are_the_originals(golden, name, cached):
    """Alone and together, where nothing is kept the first prompt alone; without an end, as the original. Its smallest
    margin is 0.0015."""
    figures = json.loads((golden / "breadth" / "generation" / "generation.json").read_text())[name]
    model = open_model(golden / "breadth" / "models", name)[0]
    prompts = [figure.get("prefix", figure.get("src")) for figure in figures]
    expected = [figure["generated"] for figure in figures]
    assert generate(model, prompts, most=20, start_id=START, cached=cached) == expected
    for prompt, text in list(zip(prompts, expected))[:None if cached else 1]:
        assert generate(model, [prompt], most=20, start_id=START, cached=cached) == [text]


def test_what_may_be_drawn_is_the_originals(golden):
    figures = json.loads((golden / "breadth" / "generation" / "generation.json").read_text())
    logits = torch.tensor(figures["logits"])[None]
    for figure in figures["sampling"]:
        probs = filtered(logits, figure["top_k"], figure["top_p"]).softmax(-1)[0]
        assert probs.nonzero().squeeze(1).tolist() == figure["kept"]
        expected = torch.tensor(figure["probabilities"])
        torch.testing.assert_close(probs[probs > 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"top_k": 4, "temperature": 2.0, "repetition_penalty": 1.5}, {"beam_size": 3},
                                      {"beam_size": 2, "repetition_penalty": 1.3, "length_penalty": 0.0}], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_a_cache_and_other_prompts_change_nothing(name, settings):
    model = make_model(**MODELS[name])
    found = run(model, **settings)
    assert found == run(model, cached=False, **settings)
    assert found[0] == run(model, PROMPTS[:1], **settings)[0]
    assert all(STOP not in text and len(text) <= 9 for text in found)


def test_a_text_ends_at_its_stop_or_at_the_last_position():
    model = make_model(**CAUSAL)
    whole = run(model, most=99, stop_id=None)
    assert [len(text) for text in whole] == [11] * 3  # 16 positions, of which the longest prompt takes 5
    stop = whole[0][4]
    found = run(model, most=99, stop_id=stop)
    assert found == [text[:text.index(stop)] if stop in text else text for text in whole]
    with pytest.raises(UserError, match="a prompt of 16 tokens leaves no position"):
        run(model, [[2] * 16])
    assert run(model, []) == []


def test_draws_follow_the_seed_and_the_probabilities():
    model = make_model(**CAUSAL)
    drawing = {"top_k": 0, "most": 1, "stop_id": None}
    prompts = [[2, 5]] * 3000
    found = run(model, prompts, **drawing)
    assert found == run(model, prompts, **drawing) and found != run(model, prompts, seed=10**6, **drawing)
    hidden = model.encode(torch.tensor([[2, 5]]), torch.ones(1, 2, dtype=torch.int64))[0, -1]
    logits = model.target["lm"].logits(hidden)
    for temperature in (1.0, 3.0):
        probs = (logits / temperature).softmax(-1)
        drawn = run(model, prompts, temperature=temperature, **drawing)
        share = torch.bincount(torch.tensor(drawn).flatten(), minlength=ENTRIES) / 3000
        assert ((share - probs).abs() < 4 * (probs * (1 - probs) / 3000).sqrt() + 1e-3).all()


@pytest.mark.parametrize(("entries", "count"), [(7, 1), (1000, 3), (1003, 70), (50, 50)])
def test_the_top_entries_are_those_of_topk(entries, count):
    logits = torch.stack([torch.randperm(entries).float() for _ in range(3)])
    found, expected = top_entries(logits, count), logits.topk(count)
    assert torch.equal(found[0], expected.values) and torch.equal(found[1], expected.indices)


def test_the_penalty_of_what_is_there():
    seen, logits = Seen([[0, 1], [3]]), torch.tensor([[2.0, -1.0, 3.0, -4.0]] * 2)
    assert seen.penalised(logits, 2.0).tolist() == [[1.0, -2.0, 3.0, -4.0], [2.0, -1.0, 3.0, -8.0]]
    seen.add(torch.tensor([2, 0]), torch.tensor([1, 1]))  # both rows go on from the second
    assert seen.penalised(logits, 2.0).tolist() == [[2.0, -1.0, 1.5, -8.0], [1.0, -1.0, 3.0, -8.0]]
    model = make_model(**CAUSAL)
    assert run(model, stop_id=None) != run(model, stop_id=None, repetition_penalty=1.5)


def log_probs_after(model, prompt: list[int], texts: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """(V,) of what follows each of N texts of one length."""
    src = torch.tensor([[*prompt, *text] if model.decoder is None else prompt for text in texts])  # (N, S)
    hidden = model.encode(src, torch.ones_like(src))  # (N, S, H)
    if model.decoder is not None:
        tgt = torch.tensor([[START, *text] for text in texts])
        layout, memory = padded_layout(torch.ones_like(tgt)), padded_layout(torch.ones_like(src))
        hidden = layout.scatter(model.decoder(model.tgt_embedding(tgt, layout), layout, memory.gather(hidden), memory))
    return list(model.target["lm"].logits(hidden[:, -1]).double().log_softmax(-1))


@pytest.mark.parametrize("name", ["causal", "both sides"])
@torch.no_grad()
def test_enough_beams_find_the_best_text(name):
    """By comparison with all texts of up to 3 tokens of 5 entries."""
    model, stop, prompt = make_model(entries=5, std=0.4, **MODELS[name]), 3, [2, 4, 1]
    totals, ended = {(): 0.0}, {}  # the log-probability of each text that goes on, and of each that has ended
    for length in range(3):
        texts = [text for text in totals if len(text) == length]
        for text, following in zip(texts, log_probs_after(model, prompt, texts)):
            ended[text] = totals[text] + following[stop].item()
            totals |= {(*text, token): totals[text] + following[token].item() for token in (0, 1, 2, 4)}
    for length_penalty in (0.0, 2.0):
        scores = {text: total / (len(text) + 1)**length_penalty for text, total in ended.items()}
        scores |= {text: total / 3**length_penalty for text, total in totals.items() if len(text) == 3}
        found = run(model, [prompt], most=3, stop_id=stop, beam_size=64, length_penalty=length_penalty)
        assert len(scores) == 1 + 4 + 16 + 64 and tuple(found[0]) == max(scores, key=scores.get)


def test_models_that_cannot_generate_are_refused():
    with pytest.raises(UserError, match="needs a model with the target lm"):
        run(make_model(target=["mlm"]))
    with pytest.raises(UserError, match="sees the tokens that are to be predicted"):
        run(make_model())
    broken = make_model(**CAUSAL)
    nn.init.constant_(broken.encoder.layer_norm.gamma, float("nan"))
    for beam_size in (1, 3):
        with pytest.raises(UserError, match="logits are not finite"):
            run(broken, beam_size=beam_size)


def test_settings_out_of_their_range_are_named():
    wrong = GenerationConfig(top_k=-1, top_p=2.0, temperature=0.0, repetition_penalty=0.0, beam_size=0, seed=-1,
                             length_penalty=41.0)
    assert len(wrong.problems()) == 7 and not GenerationConfig().problems()
    for length_penalty in (1000.0, -1000.0):
        assert GenerationConfig(length_penalty=length_penalty).problems()


@pytest.mark.parametrize("length_penalty", [40.0, -40.0])
def test_beams_take_the_largest_length_penalty(length_penalty):
    assert math.isfinite(Beams(1, length_penalty).score(-1e4, LONGEST_ROW))
    assert run(make_model(**CAUSAL), beam_size=2, length_penalty=length_penalty)
