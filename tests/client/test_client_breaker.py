"""PROTOCOL.md 2.2, #24: the first 20 finished rows, or any 50 in a row, that are rejected alike trip the breaker."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.breaker import FIRST_ROWS, ROWS_IN_A_ROW, Breaker, Cause, Trip

WRONG = Cause(http_status=400, code="invalid")
OTHER = Cause(http_status=400, code="other")


def fed(breaker: Breaker, rows: range, cause: Cause = WRONG) -> list[Trip | None]:
    return [breaker.rejected(row, cause) for row in rows]


def test_the_first_20_rows_alike_trip_it_and_the_other_19_are_taken_back() -> None:
    breaker = Breaker()
    *before, trip = fed(breaker, range(20))
    assert before == [None] * 19
    assert trip is not None
    assert trip.rows == tuple(range(19))
    assert "first 20 rows" in trip.why
    assert breaker.has_tripped


def test_rows_in_flight_when_it_tripped_stay_pending_too() -> None:
    breaker = Breaker()
    fed(breaker, range(20))
    late = breaker.rejected(20, WRONG)
    assert late is not None
    assert late.rows == ()
    assert breaker.rejected(21, OTHER) is None


@pytest.mark.parametrize("first", ["answered", "another rejection"])
def test_after_any_other_end_it_takes_50_in_a_row(first: str) -> None:
    breaker = Breaker()
    if first == "answered":
        breaker.answered()
    else:
        breaker.rejected(0, OTHER)
    *before, trip = fed(breaker, range(1, 51))
    assert before == [None] * 49
    assert trip is not None
    assert trip.rows == tuple(range(1, 50))
    assert "50 rows in a row" in trip.why


def test_rows_between_break_the_streak_and_free_the_suspects() -> None:
    breaker = Breaker()
    breaker.answered()
    for start in range(0, 1000, 50):
        assert fed(breaker, range(start, start + 49)) == [None] * 49
        assert breaker.suspects(range(start + 48, start + 60))
        breaker.answered()
        assert not breaker.suspects(range(1000))


def test_switched_off_it_never_trips_and_suspects_nobody() -> None:
    breaker = Breaker(enabled=False)
    assert fed(breaker, range(200)) == [None] * 200
    assert not breaker.suspects(range(200))
    assert not breaker.has_tripped


@given(st.lists(st.sampled_from(["ok", "wrong", "other"]), max_size=300))
def test_it_trips_exactly_when_the_rule_says(ends: list[str]) -> None:
    breaker = Breaker()
    tripped = None
    for row, end in enumerate(ends):
        if end == "ok":
            breaker.answered()
        elif breaker.rejected(row, WRONG if end == "wrong" else OTHER) is not None:
            tripped = row
            break
    wanted = next(
        (
            row
            for row in range(len(ends))
            if ends[row] != "ok"
            and (
                (row + 1 == FIRST_ROWS and len(set(ends[: row + 1])) == 1)
                or (row + 1 >= ROWS_IN_A_ROW and len(set(ends[row + 1 - ROWS_IN_A_ROW : row + 1])) == 1)
            )
        ),
        None,
    )
    assert tripped == wanted


def test_an_answer_after_it_tripped_frees_no_suspect() -> None:
    """What was in flight may be answered: the rows that were taken back, and their parts, stay as they are."""
    breaker = Breaker()
    fed(breaker, range(20))
    breaker.answered()
    assert breaker.suspects(range(5, 6))
    late = breaker.rejected(30, WRONG)
    assert late is not None
    assert "first 20 rows" in late.why


def test_a_lane_that_is_retired_in_an_outage_suspects_its_rejections_no_more() -> None:
    breaker = Breaker()
    fed(breaker, range(5))
    breaker.failed(5)
    assert breaker.excuse() == (5,)
    breaker.let_go()
    assert not breaker.suspects(range(5))
    assert breaker.suspects(range(5, 6))
    breaker.returned((5,))
    assert not breaker.suspects(range(6))
