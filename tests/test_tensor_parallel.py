"""Ranks that divide a model have its loss and its gradients. Here the ranks are threads of one process; the processes
are in tests/training/test_meshes.py."""

import copy
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from tests.test_model import CONFIG, VOCAB, make_batch, make_model
from tests.test_model_with_decoder import make_both_sides, make_pairs
from uer.data.batch import Labels
from uer.errors import UserError
from uer.layers.cross_entropy import linear_cross_entropy
from uer.layers.dropout import dropout
from uer.model import build_model
from uer.runtime.tensor_parallel import ModelRanks, partial_owners, splits_of
from uer.tensor_parallel import divided_cross_entropy, split_model


class Shared:
    """What the threads of one group have in common."""

    def __init__(self, size):
        self.size, self.barrier, self.tensors = size, threading.Barrier(size, timeout=60), [None] * size


class ThreadRanks(ModelRanks):
    """A rank that is a thread."""

    def __init__(self, rank, shared):
        super().__init__(rank, shared.size)
        self.shared = shared

    def _combined(self, tensor, combine):
        self.shared.tensors[self.rank] = tensor.clone()
        self.shared.barrier.wait()
        together = combine(self.shared.tensors)
        self.shared.barrier.wait()
        return together

    def sum_(self, tensor):
        return tensor.copy_(self._combined(tensor, lambda parts: torch.stack(parts).sum(0)))

    def max_(self, tensor):
        return tensor.copy_(self._combined(tensor, lambda parts: torch.stack(parts).amax(0)))

    def gather_(self, part):
        return self._combined(part, torch.cat)

    def reduce_scatter_(self, tensor):
        return self._combined(tensor, lambda parts: torch.stack(parts).sum(0).chunk(self.size)[self.rank].clone())


def on_ranks(size, function):
    """The results of function(ranks) on every rank."""
    shared = Shared(size)

    def run(rank):
        try:
            return function(ThreadRanks(rank, shared))
        except BaseException:
            shared.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


def lm_batch():
    batch = make_batch()
    labels = torch.where(batch.src.seg > 0, batch.src.values, -100)
    return dataclasses.replace(batch, labels={"lm": Labels(labels)})


CAUSAL = {"target": ("lm",), "mask": "causal", "layernorm_positioning": "pre", "embedding": ("word",)}
LLAMA = {**CAUSAL, "layernorm": "t5", "feed_forward": "gated", "remove_transformer_bias": True, "tie_weights": False,
         "rotary_position_embedding": True, "members": {"label_smoothing": 0.1}}
