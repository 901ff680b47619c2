"""What an earlier run of the output left, checked, and what is still to be done: the run that can start."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec

from batchrun.errors import JobError
from batchrun.events import Watcher
from batchrun.execution.before import Before
from batchrun.execution.examine import Examined
from batchrun.execution.parts import OpenPart
from batchrun.job.options import RunOptions
from batchrun.job.places import Places
from batchrun.job.settings import Job
from batchrun.ledger.opening import reading
from batchrun.ledger.records import PartRecord, SettledRow
from batchrun.ledger.store import ASSEMBLED, Store
from batchrun.model.attempt import Tries
from batchrun.writer.dataset import Dataset
from batchrun.writer.digests import Digests, Seen
from batchrun.writer.part import PartWriter
from batchrun.writer.schema import Layout

_DIGESTS = "digests"
"""The name under which the digests of untouched files are noted."""


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that holds its output: what it knows, and the parts that are still to be written, in order.

    `ends_at` is the moment that its deadline stands for, if it has one.
    """

    examined: Examined
    options: RunOptions
    run_id: str
    store: Store
    layout: Layout
    dataset: Dataset
    part_writer: PartWriter
    rows: int
    parts: int
    open_parts: tuple[OpenPart, ...]
    before: Before = Before()
    ends_at: datetime | None = None

    @property
    def job(self) -> Job:
        """The job."""
        return self.examined.job

    @property
    def places(self) -> Places:
        """The paths of the output."""
        return self.examined.places


def take_up(
    examined: Examined, options: RunOptions, store: Store, layout: Layout, rows: int, watcher: Watcher
) -> OpenRun:
    """Return the run with its open parts: half-done publishing is settled, written parts are checked.

    Raises JobError when fewer rows are asked for than the output was begun with.
    """
    begun_rows = int(store.noted("rows") or 0)
    if rows < begun_rows:
        raise JobError(f"--limit {rows}: this output was begun with {begun_rows} rows; expected at least as many")
    with store.changing():
        store.note(rows=str(rows))
    run_id = store.noted("run_id") or ""
    known = _known_digests(store)
    digests = Digests(known)
    dataset = Dataset(examined.places, compression=examined.job.output.compression, digests=digests)
    size = layout.rows_per_part
    ranges = [range(first, min(first + size, rows)) for first in range(0, rows, size)] or [range(0)]
    dataset.clear_unfinished()
    settle_replacing(store, dataset, size)
    written = _trusted_parts(store, dataset, size, watcher)
    if store.noted(ASSEMBLED) is not None:
        dataset.single_digest()
    if digests.seen != known:
        with store.changing():
            store.note(**{_DIGESTS: msgspec.json.encode(digests.seen).decode()})
    if options.retry_failed:
        _reopen(examined, store, dataset, layout, written)
    open_parts = _open_parts(store, written, ranges)
    if open_parts and not options.retry_failed:
        with store.changing():
            again = store.forget_passing_failures()
        if again:
            watcher.noted("passing failures are sent again", rows=again)
            open_parts = _open_parts(store, written, ranges)
    return OpenRun(
        examined=examined,
        options=options,
        run_id=run_id,
        store=store,
        layout=layout,
        dataset=dataset,
        part_writer=PartWriter(layout, run_id=run_id, compression=examined.job.output.compression),
        rows=rows,
        parts=len(ranges),
        open_parts=open_parts,
    )


def _known_digests(store: Store) -> dict[str, Seen]:
    noted = store.noted(_DIGESTS)
    return {} if noted is None else msgspec.json.decode(noted, type=dict[str, Seen])


def settle_replacing(store: Store, dataset: Dataset, size: int) -> None:
    """Finish or take back what a crash left between the two steps of putting a part in place."""
    for record in store.replacing():
        with store.changing():
            if dataset.digest(record.part) == record.sha256:
                store.confirm_part(record, _rows_of(record, size))
            else:
                store.abandon_replacing(record.part)


def _trusted_parts(store: Store, dataset: Dataset, size: int, watcher: Watcher) -> dict[int, PartRecord]:
    """Return the written parts whose file is the one that was written; rows of others are pending again."""
    trusted: dict[int, PartRecord] = {}
    for record in store.parts():
        digest = dataset.digest(record.part)
        if digest == record.sha256:
            trusted[record.part] = record
            continue
        if digest is not None and dataset.is_readable(record.part):
            raise JobError(
                f"{dataset.path(record.part)} was changed after it was written; put the written file back, or remove "
                "it to have its rows sent again"
            )
        what = "is gone" if digest is None else "can't be read"
        watcher.noted("part is sent again", file=dataset.path(record.part).name, why=what, rows=record.rows)
        with store.changing():
            store.forget_part(record.part, _rows_of(record, size))
    return trusted


def _rows_of(record: PartRecord, size: int) -> range:
    return range(record.part * size, record.part * size + record.rows)


def _reopen(examined: Examined, store: Store, dataset: Dataset, layout: Layout, written: dict[int, PartRecord]) -> None:
    """Make every row pending again whose status is in `fail_on`."""
    fail_on = examined.job.limits.fail_on
    with store.changing():
        store.forget_outcomes(fail_on)
        for record in written.values():
            if any(record.tallies.by_status.get(status) for status in fail_on):
                found = dataset.rows_with_status(record.part, layout.prefix, fail_on)
                store.reopen(
                    SettledRow(
                        row=row,
                        status=status,
                        error_class=error_class,
                        unpriced=error_class is None and account.cost_nanousd is None,
                        tries=account.tries(),
                    )
                    for row, status, error_class, account in found
                )


def _open_parts(store: Store, written: dict[int, PartRecord], ranges: list[range]) -> tuple[OpenPart, ...]:
    parts: list[OpenPart] = []
    for number, rows in enumerate(ranges):
        if (part := open_part(store, written.get(number), number, rows)) is not None:
            parts.append(part)
    return tuple(parts)


def open_part(store: Store, record: PartRecord | None, number: int, rows: range) -> OpenPart | None:
    """Return a part of which `record` is written as it is open by the ledger, None where nothing is left to do."""
    settled = store.count_settled(rows)
    kept = range(rows.start, rows.start + record.rows) if record else range(rows.start, rows.start)
    reopened = store.count_reopened(kept)
    if record and len(kept) == len(rows) and not reopened and not settled:
        return None
    pending = len(rows) - (len(kept) - reopened) - settled
    return OpenPart(part=number, rows=rows, kept=kept, pending=pending)


def standing_of(path: Path, part: OpenPart) -> tuple[set[int], dict[int, Tries]]:
    """Return which rows of an open part need no request, and what earlier attempts of the others came to.

    Reads the ledger at `path`; called off the loop.
    """
    with reading(path) as store:
        done = (set(part.kept) - store.reopened(part.kept)) | store.settled(part.rows)
        return done, store.tries(part.rows)
