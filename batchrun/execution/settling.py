"""What follows once entries are durable: slots come back, parts get ready, rows that were taken back are sent again."""

from __future__ import annotations

from collections.abc import Sequence

from batchrun.client.lanes import Lanes
from batchrun.execution.backlog import Backlog
from batchrun.execution.parts import OpenPart, OpenParts
from batchrun.execution.suspects import Suspects
from batchrun.ledger.records import Entry


class Settling:
    """Follows the rows of one run's parts, from when they are read until their outcomes are durable."""

    def __init__(self, *, rows_per_part: int, lanes: Lanes, backlog: Backlog, suspects: Suspects) -> None:
        """Start with no part; `suspects` are handed each that gets ready."""
        self._parts = OpenParts(rows_per_part=rows_per_part)
        self._lanes = lanes
        self._backlog = backlog
        self._suspects = suspects

    def read(self, part: OpenPart, rows: int) -> None:
        """Take note that so many rows of a part were read, those that need no request among them."""
        self._suspects.ready(self._parts.read(part, rows))

    def committed(self, entries: Sequence[Entry]) -> None:
        """Take note of what is durable now."""
        slots: dict[int, int] = {}
        settled: list[int] = []
        for entry in entries:
            if entry.outcome is not None:
                settled.append(entry.row)
            if entry.holds_slot:
                slots[entry.lane] = slots.get(entry.lane, 0) + 1
            else:
                self._backlog.committed_without_slot()
        for part in self._parts.settled(settled):
            self._suspects.ready(part)
        for entry in entries:
            if entry.reverts:  # of rows that this very commit may have settled
                self._take_back(entry)
        for lane, count in slots.items():
            self._lanes[lane].gate.leave(count)

    def _take_back(self, entry: Entry) -> None:
        """Have rows sent again that were taken back: a breaker's where another lane is left for them."""
        parts = {self._parts.reopened(row) for row in entry.reverts}
        self._lanes[entry.lane].breaker.returned(entry.reverts)
        for row in self._suspects.taken_back(entry.reverts, parts):
            self._backlog.retry_in(row, 0.0)
