"""The ledger of a worker process: made beside the main one, lent the rows of its parts, adopted into the main one.

A part belongs to exactly one ledger. When a worker process takes a part up, what the main ledger holds of its rows is
copied into the worker's; when the process has ended, however it did, the main ledger adopts all that the worker's holds
in one transaction, which also notes the id of the adopted ledger: whoever finds the file again just removes it.

No rows are grouped where they are lent from or adopted: a ledger that was opened has none, until a run commits to it.
"""

from __future__ import annotations

import contextlib
import uuid
from pathlib import Path

import msgspec

from batchrun.errors import OutputError
from batchrun.ledger.lost import count_lost
from batchrun.ledger.opening import open_store, reading, writing
from batchrun.ledger.records import SpentMinute
from batchrun.ledger.store import SENDING, Store

LEDGER_ID = "ledger_id"
"""The name under which a worker's ledger notes its id, in its first transaction."""
_JOURNALS = ("-wal", "-shm")
_LENT = ("outcome", "tries", "reopened")


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """What an adopted ledger brought.

    `lost` attempts may have been in flight when its process was killed; `spent` is what its attempts used.
    """

    lost: int = 0
    spent: tuple[SpentMinute, ...] = ()


def make_worker_store(path: Path, *, run_id: str, rows_per_part: int) -> Store:
    """Make the ledger of a worker process of the run `run_id`, empty, at `path`, where none may lie.

    Raises OutputError when the file can't be written.
    """
    if path.exists():
        raise OutputError(f"{path}: a ledger lies here that nobody has adopted")
    _remove_journals(path)  # of one that was removed: they must not become this one's
    store = open_store(path)
    with store.changing():
        store.note(**{LEDGER_ID: uuid.uuid4().hex, "run_id": run_id, "rows_per_part": str(rows_per_part)})
    return store


def lend(main: Path, ledger: Path, rows: range) -> None:
    """Copy what the ledger `main` holds of `rows` into the worker's `ledger`; may be done again.

    Both may be in use. Raises OutputError when it can't be done.
    """
    with reading(main) as lender, writing(ledger) as borrower:
        if lender.has_groups():
            raise ValueError(f"{main}: somebody commits to it, so it can't lend rows")
        if any(lender.count(table, rows) for table in _LENT):
            with borrower.changing():
                for table in _LENT:
                    borrower.put_rows(table, lender.rows_of(table, rows))


def adopt(store: Store, path: Path) -> Adopted:
    """Bring all that the ledger at `path` holds, whose process has ended, into the main one; then remove the file.

    A crash at any moment leaves what the next call sets right. Raises OutputError where the file is damaged or is
    another run's, JobError where a newer batchrun made it; both stay as they are then.
    """
    adopted = Adopted()
    with contextlib.closing(open_store(path)) as theirs:
        identity, run_id = theirs.noted(LEDGER_ID), store.noted("run_id")
        if identity is not None and theirs.noted("run_id") != run_id:
            raise OutputError(f"{path}: it is the ledger of another run; move it away if its rows are not wanted")
        if identity is not None and store.noted(_adopted(identity)) is None:
            adopted = Adopted(lost=int(theirs.noted(SENDING) or 0), spent=tuple(theirs.spent(0)))
            with store.changing():
                _merge(store, theirs)
                store.note(**{_adopted(identity): "yes"})
    path.unlink(missing_ok=True)
    _remove_journals(path)
    return adopted


def _merge(store: Store, theirs: Store) -> None:
    store.ungroup()  # theirs were when it was opened
    size = int(theirs.noted("rows_per_part") or 0)
    for record in theirs.parts():
        store.confirm_part(record, range(record.part * size, record.part * size + record.rows))
    for record in theirs.replacing():
        store.replace_part(record)
    for table in ("outcome", "tries"):
        store.put_rows(table, theirs.rows_of(table))
    lost = int(theirs.noted(SENDING) or 0)
    totals = theirs.totals()
    store.add_totals(
        msgspec.structs.replace(totals, uncosted=totals.uncosted + lost), dearest_nanousd=theirs.dearest_nanousd()
    )
    count_lost(store, lost)
    store.add_spent(theirs.spent(0))


def _adopted(identity: str) -> str:
    return f"adopted {identity}"


def _remove_journals(path: Path) -> None:
    for suffix in _JOURNALS:
        path.with_name(path.name + suffix).unlink(missing_ok=True)
