"""Scores of generated texts by optional packages: BLEU by sacrebleu, ROUGE-L by rouge-score."""

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType

from uer.errors import UserError

Tokens = Sequence[Sequence[str]]


def bleu(found: Tokens, wanted: Tokens) -> float:
    """BLEU over all texts, between 0 and 1, of tokens that are given.

    Args:
        found, wanted: the tokens of each text, generated and correct.
    """
    score = require("bleu").corpus_bleu([" ".join(text) for text in found], [[" ".join(text) for text in wanted]],
                                        tokenize="none", force=True)
    return score.score / 100


def rouge_l(found: Tokens, wanted: Tokens) -> float:
    """The mean over texts of ROUGE-L's F1, between 0 and 1, of tokens that are given; arguments as `bleu`."""
    scorer = require("rouge_l").RougeScorer(["rougeL"], tokenizer=_Given())
    scores = [scorer.score(" ".join(right), " ".join(text))["rougeL"].fmeasure for text, right in zip(found, wanted)]
    return sum(scores) / max(1, len(scores))


class _Given:
    """A tokenizer for rouge-score, whose own drops all that is not English."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


SCORES: dict[str, Callable[[Tokens, Tokens], float]] = {"bleu": bleu, "rouge_l": rouge_l}
PACKAGES = {"bleu": ("sacrebleu", "sacrebleu"), "rouge_l": ("rouge_score.rouge_scorer", "rouge-score")}


def require(name: str) -> ModuleType:
    """The module that computes a score.

    Raises:
        UserError: its package is not installed.
    """
    module, package = PACKAGES[name]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"--text_metrics {name} needs the package {package}: pip install {package}") from None
