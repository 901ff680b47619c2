"""What several processes report is told as one process would tell it."""

from __future__ import annotations

from typing import Any

from batchrun.engine.messages import Note, Report
from batchrun.engine.sums import Notes, lane_state, lanes_progress, oldest
from batchrun.events import LaneProgress, LaneState, RowInFlight
from batchrun.execution.pulse import Counted


def report(**facts: Any) -> Report:
    lane = LaneState(slots=1, in_flight=0, paused_s=0.0, used={}, waited_s={})
    empty: dict[str, Any] = {"lanes": (), "slots": (1,), "learned": (1,), "oldest": (), "first_tokens_ms": ()}
    return Report(
        **{
            "counted": Counted(),
            "lane": lane,
            "waiting": 0,
            "suspected": 0,
            "cpu_s": 0.0,
            "at_s": 0.0,
            **empty,
            **facts,
        }
    )


def test_slots_are_summed_limits_are_means_and_of_waits_the_longest_counts() -> None:
    one = LaneState(
        slots=6, in_flight=6, paused_s=2.0, used={"slots": 1.0, "requests": 0.5}, waited_s={"slots": 3.0, "pause": 9.0}
    )
    other = LaneState(slots=2, in_flight=0, paused_s=0.0, used={"slots": 0.0, "requests": 0.1}, waited_s={"slots": 4.0})
    gone = LaneState(slots=9, in_flight=9, paused_s=0.0, used={}, waited_s={"tokens": 5.0})
    working = [report(lane=one), report(lane=other)]
    assert lane_state(working, [*working, report(lane=gone)], 0.25) == LaneState(
        slots=8,
        in_flight=6,
        paused_s=0.0,
        used={"slots": 0.75, "requests": 0.3, "budget": 0.25},
        waited_s={"slots": 4.0, "pause": 9.0, "tokens": 5.0},
    )


def test_nobody_who_works_has_no_slots_and_uses_nothing() -> None:
    assert lane_state([], [], None) == LaneState(slots=0, in_flight=0, paused_s=0.0, used={}, waited_s={})
    assert lanes_progress([]) == ()


def test_a_lane_is_open_where_it_is_so_for_any_process() -> None:
    def lane(name: str, state: Any) -> LaneProgress:
        return LaneProgress(name=name, state=state, slots=2, in_flight=1, paused_s=0.0, used={"slots": 0.5})

    some = [
        report(lanes=(lane("a", "outage"), lane("b", "retired"))),
        report(lanes=(lane("a", "open"), lane("b", "retired"))),
    ]
    assert [(one.name, one.state, one.slots, one.used) for one in lanes_progress(some)] == [
        ("a", "open", 4, {"slots": 0.5}),
        ("b", "retired", 4, {"slots": 0.5}),
    ]


def test_the_oldest_rows_of_all_are_told() -> None:
    def row(number: int, age_s: float) -> RowInFlight:
        return RowInFlight(row=number, age_s=age_s)

    some = [report(oldest=(row(1, 9.0), row(2, 8.0), row(3, 1.0))), report(oldest=(row(4, 8.5),))]
    assert [one.row for one in oldest(some)] == [1, 4, 2]


def test_an_event_is_news_the_nth_time_when_any_process_tells_it_n_times() -> None:
    notes = Notes()
    told = [(1, "outage", 3), (2, "outage", 4), (2, "outage", 9), (1, "outage", 1), (1, "outage", 1), (2, "over", 0)]
    news = [notes.is_news(worker, Note(event=event, facts={"in_flight": count})) for worker, event, count in told]
    assert news == [True, False, True, False, True, True]
    assert notes.is_news(2, Note(event="outage", facts={"endpoint": "b"}))
