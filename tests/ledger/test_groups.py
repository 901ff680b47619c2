"""Outcomes that a commit keeps as one value are settled rows as any others: in order, one by one, part by part."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.events import Totals
from batchrun.ledger.groups import LEAST_ROWS, MOST_BYTES, SPAN_ROWS, grouped, in_order
from batchrun.ledger.opening import open_store, reading
from batchrun.ledger.records import Entry, PartRecord, Tallies
from batchrun.ledger.store import Store
from batchrun.model.attempt import Reply, Tries
from batchrun.model.outcome import Account, Completion, Failure, Outcome, pack, unpack_all

ALL = range(10**9)


def outcome(row: int, text: str = "t") -> Outcome:
    """Every fifth is a failure that may pass."""
    account = Account(attempts=1, cost_nanousd=row)
    if row % 5 == 0:
        return Failure(row=row, error_class="server", message="m", account=account)
    return Completion(row=row, reply=Reply(status="ok", text=text), account=account)


def commit(store: Store, rows: Iterable[int]) -> None:
    store.commit([Entry(row=row, totals=Totals(requests_sent=1), outcome=outcome(row)) for row in rows])


def rows_of(outcomes: Iterable[Outcome]) -> list[int]:
    return [one.row for one in outcomes]


def counts(path: Path) -> tuple[int, int]:
    """Return how many rows and how many groups the tables hold."""
    with contextlib.closing(sqlite3.connect(path)) as ledger:
        ((rows,), (groups,)) = (ledger.execute(f"SELECT count(*) FROM {name}").fetchone() for name in TABLES)
    return rows, groups


TABLES = ("outcome", "grouped")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with contextlib.closing(open_store(path)) as store:
        yield store


@given(st.data())
def test_groups_and_single_rows_come_in_row_order(data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, 9000), unique=True, max_size=80))
    size = data.draw(st.integers(1, 30))
    wanted = range(data.draw(st.integers(0, 5000)), data.draw(st.integers(4000, 9001)))
    found: list[tuple[int, bytes, bool]] = []
    for at in range(0, len(rows), size):
        group, singles = grouped([outcome(row) for row in rows[at : at + size]])
        if group is not None:
            held = rows_of(unpack_all(group.packed))
            assert len(held) >= LEAST_ROWS
            assert (group.first, group.last) == (min(held), max(held))
            assert group.last - group.first < SPAN_ROWS
            if group.first < wanted.stop and group.last >= wanted.start:
                found.append((group.first, group.packed, True))
        found += [(one.row, pack(one), False) for one in singles if one.row in wanted]
    found.sort(key=lambda one: one[0])
    assert list(in_order(found, wanted)) == [outcome(row) for row in sorted(rows) if row in wanted]


@pytest.mark.parametrize(
    "outcomes",
    [
        [],
        [outcome(row) for row in range(LEAST_ROWS - 1)],
        [outcome(row * SPAN_ROWS) for row in range(LEAST_ROWS + 1)],
        [outcome(row + 1, "x" * (MOST_BYTES // 4)) for row in range(LEAST_ROWS + 1)],
    ],
    ids=["none", "few", "far apart", "large"],
)
def test_no_group_is_made_where_it_does_not_pay(outcomes: Sequence[Outcome]) -> None:
    assert grouped(outcomes) == (None, outcomes)


def test_a_row_far_behind_the_others_is_kept_by_itself() -> None:
    near = [outcome(SPAN_ROWS + row) for row in range(LEAST_ROWS)]
    group, others = grouped([near[0], outcome(3), *near[1:]])
    assert group is not None
    assert (group.first, unpack_all(group.packed), others) == (SPAN_ROWS, near, [outcome(3)])


def test_what_is_grouped_is_settled(store: Store, path: Path) -> None:
    order = list(range(200))
    Random(1).shuffle(order)
    for at in range(0, 200, 40):
        commit(store, order[at : at + 40])
    commit(store, [300, 301])
    assert counts(path) == (2, 5)
    with reading(path) as beside:
        assert rows_of(beside.outcomes(range(50, 120))) == list(range(50, 120))
        assert beside.settled(range(190, 400)) == {*range(190, 200), 300, 301}
        assert beside.count_settled(range(100, 302)) == 102
        tallies = beside.tallies()
    assert tallies.by_status == {"ok": 161, "failed": 41}
    assert tallies.by_error_class == {"server": 41}
    assert not store.is_untouched()


def test_a_confirmed_part_takes_its_own_rows_only(store: Store, path: Path) -> None:
    commit(store, range(20))
    commit(store, [*range(20, 30), *range(95, 105)])
    commit(store, range(105, 120))
    tallies = Tallies(by_status={"ok": 100}, by_error_class={}, unpriced=0)
    with store.changing():
        store.confirm_part(PartRecord(part=0, rows=100, sha256="", tallies=tallies), range(100))
    assert rows_of(store.outcomes(ALL)) == list(range(100, 120))
    assert counts(path) == (5, 1)


def test_rows_of_a_group_can_be_taken_back_one_by_one(store: Store) -> None:
    commit(store, range(20))
    store.commit([Entry(row=30, totals=Totals(), reverts=(5, 10))])
    assert store.settled(ALL) == set(range(20)) - {5, 10}
    assert store.tries(ALL)[10] == Tries(attempts=1, cost_nanousd=10)
    commit(store, [10])
    with store.changing():
        assert store.forget_passing_failures() == 3
    assert store.settled(ALL) == set(range(20)) - {0, 5, 10, 15}


def test_a_ledger_that_is_opened_holds_each_row_by_itself(store: Store, path: Path) -> None:
    """As another one lends and adopts them."""
    commit(store, range(40))
    store.close()
    with contextlib.closing(open_store(path)) as again:
        assert counts(path) == (40, 0)
        assert list(again.outcomes(ALL)) == [outcome(row) for row in range(40)]


def test_a_row_that_is_settled_twice_does_not_lock_the_ledger(store: Store, path: Path) -> None:
    """Nothing settles a row twice; a fault that did must not take the paid rows beside it."""
    commit(store, range(20))
    commit(store, range(5, 25))
    store.close()
    with contextlib.closing(open_store(path)) as again:
        assert list(again.outcomes(ALL)) == [outcome(row) for row in range(25)]


def test_a_commit_that_comes_twice_is_refused_whole(store: Store) -> None:
    commit(store, range(20))
    with pytest.raises(Exception, match="UNIQUE"):
        commit(store, range(20))
    assert store.totals().requests_sent == 20
