"""What follows once entries are durable: slots, parts, and rows that a breaker or an outage took back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from batchrun.client.breaker import FIRST_ROWS, Breaker, Cause
from batchrun.events import Totals
from batchrun.execution.backlog import Backlog
from batchrun.execution.parts import OpenPart
from batchrun.execution.settling import Settling
from batchrun.execution.suspects import Suspects
from batchrun.ledger.records import Entry
from batchrun.model.attempt import ErrorClass, Tries
from batchrun.model.outcome import Account, Failure
from batchrun.worker import OpenRow

ROWS_PER_PART = 2 * FIRST_ROWS
CAUSE = Cause(http_status=400, code=None)


class OneLane:
    """A lane's breaker, and a gate that counts the slots that come back."""

    def __init__(self) -> None:
        self.breaker = Breaker()
        self.gate = self
        self.left: list[int] = []

    def leave(self, count: int) -> None:
        self.left.append(count)


class SomeLanes:
    """Lanes, as far as settling goes."""

    are_several = True

    def __init__(self, count: int) -> None:
        self.lanes = [OneLane() for _ in range(count)]

    def __getitem__(self, number: int) -> OneLane:
        return self.lanes[number]

    def suspect(self, rows: range) -> bool:
        return any(lane.breaker.suspects(rows) for lane in self.lanes)

    @property
    def suspected(self) -> int:
        return sum(lane.breaker.suspected for lane in self.lanes)


class House:
    """A settling with what it works on; must be made inside the running loop."""

    def __init__(self, *, lanes: int = 1, parts: int = 1) -> None:
        self.ready: list[int] = []
        some: Any = SomeLanes(lanes)
        self.lanes: Sequence[OneLane] = some.lanes
        self.backlog = Backlog(most_waiting=1000)
        self.suspects = Suspects(some, lambda part: self.ready.append(part.part))
        self.settling = Settling(rows_per_part=ROWS_PER_PART, lanes=some, backlog=self.backlog, suspects=self.suspects)
        for number in range(parts):
            rows = range(number * ROWS_PER_PART, (number + 1) * ROWS_PER_PART)
            part = OpenPart(part=number, rows=rows, kept=range(rows.start, rows.start), pending=len(rows))
            self.settling.read(part, len(rows))


def failed(row: int, error_class: ErrorClass = "rejected") -> Failure:
    return Failure(row=row, error_class=error_class, message="no", account=Account(attempts=1))


def settled(row: int, *, lane: int = 0, holds_slot: bool = True) -> Entry:
    return Entry(row=row, totals=Totals(), outcome=failed(row), lane=lane, holds_slot=holds_slot)


@pytest.mark.parametrize("last", [ROWS_PER_PART - 1, 0])
def test_a_part_is_ready_once_its_last_row_is_durable_whichever_that_is(last: int) -> None:
    async def main() -> None:
        house = House(parts=2)
        house.settling.committed([settled(row) for row in range(ROWS_PER_PART) if row != last])
        assert house.ready == []
        house.settling.committed([settled(last)])
        assert house.ready == [0]

    asyncio.run(main())


def test_slots_come_back_to_each_lane_and_only_for_entries_that_hold_one() -> None:
    async def main() -> None:
        house = House(lanes=2)
        tried = Entry(row=3, totals=Totals(), tries=Tries(attempts=1), lane=1)
        house.backlog.put_without_slot()
        house.settling.committed([settled(0), settled(1, lane=1), settled(2, holds_slot=False), tried])
        assert [lane.left for lane in house.lanes] == [[1], [2]]

    asyncio.run(main())


def test_rows_taken_back_in_the_commit_that_settles_the_last_of_them_are_sent_again() -> None:
    """Their part was ready for a moment; it is not written before they are settled anew."""

    async def main() -> None:
        house = House(lanes=2)
        breaker = house.lanes[0].breaker
        rows = [OpenRow(row=row, request=None, tries=Tries(attempts=1, errors=1)) for row in range(FIRST_ROWS)]
        entries = [settled(row.row) for row in rows]
        for row, entry in zip(rows[:-1], entries, strict=False):
            assert breaker.rejected(row.row, CAUSE) is None
            house.suspects.note(row, entry.outcome)
        trip = breaker.rejected(rows[-1].row, CAUSE)
        assert trip is not None
        assert set(trip.rows) == set(range(FIRST_ROWS - 1))
        others = [settled(row, lane=1) for row in range(FIRST_ROWS - 1, ROWS_PER_PART)]
        reverts = Entry(row=0, totals=Totals(), holds_slot=False, reverts=trip.rows)
        house.backlog.put_without_slot()
        house.settling.committed([*entries[:-1], *others, reverts])
        assert house.ready == []
        again = [house.backlog.take_now() for _ in trip.rows]
        assert {row.row for row in again if row is not None} == set(trip.rows)
        house.settling.committed([settled(row, lane=1) for row in trip.rows])
        assert house.ready == [0]

    asyncio.run(main())


def test_a_part_whose_lane_tripped_and_went_away_at_once_is_written_when_its_rows_are_settled() -> None:
    """What was in flight when the breaker tripped may make an outage before the rows of either are pending again."""

    async def main() -> None:
        house = House(lanes=2)
        breaker = house.lanes[0].breaker
        trip = [breaker.rejected(row, CAUSE) for row in range(FIRST_ROWS)][-1]
        assert trip is not None
        breaker.failed(FIRST_ROWS)
        excused = breaker.excuse()
        settled_then = [settled(row) for row in (*trip.rows, *excused)]
        reverts = [Entry(row=0, totals=Totals(), reverts=rows) for rows in (trip.rows, excused)]
        house.settling.committed([*settled_then, *reverts])
        house.settling.committed([settled(row, lane=1) for row in range(ROWS_PER_PART)])
        assert house.ready == [0]

    asyncio.run(main())


def test_a_row_is_kept_no_longer_than_it_may_have_to_be_sent_again() -> None:
    """Its request may be large."""

    async def main() -> None:
        house = House(lanes=1)
        breaker = house.lanes[0].breaker
        row = OpenRow(row=0, request=None, tries=Tries(attempts=1, errors=1))
        breaker.failed(row.row)
        house.suspects.note(row, failed(row.row, "server"))
        breaker.answered()
        house.suspects.note(OpenRow(row=1, request=None), None)
        assert house.suspects.taken_back([row.row], []) == []

    asyncio.run(main())
