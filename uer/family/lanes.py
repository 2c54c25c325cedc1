"""Which models train at once: lanes of devices, each with room for several small ones."""

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from uer.family.costs import Cost


@dataclass
class Lane:
    """Devices that train the same models.

    Attributes:
        devices: their numbers.
        free: the share of them that no model uses.
    """

    devices: tuple[int, ...]
    free: Fraction = field(default=Fraction(1))


class Lanes:
    """Hands out lanes, the emptiest first."""

    def __init__(self, devices: int, per_model: int) -> None:
        self.lanes = [Lane(tuple(range(first, first + per_model))) for first in range(0, devices, per_model)]

    def take(self, share: Fraction) -> Lane | None:
        """A lane with room for `share` of it; None when all are too full."""
        lane = max(self.lanes, key=lambda lane: lane.free)
        if lane.free < share:
            return None
        lane.free -= share
        return lane

    def give_back(self, lane: Lane, share: Fraction) -> None:
        """The model that took the lane has finished."""
        lane.free += share


def start_order(costs: Sequence[Cost]) -> list[Cost]:
    """The longest first, so that the last hours are not one large model's; before them what others wait for."""
    awaited = {cost.waits_for for cost in costs}
    return sorted(costs, key=lambda cost: (cost.size.name not in awaited, -cost.hours))


def first_ready(waiting: Sequence[Cost], unfinished: Collection[str]) -> int | None:
    """Number of the first model whose teacher is finished, or that has none; None where all have to wait.

    Args:
        waiting: what has not been started.
        unfinished: names of the sizes that wait or run.
    """
    return next((number for number, cost in enumerate(waiting) if cost.waits_for not in unfinished), None)


def elapsed_hours(costs: Sequence[Cost], devices: int, per_model: int) -> float:
    """Hours from the first start to the last end, when every model starts as soon as there is room for it.

    Models that share a device are taken to slow one another down only where together they would fill more than it.
    """
    lanes = Lanes(devices, per_model)
    waiting, unfinished = start_order(costs), {cost.size.name for cost in costs}
    now, running, started = 0.0, [], 0
    while waiting:
        number = first_ready(waiting, unfinished)
        lane = lanes.take(waiting[number].share) if number is not None else None
        if lane is None:
            now, _, ended, freed = heapq.heappop(running)
            lanes.give_back(freed, ended.share)
            unfinished.discard(ended.size.name)
            continue
        cost, started = waiting.pop(number), started + 1
        heapq.heappush(running, (now + cost.hours, started, cost, lane))
    return max((end for end, *_ in running), default=now)
