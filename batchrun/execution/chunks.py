"""The open parts of a run, read in order, into rows that need a request; what is carried goes to the spool."""

from __future__ import annotations

from collections.abc import Iterator

from batchrun.execution.resume import OpenRun, standing_of
from batchrun.model.attempt import Tries
from batchrun.worker import OpenRow
from batchrun.writer.spool import Spool

_NEVER_TRIED = Tries()


def read_chunks(run: OpenRun, spool: Spool) -> Iterator[tuple[int, list[OpenRow], int]]:
    """Yield, off the loop, a part's number, its next rows that need a request, and how many rows were read.

    Raises JobError when the input can't be read, or is not what was surveyed, and OutputError when nothing can be
    spooled.
    """
    open_parts = {part.part: part for part in run.open_parts}
    at: int | None = None
    skipped: set[int] = set()
    tried: dict[int, Tries] = {}
    for part in run.open_parts:
        if not part.rows:
            yield part.part, [], 0
    if not run.rows:
        return
    for stretch in run.examined.reader(run.layout).stretches(part.rows for part in run.open_parts):
        number = stretch.records[0].row // run.layout.rows_per_part
        if number != at:
            at, (skipped, tried) = number, standing_of(run.places.ledger, open_parts[number])
        spool.append(number, stretch)
        if stretch.records[-1].row + 1 == open_parts[number].rows.stop:
            spool.end()
        rows = [
            OpenRow(
                row=record.row,
                record=record,
                replaced=record.replaced,
                tries=tried.get(record.row, _NEVER_TRIED),
            )
            for record in stretch.records
            if record.row not in skipped
        ]
        yield number, rows, len(stretch.records)
