"""A window holds what was let in of late, never lets in more than fits, and can be cut in two with its past."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.client.window import Window, cut


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 30), st.floats(1, 400), st.floats(-300, 300)), max_size=60),
    st.floats(100, 1000),
)
def test_a_window_never_lets_in_more_than_fits(steps: Sequence[tuple[float, float, float]], limit: float) -> None:
    """By the amounts as they are known when something is let in, corrections included."""
    window = Window(limit=limit, window_s=60.0)
    now = 0.0
    held: list[list[float]] = []
    for later_s, amount, correction in steps:
        now += later_s
        now += window.wait_s(amount, now)
        for _ in range(2000):
            if not (more := window.wait_s(amount, now)):
                break
            now += more
        in_window = sum(size for at, size in held if at > now - 60.0 + 1e-9)
        assert in_window + min(amount, limit) <= limit * (1 + 1e-6) + 1e-6
        window.add(amount, now)
        held.append([now, amount])
        if correction < 0 or len(held) % 3 == 0:
            by = max(correction, -amount)
            window.add(by, now)
            held[-1][1] += by


@pytest.mark.parametrize("kept", [1, 40, 99])
def test_a_limit_that_is_cut_in_two_with_its_past_lets_in_what_the_whole_would(kept: int) -> None:
    """The part that is given up takes its share of the window along, so both together are the window they were."""
    whole, one = Window(limit=100, window_s=60.0), Window(limit=100, window_s=60.0)
    for second in range(50):
        for window in (whole, one):
            window.add(2.0, float(second))
    given = one.resize(kept, 50.0)
    other = Window(limit=100 - kept, window_s=60.0)
    other.take_on(given)
    assert [one.used(50.0), other.used(50.0)] == [pytest.approx(1.0)] * 2
    for now in (60.2, 75.4, 109.9):
        held = one.used(now) * kept + other.used(now) * (100 - kept)
        assert held == pytest.approx(whole.used(now) * 100)
    one.resize(100, 75.4)
    one.take_on(other.past())
    assert one.used(75.4) == pytest.approx(whole.used(75.4))
    assert one.wait_s(50.0, 75.4) == pytest.approx(whole.wait_s(50.0, 75.4), abs=0.06)


@given(
    st.lists(st.integers(0, 9), max_size=40).flatmap(
        lambda amounts: st.tuples(st.just(amounts), st.integers(max(1, sum(amounts)), 400), st.integers(1, 400))
    )
)
def test_whole_units_are_cut_into_whole_units_that_fit_both_parts(case: tuple[list[int], int, int]) -> None:
    amounts, limit, kept = case
    kept = min(kept, limit)
    taken = cut(amounts, kept / limit)
    assert all(0 <= mine <= amount and mine == int(mine) for mine, amount in zip(taken, amounts, strict=True))
    assert sum(taken) <= kept
    assert sum(amounts) - sum(taken) <= limit - kept
