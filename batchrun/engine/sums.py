"""What worker processes report into what one process would tell. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean

from batchrun.engine.messages import Note, Report
from batchrun.events import Bound, LaneProgress, LaneState, RowInFlight
from batchrun.execution.flow import OLDEST_SHOWN

_STATES = ("open", "paused", "outage", "retired")


def lane_state(working: Sequence[Report], every: Sequence[Report], budget_used: float | None) -> LaneState:
    """Return the state of all lanes: slots of the processes that work, of waits the longest of any there was.

    Shares are alike, so what is used of a limit is the mean of what is used of each.
    """
    used = _used([report.lane.used for report in working])
    slots, in_flight = sum(one.lane.slots for one in working), sum(one.lane.in_flight for one in working)
    if slots:
        used["slots"] = round(in_flight / slots, 4)
    if budget_used is not None:
        used["budget"] = round(budget_used, 4)
    waits = [report.lane.waited_s for report in every]
    bounds: list[Bound] = list(dict.fromkeys([bound for wait in waits for bound in wait]))
    return LaneState(
        slots=slots,
        in_flight=in_flight,
        paused_s=min((report.lane.paused_s for report in working), default=0.0),
        used=used,
        waited_s={bound: max(wait.get(bound, 0.0) for wait in waits) for bound in bounds},
    )


def lanes_progress(working: Sequence[Report]) -> tuple[LaneProgress, ...]:
    """Return each of several lanes as it stands: open where it is so for any process."""
    return tuple(
        LaneProgress(
            name=some[0].name,
            state=min((one.state for one in some), key=_STATES.index),
            slots=sum(one.slots for one in some),
            in_flight=sum(one.in_flight for one in some),
            paused_s=min(one.paused_s for one in some),
            used=_used([one.used for one in some]),
        )
        for some in zip(*(report.lanes for report in working), strict=True)
    )


def oldest(working: Sequence[Report]) -> list[RowInFlight]:
    """Return the rows that have been in flight longest, the oldest first."""
    return heapq.nlargest(OLDEST_SHOWN, (row for one in working for row in one.oldest), key=lambda row: row.age_s)


def _used(shares: Sequence[Mapping[Bound, float]]) -> dict[Bound, float]:
    bounds: list[Bound] = list(dict.fromkeys([bound for used in shares for bound in used]))
    return {bound: round(mean([used[bound] for used in shares if bound in used]), 4) for bound in bounds}


class Notes:
    """Tells once what each worker tells: an event the nth time when any of them has told it n times."""

    def __init__(self) -> None:
        """Start with nothing told."""
        self._by_worker: dict[int, Counter[str]] = {}
        self._told: Counter[str] = Counter()

    def is_news(self, worker: int, note: Note) -> bool:
        """Say whether a note is to be told; its counts differ from worker to worker, its words do not."""
        words = [note.event, *(f"{name}={fact}" for name, fact in note.facts.items() if isinstance(fact, str))]
        what = " ".join(words)
        count = self._by_worker.setdefault(worker, Counter())
        count[what] += 1
        is_news = count[what] > self._told[what]
        self._told[what] = max(self._told[what], count[what])
        return is_news
