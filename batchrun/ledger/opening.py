"""A ledger file into a store: made where there is none, checked and brought up to date where there is one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

from batchrun.errors import JobError
from batchrun.ledger.schema import APPLICATION_ID, SCHEMA, SCHEMA_VERSION, UPGRADES
from batchrun.ledger.store import Store
from batchrun.ledger.tables import unwritable


def open_store(path: Path) -> Store:
    """Open or make the ledger at `path`, with every outcome in a row of its own; its folder must be there.

    Raises OutputError when the file can't be written or is damaged, JobError when a newer batchrun made it.
    """
    try:
        connection = _connect(path)
        marked = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version and marked != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is no ledger")
        if version > SCHEMA_VERSION:
            connection.close()
            raise JobError(
                f"{path}: written by a newer batchrun (schema {version}, this one knows {SCHEMA_VERSION}); "
                "use that version, or --fresh"
            )
        if version and (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(found)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if version == 0:
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT;")
        elif version in UPGRADES:
            connection.executescript(f"BEGIN IMMEDIATE; {UPGRADES[version]} COMMIT;")
    except sqlite3.Error as error:
        raise unwritable(path, error) from None
    store = Store(path, connection)
    with store.changing():
        store.ungroup()
    return store


def reading(path: Path) -> contextlib.AbstractContextManager[Store]:
    """Open the ledger a second time, to read beside its writer from any thread."""
    return _beside(path, "PRAGMA query_only = 1")


def writing(path: Path) -> contextlib.AbstractContextManager[Store]:
    """Open the ledger a second time, to change it beside its writer now and then: each waits for the other."""
    return _beside(path, "PRAGMA synchronous = FULL")


@contextlib.contextmanager
def _beside(path: Path, pragma: str) -> Generator[Store, None, None]:
    try:
        connection = _connect(path)
        connection.execute(pragma)
    except sqlite3.Error as error:
        raise unwritable(path, error) from None
    try:
        yield Store(path, connection)
    finally:
        connection.close()


def reopen(store: Store) -> None:
    """Open a store that was closed again, as it was: a connection must not be carried into a forked process."""
    try:
        connection = _connect(store.path)
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        raise unwritable(store.path, error) from None
    store.go_on(connection)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
    # What is deleted stands in the output; some builds would overwrite each page of it with zeros, through the journal.
    connection.execute("PRAGMA secure_delete = OFF")
    return connection