GROUPED = {"heads_num": 8, "local_kv_heads_num": 4, "attention_head_size": 6, "feedforward_size": 44}
QWEN = {**GROUPED, "query_key_layernorm": True, "query_key_value_bias": True}
CASES = {
    "BERT": (lambda: make_model(**EVEN), make_batch),
    "ALBERT": (lambda: make_model(**EVEN, parameter_sharing=True, factorized_embedding_parameterization=True,
                                  emb_size=12), make_batch),
    "RealFormer, T5's positions": (lambda: make_model(**EVEN, has_residual_attention=True,
                                                      relative_position_embedding=True), make_batch),
    "LLaMA, grouped queries, label smoothing": (lambda: make_model(**LLAMA, **GROUPED), lm_batch),
    "Qwen": (lambda: make_model(**LLAMA, **QWEN), lm_batch),
    "BLOOM": (lambda: make_model(**CAUSAL, **EVEN, alibi_position_embedding=True), lm_batch),
    "padding kept": (lambda: make_model("off", **EVEN), make_batch),
    "decoder": (lambda: make_both_sides(**EVEN, relative_position_embedding=True), make_pairs),
}
EVEN = {"heads_num": 4, "feedforward_size": 44}


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_one_rank(case, size):
    model, batch = CASES[case][0]().train(), CASES[case][1]()
    expected = model(batch)
    expected.loss.backward()
    whole = dict(model.named_parameters())

    def run(ranks):
        mine = copy.deepcopy(model)
        mine.zero_grad()
        split_model(mine, ranks)
        output = mine(batch)
        output.loss.backward()
        for parameter in partial_owners(mine):
            ranks.sum_(parameter.grad)
        splits = splits_of(mine)
        for name, parameter in mine.named_parameters():
            gradient = whole[name].grad
            part = ranks.part(gradient, splits[name].dim) if name in splits else gradient
            torch.testing.assert_close(parameter.grad, part, rtol=1e-4, atol=1e-6)
        return output, sum(p.numel() for p in mine.parameters())

    sizes = []
    for output, numbers in on_ranks(size, run):
        torch.testing.assert_close(output.loss, expected.loss, rtol=1e-6, atol=0)
        for target, metrics in expected.metrics.items():
            assert float(output.metrics[target]["acc"].total) == float(metrics["acc"].total)
        sizes.append(numbers)
    assert max(sizes) < 0.8 * model.num_parameters()


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_of_a_divided_vocabulary(smoothing):
    """11 entries on 4 ranks: 3, 3, 3 and 2. Rows without a label count nothing."""
    torch.manual_seed(3)
    hidden, weight, bias = torch.randn(6, 5), torch.randn(11, 5), torch.randn(11)
    labels = torch.tensor([0, 10, -100, 3, 8, 9])
    for tensor in (hidden, weight, bias):
        tensor.requires_grad_()
    loss, correct = linear_cross_entropy(hidden, weight, bias, labels, smoothing)
    gradients = torch.autograd.grad(loss, (hidden, weight, bias))

    def run(ranks):
        mine = [hidden.detach().clone(), ranks.part(weight.detach(), 0), ranks.part(bias.detach(), 0)]
        for tensor in mine:
            tensor.requires_grad_()
        found = divided_cross_entropy(*mine, labels, smoothing, ranks=ranks, size=11)
        return found, torch.autograd.grad(found[0], mine)

    results = on_ranks(4, run)
    for found, (gradient, _, _) in results:
        torch.testing.assert_close(found[0], loss, rtol=1e-6, atol=0)
        assert found[1] == correct
        torch.testing.assert_close(gradient, gradients[0])
    for number in (1, 2):
        torch.testing.assert_close(torch.cat([own[number] for _, own in results]), gradients[number])


def test_ranks_draw_dropout_of_their_own_for_parts_and_the_same_for_the_rest():
    ones, drawn = torch.ones(64), []
    for rank in range(3):
        torch.manual_seed(5)
        first = dropout(ones, 0.5)
        with ModelRanks(rank, 3).own_random(ones.device):
            own = (dropout(ones, 0.5), torch.rand(64))
        drawn.append((first, own, dropout(ones, 0.5)))
    for other in drawn[1:]:
        assert torch.equal(other[0], drawn[0][0]) and torch.equal(other[2], drawn[0][2])
    for part in (0, 1):
        assert len({tuple(own[part].tolist()) for _, own, _ in drawn}) == 3
    assert not torch.equal(drawn[0][0], drawn[0][2])


@pytest.mark.parametrize("size, parts", [(5, 4), (45, 2), (8, 4), (3, 4)])
def test_parts_are_those_of_chunk(size, parts):
    whole = torch.arange(size)
    chunks = whole.chunk(parts)
    for rank in range(parts):
        ranks = ModelRanks(rank, parts)
        expected = chunks[rank] if rank < len(chunks) else whole[:0]
        assert torch.equal(ranks.part(whole, 0), expected)
        assert ranks.first(size) == (int(expected[0]) if len(expected) else size)


@pytest.mark.parametrize("settings, problem", [
    ({"encoder": "lstm"}, "the encoder 'lstm' cannot be divided"), ({"heads_num": 7}, "does not divide heads_num 7"),
    ({"heads_num": 4, "local_kv_heads_num": 1}, "^--tensor_parallel_size 2 does not divide local_kv_heads_num 1$"),
    ({"heads_num": 2, "feedforward_size": 45}, "does not divide feedforward_size 45")])
def test_what_cannot_be_divided_is_refused(settings, problem):
    model = build_model(dataclasses.replace(CONFIG, **settings), VOCAB)
    with pytest.raises(UserError, match=problem):
        split_model(model, ModelRanks(0, 2))


def test_an_unknown_parameter_is_refused():
    model = build_model(dataclasses.replace(CONFIG, **EVEN), VOCAB)
    model.encoder.transformer[0].self_attn.norm_of_keys = nn.LayerNorm(7)
    with pytest.raises(UserError, match=r"Attention has the parameter norm_of_keys\.weight"):
        split_model(model, ModelRanks(0, 2))
