"""The ledger's file as tables: SQLite, a WAL with `synchronous=FULL`, so that what is committed is on disk."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from batchrun.errors import OutputError

_ADVICE: Mapping[type[sqlite3.Error], str] = {
    sqlite3.DatabaseError: "; it is damaged: put a good copy in its place, or start over with --fresh"
}


class Tables:
    """One connection to the file: transactions, queries, named texts."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Use `open_store` or `reading` of `ledger.opening` instead."""
        self.path = path
        self._connection = connection

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def go_on(self, connection: sqlite3.Connection) -> None:
        """Use another connection to the same file, in the place of one that was closed."""
        self._connection = connection

    def close_whole(self) -> None:
        """Close the file with nothing left in its journal, so that it may be moved alone.

        Raises OutputError when the journal can't be written back.
        """
        blocked, _, _ = next(self._rows("PRAGMA wal_checkpoint(TRUNCATE)"))
        self.close()
        if blocked:
            raise OutputError(f"{self.path}: the ledger's journal can't be written back")

    def _rows(self, query: str, values: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield what a query finds; raises OutputError when the ledger can't be read."""
        try:
            for row in self._connection.execute(query, values):  # noqa: UP028 - `yield from` would close the cursor late
                yield row
        except sqlite3.Error as error:
            raise unwritable(self.path, error) from None

    @contextlib.contextmanager
    def changing(self) -> Generator[None, None, None]:
        """Make all that is done inside one transaction; raises OutputError when it can't be committed."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise unwritable(self.path, error) from None

    def rows_of(self, table: str, rows: range | None = None) -> Iterator[tuple[Any, ...]]:
        """Yield all columns of a table by row, of `rows` or of all, as `put_rows` of another ledger takes them."""
        if rows is None:
            return self._rows(f"SELECT * FROM {table} ORDER BY row")  # noqa: S608 - our own names
        query = f"SELECT * FROM {table} WHERE row >= ? AND row < ? ORDER BY row"  # noqa: S608
        return self._rows(query, (rows.start, rows.stop))

    def put_rows(self, table: str, values: Iterable[tuple[Any, ...]]) -> None:
        """Take rows of another ledger's table in the place of one's own."""
        columns = len(list(self._rows(f"SELECT 1 FROM pragma_table_info('{table}')")))  # noqa: S608 - our own names
        places = ", ".join("?" * columns)
        self._connection.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", values)  # noqa: S608

    def note(self, **values: str) -> None:
        """Set named texts."""
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", values.items())

    def noted(self, name: str) -> str | None:
        """Return a named text."""
        return next((str(value) for (value,) in self._rows("SELECT value FROM meta WHERE name = ?", (name,))), None)

    def count(self, table: str, rows: range) -> int:
        """Return how many of `rows` a table holds."""
        query = f"SELECT count(*) FROM {table} WHERE row >= ? AND row < ?"  # noqa: S608 - our own names
        return int(next(self._rows(query, (rows.start, rows.stop)))[0])


def unwritable(path: Path, error: sqlite3.Error) -> OutputError:
    """Return the error for a ledger that SQLite can't use."""
    return OutputError(f"{path}: the ledger can't be used: {error}{_ADVICE.get(type(error), '')}")
