"""Which weights of a model tensor parallelism divides, and the layers whose results the ranks put together.

    query, key, value    by heads (rows of the weight): attention of a rank's heads alone. With grouped queries each
                         rank has the heads of keys and values that serve its heads of queries
    final_linear         by columns; the ranks' results are added up
    feed-forward         linear_1 and linear_gate by rows, linear_2 by columns
    word embedding       by entries of the vocabulary
    output layer         by entries of the vocabulary; its cross-entropy never has all logits on one rank
    everything else      whole on every rank: norms, positions, small heads

The shapes on each of n = 2 ranks, for N tokens, H = 8, 4 heads of 2 with 2 heads of keys and values, feed-forward 12:

    query (4, 8), key and value (2, 8) each  ->  2 heads of queries, 1 of keys and values  ->  final_linear (8, 4)
    linear_1 (6, 8)  ->  (N, 6)  ->  linear_2 (8, 6)  ->  (N, 8), the sum over the ranks

Four sums over the ranks a layer: after attention and after the feed-forward part, forward and backward. In all layers
of an encoder but the last, which may compute some tokens only, norms, dropout and residual sums are divided by tokens.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from uer.embeddings import WordEmbedding
from uer.encoders.transformer import TransformerEncoder
from uer.errors import UserError
from uer.layers.attention import Attention
from uer.layers.cross_entropy import IGNORED
from uer.layers.feed_forward import DenseFeedForward, GatedFeedForward
from uer.layers.relative_position import AlibiBias, RelativePositionBias
from uer.runtime.tensor_parallel import ModelRanks, mark_partial, split_parameters
from uer.targets.base import VocabularyTarget

ROWS = {"weight": 0, "bias": 0}
COLUMNS = {"weight": 1}  # the bias is whole, and added once


def split_model(model: nn.Module, ranks: ModelRanks) -> None:
    """Divide a model, the same on every rank, among the ranks, in place: each keeps its part of the large weights.

    Args:
        model: a `uer.model.Model`.
        ranks: those that compute it together.

    Raises:
        UserError: it has layers that cannot be divided, or not among so many ranks.
    """
    if not isinstance(model.encoder, TransformerEncoder):
        raise UserError(f"--tensor_parallel_size: the encoder '{model.config.encoder}' cannot be divided, only a "
                        "transformer; --sharding fsdp works with every encoder")
    *layers, last = model.encoder.layers()
    layers = [] if last in layers else layers  # where all are one, the last cannot be told from the others
    spread, done = _SpreadRanks(ranks), {}
    inside = {part for layer in layers for part in layer.modules()}
    for module in list(model.modules()):
        divide = next((rule for kind, rule in _RULES.items() if isinstance(module, kind)), None)
        if divide is not None:
            divide(module, spread if module in inside else ranks, partial(split_parameters, ranks=ranks, done=done))
    if layers:
        _divide_tokens(layers, last, spread)


class _SpreadRanks:
    """The ranks as attention and feed-forward part see them in a layer whose input is divided by tokens: as
    `ModelRanks`, but a tensor that is whole on every rank is (N, H) there and (N / size, H) here.

    Attributes:
        tokens: N, of the batch, over all ranks.
    """

    def __init__(self, ranks: ModelRanks) -> None:
        self.ranks, self.rank, self.size, self.tokens = ranks, ranks.rank, ranks.size, 0

    def copy(self, rows: Tensor) -> Tensor:
        """This rank's rows (N / size, H) -> all rows (N, H)."""
        return self.ranks.gather(rows, self.tokens)

    def sum(self, part: Tensor) -> Tensor:
        """(N, H) of each rank -> this rank's rows (N / size, H) of the sum."""
        return self.ranks.scatter_sum(part)

    def own_random(self, device: torch.device) -> Any:
        """The whole layer is in such a context already."""
        return nullcontext()


def _divide_tokens(layers: Sequence[nn.Module], last: nn.Module, spread: _SpreadRanks) -> None:
    """Let each rank have a part of the tokens from the first of `layers` to the `last`, where they come together."""

    def enter(layer: nn.Module, inputs: tuple) -> tuple:
        spread.tokens = len(inputs[0])
        return spread.ranks.divide(inputs[0]), *inputs[1:]

    layers[0].register_forward_pre_hook(enter)
    last.register_forward_pre_hook(lambda layer, inputs: (spread.ranks.join(inputs[0], spread.tokens), *inputs[1:]))
    for layer in layers:
        mark_partial(layer)
        layer.forward = partial(_run_layer, layer, spread.ranks)


