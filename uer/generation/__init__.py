"""Generating text with a language model: with a causal encoder, or with an encoder and a decoder.

    found = generate(model.eval(), [[2, 17, 33], [2, 95]], most=20, stop_id=3)     # greedily, two prompts
    found = generate(model.eval(), prompts, most=20, stop_id=3, config=GenerationConfig(beam_size=4))

Each step takes the logits of the next token of every row from `uer.generation.rows`, and chooses the token here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uer.config import LARGEST_SEED, flag
from uer.errors import UserError
from uer.generation.rows import Rows, open_rows
from uer.generation.step import top_entries
from uer.model import Model

EXCLUDED = float("-inf")
LARGEST_FACTOR = 1e6  # what logits are divided or multiplied by at the most: float32 holds the result
LARGEST_PENALTY = 40  # length ^ length_penalty is a float64, for the longest row that there may be


@dataclass(frozen=True)
class GenerationConfig:
    """Generation."""

    top_k: int = flag(70, "Draw from the k likeliest tokens only; 1 always takes the likeliest, 0 sets no limit.")
    top_p: float = flag(0.0, "Draw from the likeliest tokens only, up to this probability together; 0 sets no limit.")
    temperature: float = flag(1.0, "Divide the logits by this: below 1, likely tokens become likelier still.")
    repetition_penalty: float = flag(1.0, "Above 1, tokens that the text has already become less likely.")
    beam_size: int = flag(1, "With 2 or more, search for the likeliest text with so many beams, and draw nothing.")
    length_penalty: float = flag(1.0, "Beam search divides a text's log probability by length ^ length_penalty.")
    seed: int = flag(7, "Random seed of what is drawn.")

    def problems(self) -> list[str]:
        """A line for each value out of its range."""
        checks = {"--top_k must not be negative": self.top_k >= 0, "--top_p must lie in [0, 1]": 0 <= self.top_p <= 1,
                  **{f"--{name} must lie between {1 / LARGEST_FACTOR:g} and {LARGEST_FACTOR:g}":
                     1 / LARGEST_FACTOR <= getattr(self, name) <= LARGEST_FACTOR
                     for name in ("temperature", "repetition_penalty")},
                  f"--length_penalty must lie between -{LARGEST_PENALTY} and {LARGEST_PENALTY}":
                      abs(self.length_penalty) <= LARGEST_PENALTY,
                  "--beam_size must be at least 1": self.beam_size >= 1,
                  "--seed must lie between 0 and 2^63 - 1": 0 <= self.seed <= LARGEST_SEED}
        return [line for line, holds in checks.items() if not holds]


GREEDY = GenerationConfig(top_k=1)


@torch.inference_mode()
def generate(model: Model, prompts: Sequence[Sequence[int]], *, most: int, stop_id: int | None = None,
             start_id: int | None = None, config: GenerationConfig = GREEDY, cached: bool = True,
             numbers: Sequence[int] | None = None) -> list[list[int]]:
    """What follows each prompt.

    A prompt's result does not depend on the other prompts of the batch, but for the order in which a batch's numbers
    are added; what is drawn depends on the seed and on the prompt's number.

    Args:
        model: in evaluation mode, with the target lm.
        prompts: token ids, at least one each. With a decoder they are the source.
        most: the most tokens that are generated; fewer where the model has no more positions behind the longest prompt.
        stop_id: the token that ends a text ([SEP]), which is not part of the result; None never ends it.
        start_id: with a decoder, the token that its input begins with ([CLS]).
        config: how tokens are chosen.
        cached: keep keys and values, where the model can; otherwise compute whole rows in every step.
        numbers: of the prompts; 0, 1, ... when None.

    Raises:
        UserError: the model cannot generate text, or its logits are no finite numbers.
    """
    _require_language_model(model)
    assert all(prompts) and (model.decoder is None or start_id is not None)
    if not prompts:
        return []
    before = max(map(len, prompts)) if model.decoder is None else 1
    longest = model.config.longest_row if model.decoder is None else model.config.longest_tgt_row
    most = min(most, longest - before)
    if most < 1:
        raise UserError(f"a prompt of {before} tokens leaves no position to generate: max_seq_length is {longest}")
    rows = open_rows(model, prompts, start_id, config.beam_size, cached, most)
    texts = prompts if model.decoder is None else [[start_id]] * len(prompts)
    seen = Seen([text for text in texts for _ in range(config.beam_size)])
    logits = rows.start()
    if not logits.isfinite().all():
        raise UserError("the model's logits are not finite: its weights are damaged")
    if config.beam_size > 1:
        return _search(rows, logits, seen, most, stop_id, config)
    seeds = [(config.seed + number) % LARGEST_SEED for number in numbers or range(len(prompts))]
    return _draw(rows, logits, seen, most, stop_id, config, [torch.Generator().manual_seed(seed) for seed in seeds])


def _require_language_model(model: Model) -> None:
    if "lm" not in model.target:
        raise UserError("generating text needs a model with the target lm")
    sees = model.encoder.sees(model.config)
    if model.decoder is None and sees not in model.target["lm"].needs:
        raise UserError(f"the encoder '{model.config.encoder}' sees the tokens that are to be predicted; generating "
                        "text needs --mask causal, or a decoder")


class Seen:
    """Which entries (R, V) the text of each row has, for the repetition penalty."""

    def __init__(self, texts: Sequence[Sequence[int]]) -> None:
        self.texts, self.table = texts, None

    def penalised(self, logits: Tensor, penalty: float) -> Tensor:
        """Logits (R, V) of entries that are there: positive ones divided by the penalty, negative ones multiplied
        (Keskar et al., 2019, CTRL)."""
        if penalty == 1.0:
            return logits
        if self.table is None:
            self.table = torch.zeros_like(logits, dtype=torch.bool)
            for row, text in enumerate(self.texts):
                self.table[row, list(text)] = True
        return torch.where(self.table, torch.where(logits > 0, logits / penalty, logits * penalty), logits)

    def add(self, tokens: Tensor, rows: Tensor | None = None) -> None:
        """Append tokens (R,), after the rows became `rows` (R,) of the R."""
        if self.table is not None:
            self.table = (self.table if rows is None else self.table[rows]).scatter(1, tokens[:, None], True)


def filtered(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Logits (R, V) with -inf for what is never drawn.

    Args:
        top_k: the k largest stay, with all that equal the smallest of these; 0 keeps all.
        top_p: of what is left, the likeliest stay, up to and with the one whose probability makes the sum exceed top_p;
            0 keeps all.
    """
    if top_k:
        smallest = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < smallest, EXCLUDED)
    if top_p:
        ordered, order = logits.sort(descending=True)
        probs = ordered.softmax(-1)
        late = probs.cumsum(-1) - probs > top_p  # the sum of those before exceeds top_p already
        logits = logits.masked_fill(torch.zeros_like(late).scatter(1, order, late), EXCLUDED)
    return logits


