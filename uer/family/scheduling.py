"""Which models train at the same time: a queue of models in front of groups of devices.

Each group trains one model, or several small ones. With 4 GPUs and `--gpus_per_model 2` there are two groups, GPUs 0, 1
and GPUs 2, 3. A model with `at_once` 3 shares its group with at most two others.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from uer.family.costs import Cost


@dataclass
class DeviceGroup:
    """Devices that train the same models.

    Attributes:
        devices: their indices.
        running: the models that train there now.
    """

    devices: tuple[int, ...]
    running: list[Cost] = field(default_factory=list)

    def has_room(self, cost: Cost) -> bool:
        """Whether one more model may train here: no model shares the group with more others than it allows."""
        return len(self.running) < min(model.at_once for model in [*self.running, cost])


def device_groups(devices: int, per_model: int) -> list[DeviceGroup]:
    """4 devices, 2 for each model -> the groups (0, 1) and (2, 3)."""
    return [DeviceGroup(tuple(range(first, first + per_model))) for first in range(0, devices, per_model)]


def start_order(costs: Sequence[Cost]) -> list[Cost]:
    """Teachers first, because other sizes wait for them; then the longest training first, so that no long one starts
    when all others have ended.
    """
    teachers = {cost.waits_for for cost in costs}
    return sorted(costs, key=lambda cost: (cost.size.name not in teachers, -cost.hours))


def next_to_start(waiting: Sequence[Cost], unfinished: Collection[str],
                  groups: Sequence[DeviceGroup]) -> tuple[Cost, DeviceGroup] | None:
    """The next model and the group for it; None if no model can start now.

    Args:
        waiting: models that have not started, in the order of their starts.
        unfinished: names of the sizes that wait or run: a size does not start before its teacher is finished.
        groups: of those with room, the group with the fewest models is taken.
    """
    cost = next((cost for cost in waiting if cost.waits_for not in unfinished), None)
    if cost is None:
        return None
    with_room = [group for group in groups if group.has_room(cost)]
    return (cost, min(with_room, key=lambda group: len(group.running))) if with_room else None


def elapsed_hours(costs: Sequence[Cost], devices: int, per_model: int) -> float:
    """Hours from the first start to the last end, if each model starts as soon as the queue lets it.

    Models that share a device slow each other down where they are busy more than all the time (`Cost.shared_hours`).
    """
    groups = device_groups(devices, per_model)
    waiting, running, now = start_order(costs), [], 0.0
    unfinished = {cost.size.name for cost in costs}
    while waiting or running:
        while found := next_to_start(waiting, unfinished, groups):
            cost, group = found
            waiting.remove(cost)
            group.running.append(cost)
            running.append((now + cost.shared_hours, cost, group))
        first = min(running, key=lambda entry: entry[0])
        running.remove(first)
        now, cost, group = first
        group.running.remove(cost)
        unfinished.discard(cost.size.name)
    return now
