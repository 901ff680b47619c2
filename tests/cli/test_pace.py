"""Rows, and what the limits a minute and a day make of them: days, seconds, and rows until a deadline."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.cli.pace import Pace

DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("per_s", "per_day", "days", "shortest_s"),
    [
        (None, None, None, None),
        (10.0, None, None, 100.0),
        (None, 1000, 1, 0.0),
        (None, 999, 2, DAY_S),
        (10.0, 1000, 1, 100.0),
        (10.0, 300, 4, 3 * DAY_S + 10),
        (0.001, 300, 4, 1_000_000.0),
    ],
)
def test_what_a_thousand_rows_take_at_least(
    per_s: float | None, per_day: int | None, days: int | None, shortest_s: float | None
) -> None:
    pace = Pace(per_s=per_s, per_day=per_day)
    assert (pace.days(1000), pace.shortest_s(1000)) == (days, shortest_s)


@pytest.mark.parametrize(
    ("per_s", "per_day", "s", "by_then"),
    [
        (None, None, 60.0, None),
        (10.0, None, 60.0, 600),
        (None, 300, 60.0, 300),
        (None, 300, DAY_S, 600),
        (10.0, 300, 15.0, 150),
        (10.0, 300, DAY_S + 15, 450),
        (10.0, 300, 3 * DAY_S + 10, 1000),
        (0.001, 300, 2 * DAY_S, 172),
    ],
)
def test_how_many_of_a_thousand_rows_are_sent_by_then(
    per_s: float | None, per_day: int | None, s: float, by_then: int | None
) -> None:
    assert Pace(per_s=per_s, per_day=per_day).rows_by(s, 1000) == by_then


def test_no_rows_take_no_day() -> None:
    pace = Pace(per_s=1.0, per_day=5)
    assert (pace.days(0), pace.shortest_s(0), pace.rows_by(0.0, 0)) == (0, 0.0, 0)


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(1e-3, 1e4), st.floats(0, 1e7))
def test_all_rows_are_sent_by_then_when_that_is_no_sooner_than_the_shortest_time(
    rows: int, per_day: int, per_s: float, s: float
) -> None:
    pace = Pace(per_s=per_s, per_day=per_day)
    by_then = pace.rows_by(s, rows)
    assert by_then is not None
    assert 0 <= by_then <= rows
    shortest_s = pace.shortest_s(rows)
    assert shortest_s is not None
    if shortest_s <= s:
        assert by_then == rows
