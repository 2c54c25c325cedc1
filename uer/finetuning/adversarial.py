"""Adversarial training: the gradients of the batch plus its gradients with a perturbed word embedding.

FGM (Miyato et al., 2016, https://arxiv.org/abs/1605.07725) moves the embedding one step of norm epsilon along its
gradient. PGD (Madry et al., 2017, https://arxiv.org/abs/1706.06083) moves it several steps of norm alpha and keeps the
whole perturbation within norm epsilon; only the gradients after its last step are added.

The loop passes `backward()`: it clears the gradients, computes those of a batch and sums them over the ranks, so that
the perturbation is the same on every rank.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from uer.errors import UserError
from uer.finetuning.config import AdversarialConfig

WORD_EMBEDDING = "embedding.word.embedding.weight"
DUAL_WORD_EMBEDDING = "embedding.dual.embedding_0.word.embedding.weight"
"""The one of a dual encoder; with `tie_weights` both streams have it."""


def adversarial_gradients(model: nn.Module, config: AdversarialConfig, backward: Callable[[], Tensor]) -> Tensor:
    """Write clean + adversarial gradients to the parameters' `grad`; the parameters keep their values.

    Returns:
        The clean loss.
    """
    embedding = word_embedding(model)
    original = embedding.detach().clone()
    loss = backward()
    clean = [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]
    for _ in range(1 if config.adv_type == "fgm" else config.pgd_k):
        _perturb(embedding, original, config)
        backward()
    with torch.no_grad():
        embedding.copy_(original)
        for parameter, gradient in zip(model.parameters(), clean):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
    return loss


def word_embedding(model: nn.Module) -> nn.Parameter:
    """The parameter that is perturbed, (vocabulary, E).

    Raises:
        UserError: the model has no word embedding, or two.
    """
    found = {name: parameter for name, parameter in model.named_parameters()
             if name.startswith("embedding.") and name.endswith("word.embedding.weight")}
    if found.keys() not in ({WORD_EMBEDDING}, {DUAL_WORD_EMBEDDING}):
        raise UserError(f"--use_adv needs a model with {WORD_EMBEDDING}, or with tie_weights where the encoder is dual")
    return next(iter(found.values()))


@torch.no_grad()
def _perturb(embedding: nn.Parameter, original: Tensor, config: AdversarialConfig) -> None:
    """Move the embedding one step along its gradient; a gradient of zero or not finite moves nothing."""
    norm = embedding.grad.norm()
    if not torch.isfinite(norm) or norm == 0:
        return
    if config.adv_type == "fgm":
        embedding.add_(embedding.grad, alpha=float(config.fgm_epsilon / norm))
        return
    embedding.add_(embedding.grad, alpha=float(config.pgd_alpha / norm))
    away = embedding - original
    distance = away.norm()
    if distance > config.pgd_epsilon:
        embedding.copy_(original + away * (config.pgd_epsilon / distance))
