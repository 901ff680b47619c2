"""Parquet files into a survey of them, and into stretches of records; the reader's only use of pyarrow."""
# pyarrow ships no types, so that all it hands out is unknown.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections import Counter
from contextlib import closing, contextmanager
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.errors import JobError
from batchrun.model.record import Column, InputFile, Record, Stretch, Survey
from batchrun.reader.source import STRETCH_BYTES, STRETCH_ROWS, Needs, ended_early, label, labels, spans

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from batchrun.reader.keys import KeyCheck, Place

_DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
_NO_VALUE = (pa.ArrowException, ValueError, OverflowError, KeyError)
_BUFFER_BYTES = 1 << 20


@contextmanager
def _reading(path: str, group: int | None = None) -> Generator[None]:
    place = label(path) if group is None else f"row group {group} of {label(path)}"
    try:
        yield
    except _DAMAGE as error:
        reason = str(error).partition("\n")[0][:200]
        raise JobError(f"input.path: {place} can't be read as Parquet: {reason}") from None


def _open(path: str) -> pq.ParquetFile:
    """Open a file to be read a buffer at a time: pyarrow would hold a whole row group unless told not to."""
    with _reading(path):
        return pq.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)


def _batches(
    file: pq.ParquetFile, path: str, group: int, names: Sequence[str] | None = None
) -> Generator[pa.RecordBatch]:
    """Read a row group in batches of at most STRETCH_ROWS rows and about STRETCH_BYTES bytes.

    pyarrow takes names as dotted paths: beside a column `a.b` it also gives part of a column `a`. Select the
    columns of a batch by name. Sizes are those of whole rows: to ask for a column's (`about.column`) ends the
    process where the footer is damaged, as C++ throws and nothing catches (pyarrow 26).
    """
    with _reading(path, group):
        about = file.metadata.row_group(group)
        size = max(1, min(STRETCH_ROWS, STRETCH_BYTES * about.num_rows // max(about.total_byte_size, 1)))
        columns = None if names is None else list(names)
        batches = file.iter_batches(size, row_groups=[group], columns=columns, use_threads=False)
    rows = 0
    while True:
        with _reading(path, group):
            batch = next(batches, None)
        if batch is None:
            break
        rows += batch.num_rows
        yield batch
    if rows != about.num_rows:
        raise JobError(f"input.path: row group {group} of {label(path)} has {rows} of {about.num_rows} rows")


def survey_parquet(paths: Sequence[str], keys: KeyCheck | None = None) -> Survey:
    """Read all files once, in the order given: rows, digests, column types and, if asked, keys.

    Columns stand in the first file's order. Raises JobError when a file or row group can't be read, the files
    differ in names or types of columns, or the keys are no keys.
    """
    fields: dict[str, pa.DataType] = {}
    files: list[InputFile] = []
    for path in paths:
        with closing(_open(path)) as file:
            found = _types(file, path)
            if files:
                _compare(fields, found, paths[0], path)
            else:
                fields = found
                if keys is not None:
                    _check_key_type(keys.column, fields)
            files.append(_survey_file(file, path, keys))
    schemas = {name: pa.schema([pa.field(name, of)]).serialize() for name, of in fields.items()}
    columns = tuple(Column(name=name, kind="arrow", ipc=bytes(ipc)) for name, ipc in schemas.items())
    if keys is not None:
        keys.finish(lambda: _places(paths, keys.column))
    return Survey(format="parquet", files=tuple(files), columns=columns, key=keys.column if keys else None)


def _types(file: pq.ParquetFile, path: str) -> dict[str, pa.DataType]:
    with _reading(path):
        schema = file.schema_arrow
        twice = [name for name, count in Counter(schema.names).items() if count > 1]
    if twice:
        raise JobError(f"input.path: {label(path)} has more than one column `{twice[0]}`")
    return {field.name: field.type for field in schema}


def _compare(first: dict[str, pa.DataType], found: dict[str, pa.DataType], path: str, other: str) -> None:
    for name in first.keys() | found.keys():
        if name not in first or name not in found:
            has, lacks = (path, other) if name in first else (other, path)
            raise JobError(f"input.path: column `{name}` is in {label(has)} but not in {label(lacks)}")
        if not first[name].equals(found[name]):
            raise JobError(
                f"input.path: column `{name}` is {first[name]} in {label(path)} but {found[name]} in {label(other)}"
            )


def _check_key_type(column: str, fields: dict[str, pa.DataType]) -> None:
    if column not in fields:
        raise JobError(f"input.key: no row has a column `{column}`")
    of = fields[column].value_type if pa.types.is_dictionary(fields[column]) else fields[column]
    if not (pa.types.is_integer(of) or of in (pa.string(), pa.large_string(), pa.string_view())):
        raise JobError(f"input.key: column `{column}` is {fields[column]}; expected strings or integers")


def _survey_file(file: pq.ParquetFile, path: str, keys: KeyCheck | None) -> InputFile:
    with _reading(path), Path(path).open("rb") as stored:
        stat = os.fstat(stored.fileno())
        sha256 = hashlib.file_digest(stored, "sha256").hexdigest()
    rows = 0
    for group in range(file.metadata.num_row_groups):
        for batch in _batches(file, path, group):
            if keys is not None:
                values, numbers = _key_values(batch, keys.column, rows)
                keys.add(values, numbers, path)
            rows += batch.num_rows
    return InputFile(path=path, size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=sha256, rows=rows)


def _key_values(batch: pa.RecordBatch, column: str, first: int) -> tuple[list[object], list[int]]:
    """Take the keys that can be read, with their rows; `first` is the batch's first row in its file."""
    values, problems = _python_values(_column(batch, column), None)
    good = [at for at in range(len(values)) if at not in problems]
    return [values[at] for at in good], [first + at for at in good]


def _places(paths: Sequence[str], column: str) -> Iterator[Place]:
    for path in paths:
        with closing(_open(path)) as file:
            row = 0
            for group in range(file.metadata.num_row_groups):
                for batch in _batches(file, path, group, [column]):
                    for value, number in zip(*_key_values(batch, column, row), strict=True):
                        yield value, number, path
                    row += batch.num_rows


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(batch.schema.get_field_index(name))


def _python_values(column: pa.Array, read_as: pa.DataType | None) -> tuple[list[object], dict[int, str]]:
    """Turn an array into Python values, and say by position why some have none; those are None."""
    try:
        return (column if read_as is None else column.cast(read_as, safe=False)).to_pylist(), {}
    except _NO_VALUE as error:
        if len(column) == 1:
            what = "not valid UTF-8" if isinstance(error, UnicodeDecodeError) else "no value Python can hold"
            return [None], {0: what}
    values: list[object] = []
    problems: dict[int, str] = {}
    for at in range(len(column)):
        one, problem = _python_values(column.slice(at, 1), read_as)
        values += one
        if problem:
            problems[at] = problem[0]
    return values, problems


def _in_microseconds(of: pa.DataType) -> pa.DataType:
    """Give the type in which a column is read: Python's times end at microseconds."""
    if pa.types.is_timestamp(of):
        return pa.timestamp("us", of.tz) if of.unit == "ns" else of
    if pa.types.is_time64(of):
        return pa.time64("us")
    if pa.types.is_duration(of):
        return pa.duration("us") if of.unit == "ns" else of
    if pa.types.is_struct(of):
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in of])
    if pa.types.is_list(of) or pa.types.is_large_list(of):
        item = of.value_field.with_type(_in_microseconds(of.value_type))
        return pa.list_(item) if pa.types.is_list(of) else pa.large_list(item)
    return of


