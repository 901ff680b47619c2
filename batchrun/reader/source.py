"""What every reader takes: the columns that are needed, the rows that are wanted, and where they lie."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from batchrun.errors import JobError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from batchrun.model.record import InputFile, Stretch

STRETCH_ROWS = 256
STRETCH_BYTES = 4 << 20


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """The columns that prompts need as Python values, and those carried to the output, in output order."""

    values: frozenset[str]
    carried: tuple[str, ...]


class Reader(Protocol):
    """Reads records of a surveyed input."""

    def stretches(self, wanted: Iterable[range]) -> Iterator[Stretch]:
        """Read the wanted rows, in order.

        `wanted` are ascending, disjoint ranges of row numbers over all files, taken one at a time as reading
        goes on; numbers beyond the last row are passed over. A stretch holds at most `STRETCH_ROWS` rows and
        about `STRETCH_BYTES` bytes of input, and lies within one wanted range and one file. Raises JobError
        when a file can't be read or ends before its surveyed number of rows.
        """
        ...


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Rows `start` to `stop` of file number `file`; `row` is the number of the first over all files."""

    file: int
    start: int
    stop: int
    row: int


def spans(files: Sequence[InputFile], wanted: Iterable[range]) -> Iterator[Span]:
    """Cut wanted ranges at the borders of files, lazily; raises ValueError when they do not ascend."""
    starts = [0, *accumulate(file.rows for file in files)]
    rows = starts.pop()
    at = 0
    for rows_wanted in wanted:
        if rows_wanted.step != 1 or rows_wanted.start < at:
            raise ValueError("wanted ranges must ascend and be disjoint")
        at = rows_wanted.start
        stop = min(rows_wanted.stop, rows)
        while at < stop:
            file = bisect_right(starts, at) - 1
            start = at - starts[file]
            taken = min(stop - at, files[file].rows - start)
            yield Span(file=file, start=start, stop=start + taken, row=at)
            at += taken


def label(path: str) -> str:
    """Show a path as valid Unicode, whatever its bytes are."""
    return os.fsencode(path).decode("utf-8", "replace")


def labels(paths: Sequence[str]) -> list[str]:
    """Name each file in messages: its base name, or its whole path where several files share that."""
    names = [Path(path).name for path in paths]
    counts = Counter(names)
    return [label(name if counts[name] == 1 else path) for name, path in zip(names, paths, strict=True)]


def ended_early(path: str, rows: int) -> JobError:
    """Make the error of a file that ends after `rows` rows, fewer than were surveyed."""
    return JobError(f"input.path: {label(path)} changed: it ends after {rows} rows, fewer than were surveyed")
