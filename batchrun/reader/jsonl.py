"""JSONL files into a survey of them, and into stretches of records."""

from __future__ import annotations

import hashlib
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from batchrun.errors import JobError
from batchrun.model.record import Column, InputFile, Record, Stretch, Survey
from batchrun.reader.columns import ColumnTypes, fit
from batchrun.reader.decode import Rows, decode_lines
from batchrun.reader.foreign import EXPECTED, refuse_foreign
from batchrun.reader.lines import LineCursor, Lines, read_blocks
from batchrun.reader.source import Needs, label, labels, spans

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from batchrun.reader.keys import KeyCheck, Place

    RefusalOf = Callable[[Mapping[str, object]], str | None]


def survey_jsonl(paths: Sequence[str], keys: KeyCheck | None = None) -> Survey:
    """Scan all files once, in the order given: rows, digests, column kinds and, if asked, keys.

    A bad line counts as a row without values. Raises JobError when a file can't be read or is no text in UTF-8, its
    compressed data is torn, or the keys are no keys.
    """
    types = ColumnTypes()
    files = tuple(_survey_file(path, name, types, keys) for path, name in zip(paths, labels(paths), strict=True))
    survey = Survey(format="jsonl", files=files, columns=types.columns(), key=keys.column if keys else None)
    if keys is not None:
        if survey.rows and keys.column not in survey.column_names():
            refuse_without_objects(survey)
            raise JobError(f"input.key: no row has a column `{keys.column}`")
        keys.finish(lambda: _places(paths, keys.column))
    return survey


def refuse_without_objects(survey: Survey) -> None:
    """Raise JobError, saying what is wrong with the first line, where lines were surveyed and none has a column."""
    if survey.columns or not survey.rows:
        return
    first = next(JsonlReader(survey, Needs(values=frozenset(), carried=())).stretches([range(1)]))
    if (problem := first.records[0].problem) is not None:
        raise JobError(f"input.path: {problem}; {EXPECTED}")


def _survey_file(path: str, name: str, types: ColumnTypes, keys: KeyCheck | None) -> InputFile:
    try:
        stat = Path(path).stat()
    except OSError as error:
        raise JobError(f"input.path: {label(path)} can't be read: {error.strerror}") from None
    digest = hashlib.sha256()
    count = 0
    for block in read_blocks(path, digest.update):
        if not count:
            refuse_foreign(path, block.texts)
        count += len(block.texts)
        for lines in block.stretches():
            rows = decode_lines(lines, name)
            types.add(rows.values)
            if keys is not None:
                found, numbers = _key_values(rows, lines, keys.column)
                keys.add(found, numbers, path)
    return InputFile(path=path, size=stat.st_size, mtime_ns=stat.st_mtime_ns, sha256=digest.hexdigest(), rows=count)


def _key_values(rows: Rows, lines: Lines, column: str) -> tuple[list[object], Sequence[int]]:
    """Take the key of each line, None where it is missing, with the line's number; bad lines have none."""
    if not rows.problems:
        return [value.get(column) for value in rows.values], lines.numbers
    good = [at for at in range(len(rows.values)) if at not in rows.problems]
    return [rows.values[at].get(column) for at in good], [lines.numbers[at] for at in good]


def _places(paths: Sequence[str], column: str) -> Iterator[Place]:
    for path in paths:
        for block in read_blocks(path):
            for lines in block.stretches():
                values, numbers = _key_values(decode_lines(lines, path), lines, column)
                for value, number in zip(values, numbers, strict=True):
                    yield value, number, path


class JsonlReader:
    """Reads surveyed JSONL files; a Reader. A record's values are all of its line's, whatever is needed."""

    def __init__(self, survey: Survey, needs: Needs, refusal_of: RefusalOf | None = None) -> None:
        """Read what was surveyed; `refusal_of` says why a JSON object is a bad line all the same."""
        columns = {column.name: column for column in survey.columns}
        self._refusal_of = refusal_of
        self._files = survey.files
        self._names = labels([file.path for file in survey.files])
        self._carried: tuple[Column, ...] = tuple(columns[name] for name in needs.carried)

    def stretches(self, wanted: Iterable[range]) -> Iterator[Stretch]:
        """Read the wanted rows, in order, as `Reader` says; files that hold none of them are not opened."""
        for file, group in groupby(spans(self._files, wanted), key=lambda span: span.file):
            with closing(LineCursor(self._files[file].path)) as cursor:
                for span in group:
                    row = span.row
                    for lines in cursor.take(span.start, span.stop):
                        yield self._stretch(self._decoded(lines, self._names[file]), row)
                        row += len(lines.texts)

    def _decoded(self, lines: Lines, name: str) -> Rows:
        rows = decode_lines(lines, name)
        if self._refusal_of is None:
            return rows
        problems = dict(rows.problems)
        for at, (value, number) in enumerate(zip(rows.values, lines.numbers, strict=True)):
            if at not in problems and (refusal := self._refusal_of(value)) is not None:
                problems[at] = f"{name} line {number}: {refusal}"
        return msgspec.structs.replace(rows, problems=problems) if problems else rows

    def _stretch(self, rows: Rows, row: int) -> Stretch:
        return Stretch(
            records=_records(rows, row),
            columns={
                column.name: fit([value.get(column.name) for value in rows.values], column) for column in self._carried
            },
        )


def _records(rows: Rows, row: int) -> list[Record]:
    if not rows.problems and not rows.replaced:
        return [Record(row=at, values=values) for at, values in enumerate(rows.values, row)]
    return [
        Record(
            row=row + at,
            values=None if at in rows.problems else values,
            problem=rows.problems.get(at),
            replaced=at in rows.replaced,
        )
        for at, values in enumerate(rows.values)
    ]
