"""Parts, read as they are handed out, into rows that need a request; what is carried goes to the spool."""

from __future__ import annotations

from collections.abc import Iterator

from batchrun.execution.parts import OpenPart
from batchrun.execution.requesting import Requests
from batchrun.execution.resume import OpenRun, standing_of
from batchrun.model.attempt import Tries
from batchrun.worker import OpenRow
from batchrun.writer.spool import Spool


def read_chunks(run: OpenRun, spool: Spool, parts: Iterator[OpenPart]) -> Iterator[tuple[OpenPart, list[OpenRow], int]]:
    """Yield, off the loop, a part, its next rows that need a request, and how many rows were read.

    The next of `parts` is taken once the one before was read. The input is read in one pass as long as they ascend.
    Raises JobError when the input can't be read, or is not what was surveyed, and OutputError when nothing can be
    spooled.
    """
    bounded = None if run.job.limits.max_cost_usd is None else run.job.request
    requests = Requests(run.examined.prompter, run.examined.envelope(), bounded=bounded)
    turn = _Turn(parts)
    while turn.goes_on():
        yield from _pass(run, spool, turn, requests)


class _Turn:
    """Cuts parts into series of ascending ones, each for one pass; `part` is the one that is read."""

    def __init__(self, parts: Iterator[OpenPart]) -> None:
        self._parts = parts
        self._next = next(parts, None)
        self.part: OpenPart | None = None

    def goes_on(self) -> bool:
        """Say whether there is another series."""
        return self._next is not None

    def ascending(self) -> Iterator[OpenPart]:
        """Yield parts as long as each lies behind the one before."""
        while (part := self._next) is not None and (self.part is None or part.part > self.part.part):
            self.part = part
            yield part
            self._next = next(self._parts, None)
        self.part = None


def _pass(run: OpenRun, spool: Spool, turn: _Turn, requests: Requests) -> Iterator[tuple[OpenPart, list[OpenRow], int]]:
    at: OpenPart | None = None
    skipped: set[int] = set()
    tried: dict[int, Tries] = {}
    if not run.rows:
        for empty in turn.ascending():
            yield empty, [], 0
        return
    for stretch in run.examined.reader(run.layout).stretches(part.rows for part in turn.ascending()):
        part = turn.part
        if part is None:  # no stretch comes without its part
            raise ValueError("a stretch of no part")
        if part is not at:
            at, (skipped, tried) = part, standing_of(run.places.ledger, part)
        spool.append(part.part, stretch)
        if stretch.records[-1].row + 1 == part.rows.stop:
            spool.end()
        for rows, read in requests.slices(stretch.records, skipped, tried):
            yield part, rows, read
