"""The queue: the order of the starts, which models share devices, and how long everything takes."""

from dataclasses import replace

from uer.config import ModelConfig
from uer.family.costs import Cost
from uer.family.scheduling import DeviceGroup, device_groups, elapsed_hours, next_to_start, start_order
from uer.family.sizes import Size


def cost(name, hours, at_once=1, waits_for=""):
    return Cost(Size(name, "", ModelConfig()), 1, (1.0,), 1, 0.3, hours, at_once, waits_for=waits_for)


def small(number, **changes):
    return replace(cost(f"small{number}", 3.0, at_once=4), **changes)


LARGE = cost("large", 10.0)


def test_devices_are_divided_into_groups():
    assert [group.devices for group in device_groups(4, 2)] == [(0, 1), (2, 3)]
    assert [group.devices for group in device_groups(3, 3)] == [(0, 1, 2)]


def test_no_model_shares_a_group_with_more_than_it_allows():
    half = cost("half", 1.0, at_once=2)
    assert DeviceGroup((0,), [small(1)]).has_room(half)
    assert not DeviceGroup((0,), [small(1), small(2)]).has_room(half)
    assert not DeviceGroup((0,), [small(1), half]).has_room(small(2))
    assert not DeviceGroup((0,), [LARGE]).has_room(small(1)) and not DeviceGroup((0,), [small(1)]).has_room(LARGE)


def test_the_next_model_takes_the_emptiest_group():
    first, second = DeviceGroup((0,), [small(1), small(2)]), DeviceGroup((1,), [small(3)])
    assert next_to_start([small(4)], {"small4"}, [first, second]) == (small(4), second)
    assert next_to_start([small(4)], {"small4"}, [DeviceGroup((0,), [LARGE]), second]) == (small(4), second)
    assert next_to_start([LARGE, small(4)], {"large", "small4"}, [first, second]) is None  # it waits for a free group


def test_students_wait_for_their_teacher():
    student = small(1, waits_for="large")
    groups = device_groups(1, 1)
    assert start_order([student, small(2), LARGE])[0] is LARGE
    assert next_to_start([student], {"large", "small1"}, groups) is None
    assert next_to_start([student, small(2)], {"large", "small1", "small2"}, groups) == (small(2), groups[0])
    assert next_to_start([student], {"small1"}, groups) == (student, groups[0])  # the teacher is finished


def test_elapsed_time_counts_what_runs_at_once():
    assert elapsed_hours([LARGE], 1, 1) == 10.0
    assert elapsed_hours([small(n) for n in range(4)], 1, 1) == 3.0
    assert elapsed_hours([small(n) for n in range(5)], 1, 1) == 6.0
    assert elapsed_hours([small(1), LARGE], 1, 1) == 13.0
    assert elapsed_hours([*(small(n) for n in range(4)), LARGE], 2, 1) == 10.0
    assert elapsed_hours([cost(f"large{n}", 10.0) for n in range(3)], 2, 2) == 30.0
    assert elapsed_hours([], 1, 1) == 0.0


def test_elapsed_time_with_a_teacher():
    teacher = cost("teacher", 10.0, at_once=2)
    students = [cost(f"student{n}", 12.0, at_once=2, waits_for="teacher") for n in range(2)]
    assert elapsed_hours([*students, teacher], 1, 1) == elapsed_hours([*students, teacher], 8, 1) == 22.0
    assert elapsed_hours(students, 1, 1) == 12.0  # the teacher is finished already
    other = cost("other", 11.0, at_once=2)  # trains beside the teacher
    assert elapsed_hours([*students, teacher, other], 1, 1) == 23.0
