"""A ledger file into a store, also one that an older version made."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from batchrun.ledger.opening import open_store
from batchrun.ledger.schema import SCHEMA_VERSION
from batchrun.model.attempt import Reply, Tries
from batchrun.model.outcome import Account, Completion, Failure, pack

OK = Completion(row=3, reply=Reply(status="ok", text="t"), account=Account(attempts=1, cost_nanousd=7))
UNPRICED = Completion(row=4, reply=Reply(status="truncated", text="t"), account=Account(attempts=1))
PASSING = Failure(row=5, error_class="server", message="m", account=Account(attempts=2, cost_nanousd=9))
LASTING = Failure(row=6, error_class="rejected", message="m", account=Account(attempts=1))
OUTCOMES = [OK, UNPRICED, PASSING, LASTING]
THREE = 3
"""The version that kept each outcome in a row of its own, packed."""


def made_by(version: int, path: Path) -> None:
    """Make the ledger that an older version would have left, with four settled rows, one of them reopened before."""
    with closing(open_store(path)) as store, store.changing():
        store.note(run_id="r")
    with closing(sqlite3.connect(path)) as ledger:
        ledger.execute("DROP TABLE grouped")
        if version == THREE:
            ledger.executemany("INSERT INTO outcome VALUES (?, ?)", [(one.row, pack(one)) for one in OUTCOMES])
        else:
            ledger.execute("DROP TABLE outcome")
            ledger.execute(
                "CREATE TABLE outcome (row INTEGER PRIMARY KEY, status TEXT NOT NULL, error_class TEXT, "
                "unpriced INTEGER NOT NULL, packed BLOB NOT NULL)"
            )
            ledger.executemany(
                "INSERT INTO outcome VALUES (?, ?, ?, ?, ?)",
                [(one.row, one.status, one.error_class, one is UNPRICED, pack(one)) for one in OUTCOMES],
            )
        ledger.execute("INSERT INTO reopened VALUES (5, 'failed', 'timeout', 0)")
        if version == 1:
            for name in ("held_nanousd", "uncosted", "dearest_nanousd"):
                ledger.execute(f"ALTER TABLE totals DROP COLUMN {name}")
            ledger.execute("DROP TABLE spent")
        ledger.execute(f"PRAGMA user_version = {version}")
        ledger.commit()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_an_older_version_settled_is_settled(tmp_path: Path, version: int) -> None:
    path = tmp_path / "ledger.sqlite"
    made_by(version, path)
    for _ in range(2):  # as it comes, and as it was left
        with closing(open_store(path)) as store:
            assert list(store.outcomes(range(10))) == OUTCOMES
            tallies = store.tallies()
            assert tallies.by_status == {"ok": 1, "truncated": 1, "failed": 1}
            assert tallies.by_error_class == {"server": 1, "rejected": 1}
            assert tallies.unpriced == 1
            assert store.noted("run_id") == "r"
            assert store.totals().uncosted == 0
            assert store.spent(0) == []
    with closing(sqlite3.connect(path)) as ledger:
        assert ledger.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_rows_are_made_pending_again_by_their_status_or_by_what_may_pass(tmp_path: Path) -> None:
    made_by(2, tmp_path / "ledger.sqlite")
    with closing(open_store(tmp_path / "ledger.sqlite")) as store:
        with store.changing():
            assert store.forget_passing_failures() == 1
        assert store.settled(range(10)) == {3, 4, 6}
        assert store.tries(range(10)) == {5: Tries(attempts=2, cost_nanousd=9)}
        with store.changing():
            assert store.forget_outcomes(["failed", "truncated"]) == 2
        assert store.settled(range(10)) == {3}
