"""What is put into the ledger while the loop is busy is committed together; what comes alone is committed at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from batchrun.errors import OutputError
from batchrun.events import Totals
from batchrun.ledger.group_commit import Ledger
from batchrun.ledger.opening import open_store
from batchrun.ledger.patience import SKIPS
from batchrun.ledger.records import Entry, PartRecord, Tallies
from batchrun.ledger.store import Store
from batchrun.model.outcome import Account, Failure

FOR_EVER_S = 1e9


def entry(row: int) -> Entry:
    failure = Failure(row=row, error_class="input", message="no prompt", account=Account())
    return Entry(row=row, totals=Totals(requests_sent=1), outcome=failure)


class Commits:
    """A running ledger and what it told of its commits, as row numbers."""

    def __init__(self, store: Store, *, slots: int, hold_s: float, linger_s: float) -> None:
        self.ledger = Ledger(store, slots=lambda: slots, hold_s=hold_s, linger_s=linger_s)
        self.rows: list[list[int]] = []
        self.failures: list[Exception] = []
        self._told = asyncio.Event()

    def start(self) -> None:
        self.ledger.start(self._committed, self._failed)

    def _committed(self, entries: Sequence[Entry], totals: Totals) -> None:
        assert totals == Totals.sum_of([entry.totals for entry in entries])
        self.rows.append([entry.row for entry in entries])
        self._told.set()

    def _failed(self, error: Exception) -> None:
        self.failures.append(error)
        self._told.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            self._told.clear()
            await self._told.wait()

    def settled(self) -> list[int]:
        return [row for rows in self.rows for row in rows]


@contextlib.asynccontextmanager
async def committing(
    path: Path, *, slots: int = 1000, hold_s: float = FOR_EVER_S, linger_s: float = FOR_EVER_S
) -> AsyncIterator[Commits]:
    with contextlib.closing(open_store(path / "ledger.sqlite")) as store:
        commits = Commits(store, slots=slots, hold_s=hold_s, linger_s=linger_s)
        commits.start()
        try:
            yield commits
        finally:
            await asyncio.to_thread(commits.ledger.stop)


def test_an_entry_that_comes_alone_waits_for_no_other(tmp_path: Path) -> None:
    async def drive() -> None:
        async with committing(tmp_path) as commits:
            commits.ledger.put(entry(0))
            await commits.until(lambda: commits.rows == [[0]])

    asyncio.run(drive())


def test_what_comes_in_each_round_of_the_loop_is_committed_together(tmp_path: Path) -> None:
    async def drive() -> None:
        async with committing(tmp_path) as commits:
            for row in range(100):
                commits.ledger.put(entry(row))
                await asyncio.sleep(0)
            await commits.until(lambda: len(commits.settled()) == 100)
        assert commits.rows == [list(range(100))]

    asyncio.run(drive())


def test_nothing_is_waited_for_once_each_slot_has_its_entry(tmp_path: Path) -> None:
    async def drive() -> None:
        async with committing(tmp_path, slots=8) as commits:
            row = 0
            while not commits.rows:  # the loop is never quiet, and no time is up
                commits.ledger.put(entry(row))
                row += 1
                await asyncio.sleep(0)
        assert len(commits.rows[0]) >= 8

    asyncio.run(drive())


async def _put(commits: Commits, rows: range) -> None:
    """Put entries together, then leave the loop quiet for a while."""
    for row in rows:
        commits.ledger.put(entry(row))
    for _ in range(10):
        await asyncio.sleep(0)


def test_after_many_of_the_slots_the_others_are_waited_for(tmp_path: Path) -> None:
    async def drive() -> None:
        async with committing(tmp_path, slots=8) as commits:
            await _put(commits, range(5))
            await commits.until(lambda: commits.rows == [[0, 1, 2, 3, 4]])
            await _put(commits, range(5, 12))
            assert len(commits.rows) == 1
            commits.ledger.put(entry(12))
            await commits.until(lambda: commits.rows[1:] == [list(range(5, 13))])

    asyncio.run(drive())


def test_the_others_are_not_waited_for_after_few_of_them_nor_for_long(tmp_path: Path) -> None:
    async def drive(after: int, linger_s: float) -> None:
        path = tmp_path / str(after)
        path.mkdir()
        async with committing(path, slots=8, linger_s=linger_s) as commits:
            await _put(commits, range(after))
            await commits.until(lambda: commits.rows == [list(range(after))])
            commits.ledger.put(entry(after))
            await commits.until(lambda: commits.rows[1:] == [[after]])

    asyncio.run(drive(4, FOR_EVER_S))
    asyncio.run(drive(8, 0.0))


def test_a_wait_that_brought_nothing_is_not_made_again_for_a_while(tmp_path: Path) -> None:
    """One slot whose reply is slow must not make all others wait each time."""

    async def drive() -> None:
        async with committing(tmp_path, slots=8, linger_s=0.0) as commits:
            await _put(commits, range(7))
            await commits.until(lambda: len(commits.rows) == 1)
            await _put(commits, range(7, 14))
            await commits.until(lambda: len(commits.rows) == 2)
            commits.ledger._linger_s = FOR_EVER_S
            for number in range(2, 2 + SKIPS):
                first = 7 * number
                await _put(commits, range(first, first + 7))
                await commits.until(lambda number=number: len(commits.rows) == number + 1)
            await _put(commits, range(200, 207))
            assert len(commits.rows) == 2 + SKIPS

    asyncio.run(drive())


def test_a_busy_loop_holds_no_entry_longer_than_it_may(tmp_path: Path) -> None:
    async def drive() -> None:
        async with committing(tmp_path, slots=10**9, hold_s=0.0) as commits:
            row = 0
            while not commits.rows:
                commits.ledger.put(entry(row))
                row += 1
                await asyncio.sleep(0)
        assert commits.settled() == list(range(row))

    asyncio.run(drive())


def test_what_is_held_is_committed_before_a_question_and_before_the_end(tmp_path: Path) -> None:
    async def drive() -> None:
        async with committing(tmp_path) as commits:
            commits.ledger.put(entry(0))
            settled = await commits.ledger.ask(lambda store: store.settled(range(10)))
            commits.ledger.put(entry(1))
        await asyncio.sleep(0)
        assert settled == {0}
        assert commits.settled() == [0, 1]

    asyncio.run(drive())


def test_nothing_is_committed_and_nothing_answered_after_a_failure(tmp_path: Path) -> None:
    async def drive() -> None:
        async with committing(tmp_path) as commits:
            commits.ledger.put(entry(0))
            await commits.until(lambda: commits.rows == [[0]])
            commits.ledger.put(entry(0))  # the row is there already
            await commits.until(lambda: len(commits.failures) == 1)
            commits.ledger.put(entry(1))
            with pytest.raises(OutputError):
                await commits.ledger.ask(lambda store: store.settled(range(10)))
        assert commits.rows == [[0]]

    asyncio.run(drive())


def test_a_commit_adds_up_what_its_entries_bring(tmp_path: Path) -> None:
    with contextlib.closing(open_store(tmp_path / "ledger.sqlite")) as store:
        store.commit([])
        costs = (5, 0, 7)
        store.commit(
            [
                Entry(row=row, totals=Totals(requests_sent=1, cost_nanousd=cost), outcome=entry(row).outcome)
                for row, cost in enumerate(costs)
            ]
        )
        assert store.totals() == Totals(requests_sent=3, cost_nanousd=12)
        assert store.dearest_nanousd() == 7
        store.commit([Entry(row=3, totals=Totals(), reverts=(0, 2))])
        assert store.settled(range(10)) == {1}
        tallies = Tallies(by_status={"failed": 3}, by_error_class={}, unpriced=0)
        with store.changing():
            store.confirm_part(PartRecord(part=0, rows=3, sha256="", tallies=tallies), range(3))
        assert store.settled(range(10)) == set()
