"""A pace that will not make the deadline is told early, once, and again only when it has changed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest

from batchrun.events import Progress
from batchrun.execution.forecast import Forecast, Forecaster


def progress(
    elapsed_s: float, settled: int, *, rows: int, deadline_s: float | None, draining: bool = False
) -> Progress:
    return Progress(
        run_id="r",
        job="j",
        rows=rows,
        settled=settled,
        failed=0,
        in_flight=0,
        slots=1,
        used={},
        bound_by=None,
        waiting=0,
        parts=1,
        parts_sealed=0,
        requests_sent=0,
        retries=0,
        throttled=0,
        maybe_billed=0,
        prompt_tokens=0,
        completion_tokens=0,
        cost_usd=None,
        unpriced_rows=0,
        elapsed_s=elapsed_s,
        paused_s=0.0,
        rows_per_s=0.0,
        eta_s=None,
        draining=draining,
        oldest=[],
        at="",
        deadline_s=deadline_s,
    )


def told(
    settled_at: Callable[[int], int], *, rows: int, deadline_s: int | None, until_s: int, draining: bool = False
) -> list[tuple[int, Forecast]]:
    """What is told, and at which second of a run that settles as many rows as `settled_at` says."""
    forecaster = Forecaster()
    forecasts = [
        (
            second,
            forecaster.follow(
                progress(
                    second,
                    settled_at(second),
                    rows=rows,
                    deadline_s=None if deadline_s is None else max(0, deadline_s - second),
                    draining=draining,
                )
            ),
        )
        for second in range(until_s)
    ]
    return [(second, forecast) for second, forecast in forecasts if forecast is not None]


def test_a_steady_pace_that_is_too_slow_is_told_once_after_30_s() -> None:
    """10 rows a second make 36,000 in an hour: of 50,000 there will be 14,000 missing, done 1,400 s later."""
    ((second, forecast),) = told(lambda second: 10 * second, rows=50_000, deadline_s=3600, until_s=3600)
    assert second == 30
    assert forecast.rows_missing == 14_000
    assert forecast.done_in_s == pytest.approx(4970)


def test_nothing_is_told_before_100_rows_are_settled() -> None:
    ((second, _),) = told(lambda second: second, rows=50_000, deadline_s=3600, until_s=200)
    assert second == 100


def test_rows_of_earlier_runs_are_no_pace() -> None:
    ((second, forecast),) = told(lambda second: 10_000 + second, rows=50_000, deadline_s=3600, until_s=200)
    assert (second, forecast.rows_missing) == (100, 50_000 - 10_000 - 3600)


def test_a_pace_that_makes_it_is_not_worth_a_word() -> None:
    assert not told(lambda second: 10 * second, rows=36_000, deadline_s=3600, until_s=3600)
    assert not told(lambda second: 10 * second, rows=50_000, deadline_s=None, until_s=3600)
    assert not told(lambda second: 10 * second, rows=50_000, deadline_s=3600, until_s=3600, draining=True)


def test_a_change_is_told_no_sooner_than_ten_minutes_later() -> None:
    """The pace doubles after five minutes; then the deadline will be made, which is told too."""

    def settled(second: int) -> int:
        return 10 * second if second < 300 else 3000 + 20 * (second - 300)

    (first, slow), (second, fast) = told(settled, rows=45_000, deadline_s=3600, until_s=2500)
    assert (first, slow.rows_missing) == (30, 9_000)
    assert (second, fast.rows_missing) == (630, 0)


def test_a_small_change_is_not_told() -> None:
    def settled(second: int) -> int:
        return 10 * second if second < 300 else 3000 + 11 * (second - 300)

    assert len(told(settled, rows=60_000, deadline_s=3600, until_s=3600)) == 1


def test_a_run_that_stands_still_will_never_be_done() -> None:
    forecasts = told(lambda second: min(1000, 10 * second), rows=30_000, deadline_s=3600, until_s=3000)
    assert math.isfinite(forecasts[0][1].done_in_s or math.inf)
    assert (forecasts[-1][1].rows_missing, forecasts[-1][1].done_in_s) == (29_000, None)
    seconds = [second for second, _ in forecasts]
    assert all(later - sooner >= 600 for sooner, later in itertools.pairwise(seconds))
