"""The loss of a large vocabulary's logits, a block of rows at a time: what costs half of a small model's training.

The plain form writes the logits (K, V), their logarithmic softmax, and the gradients of both, each of 100 MB for 1,229
predictions of 21,128 entries. Here the logits of a block of rows become their gradient in place, and from that follow
at once the gradients of hidden states, weight and bias. No more than a few blocks of logits ever exist.

Under autocast the three matrix products have bfloat16 factors; a block's logits, their softmax, the loss and the sums
of gradients over the blocks are float32.
"""

import threading
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from uer.layers.cpu import product_type
from uer.layers.cpu.linear import rounded_rows, with_rounded_rows

BLOCK_ELEMENTS = 6 * 2**20  # 24 MiB of float32 logits
LARGE_VOCABULARY = 98304
"""From so many entries on a block has 64 rows, as here: with fewer, to read and write the weight's gradient for each
block takes long beside its products (250,002 entries of 256 features: 0.78 times as long as with 25 rows, measured)."""
TILE_COLUMNS = 32
LARGEST_KEPT = 64 * 2**20
UNDERFLOW = 1e-30  # a smaller probability is 0 or has lost digits

# (logits (R, V) of float32 or wider, the rows' slice of all K rows, whether gradients are wanted) -> the loss summed
# over the R rows; its gradient (R, V) in the logits, which may be overwritten, None where it is not wanted; more sums.
BlockLoss = Callable[[Tensor, slice, bool], tuple[Tensor, Tensor | None, tuple[Tensor, ...]]]


def blocked_loss(hidden: Tensor, weight: Tensor, bias: Tensor | None, block_loss: BlockLoss) -> tuple[Tensor, ...]:
    """A loss of the logits `hidden @ weight.T + bias`, summed over the rows.

    Args:
        hidden: (K, E).
        weight: (V, E).
        bias: (V,) or None.
        block_loss: the loss of a block of rows; it must not need gradients itself.

    Returns:
        The loss, whose gradients can be taken once, and what more `block_loss` sums up, detached; 0-dim.
    """
    dtype = product_type(hidden)
    with torch.autocast("cpu", enabled=False):
        return _BlockedLoss.apply(hidden, weight, bias, block_loss, dtype, torch.is_grad_enabled())


class _BlockedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, block_loss: BlockLoss, dtype: torch.dtype,
                differentiable: bool) -> tuple[Tensor, ...]:
        rows, found = block_rows(len(hidden), len(weight)), []
        gradients = _new_gradients((hidden, weight, bias), ctx.needs_input_grad) if differentiable else None
        ctx.gradients = gradients
        products = (RoundedProducts(hidden, weight, bias, rows) if dtype == torch.bfloat16 else
                    Products(hidden, weight, bias))
        for start in range(0, max(1, len(hidden)), rows):  # without rows one empty block, whose sums are zeros
            block = slice(start, start + rows)
            loss, grad_logits, others = block_loss(products.logits(block), block, differentiable)
            found.append((loss, *others))
            if gradients is not None:
                products.add_gradients(grad_logits, block, gradients)
        total, *others = map(sum, zip(*found))
        ctx.mark_non_differentiable(*others)
        return total, *others

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, None
        assert gradients is not None, "the gradients of a blocked loss can be taken once only"
        return *(None if gradient is None else gradient.mul_(grad_loss) for gradient in gradients), *[None] * 3


def _new_gradients(inputs: tuple[Tensor, Tensor, Tensor | None], needed: tuple[bool, ...]) -> list[Tensor | None]:
    """Of hidden, weight and bias, None of those that are frozen; the first block overwrites them. They are float32 or
    wider, as sums over many blocks; autograd rounds them to the type of what they belong to."""
    return [torch.empty_like(each, dtype=torch.promote_types(each.dtype, torch.float32)) if need else None
            for each, need in zip(inputs, needed)]


