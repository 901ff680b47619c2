"""A part is ready when it is read whole and all its rows are settled, whichever comes last."""

from __future__ import annotations

from batchrun.execution.parts import OpenPart, OpenParts

SIZE = 4


def part(number: int, pending: int = SIZE) -> OpenPart:
    rows = range(number * SIZE, (number + 1) * SIZE)
    return OpenPart(part=number, rows=rows, kept=rows[:0], pending=pending)


def test_the_rows_of_one_commit_make_all_their_parts_ready() -> None:
    parts = OpenParts(rows_per_part=SIZE)
    first, second = part(0), part(1)
    assert parts.read(first, SIZE) is None
    assert parts.read(second, 2) is None
    assert parts.settled([]) == []
    assert parts.settled([0, 5, 3, 4]) == []
    assert parts.settled([7, 1, 2, 6]) == [first]  # of the second not all is read
    assert parts.read(second, 2) == second


def test_a_part_whose_row_is_pending_again_is_not_ready() -> None:
    parts = OpenParts(rows_per_part=SIZE)
    first = part(0, pending=2)
    assert parts.read(first, SIZE) is None
    assert parts.settled([1, 2]) == [first]
    assert parts.reopened(2) == 0
    assert parts.settled([2]) == [first]
