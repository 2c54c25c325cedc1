"""Whole runs of pretrain.py with every processor, target and encoder: resumed, on two ranks, evaluated.

A new entry of a table needs a place in RUNS below; all tests then run it.
"""

import json
import random

import pytest
import torch

from tests.contract.test_processors import CASES
from tests.tools.configs import model_config
from tests.tools.datasets import make_dataset, whole_batch
from tests.training.conftest import MODEL, make_playground
from uer.config import TokenizerConfig
from uer.data.processors import PROCESSORS
from uer.data.store import open_dataset
from uer.encoders import ENCODERS
from uer.model import build_model
from uer.targets import TARGETS
from uer.targets.base import VocabularyTarget
from uer.tokenizers import build_tokenizer

DECODER = {"decoder": "transformer", "decoder_layers_num": 2, "tgt_embedding": ["word", "pos"]}
# name -> processor, targets, encoder, further settings of the model
RUNS = {
    "mlm": ("mlm", ["mlm"], "transformer", {}),
    "bert": ("bert", ["mlm", "sp"], "transformer", {}),
    "albert": ("albert", ["sp", "mlm"], "transformer",
               {"emb_size": 8, "factorized_embedding_parameterization": True, "parameter_sharing": True}),
    "lm": ("lm", ["lm"], "transformer", {"mask": "causal", "layernorm_positioning": "pre", "has_lmtarget_bias": True}),
    "modernbert": ("mlm", ["mlm"], "transformer", {
        "embedding": ["word"], "layernorm_positioning": "pre", "feed_forward": "gated", "remove_transformer_bias": True,
        "remove_layernorm_bias": True, "remove_first_layernorm": True, "rotary_position_embedding": True,
        "local_rotary_base": 100.0, "attention_window": 6, "global_attention_every": 2,
        "prediction_head": "modernbert", "layers_num": 3}),
    "llama2": ("lm", ["lm"], "transformer", {
        "embedding": ["word"], "layernorm_positioning": "pre", "feed_forward": "gated", "remove_transformer_bias": True,
        "layernorm": "rms", "hidden_act": "silu", "remove_embedding_layernorm": True, "mask": "causal",
        "rotary_position_embedding": True, "local_kv_heads_num": 1, "tie_weights": False}),
    "rnn": ("lm", ["lm"], "rnn", {"tie_weights": False}),
    "lstm": ("lm", ["lm"], "lstm", {"emb_size": 16}),
    "gru": ("lm", ["lm"], "gru", {"label_smoothing": 0.1}),
    "gatedcnn": ("lm", ["lm"], "gatedcnn", {"kernel_size": 3, "block_size": 1, "layers_num": 3}),
    "birnn": ("bilm", ["bilm"], "birnn", {"tie_weights": False}),
    "bilstm": ("bilm", ["bilm"], "bilstm", {"tie_weights": False}),
    "bigru": ("bilm", ["bilm"], "bigru", {"tie_weights": False}),
    "cls": ("cls", ["cls"], "transformer", {"labels_num": 2, "pooling": "mean"}),
    "cls_mlm": ("cls_mlm", ["cls", "mlm"], "transformer", {"labels_num": 2}),
    "prefixlm": ("prefixlm", ["lm"], "transformer", {"mask": "causal_with_prefix", "prefix_lm_loss": True}),
    "mt": ("mt", ["lm"], "transformer", {**DECODER, "tie_weights": False}),
    "t5": ("t5", ["lm"], "transformer", {
        **DECODER, "share_embedding": True, "embedding": ["word"], "tgt_embedding": ["word"],
        "relative_position_embedding": True, "layernorm": "t5", "layernorm_positioning": "pre",
        "remove_transformer_bias": True, "remove_attention_scale": True, "remove_embedding_layernorm": True}),
    "gsg": ("gsg", ["lm"], "transformer", {**DECODER, "share_embedding": True, "layernorm_positioning": "pre"}),
    "bart": ("bart", ["lm"], "transformer", {**DECODER, "share_embedding": True, "has_lmtarget_bias": True}),
}
TGT_LENGTH = {name: {"tgt_seq_length": 16} for name in ("mt", "gsg")}
STEPS = {"total_steps": 4, "save_checkpoint_steps": 2, "report_steps": 2, "data_processor": None}
TWO_RANKS = {"batch_size": 2, "world_size": 2, "gpu_ranks": (0, 1)}


