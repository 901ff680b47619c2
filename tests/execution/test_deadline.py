"""When new work stops for a deadline: as long before it as an attempt takes, by a wall clock that may be set."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from test_forecast import progress

from batchrun.errors import ExitStatus
from batchrun.events import Totals
from batchrun.execution.deadline import RECENT_REPLIES, Deadline
from batchrun.execution.ending import Ending
from batchrun.ledger.records import Entry
from batchrun.model.attempt import Reply
from batchrun.model.outcome import Account, Completion, Failure

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Noting:
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, str | float | None]]] = []

    def progressed(self, progress: object) -> None:
        pass

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append((event, facts))


class Watched:
    """A deadline an hour after noon, its clock, and what it called for."""

    def __init__(self, at: datetime | None = NOON + HOUR) -> None:
        self.now = NOON
        self.stops: list[tuple[Ending, float]] = []
        self.watcher = Noting()
        self.deadline = Deadline(at, named="13:00", most_attempt_s=600.0, watcher=self.watcher, wall=lambda: self.now)

    def start(self) -> None:
        self.deadline.start(lambda ending, left_s: self.stops.append((ending, left_s)))

    def tick(self, now: datetime, settled: int = 0) -> None:
        self.now = now
        left_s = self.deadline.left_s
        self.deadline.follow(progress((now - NOON).total_seconds(), settled, rows=10_000, deadline_s=left_s))


def replies(*latencies_s: float) -> list[Entry]:
    reply = Reply(status="ok", text="x")
    return [
        Entry(
            row=row,
            totals=Totals(),
            outcome=Completion(row=row, reply=reply, account=Account(attempts=1, latency_ms=latency_s * 1000)),
        )
        for row, latency_s in enumerate(latencies_s)
    ]


def test_before_any_reply_work_goes_on_until_the_deadline() -> None:
    async def main() -> None:
        watched = Watched()
        watched.start()
        watched.tick(NOON + HOUR - timedelta(milliseconds=1))
        assert not watched.stops
        watched.tick(NOON + HOUR)
        ((ending, left_s),) = watched.stops
        assert (ending.status, left_s) == (ExitStatus.DEADLINE, 0.0)
        assert '"13:00"' in ending.reason

    asyncio.run(main())


def test_new_work_stops_as_long_before_as_95_percent_of_the_replies_took() -> None:
    async def main() -> None:
        watched = Watched()
        watched.start()
        watched.deadline.add(replies(*[20.0] * 95, *[500.0] * 5))
        watched.tick(NOON + HOUR - timedelta(seconds=20.1))
        assert not watched.stops
        watched.tick(NOON + HOUR - timedelta(seconds=20))
        assert [left_s for _, left_s in watched.stops] == [20.0]
        watched.tick(NOON + HOUR)
        assert len(watched.stops) == 1

    asyncio.run(main())


def test_no_attempt_takes_longer_than_its_timeout_and_only_late_replies_count() -> None:
    watched = Watched()
    watched.deadline.add(replies(*[2000.0] * 10))
    assert watched.deadline.attempt_s == 600.0
    watched.deadline.add(replies(*[3.0] * RECENT_REPLIES))
    assert watched.deadline.attempt_s == 3.0


def test_rows_that_failed_say_nothing_about_how_long_a_reply_takes() -> None:
    watched = Watched()
    account = Account(attempts=1, latency_ms=9e6)
    failure = Failure(row=0, error_class="timeout", message="m", account=account)
    watched.deadline.add([Entry(row=0, totals=Totals(), outcome=failure), Entry(row=1, totals=Totals())])
    assert watched.deadline.attempt_s == 0.0


def test_a_deadline_that_is_past_stops_at_once() -> None:
    """The input may have taken longer to be read than there was time."""

    async def main() -> None:
        watched = Watched()
        watched.now = NOON + 2 * HOUR
        watched.start()
        assert [left_s for _, left_s in watched.stops] == [0.0]

    asyncio.run(main())


def test_a_clock_that_is_set_forward_is_noticed() -> None:
    async def main() -> None:
        watched = Watched()
        watched.start()
        watched.tick(NOON + timedelta(seconds=1))
        watched.tick(NOON + timedelta(hours=3))
        assert len(watched.stops) == 1

    asyncio.run(main())


def test_an_alarm_stops_the_work_without_anybody_looking() -> None:
    async def main() -> None:
        stopped = asyncio.Event()
        at = datetime.now(tz=UTC) + timedelta(milliseconds=30)
        deadline = Deadline(at, named="30ms", most_attempt_s=1.0, watcher=Noting())
        deadline.start(lambda _ending, _left_s: stopped.set())
        assert not stopped.is_set()
        await stopped.wait()

    asyncio.run(main())


@pytest.mark.parametrize("at", [None, NOON + HOUR])
def test_without_a_deadline_or_once_all_is_done_nothing_is_stopped(at: datetime | None) -> None:
    async def main() -> None:
        watched = Watched(at)
        watched.start()
        watched.deadline.end()
        watched.deadline.add(replies(1.0))
        watched.tick(NOON + 2 * HOUR)
        assert not watched.stops
        assert watched.deadline.left_s == (None if at is None else 0.0)

    asyncio.run(main())


def test_a_pace_that_will_not_make_it_is_noted_with_both_times() -> None:
    async def main() -> None:
        watched = Watched()
        watched.start()
        for second in range(60):
            watched.tick(NOON + timedelta(seconds=second), settled=2 * second)
        ((event, facts),) = watched.watcher.events
        assert event == "the pace will not make the deadline"
        assert facts["rows_missing"] == 10_000 - 7_200
        assert datetime.fromisoformat(str(facts["deadline"])) == NOON + HOUR
        assert datetime.fromisoformat(str(facts["done_at"])) == NOON + timedelta(seconds=5000)

    asyncio.run(main())