class _FileCursor:
    """A place in a surveyed file that moves forward only; row groups it passes over are not read."""

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self._path = path
        self._names = names
        self._file = _open(path)
        about = self._file.metadata
        sizes = (about.row_group(group).num_rows for group in range(about.num_row_groups))
        self._starts: list[int] = [0, *accumulate(sizes)]
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._row = 0  # of the first of `_batch`
        self._batch: pa.RecordBatch | None = None

    def take(self, start: int, stop: int) -> Iterator[pa.RecordBatch]:
        """Read rows `start` to `stop` of the file, a stretch at a time; JobError when it ends before."""
        while start < stop:
            batch = self._batch_with(start)
            upto = min(stop, self._row + batch.num_rows)
            part = batch.slice(start - self._row, upto - start)
            rows = max(1, part.num_rows * STRETCH_BYTES // max(part.nbytes, STRETCH_BYTES))
            for at in range(0, part.num_rows, rows):
                yield part.slice(at, rows)
            start = upto

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _batch_with(self, row: int) -> pa.RecordBatch:
        while self._batch is None or row >= self._row + self._batch.num_rows:
            group = bisect_right(self._starts, row) - 1
            if group == len(self._starts) - 1:
                raise ended_early(self._path, self._starts[-1])
            if group == self._group:
                self._row += 0 if self._batch is None else self._batch.num_rows
            else:
                self._group, self._row = group, self._starts[group]
                self._batches = _batches(self._file, self._path, group, self._names)
            self._batch = next(self._batches)  # never at its end: `_batches` counts its rows
        return self._batch


class ParquetReader:
    """Reads surveyed Parquet files; a Reader. A record's values are the columns that prompts need."""

    def __init__(self, survey: Survey, needs: Needs) -> None:
        self._files = survey.files
        self._labels = labels([file.path for file in survey.files])
        self._carried = needs.carried
        used = needs.values.union(needs.carried)
        self._types: dict[str, pa.DataType] = {
            column.name: pa.ipc.read_schema(pa.py_buffer(column.ipc)).field(0).type
            for column in survey.columns
            if column.name in used
        }
        self._read_as: dict[str, pa.DataType | None] = {}
        for name, of in self._types.items():
            if name in needs.values:
                plain = _in_microseconds(of)
                self._read_as[name] = None if plain.equals(of) else plain

    def stretches(self, wanted: Iterable[range]) -> Iterator[Stretch]:
        """Read the wanted rows, in order, as `Reader` says; files that hold none of them are not opened."""
        for file, group in groupby(spans(self._files, wanted), key=lambda span: span.file):
            with closing(_FileCursor(self._files[file].path, tuple(self._types))) as cursor:
                for span in group:
                    done = 0
                    for batch in cursor.take(span.start, span.stop):
                        self._check_types(batch, self._files[file].path)
                        place = self._labels[file], span.start + done
                        arrays = {name: cast("Sequence[object]", _column(batch, name)) for name in self._carried}
                        yield Stretch(records=self._records(batch, span.row + done, place), columns=arrays)
                        done += batch.num_rows

    def _check_types(self, batch: pa.RecordBatch, path: str) -> None:
        for name, of in self._types.items():
            at = batch.schema.get_field_index(name)
            if at < 0 or not batch.schema.field(at).type.equals(of):
                raise JobError(f"input.path: {label(path)} changed: column `{name}` was surveyed as {of}")

    def _records(self, batch: pa.RecordBatch, row: int, place: tuple[str, int]) -> list[Record]:
        """Make the records of a batch; `place` is its file's name in messages and its first row there."""
        problems: dict[int, str] = {}
        columns: list[list[object]] = []
        for name, read_as in self._read_as.items():
            values, refused = _python_values(_column(batch, name), read_as)
            columns.append(values)
            for at, what in refused.items():
                problems[at] = f"{place[0]} row {place[1] + at}: column `{name}`: {what}"
        names = tuple(self._read_as)
        rows = zip(*columns, strict=True) if columns else iter([()] * batch.num_rows)
        records = [Record(row=at, values=dict(zip(names, values, strict=True))) for at, values in enumerate(rows, row)]
        for at, problem in problems.items():
            records[at] = Record(row=row + at, values=None, problem=problem)
        return records
