"""A power law of the held-out loss, to plan by: what a model of so many parameters reaches after so many tokens.

    loss = limit + size_factor / (N / 1e6)^size_exponent + token_factor / (D / 1e6)^token_exponent

N are the parameters without those of the vocabulary (`layer_parameters`), D the real tokens of a run whose learning
rate falls to 0 at its end (Kaplan et al., 2020, arXiv:2001.08361; Hoffmann et al., 2022, arXiv:2203.15556). A law holds
for the text, the held-out masks and the recipe of the runs that it was fitted to, and is a guess far away from them.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from uer.config import ModelConfig
from uer.errors import UserError
from uer.json_files import read_json_object
from uer.model_settings import find_config
from uer.planning.flops import parameter_count
from uer.text import count

SHIPPED = ("models/loss_laws/modernbert.json",)
"""Laws of this toolkit, which `--dry_run` uses for models of their kind."""
SIZES = ("emb_size", "hidden_size", "feedforward_size", "heads_num", "attention_head_size", "layers_num",
         "decoder_layers_num", "max_seq_length", "local_kv_heads_num", "dropout", "pooling")
"""Settings in which the runs of a law, and the models that it is used for, may differ; pooling is for classifiers."""
LEAST_RUNS = 7
"""One more than the coefficients, and one more again, because each run is left out once."""
EXPONENTS = (0.02, 3.0)
"""The range that exponents are searched in."""
FINEST = 1e-4
"""The relative step at which the search of the exponents ends."""
LEAST_EXPLAINED = 0.8
"""The part of the losses' variance that a law must explain."""


class Run(NamedTuple):
    """A finished run.

    Attributes:
        parameters: N.
        tokens: D.
        loss: held-out, in nats a predicted token.
    """

    parameters: float
    tokens: float
    loss: float


class Coefficients(NamedTuple):
    """The law's numbers, as the module's text names them."""

    limit: float
    size_factor: float
    size_exponent: float
    token_factor: float
    token_exponent: float

    def loss(self, parameters: float, tokens: float) -> float:
        """The loss of N parameters after D tokens.

        >>> Coefficients(1.0, 0.5, 0.5, 2.0, 1.0).loss(4e6, 10e6)
        1.45
        """
        return (self.limit + self.size_factor * (parameters / 1e6) ** -self.size_exponent
                + self.token_factor * (tokens / 1e6) ** -self.token_exponent)


@dataclass(frozen=True)
class LossLaw:
    """A law, the runs that it was fitted to, and the models that it is for.

    Attributes:
        coefficients: fitted to all runs.
        without_one: fitted to all runs but one, for each run.
        runs: what it was fitted to.
        about: text, masks and recipe of the runs, in a few words.
        model: `kind_of` the runs' models.
        vocab_size: entries of the runs' vocabulary.
    """

    coefficients: Coefficients
    without_one: tuple[Coefficients, ...]
    runs: tuple[Run, ...]
    about: str
    model: dict[str, Any]
    vocab_size: int

    def missed(self) -> list[float]:
        """For each run, its loss minus what the other runs predict for it."""
        return [run.loss - other.loss(run.parameters, run.tokens)
                for run, other in zip(self.runs, self.without_one, strict=True)]

    def expected(self, parameters: float, tokens: float) -> tuple[float, float]:
        """The loss, and the standard error of a new run's loss: the root mean square of `missed`, and how much the
        prediction depends on single runs (the jackknife's standard error), which grows with the distance to the runs.
        """
        others = np.array([other.loss(parameters, tokens) for other in self.without_one])
        jackknife = (len(others) - 1) * np.mean((others - others.mean()) ** 2)
        error = np.sqrt(np.mean(np.square(self.missed())) + jackknife)
        return self.coefficients.loss(parameters, tokens), float(error)

    def is_of(self, config: ModelConfig, vocab_size: int) -> bool:
        """Whether the runs were of such a model, whatever its size."""
        return vocab_size == self.vocab_size and kind_of(config) == self.model

    def beyond(self, parameters: float, tokens: float) -> float:
        """How many times larger or smaller than the runs' range a model or its tokens are; 1 within it.

        Of runs of 1 to 4 M parameters and 5 to 20 M tokens: 8 M parameters and 10 M tokens are 2 times beyond.
        """
        found = 1.0
        for name, value in (("parameters", parameters), ("tokens", tokens)):
            known = [getattr(run, name) for run in self.runs]
            found = max(found, value / max(known), min(known) / value)
        return found

    def line(self, path: str, parameters: float, tokens: float) -> str:
        """What a plan says of a run; `path` is where the law is from."""
        loss, error = self.expected(parameters, tokens)
        sizes, budgets = ([*map(count, (min(values), max(values)))] for values in list(zip(*self.runs))[:2])
        beyond = self.beyond(parameters, tokens)
        return (f"loss: {loss:.2f} ± {error:.2f} held-out at the end ({path}: {self.about}; {len(self.runs)} runs of "
                f"{sizes[0]} to {sizes[1]} parameters without the vocabulary's and {budgets[0]} to {budgets[1]} tokens"
                + (f"; this run is {beyond:,.0f} times beyond them, so this is a guess" if beyond > 2 else "") + ")")

    def json(self) -> dict[str, Any]:
        """What `read_law` reads; plain lists and numbers."""
        return {"about": self.about, "model": self.model, "vocab_size": self.vocab_size,
                "coefficients": self.coefficients._asdict(), "without_one": [list(each) for each in self.without_one],
                "runs": [run._asdict() for run in self.runs]}


