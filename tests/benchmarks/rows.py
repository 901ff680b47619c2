"""The rows of the benchmarks: each made from its number, so that an output can be checked without keeping the input."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from server import digest_of

HANG = "[hangs at its first try]"
SCHEMA = pa.schema([("key", pa.string()), ("prompt", pa.string()), ("rank", pa.int64()), ("score", pa.float64())])
ADDED = ("row", "status", "completion")
SLICE_ROWS = 2_000
TEXT_BYTES = 1 << 20


class Rows:
    """`count` rows with prompts of `chars` characters; row `hangs` holds the text at which the server hangs.

    `asked` turns a row's prompt into what the server is asked, where a template makes something of it.
    """

    def __init__(
        self, count: int, *, chars: int, hangs: int | None = None, asked: Callable[[str], str] = lambda prompt: prompt
    ) -> None:
        self.count = count
        self._asked = asked
        self._chars = chars
        self._hangs = hangs
        letters = random.Random(0)
        self._text = "".join(letters.choices("etaoinshrdlu      ", k=TEXT_BYTES + chars))

    def row(self, number: int) -> dict[str, object]:
        start = number * 7919 % TEXT_BYTES
        mark = HANG if number == self._hangs else ""
        return {
            "key": f"row-{number:09d}",
            "prompt": f"{number} {mark}{self._text[start : start + self._chars]}",
            "rank": number % 1000,
            "score": number / 8,
        }

    def _slices(self, start: int, stop: int) -> Iterator[list[dict[str, object]]]:
        for first in range(start, stop, SLICE_ROWS):
            yield [self.row(number) for number in range(first, min(first + SLICE_ROWS, stop))]

    def write_jsonl(self, path: Path) -> None:
        with path.open("wb") as file:
            for some in self._slices(0, self.count):
                file.write(msgspec.json.Encoder().encode_lines(some))

    def write_parquet(self, path: Path, *, groups: int) -> None:
        """Write `groups` row groups, each buffered whole, as those who make such files do."""
        size = -(-self.count // groups)
        with pq.ParquetWriter(path, SCHEMA) as writer:
            for first in range(0, self.count, size):
                batches = [
                    pa.RecordBatch.from_pylist(some, schema=SCHEMA)
                    for some in self._slices(first, min(first + size, self.count))
                ]
                writer.write_table(pa.Table.from_batches(batches), row_group_size=size)

    def check(self, output: Path, *, prefix: str = "") -> None:
        """Read the output part by part; AssertionError when any row is missing, out of place or not its own."""
        number = 0
        names = [*SCHEMA.names, *(prefix + name for name in ADDED)]
        for part in sorted(output.glob("*.parquet")):
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(SLICE_ROWS, columns=names):
                    for found in batch.to_pylist():
                        self._check_row(number, found, prefix)
                        number += 1
        assert number == self.count, f"{number} rows came out, {self.count} went in"

    def _check_row(self, number: int, found: dict[str, Any], prefix: str) -> None:
        made = self.row(number)
        assert {name: found[name] for name in made} == made, f"row {number}: the carried columns are not its own"
        row, status, completion = (found[prefix + name] for name in ADDED)
        assert (row, status) == (number, "ok"), f"row {number}: row {row}, {status}"
        assert completion.startswith(digest_of(self._asked(str(made["prompt"]))) + " "), (
            f"row {number}: another row's completion"
        )