def _run_layer(layer: nn.Module, ranks: ModelRanks, hidden: Tensor, *arguments: Any) -> Any:
    """A layer whose input is divided by tokens, with dropout of its own."""
    with ranks.own_random(hidden.device):
        return type(layer).forward(layer, hidden, *arguments)


Ranks = ModelRanks | _SpreadRanks
Divide = Callable[[nn.Module, dict[str, int]], None]


def _attention(module: Attention, ranks: Ranks, split: Divide) -> None:
    heads = module.heads
    for name, number in (("heads_num", heads.heads), ("local_kv_heads_num", heads.kv_heads)):
        _require_divisible(name, number, ranks)
    _require_known(module, r"(linear_layers\.\d|final_linear|query_layer_norm|key_layer_norm)")
    for layer in module.linear_layers:
        split(layer, ROWS)
    for norm in filter(None, (module.query_layer_norm, module.key_layer_norm)):
        mark_partial(norm)  # each rank normalises heads of its own
    _sum_results(module.final_linear, ranks, split)
    module.heads = heads._replace(heads=heads.heads // ranks.size, kv_heads=heads.kv_heads // ranks.size)
    module.forward = partial(_attend, module, ranks)


def _attend(module: Attention, ranks: Ranks, query: Tensor, memory: Tensor, *arguments: Any) -> Any:
    """`Attention.forward` with a part of the heads, each rank with dropout of its own.

    Args:
        query, memory: (Nq, H) and (Nk, H), or this rank's rows of them, as `ranks` has them.
    """
    same, query = query is memory, ranks.copy(query)
    memory = query if same else ranks.copy(memory)
    with ranks.own_random(query.device):
        return type(module).forward(module, query, memory, *arguments)


def _feed_forward(module: nn.Module, ranks: Ranks, split: Divide) -> None:
    _require_divisible("feedforward_size", module.linear_1.out_features, ranks)
    _require_known(module, r"linear_(1|gate|2)")
    split(module.linear_1, ROWS)
    if isinstance(module, GatedFeedForward):
        split(module.linear_gate, ROWS)
    _sum_results(module.linear_2, ranks, split)
    module.register_forward_pre_hook(lambda module, inputs: (ranks.copy(inputs[0]),))


def _sum_results(layer: nn.Linear, ranks: Ranks, split: Divide) -> None:
    """A linear layer whose input is divided: each rank multiplies its columns."""
    split(layer, COLUMNS)
    layer.forward = partial(_summed_linear, layer, ranks)


def _summed_linear(layer: nn.Linear, ranks: Ranks, hidden: Tensor) -> Tensor:
    """(N, part of H) -> (N, H)"""
    product = ranks.sum(F.linear(hidden, layer.weight))
    return product if layer.bias is None else product + layer.bias


def _alibi(module: AlibiBias, ranks: ModelRanks, split: Divide) -> None:
    """(1, heads, queries, keys): each rank takes that of its heads."""
    module.register_forward_hook(lambda module, inputs, bias: ranks.part(bias, 1))


def _position_bias(module: RelativePositionBias, ranks: ModelRanks, split: Divide) -> None:
    """A column for each head."""
    split(module.relative_attention_bias, {"weight": 1})


def _word_embedding(module: WordEmbedding, ranks: ModelRanks, split: Divide) -> None:
    size = _require_entries(module.embedding.num_embeddings, ranks)
    split(module.embedding, {"weight": 0})
    module.embedding.forward = partial(_look_up, module.embedding, ranks, ranks.first(size))


def _look_up(embedding: nn.Embedding, ranks: ModelRanks, first: int, tokens: Tensor) -> Tensor:
    """tokens (N,) -> (N, E): one rank has the row, the others add 0.

    Entries 0 to 2 on rank 0 and 3 to 5 on rank 1, tokens [1, 4]: rank 0 gives [row 1, 0], rank 1 [0, row 4].
    """
    here = tokens - first
    outside = (here < 0) | (here >= len(embedding.weight))
    rows = F.embedding(here.masked_fill(outside, 0), embedding.weight)
    return ranks.sum(rows.masked_fill(outside[..., None], 0.0))


def _output_layer(module: VocabularyTarget, ranks: ModelRanks, split: Divide) -> None:
    layer = module.get_submodule(module.output)
    size = _require_entries(layer.out_features, ranks)
    split(layer, ROWS)
    module.cross_entropy = partial(divided_cross_entropy, ranks=ranks, size=size)


_RULES: dict[type, Callable[[Any, Any, Divide], None]] = {
    Attention: _attention, DenseFeedForward: _feed_forward, GatedFeedForward: _feed_forward,
    RelativePositionBias: _position_bias, AlibiBias: _alibi, WordEmbedding: _word_embedding,
    VocabularyTarget: _output_layer}


def _require_divisible(name: str, number: int, ranks: Ranks) -> None:
    if number % ranks.size:
        raise UserError(f"--tensor_parallel_size {ranks.size} does not divide {name} {number}")


def _require_entries(size: int, ranks: ModelRanks) -> int:
    """The entries of a vocabulary, of which each rank must have one at least: 5 entries on 4 ranks are 2, 2, 1, 0."""
    if (ranks.size - 1) * -(-size // ranks.size) >= size:  # where the last rank's begin
        raise UserError(f"--tensor_parallel_size {ranks.size}: the vocabulary of {size} entries leaves a rank none")
    return size


def _require_known(module: nn.Module, layers: str) -> None:
    """See that a part has no parameters but those of the linear layers that the pattern `layers` matches."""
    for name, _ in module.named_parameters():
        if not re.fullmatch(rf"{layers}\.(weight|bias)", name):
            raise UserError(f"--tensor_parallel_size: {type(module).__name__} has the parameter {name}, which cannot "
                            "be divided yet")


def divided_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor,
                          label_smoothing: float = 0.0, *, ranks: ModelRanks, size: int) -> tuple[Tensor, Tensor]:
    """`uer.layers.cross_entropy.linear_cross_entropy` where each rank has a part of the vocabulary's `size` entries.

    Args:
        hidden: (K, E), the same on every rank.
        weight, bias: (v, E) and (v,), of this rank's entries.
        labels: (K,) numbers of the whole vocabulary.

    Returns:
        The sum of the losses, and how many labels have the largest logit; the same on every rank.
    """
    logits = F.linear(ranks.copy(hidden), weight, bias).float()
    return _DividedCrossEntropy.apply(logits, labels, label_smoothing, ranks, size)


class _DividedCrossEntropy(torch.autograd.Function):
    """See `divided_cross_entropy`. For a row with the logits [0, 1] on rank 0 and [2, 0] on rank 1, and the label 2:
    the largest is 2 on both, the sums of exponentials are e^-2 + e^-1 and e^0 + e^-2, together 1.639, and the loss is
    log(1.639) + 2 - 2 = 0.494."""

    @staticmethod
    def forward(context: Any, logits: Tensor, labels: Tensor, smoothing: float, ranks: ModelRanks,
                size: int) -> tuple[Tensor, Tensor]:
        """logits (K, v). The ranks exchange three numbers for each row: the largest logit, the sum of exponentials and
        the label's logit."""
        kept, here = labels != IGNORED, labels - ranks.first(size)  # (K,)
        inside = (here >= 0) & (here < logits.shape[1])
        index = here.masked_fill(~inside, 0)[:, None]  # (K, 1)
        label_logits = ranks.sum_(logits.gather(1, index).squeeze(1).masked_fill(~inside, 0.0))
        largest = ranks.max_(logits.amax(1))
        uniform = smoothing / (size - 1)
        logit_sums = ranks.sum_(logits.sum(1)) if smoothing else 0.0
        probs = (logits - largest[:, None]).exp_()
        sums = ranks.sum_(probs.sum(1))
        log_sums = sums.log() + largest
        loss = (1 - smoothing - uniform) * (log_sums - label_logits) - uniform * (logit_sums - size * log_sums)
        probs.div_(sums[:, None])
        probs.scatter_add_(1, index, -(1 - smoothing - uniform) * inside[:, None].to(probs.dtype)).sub_(uniform)
        context.save_for_backward(probs.mul_(kept[:, None]))  # the gradient of the logits
        correct = ((label_logits >= largest) & kept).sum().float()
        context.mark_non_differentiable(correct)
        return loss.masked_fill(~kept, 0.0).sum(), correct

    @staticmethod
    def backward(context: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        return context.saved_tensors[0] * gradient, None, None, None, None
