"""Outcomes of one commit into one value, and values of one and of many rows into outcomes in row order. Pure.

A row by itself costs SQLite several times what its bytes do. So rows of one commit that lie close together are kept as
one group. Groups may overlap; each spans so few rows, and is so small, that few need be held to read rows in order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import NamedTuple

from batchrun.model.outcome import Outcome, pack_all, unpack, unpack_all

LEAST_ROWS = 8
"""Fewer rows than these are kept one by one."""
SPAN_ROWS = 4096
"""A group's rows lie within so many consecutive ones."""
MOST_BYTES = 256 * 1024
"""A group is no larger: beyond that it is bytes that cost, not rows."""

_row_of = attrgetter("row")


class Group(NamedTuple):
    """Outcomes of several rows, the first and the last of which are named."""

    first: int
    last: int
    packed: bytes


def grouped(outcomes: Sequence[Outcome]) -> tuple[Group | None, Sequence[Outcome]]:
    """Return those that lie close together as a group, None where that does not pay, and the others."""
    if len(outcomes) < LEAST_ROWS:
        return None, outcomes
    rows = [outcome.row for outcome in outcomes]
    first, last = min(rows), max(rows)
    near, far = outcomes, list[Outcome]()
    if last - first >= SPAN_ROWS:
        near = [outcome for outcome in outcomes if last - outcome.row < SPAN_ROWS]
        far = [outcome for outcome in outcomes if last - outcome.row >= SPAN_ROWS]
        first = min(map(_row_of, near))
        if len(near) < LEAST_ROWS:
            return None, outcomes
    packed = pack_all(near)
    return (Group(first, last, packed), far) if len(packed) <= MOST_BYTES else (None, outcomes)


def in_order(found: Iterable[tuple[int, bytes, bool]], rows: range) -> Iterator[Outcome]:
    """Yield the outcomes of `rows` in row order.

    `found` are single rows and groups by their first row; each with what is packed, and whether it is a group.
    """
    held: list[Outcome] = []
    for first, packed, is_group in found:
        if held:
            before = bisect_left(held, first, key=_row_of)
            yield from held[:before]
            del held[:before]
        if is_group:
            held += [outcome for outcome in unpack_all(packed) if outcome.row in rows]
            held.sort(key=_row_of)
        else:
            yield unpack(packed)
    yield from held