class Products:
    """The three matrix products of a block of rows.

    Args:
        hidden: (K, E).
        weight: (V, E), of the same type.
        bias: (V,) or None.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        self.hidden, self.weight, self.bias = hidden, weight, bias

    def logits(self, block: slice) -> Tensor:
        """-> (R, V), which may be overwritten"""
        return cpu_logits(self.hidden[block], self.weight, self.bias)

    def add_gradients(self, grad_logits: Tensor, block: slice, gradients: list[Tensor | None]) -> None:
        """Add what follows from a block's gradient of the logits (R, V) to the gradients of hidden, weight and bias,
        None of those that are frozen."""
        grad_hidden, grad_weight, grad_bias = gradients
        beta = float(block.start > 0)
        if grad_hidden is not None:
            torch.mm(grad_logits, self.weight, out=grad_hidden[block])  # (R, V) @ (V, E) -> (R, E)
        if grad_weight is not None:
            grad_weight.addmm_(grad_logits.t(), self.hidden[block], beta=beta)  # (V, R) @ (R, E) -> (V, E)
        if grad_bias is not None:
            grad_bias.addmv_(grad_logits.t(), grad_logits.new_ones(len(grad_logits)), beta=beta)


class RoundedProducts(Products):
    """`Products` with bfloat16 factors, which have few different shapes (`uer.layers.cpu.linear`) and use the same
    memory for all blocks and updates: the first access to new memory takes longer than the arithmetic on it.

    A bias is one more column of the weight, whose factor is 1, so that its gradient is a column of the weight's:

        hidden [[5, 6]], weight [[1, 2], [3, 4]], bias [7, 8]   ->   [[5, 6, 1]] @ [[1, 2, 7], [3, 4, 8]].T

    More columns of zeros make their number a multiple of 32, a row of AMX's register tiles.

    Args:
        rows: R of a block; the last one may have fewer.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, rows: int) -> None:
        super().__init__(hidden, weight, bias)
        (entries, features), rows = weight.shape, rounded_rows(rows)
        columns = -(-(features + 1) // TILE_COLUMNS) * TILE_COLUMNS
        self.factors = _SCRATCH.get("weight", entries, columns, torch.bfloat16)
        self.factors[:, :features] = weight
        self.factors[:, features:].zero_()
        if bias is not None:
            self.factors[:, features] = bias
        self.block = _SCRATCH.get("hidden", rows, columns, torch.bfloat16)
        self.block[:, features:].zero_()
        self.narrow = _SCRATCH.get("narrow", rows, entries, torch.bfloat16)  # logits, then their gradient
        self.wide = _SCRATCH.get("wide", rows, entries, torch.float32)
        self.sums = _SCRATCH.get("sums", entries, columns, torch.bfloat16)

    def logits(self, block: slice) -> Tensor:
        """See `Products.logits`."""
        hidden = self.hidden[block]
        rows, features = hidden.shape
        self.block[:rows, :features] = hidden
        self.block[:rows, features] = 1
        self.block[rows:].zero_()
        return self.wide.copy_(torch.mm(self.block, self.factors.t(), out=self.narrow))[:rows]

    def add_gradients(self, grad_logits: Tensor, block: slice, gradients: list[Tensor | None]) -> None:
        """See `Products.add_gradients`."""
        grad_hidden, grad_weight, grad_bias = gradients
        rows, features = len(grad_logits), self.hidden.shape[1]
        self.narrow[:rows] = grad_logits
        self.narrow[rows:].zero_()
        if grad_hidden is not None:
            grad_hidden[block] = (self.narrow @ self.factors)[:rows, :features]
        if grad_weight is None and grad_bias is None:
            return
        torch.mm(self.narrow.t(), self.block, out=self.sums)
        for gradient, sums in (grad_weight, self.sums[:, :features]), (grad_bias, self.sums[:, features]):
            if gradient is not None:
                gradient.add_(sums) if block.start else gradient.copy_(sums)


class _Scratch(threading.local):
    """Memory of each thread that is used again and again, for one use at a time; up to LARGEST_KEPT bytes of a name."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def get(self, name: str, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """(rows, columns), with whatever was in it before."""
        memory = self._memory.get(name)
        if memory is None or len(memory) < rows * columns:
            with torch.inference_mode(False):  # else training could not write to what evaluation made
                memory = torch.empty(rows * columns, dtype=dtype)
            if memory.nbytes <= LARGEST_KEPT:
                self._memory[name] = memory
        return memory[:rows * columns].view(rows, columns)


_SCRATCH = _Scratch()


def cpu_logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """hidden (R, E), weight (V, E) of `product_type`, bias (V,) -> logits (R, V), float32 or wider.

    oneDNN's product is half as fast again as F.linear for these shapes: few rows, many columns.
    """
    if torch.backends.mkldnn.is_available() and hidden.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(hidden, weight, bias, "none", [], "")
    if hidden.dtype != torch.bfloat16:
        return F.linear(hidden, weight, None if bias is None else bias.to(hidden.dtype))
    logits = F.linear(with_rounded_rows(hidden), weight)[:len(hidden)].float()
    return logits if bias is None else logits.add_(bias)


def block_rows(rows: int, entries: int) -> int:
    """Rows of a block: equal blocks of at most BLOCK_ELEMENTS logits, more with more entries than LARGE_VOCABULARY."""
    blocks = max(1, -(-rows * min(entries, LARGE_VOCABULARY) // BLOCK_ELEMENTS))
    return max(1, -(-rows // blocks))


def softmax_nll(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The negative logarithm of each label's probability.

    Args:
        logits: (R, V); overwritten by the probabilities.
        labels: (R, 1) in [0, V).

    Returns:
        probs (R, V); the rows' losses (R, 1); the logarithms of their softmax sums, logsumexp (R, 1); and how many rows
        have their label's logit on top, 0-dim. A row where another logit equals the label's, which is common among
        rounded ones, counts half: it is as often the other one that `argmax` finds.

        logits [[log 1, log 3]], labels [[1]]  ->  probs [[0.25, 0.75]], losses [[-log 0.75]], logsumexp [[log 4]], 1
    """
    label_logit = logits.gather(1, labels)
    others = logits.scatter_(1, labels, -torch.inf).amax(1, keepdim=True)
    logits.scatter_(1, labels, label_logit)
    correct = ((label_logit > others).sum() + (label_logit >= others).sum()) / 2
    probs = torch.ops.aten._softmax.out(logits, -1, False, out=logits)
    label_prob = probs.gather(1, labels)
    logsumexp = label_logit - label_prob.log()
    if len(labels) and label_prob.min() < UNDERFLOW:
        # The largest probability is at least 1 / V, so its logarithm is exact where that of the label's is not.
        logsumexp = torch.maximum(label_logit, others) - probs.amax(1, keepdim=True).log()
    return probs, logsumexp - label_logit, logsumexp, correct


def subtract_labels(probs: Tensor, labels: Tensor, amount: float = 1.0) -> Tensor:
    """probs (R, V) - amount * one_hot(labels (R, 1)), in place: with amount 1 the gradient of `softmax_nll`."""
    return probs.scatter_add_(1, labels, probs.new_full((1, 1), -amount).expand_as(labels))
