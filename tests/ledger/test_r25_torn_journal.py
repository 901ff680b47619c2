"""The ledger's journal cut at every byte: it opens, drops only what is torn, and is written on (DEMAND.md R25)."""

from __future__ import annotations

import sqlite3
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrun.events import Totals
from batchrun.ledger.opening import open_store
from batchrun.ledger.records import Entry
from batchrun.ledger.store import Store
from batchrun.model.attempt import Reply
from batchrun.model.outcome import Account, Completion

HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
MEMORY_DISK = Path("/dev/shm")
ROWS = range(1000)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where the machine has one: each opening syncs, which a disk takes 10 ms for."""
    with tempfile.TemporaryDirectory(dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None) as name:
        yield Path(name)


def commit(store: Store, row: int) -> None:
    outcome = Completion(row=row, reply=Reply(status="ok", text=f"text {row}"), account=Account(attempts=1))
    store.commit([Entry(row=row, totals=Totals(requests_sent=1), outcome=outcome)])


def commits_end(journal: bytes) -> list[int]:
    """Return where each transaction ends: at the frames whose header names the size of the database."""
    (page_bytes,) = struct.unpack(">I", journal[8:12])
    starts = range(HEADER_BYTES, len(journal), FRAME_HEADER_BYTES + page_bytes)
    return [at + FRAME_HEADER_BYTES + page_bytes for at in starts if struct.unpack(">I", journal[at + 4 : at + 8])[0]]


@pytest.mark.parametrize("page_bytes", [512, pytest.param(4096, marks=[pytest.mark.long, pytest.mark.timeout(600)])])
def test_r25_the_journal_may_be_cut_at_every_byte_of_its_last_two_transactions(folder: Path, page_bytes: int) -> None:
    path, wal = folder / "ledger.sqlite", folder / "ledger.sqlite-wal"
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA page_size = {page_bytes}")
    connection.execute("VACUUM")
    connection.close()
    store = open_store(path)
    for row in range(4):
        commit(store, row)
    database, journal = path.read_bytes(), wal.read_bytes()
    store.close()
    *_, before, last_but_one, last = commits_end(journal)
    assert last == len(journal)

    for size in range(before, last + 1):
        path.write_bytes(database)
        wal.write_bytes(journal[:size])
        wal.with_name("ledger.sqlite-shm").unlink(missing_ok=True)
        whole = 2 + (size >= last_but_one) + (size >= last)
        store = open_store(path)
        assert [outcome.row for outcome in store.outcomes(ROWS)] == list(range(whole)), size
        assert store.totals().requests_sent == whole
        if size % 16 == 0:  # what is written after a torn tail is found when it is opened again
            commit(store, 900)
            store.close()
            store = open_store(path)
            assert [outcome.row for outcome in store.outcomes(ROWS)] == [*range(whole), 900], size
        store.close()
