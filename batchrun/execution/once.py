"""A job and its options into one run and its summary: open, wire, drive, close."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec

from batchrun.errors import BatchrunError, ExitStatus, OutputError
from batchrun.events import Bystander, Summary, Watcher
from batchrun.execution.around import Access, Around
from batchrun.execution.closing import counts_of, standing_summary, summary_of
from batchrun.execution.ending import Ending
from batchrun.execution.exposure import end_sending
from batchrun.execution.opening import open_run
from batchrun.execution.pulse import Pulse
from batchrun.execution.resume import OpenRun
from batchrun.execution.signals import SignalWatch
from batchrun.job.deadline import deadline_at
from batchrun.job.options import RunOptions
from batchrun.job.places import places_of
from batchrun.job.settings import Job
from batchrun.ledger.opening import open_store
from batchrun.ledger.store import ASSEMBLED, Store
from batchrun.writer.dataset import Dataset, write_whole
from batchrun.writer.generation import publish_next

Send = Callable[[OpenRun, Around], Sequence[Ending]]
"""Has the open parts of a run worked, in this process or in others, and returns why that ended early."""


def execute(job: Job, options: RunOptions, *, access: Sequence[Access], watcher: Watcher, send: Send) -> Summary:
    """Run a job until every row is settled or a reason ends it; return its summary, which is then on disk too.

    `access` is that of each lane; `send` has the open parts worked. A `watcher` that raises is told nothing more. A
    complete output sends nothing and keeps its summary. Raises JobError (exit status 2) and OutputHeldError (6); every
    other end is told by the summary's exit_status, except a fault of batchrun itself, which is raised after the summary
    was written.
    """
    signals = SignalWatch(enabled=options.signals)
    watcher = Bystander(watcher)
    deadline = job.limits.deadline
    ends_at = None if deadline is None else deadline_at(deadline, datetime.now(tz=UTC))  # opening may take long
    with open_run(job, options, watcher) as opened:
        run = msgspec.structs.replace(opened, ends_at=ends_at)
        if not options.fresh and _is_whole(run) and (standing := standing_summary(run)) is not None:
            return standing
        with signals.noting():
            pulse = Pulse(run, clock=time.monotonic)
            around = Around(access=tuple(access), watcher=watcher, signals=signals, pulse=pulse)
            return _carried_out(run, around, send)


def _carried_out(run: OpenRun, around: Around, send: Send) -> Summary:
    """Drive an open run, put its output in place, write its summary."""
    began, started_at = time.monotonic(), datetime.now(tz=UTC)
    pulse = around.pulse
    endings, fault = _driven(run, lambda: send(run, around))
    complete = not fault and _all_sealed(run)
    counts = msgspec.structs.replace(
        counts_of(run),
        first_token_ms=pulse.first_token_ms,
        waited_s=pulse.waited_s,
        used=pulse.mean_used,
    )
    if complete:
        try:
            _put_in_place(run)
        except OutputError as error:
            endings, complete = [*endings, Ending(status=error.status, reason=str(error))], False
    wall_s = time.monotonic() - began
    summary = summary_of(run, counts, endings, complete=complete, started_at=started_at, wall_s=wall_s)
    summary = _written(run, summary)
    if fault is not None:
        raise fault
    return summary


def _driven(run: OpenRun, drive: Callable[[], Sequence[Ending]]) -> tuple[Sequence[Ending], Exception | None]:
    """Drive the open parts; return why that ended early, and the error when it was a fault of batchrun's."""
    if not run.open_parts:
        return [], None
    try:
        endings = drive()
        end_sending(run)
    except BatchrunError as error:
        return [Ending(status=error.status, reason=str(error))], None
    except Exception as error:  # noqa: BLE001 - raised again once the summary says so
        return [Ending(status=ExitStatus.FAULT, reason=f"internal error: {type(error).__name__}")], error
    return endings, None


def _all_sealed(run: OpenRun) -> bool:
    """Say whether every part is in place whole, and none of its rows is pending again."""
    parts = run.store.parts()
    written = len(parts) == run.parts and sum(part.rows for part in parts) == run.rows
    return written and not run.store.count_reopened(range(run.rows))


def _is_whole(run: OpenRun) -> bool:
    """Say whether the output is complete as it stands: every part, and the single file made of them."""
    if run.open_parts:
        return False
    return run.places.single is None or run.dataset.single_digest() == run.store.noted(ASSEMBLED)


def _put_in_place(run: OpenRun) -> None:
    """Publish a fresh generation, and make the single file where the output is one."""
    if not run.options.fresh:
        _assemble(run, run.store)
        return
    run.store.close_whole()
    standing = places_of(run.job)
    publish_next(standing, run.parts)
    with contextlib.closing(open_store(standing.ledger)) as store:
        _assemble(run, store)


def _assemble(run: OpenRun, store: Store) -> None:
    dataset = Dataset(places_of(run.job), compression=run.job.output.compression)
    if (digest := dataset.assemble(run.parts)) is not None:
        with store.changing():
            store.note(**{ASSEMBLED: digest})


def _written(run: OpenRun, summary: Summary) -> Summary:
    content = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
    try:
        write_whole(run.places.summary, content, durable=True)
    except OutputError as error:
        if summary.exit_status in {ExitStatus.OUTPUT, ExitStatus.FAULT}:
            return summary
        return msgspec.structs.replace(summary, exit_status=int(error.status), reason=str(error))
    return summary
