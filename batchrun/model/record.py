"""What a reader hands on: records, the stretches they come in, and the survey made before the first request."""

# Without `from __future__ import annotations`: msgspec would compile each field's text again, in 40 µs (measured).

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

InputFormat = Literal["jsonl", "parquet", "openai-batch"]
ColumnKind = Literal["bool", "int64", "double", "string", "json", "arrow"]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One input column, typed by the survey.

    `kind` is the Arrow type it is stored as: `json` is a string column that holds JSON text (lists, objects,
    mixed types, numbers beyond int64; SPEC.md, section 2, Rows); `arrow` is any other Arrow type, given by
    `ipc`, a serialized Arrow schema of this one field.
    """

    name: str
    kind: ColumnKind
    ipc: bytes = b""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the input.

    `row` counts from 0 through all files. `values` holds the columns that prompts need, as Python values, a
    missing key being absent; it is None when the row could not be read, and `problem` then says why, naming
    file and line. `replaced` is true when text that is not valid Unicode was replaced by U+FFFD.
    """

    row: int
    values: Mapping[str, object] | None
    problem: str | None = None
    replaced: bool = False


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive records, in order, and their carried columns.

    `columns` maps each carried column to as many values as there are records: a list of Python values that
    fit the column's kind, or an Arrow array of the column's type.
    """

    records: Sequence[Record]
    columns: Mapping[str, Sequence[object]]


class InputFile(msgspec.Struct, frozen=True, kw_only=True):
    """One input file as the survey found it: `rows` rows, `size` bytes, `sha256` in hex."""

    path: str
    size: int
    mtime_ns: int
    sha256: str
    rows: int


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What one look at the whole input fixed: files in byte order of their paths, rows, column types.

    `format` is the input's; `key` is the column whose values were checked to be unique.
    """

    format: InputFormat
    files: tuple[InputFile, ...]
    columns: tuple[Column, ...]
    key: str | None = None

    @property
    def rows(self) -> int:
        """Rows in all files together."""
        return sum(file.rows for file in self.files)

    def column_names(self) -> tuple[str, ...]:
        """Names of all columns, in input order."""
        return tuple(column.name for column in self.columns)
