"""A linear-chain conditional random field over the tags of a row (Lafferty et al., 2001).

The score of a row with the tags y_1 .. y_n is

    start[y_1] + emission[1, y_1] + transition[y_1, y_2] + emission[2, y_2] + ... + emission[n, y_n] + end[y_n]

and its probability is the softmax of that score over all sequences of n tags. Every sum over sequences is taken in log
space, row by row of the batch at once, in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

INITIAL_BOUND = 0.1


class Scores(NamedTuple):
    """What the tags of rows cost: (T,) for the first and the last tag, (T, T) from the row's tag to the column's."""

    start: Tensor
    end: Tensor
    transitions: Tensor


class ConditionalRandomField(nn.Module):
    """The parameters of the field for T tags: `start_transitions`, `end_transitions` (T,), `transitions` (T, T)."""

    def __init__(self, tags_num: int) -> None:
        super().__init__()
        self.start_transitions = nn.Parameter(torch.empty(tags_num))
        self.end_transitions = nn.Parameter(torch.empty(tags_num))
        self.transitions = nn.Parameter(torch.empty(tags_num, tags_num))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform between -0.1 and 0.1."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -INITIAL_BOUND, INITIAL_BOUND)

    def forward(self) -> Scores:
        """The parameters, in float32."""
        return Scores(self.start_transitions.float(), self.end_transitions.float(), self.transitions.float())


def pack(values: Tensor, chosen: Tensor) -> Tensor:
    """Move the chosen positions of each row to its beginning, in their order.

    Args:
        values: (B, S) or (B, S, T).
        chosen: (B, S) bool.

    Returns:
        (B, N) or (B, N, T), where N is the largest number of positions chosen in a row; what stands behind a row's own
        number has no meaning.
    """
    length = int(chosen.sum(1).max()) if chosen.numel() else 0
    order = torch.argsort((~chosen).to(torch.uint8), dim=1, stable=True)[:, :length]
    if values.dim() == 3:
        order = order[:, :, None].expand(-1, -1, values.shape[-1])
    return values.gather(1, order)


def path_scores(emissions: Tensor, tags: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """The score of each row with the given tags.

    Args:
        emissions: (B, N, T).
        tags: (B, N) int64; behind a row's length any tag from 0 to T - 1.
        lengths: (B,) int64, at least 1.

    Returns:
        (B,)
    """
    real = torch.arange(tags.shape[1], device=tags.device) < lengths[:, None]
    own = emissions.gather(2, tags[:, :, None])[:, :, 0]
    moves = scores.transitions[tags[:, :-1], tags[:, 1:]]
    last = tags.gather(1, lengths[:, None] - 1)[:, 0]
    return (scores.start[tags[:, 0]] + scores.end[last] + own.masked_fill(~real, 0.0).sum(1)
            + moves.masked_fill(~real[:, 1:], 0.0).sum(1))


def log_partition(emissions: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """The log of the sum of exp(score) over all sequences of tags of each row: the forward algorithm.

    Shapes as in `path_scores`.
    """
    reached = scores.start + emissions[:, 0]  # (B, T): all beginnings that end with this tag
    for position in range(1, emissions.shape[1]):
        # (B, from, to) -> (B, to)
        following = torch.logsumexp(reached[:, :, None] + scores.transitions, dim=1) + emissions[:, position]
        reached = torch.where((position < lengths)[:, None], following, reached)
    return torch.logsumexp(reached + scores.end, dim=1)


def negative_log_likelihood(emissions: Tensor, tags: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """-log P(tags) of each row, (B,); shapes as in `path_scores`."""
    emissions = emissions.float()
    return log_partition(emissions, lengths, scores) - path_scores(emissions, tags, lengths, scores)


def viterbi(emissions: Tensor, lengths: Tensor, scores: Scores) -> Tensor:
    """The likeliest tags of each row, (B, N) int64; 0 behind a row's length. Shapes as in `path_scores`."""
    emissions = emissions.float()
    best, origins = scores.start + emissions[:, 0], []
    for position in range(1, emissions.shape[1]):
        value, origin = (best[:, :, None] + scores.transitions).max(dim=1)
        best = torch.where((position < lengths)[:, None], value + emissions[:, position], best)
        origins.append(origin)
    tag = (best + scores.end).argmax(1)  # each row's last tag; it stands still until the row's own end is reached
    tags = [tag]
    for position in range(emissions.shape[1] - 1, 0, -1):
        before = origins[position - 1].gather(1, tag[:, None])[:, 0]
        tag = torch.where(position < lengths, before, tag)
        tags.append(tag)
    found = torch.stack(tags[::-1], dim=1)
    return found.masked_fill(torch.arange(found.shape[1], device=found.device) >= lengths[:, None], 0)
