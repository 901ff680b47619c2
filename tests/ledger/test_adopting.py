"""The main ledger adopts those of worker processes: all they hold, once, whatever crashes in between."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrun.errors import JobError, OutputError
from batchrun.events import Totals
from batchrun.ledger import adopting
from batchrun.ledger.adopting import adopt, lend, make_worker_store
from batchrun.ledger.opening import open_store
from batchrun.ledger.records import Entry, PartRecord, SettledRow, Tallies
from batchrun.ledger.store import Store
from batchrun.model.attempt import Reply, Tries
from batchrun.model.outcome import Account, Completion, Failure

RUN = "a run"
SIZE = 10


@pytest.fixture
def main(tmp_path: Path) -> Iterator[Store]:
    with contextlib.closing(open_store(tmp_path / "ledger.sqlite")) as store:
        with store.changing():
            store.note(run_id=RUN)
        yield store


def worker(tmp_path: Path, number: int = 1, run_id: str = RUN) -> Store:
    return make_worker_store(tmp_path / f"ledger-{number}.sqlite", run_id=run_id, rows_per_part=SIZE)


def entry(row: int, text: str = "yes", cost: int = 7) -> Entry:
    account = Account(attempts=1, cost_nanousd=cost, cost_source="server")
    outcome = Completion(row=row, reply=Reply(status="ok", text=text), account=account)
    return Entry(row=row, totals=Totals(requests_sent=1, cost_nanousd=cost, prompt_tokens=2), outcome=outcome)


def failed(row: int) -> Entry:
    failure = Failure(row=row, error_class="server", message="no", account=Account(attempts=1))
    return Entry(row=row, totals=Totals(requests_sent=1), outcome=failure)


def record(part: int, ok: int) -> PartRecord:
    return PartRecord(
        part=part,
        rows=ok,
        sha256=f"digest {part}",
        tallies=Tallies(by_status={"ok": ok}, by_error_class={}, unpriced=0),
    )


def text_of(store: Store, row: int) -> str | None:
    (outcome,) = store.outcomes(range(row, row + 1))
    assert isinstance(outcome, Completion)
    return outcome.reply.text


def test_outcomes_tries_totals_and_minutes_come_over_and_the_file_goes(main: Store, tmp_path: Path) -> None:
    main.commit([entry(3, cost=5)])
    with contextlib.closing(worker(tmp_path)) as theirs:
        tries = Entry(row=12, totals=Totals(requests_sent=1, retries=1), tries=Tries(attempts=1, cost_nanousd=4))
        theirs.commit([entry(11, cost=9), failed(13), tries])
    assert adopt(main, tmp_path / "ledger-1.sqlite").lost == 0
    assert main.settled(range(20)) == {3, 11, 13}
    assert main.tries(range(20))[12].cost_nanousd == 4
    assert main.totals() == Totals(requests_sent=4, retries=1, cost_nanousd=14, prompt_tokens=4)
    assert main.dearest_nanousd() == 9
    assert sum(minute.requests for minute in main.spent(0)) == 4
    assert main.tallies().by_status == {"ok": 2, "failed": 1}
    assert not list(tmp_path.glob("ledger-1*"))


def test_rows_that_are_kept_together_come_over_on_either_side(main: Store, tmp_path: Path) -> None:
    """As a worker leaves them that was killed; its sealed part ends inside of a group."""
    main.commit([entry(row, "main's") for row in range(20, 35)])
    with contextlib.closing(worker(tmp_path)) as theirs:
        theirs.commit([entry(row) for row in (*range(5, 20), *range(30, 35))])
        with theirs.changing():
            theirs.confirm_part(record(1, SIZE), range(10, 20))
    adopt(main, tmp_path / "ledger-1.sqlite")
    assert main.settled(range(50)) == {*range(5, 10), *range(20, 35)}
    assert [text_of(main, row) for row in (5, 20, 29, 30, 34)] == ["yes", "main's", "main's", "yes", "yes"]
    assert [one.part for one in main.parts()] == [1]


def test_a_ledger_that_somebody_commits_to_lends_nothing(main: Store, tmp_path: Path) -> None:
    main.commit([entry(row) for row in range(SIZE)])
    with contextlib.closing(worker(tmp_path)) as theirs, pytest.raises(ValueError, match="can't lend"):
        lend(main.path, theirs.path, range(SIZE))


def test_a_part_that_the_worker_sealed_takes_its_rows_out_of_the_main_ledger(main: Store, tmp_path: Path) -> None:
    with main.changing():
        main.confirm_part(record(1, 8), range(10, 18))
        main.reopen([SettledRow(row=12, status="ok", error_class=None, unpriced=False, tries=Tries(attempts=1))])
    main.commit([entry(18), entry(25)])
    with contextlib.closing(worker(tmp_path)) as theirs:
        lend(main.path, theirs.path, range(10, 20))
        lend(main.path, theirs.path, range(10, 20))
        assert theirs.settled(range(100)) == {18}
        assert theirs.reopened(range(100)) == {12}
        assert theirs.tries(range(100)).keys() == {12}
        theirs.commit([entry(12), entry(19)])
        with theirs.changing():
            theirs.replace_part(record(1, 10))
        with theirs.changing():
            theirs.confirm_part(record(1, 10), range(10, 20))
    adopt(main, tmp_path / "ledger-1.sqlite")
    assert [part.rows for part in main.parts()] == [10]
    assert main.settled(range(100)) == {25}
    assert not main.reopened(range(100))
    assert not main.tries(range(100))
    assert main.tallies().by_status == {"ok": 11}


def test_a_part_that_was_being_put_in_place_is_so_in_the_main_ledger_too(main: Store, tmp_path: Path) -> None:
    with contextlib.closing(worker(tmp_path)) as theirs:
        theirs.commit([entry(row) for row in range(10, 20)])
        with theirs.changing():
            theirs.replace_part(record(1, 10))
    adopt(main, tmp_path / "ledger-1.sqlite")
    assert main.replacing() == [record(1, 10)]
    assert main.settled(range(100)) == set(range(10, 20))


def test_what_was_in_flight_at_a_kill_counts_as_one_that_cost_nobody_knows_what(main: Store, tmp_path: Path) -> None:
    with contextlib.closing(worker(tmp_path)) as theirs, theirs.changing():
        theirs.begin_sending(6)
    assert adopt(main, tmp_path / "ledger-1.sqlite").lost == 6
    assert main.totals().uncosted == 6


def test_an_outcome_of_the_worker_stands_above_one_that_was_lent_to_it(main: Store, tmp_path: Path) -> None:
    main.commit([entry(11, "lent")])
    with contextlib.closing(worker(tmp_path)) as theirs:
        lend(main.path, theirs.path, range(10, 20))
        theirs.commit([entry(14, "own")])
    adopt(main, tmp_path / "ledger-1.sqlite")
    assert [text_of(main, row) for row in (11, 14)] == ["lent", "own"]


@pytest.mark.parametrize("before", ["unlink", "_remove_journals"])
def test_a_crash_before_the_file_is_gone_adopts_nothing_twice(
    main: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str
) -> None:
    with contextlib.closing(worker(tmp_path)) as theirs:
        theirs.commit([entry(11)])

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "ledger-1.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "unlink") if before == "unlink" else (adopting, before)), crash)
        with pytest.raises(KeyboardInterrupt):
            adopt(main, path)
    assert path.exists() == (before == "unlink")
    main.commit([entry(12)])
    if path.exists():
        assert adopt(main, path).lost == 0
    assert main.totals().requests_sent == 2
    with contextlib.closing(worker(tmp_path)) as fresh:  # a journal that was left is not the next one's
        assert fresh.totals() == Totals()


def test_a_crash_inside_the_transaction_leaves_both_as_they_were(
    main: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(worker(tmp_path)) as theirs:
        theirs.commit([entry(11)])

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "add_spent", crash)
        with pytest.raises(KeyboardInterrupt):
            adopt(main, tmp_path / "ledger-1.sqlite")
    assert main.totals() == Totals()
    assert not main.settled(range(100))
    adopt(main, tmp_path / "ledger-1.sqlite")
    assert main.settled(range(100)) == {11}


def test_a_ledger_that_was_just_begun_goes_without_a_trace(main: Store, tmp_path: Path) -> None:
    (tmp_path / "ledger-1.sqlite").touch()
    adopt(main, tmp_path / "ledger-1.sqlite")
    assert not list(tmp_path.glob("ledger-1*"))
    assert main.totals() == Totals()


def test_the_ledger_of_another_run_and_a_damaged_or_newer_one_are_refused_and_stay(main: Store, tmp_path: Path) -> None:
    worker(tmp_path, 1, run_id="another").close()
    (tmp_path / "ledger-2.sqlite").write_bytes(b"no ledger" * 1000)
    worker(tmp_path, 3).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger-3.sqlite")) as newer:
        newer.execute("PRAGMA user_version = 99")
    for number, error, why in ((1, OutputError, "another run"), (2, OutputError, "damaged"), (3, JobError, "newer")):
        with pytest.raises(error, match=why):
            adopt(main, tmp_path / f"ledger-{number}.sqlite")
        assert (tmp_path / f"ledger-{number}.sqlite").exists()
    with pytest.raises(OutputError, match="adopted"):
        worker(tmp_path, 1)
