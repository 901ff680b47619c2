"""What waits while a breaker or an outage may still take failures back: the parts that hold them, and their rows."""

from __future__ import annotations

from collections.abc import Callable, Collection

from batchrun.client.lanes import Lanes
from batchrun.client.outage import OUTAGE_ERRORS
from batchrun.execution.parts import OpenPart
from batchrun.model.outcome import Outcome
from batchrun.worker import OpenRow

_MOST_ROWS = 64
"""More rows than these are looked through, the next time when they have doubled: only suspects are kept."""


class Suspects:
    """Hands on each part once none of its failures can be taken back any more."""

    def __init__(self, lanes: Lanes, announce: Callable[[OpenPart], None]) -> None:
        """Have parts written by `announce`."""
        self._lanes = lanes
        self._announce = announce
        self._parts: list[OpenPart] = []
        self._rows: dict[int, OpenRow] = {}
        self._most_rows = _MOST_ROWS

    def ready(self, part: OpenPart | None) -> None:
        """Have a part written, later when a failure of its rows may still be taken back."""
        if part is None:
            return
        if self._lanes.suspect(part.rows):
            self._parts.append(part)
        else:
            self._announce(part)

    def clear_all(self) -> None:
        """Have all parts written: nothing is left that could trip a breaker."""
        waited, self._parts = self._parts, []
        for part in waited:
            self._announce(part)

    def note(self, row: OpenRow, outcome: Outcome | None) -> None:
        """Take note of what became of a row: one that failed is kept as long as it may have to be sent again.

        A rejected one may have to where there is another lane. Parts that are not suspected any more are written.
        """
        if row.tries.errors and outcome is not None and self._may_come_back(outcome):  # the first is what most lack
            self._hold(row)
        elif self._rows and not self._lanes.suspected:
            self._rows.clear()
        if self._parts:
            waited, self._parts = self._parts, []
            for part in waited:
                self.ready(part)

    def _may_come_back(self, outcome: Outcome) -> bool:
        return outcome.error_class in OUTAGE_ERRORS or (self._lanes.are_several and outcome.error_class == "rejected")

    def _hold(self, row: OpenRow) -> None:
        self._rows[row.row] = row
        if len(self._rows) > self._most_rows:
            self._rows = {
                number: held for number, held in self._rows.items() if self._lanes.suspect(range(number, number + 1))
            }
            self._most_rows = max(_MOST_ROWS, 2 * len(self._rows))

    def taken_back(self, rows: Collection[int], parts: Collection[int]) -> list[OpenRow]:
        """Return the held ones of `rows`, with all of their tries; `parts` are not to be written before they end."""
        self._parts = [part for part in self._parts if part.part not in parts]
        held = [self._rows.pop(row) for row in rows if row in self._rows]
        for row in held:
            row.tries, row.began = row.tries.afresh(), None
        return held