def _draw(rows: Rows, logits: Tensor, seen: Seen, most: int, stop_id: int | None, config: GenerationConfig,
          generators: Sequence[torch.Generator]) -> list[list[int]]:
    """Token after token of each row, until all have ended; `logits` (R, V) are those of the first."""
    found: list[list[int]] = [[] for _ in logits]
    ended = [False] * len(found)
    for number in range(most):
        tokens = _next(seen.penalised(logits.float(), config.repetition_penalty), config, generators)
        for row, token in enumerate(tokens.tolist()):
            ended[row] |= token == stop_id
            if not ended[row]:
                found[row].append(token)
        if all(ended) or number == most - 1:
            break
        seen.add(tokens)
        logits = rows.step(tokens)
    return found


def _next(logits: Tensor, config: GenerationConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """The next token (R,) of each row; row r is drawn with generator r."""
    if config.top_k == 1:
        return logits.argmax(-1)
    logits, entries = _candidates(logits / config.temperature, config)
    sums = logits.softmax(-1).double().cumsum(-1)
    drawn = torch.stack([torch.rand((), generator=each, dtype=torch.float64) for each in generators])
    # The first entry whose sum exceeds the number drawn from [0, the whole sum).
    number = torch.searchsorted(sums, (drawn.to(sums.device) * sums[:, -1])[:, None], right=True).clamp(
        max=logits.shape[-1] - 1)
    return (number if entries is None else entries.gather(1, number)).squeeze(1)


def _candidates(logits: Tensor, config: GenerationConfig) -> tuple[Tensor, Tensor | None]:
    """`filtered` logits of the entries that may be drawn, and these entries in ascending order, both (R, C); of all
    entries, and None, where several equal the k-th largest or there is no k."""
    if not 0 < config.top_k < logits.shape[-1]:
        return filtered(logits, config.top_k, config.top_p), None
    values, entries = top_entries(logits, config.top_k + 1)
    if (values[:, -1] == values[:, -2]).any():
        return filtered(logits, config.top_k, config.top_p), None
    entries, order = entries[:, :-1].sort()
    return filtered(values.gather(1, order), 0, config.top_p), entries


class Beams:
    """What a beam search has found for one prompt: the best ended texts, with their scores."""

    def __init__(self, size: int, length_penalty: float) -> None:
        self.size, self.length_penalty = size, length_penalty
        self.ended: list[tuple[float, list[int]]] = []

    def score(self, log_probability: float, length: int) -> float:
        """What texts are compared by; the token that ends a text counts."""
        return log_probability / length**self.length_penalty

    def end(self, log_probability: float, text: list[int], length: int) -> None:
        """Add a text, and keep the best `size`."""
        self.ended.append((self.score(log_probability, length), text))
        self.ended.sort(key=lambda pair: -pair[0])
        del self.ended[self.size:]

    def is_done(self, best: float, length: int, most: int) -> bool:
        """Whether no open text can become one of the best.

        Args:
            best: the largest log probability of an open text, which only falls.
            length, most: its length now, and the largest that it may have.
        """
        longest = most if self.length_penalty > 0 else length
        return len(self.ended) == self.size and self.score(best, longest) <= self.ended[-1][0]


def _search(rows: Rows, logits: Tensor, seen: Seen, most: int, stop_id: int | None,
            config: GenerationConfig) -> list[list[int]]:
    """The text of the best score for each prompt; rows [p * k, (p + 1) * k) are the k beams of prompt p, `logits`
    (R, V) those of their first tokens."""
    size = config.beam_size
    prompts, entries = len(logits) // size, logits.shape[-1]
    found = [Beams(size, config.length_penalty) for _ in range(prompts)]
    texts: list[list[int]] = [[] for _ in logits]
    scores = torch.zeros(prompts, size, dtype=torch.float64, device=logits.device)
    scores[:, 1:] = EXCLUDED  # at first all beams of a prompt are the same text
    for length in range(1, most + 1):
        best, index = _likeliest(seen.penalised(logits.float(), config.repetition_penalty), scores)
        scores, beams, tokens = _continue(best.tolist(), index.tolist(), entries, size, length, stop_id, found, texts)
        texts = [[*texts[beam], token] for beam, token in zip(beams, tokens)]
        if length == most or all(each.is_done(max(own), length, most) for each, own in zip(found, scores)):
            break
        chosen, new = (torch.tensor(values, device=logits.device) for values in (beams, tokens))
        rows.select(chosen)
        seen.add(new, chosen)
        scores, logits = torch.tensor(scores, dtype=torch.float64, device=logits.device), rows.step(new)
    for prompt, each in enumerate(found):
        for beam, score in enumerate(scores[prompt]):
            if score > EXCLUDED:
                each.end(score, texts[prompt * size + beam], length)
    return [each.ended[0][1] for each in found]


def _likeliest(logits: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Each prompt's likeliest texts with one more token: twice as many as it has beams, of which at most half end.

    Args:
        logits: (prompts * size, V) of the next token.
        scores: (prompts, size) float64 log probabilities of the texts without it.

    Returns:
        (prompts, C) log probabilities, and the candidates' numbers beam * V + token.
    """
    (prompts, size), entries = scores.shape, logits.shape[-1]
    values, tokens = top_entries(logits, min(2 * size, entries))  # a beam gives no more candidates than are wanted
    log_probs = (values - logits.logsumexp(-1, keepdim=True)).double()
    sums = (scores[:, :, None] + log_probs.view(prompts, size, -1)).flatten(1)
    best, rank = sums.topk(min(2 * size, sums.shape[1]))
    beams = torch.arange(size, device=logits.device)[:, None] * entries
    return best, (beams + tokens.view(prompts, size, -1)).flatten(1).gather(1, rank)


def _continue(best: list[list[float]], index: list[list[int]], entries: int, size: int, length: int,
              stop_id: int | None, found: list[Beams],
              texts: list[list[int]]) -> tuple[list[list[float]], list[int], list[int]]:
    """Divide each prompt's candidates into texts that end, which `found` gets, and the beams to go on with.

    Args:
        best, index: for each prompt the candidates' log probabilities and their numbers, beam * entries + token.

    Returns:
        For each prompt the beams' log probabilities; for all rows the row that each goes on from, and its token.
    """
    scores, rows, tokens = [], [], []
    for prompt, candidates in enumerate(zip(best, index)):
        open_beams = []
        for rank, (score, number) in enumerate(zip(*candidates)):
            row, token = prompt * size + number // entries, number % entries
            if token != stop_id:
                open_beams.append((score, row, token))
            elif rank < size and score > EXCLUDED:
                found[prompt].end(score, texts[row], length)
        open_beams += [(EXCLUDED, prompt * size, 0)] * size  # where the vocabulary has fewer entries than beams
        scores.append([score for score, _, _ in open_beams[:size]])
        rows += [row for _, row, _ in open_beams[:size]]
        tokens += [token for _, _, token in open_beams[:size]]
    return scores, rows, tokens