def read_law(path: str | os.PathLike, flag: str = "") -> LossLaw:
    """The law in a file of `LossLaw.json`; `flag` is the flag that names the file, for messages.

    Raises:
        UserError: the file is missing or no law.
    """
    content = read_json_object(path, flag)
    try:
        law = LossLaw(Coefficients(**_numbers(content["coefficients"])),
                      tuple(Coefficients(*map(float, each)) for each in content["without_one"]),
                      tuple(Run(**_numbers(run)) for run in content["runs"]),
                      str(content["about"]), dict(content["model"]), int(content["vocab_size"]))
        if len(law.runs) < LEAST_RUNS or len(law.runs) != len(law.without_one):
            raise ValueError(f"{len(law.runs)} runs and {len(law.without_one)} fits without one of them")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{flag} {os.fspath(path)}: not a law of scripts/fit_loss_law.py: {error!r}".strip()) from None
    return law


def fit_law(runs: Sequence[Run], about: str, model: dict[str, Any], vocab_size: int) -> LossLaw:
    """Fit the law to runs, and to all of them but one.

    Raises:
        UserError: there are too few runs, sizes or budgets, or no law describes them.
    """
    for name, least in (("parameters", 2), ("tokens", 3)):
        if len({getattr(run, name) for run in runs}) < least:
            raise UserError(f"a law needs runs of at least {least} different numbers of {name}")
    if len(runs) < LEAST_RUNS:
        raise UserError(f"a law needs at least {LEAST_RUNS} runs, not {len(runs)}")
    without_one = tuple(fitted([*runs[:number], *runs[number + 1:]]) for number in range(len(runs)))
    found, losses = fitted(runs), [run.loss for run in runs]
    misses = [run.loss - found.loss(run.parameters, run.tokens) for run in runs]
    explained = 1 - np.mean(np.square(misses)) / np.var(losses)
    if not explained >= LEAST_EXPLAINED:
        raise UserError(f"no power law: parameters and tokens explain {max(0.0, explained):.0%} of the variance of the "
                        "losses")
    return LossLaw(found, without_one, tuple(runs), about, model, vocab_size)


def fitted(runs: Sequence[Run]) -> Coefficients:
    """The coefficients with the least sum of squared misses; limit and factors are not negative.

    For given exponents the law is linear in limit and factors, so that only two exponents are searched: on a grid,
    which becomes finer around its best point.
    """
    spread = np.log(EXPONENTS[1] / EXPONENTS[0]) / 2
    centre = np.full(2, np.sqrt(EXPONENTS[0] * EXPONENTS[1]))
    best = np.full(6, np.inf)
    while spread > FINEST:
        axes = np.clip(centre * np.exp(np.linspace(-spread, spread, 15))[:, None], *EXPONENTS)  # (15, 2)
        grid = np.stack(np.meshgrid(*axes.T), axis=-1).reshape(-1, 2)  # (225, 2) pairs of exponents
        for free in (True, False):
            tried = _linear(runs, grid, free)  # (225, 6)
            best = min(best, tried[tried[:, 0].argmin()], key=lambda found: found[0])
        centre = best[[3, 5]]
        spread /= 4
    return Coefficients(*map(float, best[1:]))


def _linear(runs: Sequence[Run], grid: np.ndarray, free: bool) -> np.ndarray:
    """For given exponents, the limit and the factors with the least sum of squared misses.

    Args:
        grid: (G, 2) pairs of exponents, of the size and of the tokens.
        free: whether there is a limit; else it is 0.

    Returns:
        (G, 6): the sum of squares, infinite where a number were negative, and the coefficients in their order.
    """
    size, tokens, losses = np.array(runs, dtype=np.float64).T  # (R,) each
    powers = np.stack([size / 1e6, tokens / 1e6]) ** -grid[:, :, None]  # (G, 2, R)
    columns = np.concatenate([np.ones_like(powers[:, :1]) * free, powers], axis=1).transpose(0, 2, 1)  # (G, R, 3)
    found = np.linalg.pinv(columns) @ losses  # (G, 3)
    squares = np.sum(((columns @ found[:, :, None])[:, :, 0] - losses) ** 2, axis=1)
    squares[(found < -1e-12).any(axis=1)] = np.inf
    return np.stack([squares, found[:, 0], found[:, 1], grid[:, 0], found[:, 2], grid[:, 1]], axis=1)


def layer_parameters(config: ModelConfig, vocab_size: int) -> int:
    """Parameters of a model without those that grow with the vocabulary: word embedding, output layer.

    >>> from uer.config import ModelConfig
    >>> layer_parameters(ModelConfig(embedding=("word", "pos", "seg"), tie_weights=True), 21128)  # BERT-base
    86043648
    """
    smaller = vocab_size // 2
    total = parameter_count(config, vocab_size)
    return total - (total - parameter_count(config, smaller)) * vocab_size // (vocab_size - smaller)


def kind_of(config: ModelConfig) -> dict[str, Any]:
    """The settings that are not the default and no size, as JSON has them."""
    return {field.name: list(value) if isinstance(value, tuple) else value for field in fields(config)
            if field.name not in SIZES and (value := getattr(config, field.name)) != getattr(ModelConfig(), field.name)}


def law_of(config: ModelConfig, vocab_size: int) -> tuple[str, LossLaw] | None:
    """The path of a shipped law that is of such a model, and the law; None where there is none."""
    for path in SHIPPED:
        found = find_config(path)
        if os.path.exists(found) and (law := read_law(found)).is_of(config, vocab_size):
            return path, law
    return None


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
