"""Key values into the certainty that they are unique, for 8 bytes a row.

Only 64-bit hashes are kept, sorted in runs; beyond `memory_rows` they lie in a temporary file. Values
themselves are compared in a second pass over the input, and only where hashes are equal (SPEC.md, 5.7).
"""

from __future__ import annotations

import os
import tempfile
from array import array
from heapq import merge
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from batchrun.errors import JobError
from batchrun.reader.source import label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from io import FileIO

RUN_ROWS = 1 << 20
MEMORY_ROWS = 10**7
COMPARED_HASHES = 1 << 16
SET_ROWS = 1 << 17
SPILL_READ_BYTES = 32 << 10

# A key value, the number of its line or row, and the path of its file.
Place = tuple[object, int, str]


class KeyCheck:
    """Checks that a column holds unique strings or integers; 1 and "1" are different keys.

    `unit` is what the numbers given to `add` count, such as `line`. With `strings_only` an integer is no key.
    Close it when done.
    """

    def __init__(
        self,
        column: str,
        *,
        unit: str = "line",
        strings_only: bool = False,
        run_rows: int = RUN_ROWS,
        memory_rows: int = MEMORY_ROWS,
        hash_of: Callable[[object], int] = hash,
    ) -> None:
        self.column = column
        self._unit = unit
        self._kinds: frozenset[type] = frozenset({str} if strings_only else {str, int})
        self._expected = "a string" if strings_only else "a string or an integer"
        self._run_rows = run_rows
        self._memory_rows = memory_rows
        self._hash_of = hash_of
        self._open: list[int] = []
        self._runs: list[array[int]] = []
        self._spill = _Spill()
        self._refusal: str | None = None

    def add(self, values: Sequence[object], numbers: Sequence[int], path: str) -> None:
        """Take the keys of some rows of one file; None stands for null and for missing."""
        if not set(map(type, values)) <= self._kinds:
            self._refuse_first(values, numbers, path)
        if self._refusal is not None:
            return
        self._open.extend(map(self._hash_of, values))
        if len(self._open) >= self._run_rows:
            self._end_run()

    def finish(self, again: Callable[[], Iterable[Place]]) -> None:
        """Raise JobError when a value was no key or stands twice; `again` goes over the keys once more."""
        if self._refusal is not None:
            raise JobError(self._refusal)
        if not self._runs and not self._spill.runs() and _are_few_and_distinct(self._open):
            return
        self._end_run()
        runs: list[Iterable[int]] = [*self._runs, *self._spill.runs()]
        hashes = merge(*runs) if len(runs) > 1 else iter(runs[0])
        equal = (one for one, next_one in pairwise(hashes) if one == next_one)
        while suspects := frozenset(islice(equal, COMPARED_HASHES)):
            self._compare(again(), suspects)

    def close(self) -> None:
        """Delete the temporary file."""
        self._spill.close()

    def _refuse_first(self, values: Sequence[object], numbers: Sequence[int], path: str) -> None:
        for value, number in zip(values, numbers, strict=True):
            if self._refusal is None and type(value) not in self._kinds:
                what = "is null or missing" if value is None else f"is a {type(value).__name__}"
                self._refusal = (
                    f"input.key: column `{self.column}` {what} at {self._name_place(number, path)}; "
                    f"expected {self._expected} in every row"
                )

    def _end_run(self) -> None:
        self._open.sort()
        self._runs.append(array("q", self._open))
        self._open = []
        if sum(map(len, self._runs)) > self._memory_rows:
            for run in self._runs:
                self._spill.add(run)
            self._runs = []

    def _compare(self, places: Iterable[Place], suspects: frozenset[int]) -> None:
        first: dict[object, tuple[int, str]] = {}
        for value, number, path in places:
            if self._hash_of(value) not in suspects:
                continue
            if value in first:
                one, other = self._name_place(*first[value]), self._name_place(number, path)
                raise JobError(f"input.key: column `{self.column}` holds the same key at {one} and at {other}")
            first[value] = number, path

    def _name_place(self, number: int, path: str) -> str:
        return f"{label(path)}:{number}" if self._unit == "line" else f"{label(path)} {self._unit} {number}"


def _are_few_and_distinct(hashes: Sequence[int]) -> bool:
    """Say whether a set, which needs less time than sorting and more memory than that, shows that none are equal."""
    return len(hashes) <= SET_ROWS and len(set(hashes)) == len(hashes)


class _Spill:
    """Sorted runs of hashes in a temporary file, which is opened by the first of them."""

    def __init__(self) -> None:
        self._file: FileIO | None = None
        self._ends: list[int] = [0]

    def add(self, run: array[int]) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="batchrun-keys-", buffering=0)  # noqa: SIM115
            stored = memoryview(run).cast("B")
            while stored:
                stored = stored[self._file.write(stored) :]
        except OSError as error:
            raise JobError(
                f"input.key: a temporary file for the keys' hashes can't be written: {error.strerror}"
            ) from None
        self._ends.append(self._ends[-1] + len(run) * run.itemsize)

    def runs(self) -> list[Iterator[int]]:
        if self._file is None:
            return []
        descriptor = self._file.fileno()
        return [self._read(descriptor, start, end) for start, end in pairwise(self._ends)]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @staticmethod
    def _read(descriptor: int, at: int, end: int) -> Iterator[int]:
        while at < end:
            stored = os.pread(descriptor, min(SPILL_READ_BYTES, end - at), at)
            at += len(stored)
            yield from array("q", stored)
