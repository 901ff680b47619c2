"""Which rows of which parts are still to be done, and when a part is ready to be written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec


class OpenPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part that is not written, or is to be written again.

    `rows` are the rows it will hold, `kept` the first of them that its present file holds, and `pending` how many of
    `rows` need a request.
    """

    part: int
    rows: range
    kept: range
    pending: int


class OpenParts:
    """Counts the open parts of a run down: a part is ready when it is read whole and all its rows are settled."""

    def __init__(self, parts: Iterable[OpenPart], *, rows_per_part: int) -> None:
        """Start with none of the parts read."""
        self._rows_per_part = rows_per_part
        self._parts: Mapping[int, OpenPart] = {part.part: part for part in parts}
        self._left = {part.part: part.pending for part in self._parts.values()}
        self._unread = {part.part: len(part.rows) for part in self._parts.values()}

    def read(self, part: int, rows: int) -> OpenPart | None:
        """Note that `rows` rows of a part were read; return the part when that makes it ready."""
        self._unread[part] -= rows
        return self._if_ready(part)

    def settled(self, row: int) -> OpenPart | None:
        """Note that a row's outcome is durable; return its part when that makes it ready."""
        part = row // self._rows_per_part
        self._left[part] -= 1
        return self._if_ready(part)

    def reopened(self, row: int) -> int:
        """Note that a settled row is pending again; return its part's number, which is not ready any more."""
        part = row // self._rows_per_part
        self._left[part] = self._left.get(part, 0) + 1
        self._unread.setdefault(part, 0)
        return part

    def _if_ready(self, part: int) -> OpenPart | None:
        if self._unread[part] or self._left[part]:
            return None
        del self._unread[part], self._left[part]
        return self._parts[part]
