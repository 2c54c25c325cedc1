"""Numbers, sizes and times as people read them."""

import doctest

import pytest

from uer import text


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(text).failed == 0


@pytest.mark.parametrize("seconds, expected", [(0.4, "0:00:00"), (61, "0:01:01"), (90061, "1 day 1:01:01")])
def test_durations(seconds, expected):
    assert text.duration(seconds) == expected


@pytest.mark.parametrize("format_, value, expected", [
    (text.hours, 0.001, "4 s"), (text.hours, 0.2, "12 min"), (text.count, 999_999, "999,999"),
    (text.count, 1e6, "1.0 million"), (text.in_bytes, 999.4, "999 bytes"), (text.in_bytes, 999.6, "1.0 kB"),
    (text.in_bytes, 2.5e15, "2500.0 TB"), (text.in_time, 59.9, "59.9 s"), (text.in_time, 3599.6, "1 h 0 min"),
    (text.seconds_text, 99.4, "99 s"), (text.seconds_text, 100, "0:01:40")])
def test_where_the_units_change(format_, value, expected):
    assert format_(value) == expected
