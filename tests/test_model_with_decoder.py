"""Models with an encoder and a decoder: both sides of a batch, shared words, sizes. The base is in test_model.py."""

import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from tests.test_model import CONFIG, LENGTH, VOCAB
from uer.data.batch import Batch, Labels, Packing, Side
from uer.errors import UserError
from uer.meta_device import Unfilled, extrapolated_model
from uer.model import Model, build_model
from uer.planning.flops import activation_bytes, parameter_count
from uer.runtime import sharding

BOTH_SIDES = dataclasses.replace(CONFIG, embedding=("word", "pos"), tgt_embedding=("word", "pos"), target=("lm",),
                                 decoder="transformer", decoder_layers_num=2, tie_weights=False)
TGT_VOCAB = 29


def make_pairs(seed=0):
    """Rows of two sides, with labels at every position of the second."""
    generator = torch.Generator().manual_seed(seed)
    seg, tgt_seg = ((torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
                    for width, lengths in ((LENGTH, (13, 4, 1, 4)), (9, (2, 9, 5, 1))))
    src = torch.randint(1, VOCAB, seg.shape, generator=generator) * seg
    tgt = torch.randint(1, TGT_VOCAB, tgt_seg.shape, generator=generator) * tgt_seg
    labels = torch.randint(1, TGT_VOCAB, tgt_seg.shape, generator=generator).masked_fill(tgt_seg == 0, -100)
    return Batch(Side(src, seg), {"lm": Labels(labels, side="tgt")}, torch.arange(4), Side(tgt, tgt_seg))


def make_both_sides(unpad="auto", tgt_vocab_size=TGT_VOCAB, **settings) -> Model:
    torch.manual_seed(4)
    model = build_model(dataclasses.replace(BOTH_SIDES, **settings), VOCAB, tgt_vocab_size=tgt_vocab_size, unpad=unpad)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize("settings", [{}, {"target": ("mlm", "lm")}, {"embedding": ("word",), "encoder": "birnn"}],
                         ids=str)
def test_both_sides_leave_padding_out(settings):
    """Loss and gradients are those with padding; every parameter has one. mlm reads the encoder, lm the decoder."""
    batch = make_pairs()
    batch.labels["mlm"] = Labels(torch.full((4, 1), 5), torch.zeros(4, 1, dtype=torch.int64))
    results = []
    for unpad in ("off", "auto"):
        model = make_both_sides(unpad, **settings)
        output = model(batch)
        output.loss.backward()
        results.append([output.loss, *(parameter.grad for parameter in model.parameters())])
        assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []
    for padded, unpadded in zip(*results):
        torch.testing.assert_close(unpadded, padded, rtol=1e-4, atol=1e-6)
    assert output.metrics["lm"]["loss"][1] == 17
    assert tuple(output.metrics) == model.config.target


def test_words_of_both_sides_may_be_one():
    tied = make_both_sides(tie_weights=True)
    assert tied.tied == {"target.lm.output_layer.weight": "tgt_embedding.word.embedding.weight"}
    shared = make_both_sides(tgt_vocab_size=None, tie_weights=True, share_embedding=True)
    words = [shared.state_dict()[name].data_ptr() for name in (
        "embedding.word.embedding.weight", "tgt_embedding.word.embedding.weight", "target.lm.output_layer.weight")]
    assert len(set(words)) == 1 and shared.tgt_embedding.pos is not shared.embedding.pos
    assert shared.num_parameters() == make_both_sides(tgt_vocab_size=None).num_parameters() - 2 * VOCAB * 28
    state = shared.state_dict()
    for name in shared.tied:
        del state[name]
    make_both_sides(tgt_vocab_size=None, tie_weights=True, share_embedding=True).load_state_dict(state)
    state["tgt_embedding.word.embedding.weight"] = state["embedding.word.embedding.weight"] + 1
    with pytest.raises(UserError, match="but share_embedding makes them one"):
        shared.load_state_dict(state)
    with pytest.raises(UserError, match=r"share_embedding: tgt_embedding.* has the shape \[29, 28\], embedding"):
        make_both_sides(share_embedding=True)
    with pytest.raises(UserError, match=r"tie_weights: the model has no tgt_embedding\.word"):
        make_both_sides(tie_weights=True, tgt_embedding=("pos",))


def test_what_does_not_fit_a_decoder_is_said():
    with pytest.raises(UserError, match="--target mlm does not read it"):
        make_both_sides(target=("mlm",))
    with pytest.raises(UserError, match="emb_size 14 differs from hidden_size 28"):
        make_both_sides(emb_size=14, factorized_embedding_parameterization=True)
    with pytest.raises(UserError, match="--document_attention"):
        build_model(BOTH_SIDES, VOCAB, document_start=2)
    with pytest.raises(UserError, match="the dataset has no target side"):
        make_both_sides()(dataclasses.replace(make_pairs(), labels={"lm": Labels(torch.zeros(4, 13).long())}))
    with pytest.raises(UserError, match="needs a decoder: choose --decoder transformer"):
        make_both_sides(decoder=None)(make_pairs())
    with pytest.raises(UserError, match="length 9 exceeds max_seq_length 8"):
        make_both_sides(max_seq_length=8, embedding=("word",))(make_pairs())
    assert not make_both_sides().warnings()
    assert make_both_sides(decoder=None).warnings()


def test_a_step_of_both_sides_is_one_graph():
    """With static shapes; a size without padding, which is the source side's alone, is not used."""
    batch, model = make_pairs(), make_both_sides("off", layers_num=1, decoder_layers_num=1)
    expected = model(batch)
    batch = dataclasses.replace(batch, packing=Packing(99, 0, 9))
    output = torch.compile(model, backend="eager", fullgraph=True)(batch)
    torch.testing.assert_close(output.loss, expected.loss)


def test_recomputed_activations_of_both_sides_give_the_same_loss():
    results = []
    for recompute in ("off", "full", "selective"):
        torch.manual_seed(4)
        model = build_model(dataclasses.replace(BOTH_SIDES, dropout=0.1), VOCAB, activation_checkpointing=recompute)
        assert model.encoder.activation_checkpointing == model.decoder.activation_checkpointing == recompute
        loss = model(make_pairs()).loss
        loss.backward()
        results.append((loss, model.embedding.word.embedding.weight.grad))
    assert all(torch.equal(*same) for other in results[1:] for same in zip(results[0], other))


def test_blocks_and_initial_weights_of_both_stacks():
    config = dataclasses.replace(BOTH_SIDES, emb_size=128, hidden_size=128, feedforward_size=512, heads_num=2,
                                 layers_num=8)
    model = build_model(config, 97, deep_init=True)
    assert sharding._blocks(model) == [*model.encoder.transformer, *model.decoder.transformer_decoder]
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "coder." in name:
            scaled = "final_linear" in name or "feed_forward.linear_2" in name
            assert abs(parameter.std().item() - 0.02 * (0.25 if scaled else 1)) < 0.0005, name


@pytest.mark.parametrize("layers, decoder_layers", [(1, 1), (2, 3)])
def test_parameters_and_operations_of_both_stacks_are_counted(layers, decoder_layers):
    """From models of one and two layers, as for an encoder."""
    config = dataclasses.replace(BOTH_SIDES, layers_num=layers, decoder_layers_num=decoder_layers)
    model = build_model(config, VOCAB, tgt_vocab_size=TGT_VOCAB)
    assert parameter_count(config, VOCAB, TGT_VOCAB) == model.num_parameters()

    def operations(config):
        with Unfilled():
            meta = build_model(config, VOCAB, tgt_vocab_size=TGT_VOCAB, unpad="off")
        pairs = make_pairs().to("meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            meta(pairs)
        return counter.get_total_flops()

    assert extrapolated_model(operations, config) == operations(config)
    encoder = dataclasses.replace(config, decoder=None)
    assert activation_bytes(config, 100, VOCAB) > activation_bytes(encoder, 100, VOCAB)


# Of UER-py's files: layers, decoder layers, hidden, feed-forward, heads, head size -> million parameters.
T5 = dataclasses.replace(
    BOTH_SIDES, embedding=("word",), tgt_embedding=("word",), relative_position_embedding=True, share_embedding=True,
    remove_embedding_layernorm=True, layernorm_positioning="pre", remove_attention_scale=True, layernorm="t5",
    remove_transformer_bias=True, tie_weights=True)
BART = dataclasses.replace(BOTH_SIDES, max_seq_length=1024, share_embedding=True, tie_weights=True,
                           members={"has_lmtarget_bias": True})
PEGASUS = dataclasses.replace(BART, embedding=("word", "sinusoidalpos"), tgt_embedding=("word", "sinusoidalpos"),
                              remove_embedding_layernorm=True, layernorm_positioning="pre")


@pytest.mark.parametrize("config, sizes, vocab_size, millions", [
    (T5, (6, 6, 512, 2048, 8, None), 21228, 54.9), (T5, (24, 24, 1024, 65536, 128, 128), 21228, 11296),
    (dataclasses.replace(T5, feed_forward="gated", tie_weights=False), (8, 8, 512, 1024, 6, 64), 21228, 65.8),
    (BART, (6, 6, 768, 3072, 12, None), 21128, 117.1), (PEGASUS, (12, 12, 768, 3072, 12, None), 21128, 214.7),
    (dataclasses.replace(PEGASUS, share_embedding=False, layernorm_positioning="post", members={},
                         remove_embedding_layernorm=False), (6, 6, 512, 2048, 8, None), 21128, 65.8)])
def test_published_sizes(config, sizes, vocab_size, millions):
    names = ("layers_num", "decoder_layers_num", "hidden_size", "feedforward_size", "heads_num", "attention_head_size")
    config = dataclasses.replace(config, **dict(zip(names, sizes)), emb_size=sizes[2])
    assert parameter_count(config, vocab_size) / 1e6 == pytest.approx(millions, abs=0.05 if millions < 1000 else 0.5)
