"""The time of who is first in the queue is counted to what it waits for, and to one thing at a time."""

from __future__ import annotations

from batchrun.client.waits import BOUNDS, Waits


def test_time_goes_to_one_bound_at_a_time_and_the_wait_that_goes_on_counts_too() -> None:
    now = [0.0]
    waits = Waits(clock=lambda: now[0])
    for later_s, bound in ((1.0, "slots"), (2.0, "slots"), (4.0, "tokens"), (8.0, None), (16.0, None), (32.0, "pause")):
        now[0] += later_s
        waits.turn_to(bound)  # type: ignore[arg-type]
    now[0] += 64.0
    waited_s = waits.by(now[0])
    assert tuple(waited_s) == BOUNDS
    assert {bound: spent_s for bound, spent_s in waited_s.items() if spent_s} == {
        "slots": 6.0,
        "tokens": 8.0,
        "pause": 64.0,
    }
