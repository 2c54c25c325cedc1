"""Which models train at once: lanes of devices, each with room for several small ones."""

import heapq
from collections.abc import Sequence
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
    """The longest first, so that the last hours are not one large model's."""
    return sorted(costs, key=lambda cost: -cost.hours)


def elapsed_hours(costs: Sequence[Cost], devices: int, per_model: int) -> float:
    """Hours from the first start to the last end, when every model starts as soon as there is room for it.

    Models that share a device are taken to slow one another down only where together they would fill more than it.
    """
    lanes = Lanes(devices, per_model)
    now, running = 0.0, []
    for number, cost in enumerate(start_order(costs)):
        while (lane := lanes.take(cost.share)) is None:
            now, _, ended, freed = heapq.heappop(running)
            lanes.give_back(freed, ended.share)
        heapq.heappush(running, (now + cost.hours, number, cost, lane))
    return max((end for end, *_ in running), default=now)
