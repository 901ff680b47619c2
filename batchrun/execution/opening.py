"""A job and its output into a run that can start: lock, ledger, what an earlier run left, what is still to be done."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from batchrun.errors import JobError, OutputError
from batchrun.events import Watcher
from batchrun.execution.examine import Examined, examine
from batchrun.execution.identity import difference, identity_of
from batchrun.execution.lock import held, refuse_remote_disk
from batchrun.execution.parts import OpenPart
from batchrun.job.options import RunOptions
from batchrun.job.places import Places, places_of
from batchrun.job.settings import Job
from batchrun.ledger.records import PartRecord, SettledRow
from batchrun.ledger.store import Store, open_store, reading
from batchrun.model.record import Survey
from batchrun.writer.dataset import Dataset
from batchrun.writer.generation import roll_forward
from batchrun.writer.part import PartWriter
from batchrun.writer.schema import Layout


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that holds its output: what it knows, and the parts that are still to be written, in order."""

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

    @property
    def job(self) -> Job:
        """The job."""
        return self.examined.job

    @property
    def places(self) -> Places:
        """The paths of the output."""
        return self.examined.places


@contextlib.contextmanager
def open_run(job: Job, options: RunOptions, watcher: Watcher) -> Generator[OpenRun, None, None]:
    """Take the output's lock and open its ledger, making both where there are none.

    An output that exists is locked before the input is read; one that does not is made after everything was checked,
    so that a wrong job leaves nothing behind. Raises JobError, OutputHeldError or OutputError.
    """
    standing = places_of(job)
    refuse_remote_disk(standing.home)
    if options.fresh and options.retry_failed:
        raise JobError("--fresh and --retry-failed exclude each other")
    with contextlib.ExitStack() as stack:
        if standing.home.is_dir():
            stack.enter_context(held(standing.lock))
            roll_forward(standing)
        places = standing.next_generation() if options.fresh else standing
        store = _open_store(stack, places) if places.ledger.exists() else None
        examined = examine(job, places, known=_known_survey(store))
        rows = examined.survey.rows if options.limit is None else min(options.limit, examined.survey.rows)
        if store is None or store.noted("run_id") is None:
            store = _begin(stack, examined, store)
        elif different := difference(_noted_identity(store), identity_of(job, examined.survey)):
            raise JobError(_refusal(options, places, different))
        layout = _layout(store, examined.layout, watcher)
        yield _open(examined, options, store, layout, rows, watcher)


def _refusal(options: RunOptions, places: Places, different: str) -> str:
    if options.fresh:
        return (
            f"{places.state}: an unfinished fresh run of another job or input lies here; the difference:\n{different}\n"
            "finish it with that job and --fresh, or remove the folder if its answers are not wanted"
        )
    return (
        f"{places.output}: this output was begun by another job or input; the difference:\n{different}\n"
        "go on with the job as it was, start over with --fresh, or choose another output.path"
    )


def _open_store(stack: contextlib.ExitStack, places: Places) -> Store:
    store = open_store(places.ledger)
    stack.callback(store.close)
    return store


def _known_survey(store: Store | None) -> Survey | None:
    noted = store.noted("survey") if store else None
    return None if noted is None else msgspec.json.decode(noted, type=Survey)


def _noted_identity(store: Store) -> dict[str, object]:
    return msgspec.json.decode(store.noted("identity") or "{}", type=dict[str, object])


def _begin(stack: contextlib.ExitStack, examined: Examined, store: Store | None) -> Store:
    """Make the output's folders and a ledger that says what it is the ledger of."""
    places = examined.places
    if store is None:
        try:
            was_there = places.home.is_dir()
            for folder in (places.output.parent, places.parts, places.state):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{error.filename}: can't be made: {error.strerror}") from None
        if not was_there:
            stack.enter_context(held(places.lock))
        store = _open_store(stack, places)
    with store.changing():
        store.note(
            run_id=uuid.uuid4().hex,
            job=examined.job.name,
            begun_at=datetime.now(tz=UTC).isoformat(),
            identity=_text(identity_of(examined.job, examined.survey)),
            survey=_text(examined.survey),
            layout=_text(examined.layout),
        )
    return store


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _layout(store: Store, asked: Layout, watcher: Watcher) -> Layout:
    """Return the layout that the output was begun with; a changed one does not reach into a begun output."""
    begun = msgspec.json.decode(store.noted("layout") or "", type=Layout)
    if begun != asked:
        watcher.noted("layout kept", why="rows_per_part, columns, prefix and keep_raw stay as the output was begun")
    return begun


def _open(
    examined: Examined, options: RunOptions, store: Store, layout: Layout, rows: int, watcher: Watcher
) -> OpenRun:
    begun_rows = int(store.noted("rows") or 0)
    if rows < begun_rows:
        raise JobError(f"--limit {rows}: this output was begun with {begun_rows} rows; expected at least as many")
    with store.changing():
        store.note(rows=str(rows))
    run_id = store.noted("run_id") or ""
    dataset = Dataset(examined.places, compression=examined.job.output.compression)
    size = layout.rows_per_part
    ranges = [range(first, min(first + size, rows)) for first in range(0, rows, size)] or [range(0)]
    dataset.clear_unfinished()
    _settle_replacing(store, dataset, size)
    written = _trusted_parts(store, dataset, size, watcher)
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


def _settle_replacing(store: Store, dataset: Dataset, size: int) -> None:
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
        what = "is gone" if digest is None else "is not the file that was written"
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
        record = written.get(number)
        settled = store.count_settled(rows)
        kept = range(rows.start, rows.start + record.rows) if record else range(rows.start, rows.start)
        reopened = store.count_reopened(kept)
        if record and len(kept) == len(rows) and not reopened and not settled:
            continue
        pending = len(rows) - (len(kept) - reopened) - settled
        parts.append(OpenPart(part=number, rows=rows, kept=kept, pending=pending))
    return tuple(parts)


def skipped_rows(path: Path, part: OpenPart) -> set[int]:
    """Return the rows of an open part that need no request, by the ledger at `path`; called off the loop."""
    with reading(path) as store:
        return (set(part.kept) - store.reopened(part.kept)) | store.settled(part.rows)