@pytest.fixture(scope="module")
def playground(tmp_path_factory, server):
    """A dataset of each processor beside the vocabulary."""
    playground = make_playground(tmp_path_factory.mktemp("runs"), server)
    vocab_path = playground.folder / "sentinels.txt"
    vocab_path.write_text((playground.folder / "vocab.txt").read_text(encoding="utf-8")
                          + "".join(f"<extra_id_{number}>\n" for number in range(100)), encoding="utf-8")
    tokenizer = build_tokenizer(TokenizerConfig(tokenizer="char", vocab_path=str(vocab_path)))
    random.seed(1)
    for name in PROCESSORS:
        corpus = playground.folder / f"{name}.txt"
        corpus.write_text(CASES[name][0](80), encoding="utf-8")
        make_dataset(playground.folder / f"{name}.pt", corpus, name, tokenizer, seq_length=16,
                     members=TGT_LENGTH.get(name))
    for name, (_, targets, encoder, settings) in RUNS.items():
        content = {**MODEL, "encoder": encoder, "target": targets, "dropout": 0.1, **settings}
        (playground.folder / f"{name}.json").write_text(json.dumps(content))
    return playground


def flags_of(playground, name, **flags):
    sentinels = playground.folder / "sentinels.txt"
    own = {"tgt_vocab_path": sentinels, "tgt_tokenizer": "char"} if name == "mt" else {}
    return {**STEPS, **own, "dataset_path": playground.folder / f"{RUNS[name][0]}.pt", "vocab_path": sentinels,
            "config_path": playground.folder / f"{name}.json", **flags}


def test_every_entry_has_a_run():
    assert {processor for processor, *_ in RUNS.values()} == PROCESSORS.keys()
    assert {target for _, targets, *_ in RUNS.values() for target in targets} == TARGETS.keys()
    pretrained = {name for name, encoder in ENCODERS.items() if encoder.streams == 1}
    assert {encoder for _, _, encoder, _ in RUNS.values()} == pretrained


def test_a_decoder_is_missed(playground):
    flags = {**flags_of(playground, "lm"), "dataset_path": playground.folder / "bart.pt"}
    job = playground.start("without", **flags)
    assert job.wait() == 2 and "on the target side, which needs a decoder" in job.output


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_ends_with_the_same_bits(playground, name):
    """From the state in its middle; dropout and masks are the same. `tests/training/test_resume.py` kills runs."""
    flags = flags_of(playground, name, dev_fraction=0.03)
    playground.run(f"{name}-whole", **flags)
    state = playground.folder / f"{name}-whole.state-2"
    assert "resumed after step 2" in playground.run(f"{name}-resumed", **flags, resume=state).output
    whole, resumed = ((playground.folder / f"{name}-{part}-4").read_bytes() for part in ("whole", "resumed"))
    assert whole == resumed
    losses = playground.losses(f"{name}-whole")
    assert losses[-1] < losses[0], "nothing was learned"
    columns = playground.figures(f"{name}-whole", "eval")[-1]
    targets = RUNS[name][1]
    expected = {f"loss_{target}" for target in targets} if len(targets) > 1 else {"loss"}
    assert expected <= columns.keys() and any(column.startswith("acc") for column in columns)
    assert any(column.startswith("perplexity") for column in columns) == any(
        issubclass(TARGETS[target], VocabularyTarget) for target in targets)


@pytest.mark.parametrize("name", RUNS)
def test_autocast_to_bfloat16_rounds_losses_and_gradients(playground, name):
    """Without dropout, by no more than 8 bits explain. CPUs without such products emulate them."""
    dataset = open_dataset(playground.folder / f"{RUNS[name][0]}.pt")
    batch, entries, found = whole_batch(dataset).rows(0, 12), dataset.info.vocab.size, []
    settings = {**json.loads((playground.folder / f"{name}.json").read_text()), "dropout": 0.0}
    for enabled in (False, True):
        torch.manual_seed(3)
        model = build_model(model_config(**settings), entries, tgt_vocab_size=entries if batch.tgt else None)
        with torch.autocast("cpu", torch.bfloat16, enabled):
            loss = model(batch).loss
        loss.backward()
        found.append((loss.item(), {key: parameter.grad for key, parameter in model.named_parameters()}))
    (exact_loss, exact), (loss, gradients) = found
    assert loss == pytest.approx(exact_loss, rel=1e-3)
    norm = sum(gradient.square().sum() for gradient in exact.values()).sqrt()
    for key, gradient in gradients.items():
        assert gradient.dtype == torch.float32
        assert (gradient - exact[key]).norm() < 0.05 * exact[key].norm() + 1e-4 * norm, key


@pytest.mark.parametrize("name", ["bert", "lm", "cls", "mt"])
def test_two_ranks_learn_the_same(playground, name):
    """To rounding, without dropout. Labels of each kind: at positions, of all tokens, of rows, of target sides."""
    flags = flags_of(playground, name, dropout=0.0, save_checkpoint_steps=4)
    playground.run(f"{name}-one", **flags)
    playground.run(f"{name}-two", **{**flags, **TWO_RANKS})
    assert playground.losses(f"{name}-two") == pytest.approx(playground.losses(f"{name}-one"), rel=1e-4)
    torch.testing.assert_close(playground.weights(f"{name}-two-4"), playground.weights(f"{name}-one-4"), rtol=1e-3,
                               atol=1e-4)
