"""Which rows of which parts are still to be done, and when a part is ready to be written."""

from __future__ import annotations

from collections.abc import Iterable

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
    """Counts parts down as they are worked: a part is ready when it is read whole and all its rows are settled."""

    def __init__(self, *, rows_per_part: int) -> None:
        """Start with no part."""
        self._rows_per_part = rows_per_part
        self._parts: dict[int, OpenPart] = {}
        self._left: dict[int, int] = {}
        self._unread: dict[int, int] = {}

    def read(self, part: OpenPart, rows: int) -> OpenPart | None:
        """Note that `rows` rows of a part were read; return the part when that makes it ready."""
        number = part.part
        if number not in self._parts:
            self._parts[number] = part
            self._left[number], self._unread[number] = part.pending, len(part.rows)
        self._unread[number] -= rows
        return self._if_ready(number)

    def settled(self, rows: Iterable[int]) -> list[OpenPart]:
        """Note that the outcomes of rows are durable; return the parts that this makes ready."""
        size, left = self._rows_per_part, self._left
        done: list[int] = []
        for row in rows:
            number = row // size
            left[number] = more = left[number] - 1
            if not more:
                done.append(number)
        return [part for number in done if (part := self._if_ready(number)) is not None]

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
