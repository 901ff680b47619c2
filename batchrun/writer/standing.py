"""An output as it stands on disk into its rows, in order: takes no lock and opens no ledger.

Part files appear whole under their names, so what is read is right even while a run goes on; rows whose part is not
written yet are missing.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
# pyarrow has no complete types

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.errors import JobError
from batchrun.job.places import Places, places_at
from batchrun.writer.schema import PREFIX_KEY, RAW, RUN_ID_KEY

SLICE_ROWS = 256
SLICE_BYTES = 4 << 20


class StandingRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of an output, as far as its reply goes; fields have the names of columns (SPEC.md, section 3).

    `key` is the text of the column that names the row, None where that is null or there is no such column.
    `finished_at` is in microseconds since 1970 UTC, `run_id` names the run that wrote the row's file.
    """

    row: int
    status: str
    completion: str | None
    reasoning: str | None
    tool_calls: str | None
    finish_reason: str | None
    model: str | None
    response_id: str | None
    http_status: int | None
    finished_at: int | None
    error_class: str | None
    error_message: str | None
    usage_json: str | None
    run_id: str
    key: str | None
    response_json: str | None = None


_NAMES = tuple(name for name in StandingRow.__struct_fields__ if name not in {RAW[0], "run_id", "key"})


class StandingFile(msgspec.Struct, frozen=True, kw_only=True):
    """One Parquet file of an output."""

    path: Path
    run_id: str
    rows: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An output's files in row order, and how many rows there are to be.

    `prefix` is that of the columns which batchrun added, `key` the column that names each row, None for none.
    `rows_asked` is what the latest record of the run says, None where there is none. `is_single` says that the output
    is one file, which appears only when it is complete.
    """

    files: Sequence[StandingFile]
    prefix: str
    key: str | None
    keeps_raw: bool
    rows_asked: int | None
    is_single: bool

    @property
    def rows(self) -> int:
        """Rows in all files."""
        return sum(file.rows for file in self.files)


class _Record(msgspec.Struct):
    """What progress.json and summary.json both say."""

    run_id: str
    rows: int


def find_output(path: Path, *, key: str | None, default_key: str) -> Standing:
    """Look at the output at `path`, a directory or a `.parquet` file, finished or not.

    Rows are named by column `key`, or by `default_key` where that is None and there is such a column. Raises JobError
    when there is no output of batchrun's, nothing of it is written yet, or the key is no column of strings or ints.
    """
    places = places_at(str(path))
    if path.is_file():
        paths = [path]
    else:
        paths = sorted(places.parts.glob("part-*.parquet"), key=lambda part: (len(part.name), part.name))
        if not paths and not places.home.is_dir():
            what = "holds no part files" if path.exists() else "does not exist"
            raise JobError(f"{path} {what}; expected the output of a run, a directory or a .parquet file")
        if not paths:
            raise JobError(f"{path}: no part of this output is written yet")
    if places.publishing.exists():
        raise JobError(f"{path}: a fresh output is just being put in its place; try again when the run has ended")
    files, schemas = zip(*map(_look_at, paths), strict=True)
    prefixes = {_noted(schema, PREFIX_KEY) for schema in schemas}
    if len(prefixes) > 1:
        raise JobError(f"{path}: its files have different columns; expected the output of one job")
    prefix = prefixes.pop()
    names = {name for schema in schemas for name in schema.names}
    chosen = key or (default_key if default_key in names else None)
    for file, schema in zip(files, schemas, strict=True):
        _check_columns(file.path, schema, [prefix + name for name in _NAMES], chosen)
    return Standing(
        files=files,
        prefix=prefix,
        key=chosen,
        keeps_raw=all(prefix + RAW[0] in schema.names for schema in schemas),
        rows_asked=_rows_asked(places, {file.run_id for file in files}),
        is_single=path.is_file(),
    )


def read_rows(standing: Standing) -> Iterator[StandingRow]:
    """Yield the rows of all files, in order; what is held in memory does not grow with them.

    Raises JobError when a file can't be read, or rows don't ascend.
    """
    last = -1
    for file in standing.files:
        for row in _rows_of(file, standing):
            if row.row <= last:
                raise JobError(f"{file.path}: row {row.row} comes after row {last}; is the output being replaced?")
            last = row.row
            yield row


def _look_at(path: Path) -> tuple[StandingFile, pa.Schema]:
    try:
        about = pq.read_metadata(path)
        schema = about.schema.to_arrow_schema()
    except (OSError, pa.ArrowException) as error:
        raise JobError(f"{path} can't be read as Parquet: {_reason(error)}") from None
    run_id = _noted(schema, RUN_ID_KEY)
    if not run_id:
        raise JobError(f"{path} was not written by batchrun")
    return StandingFile(path=path, run_id=run_id, rows=about.num_rows), schema


def _noted(schema: pa.Schema, name: str) -> str:
    noted: Mapping[bytes, bytes] = schema.metadata or {}
    return noted.get(name.encode(), b"").decode("utf-8", "replace")


def _check_columns(path: Path, schema: pa.Schema, needed: Sequence[str], key: str | None) -> None:
    for name in needed:
        if name not in schema.names:
            raise JobError(f"{path} has no column `{name}`; expected an output of batchrun as it was written")
    if key is None:
        return
    if key not in schema.names:
        raise JobError(f"{path} has no column `{key}`; it has {', '.join(schema.names)}")
    of = schema.field(key).type
    of = of.value_type if pa.types.is_dictionary(of) else of
    if not (pa.types.is_integer(of) or of in (pa.string(), pa.large_string(), pa.string_view())):
        raise JobError(f"{path}: column `{key}` is {of}; expected strings or integers to name the rows by")


def _rows_asked(places: Places, run_ids: set[str]) -> int | None:
    """Return the rows of the run's range; progress is younger than the summary where both are of this output."""
    for path in (places.progress, places.summary):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=_Record)
        except (OSError, msgspec.DecodeError):
            continue
        if record.run_id in run_ids:
            return record.rows
    return None


def _rows_of(file: StandingFile, standing: Standing) -> Iterator[StandingRow]:
    names = (*_NAMES, RAW[0]) if standing.keeps_raw else _NAMES
    columns = {name: standing.prefix + name for name in names}
    needed = {*columns.values(), *([standing.key] if standing.key else [])}
    try:
        with pq.ParquetFile(file.path) as source:
            for batch in _batches(source, sorted(needed)):
                values = [_values(batch.column(column)) for column in columns.values()]
                keys = batch.column(standing.key).to_pylist() if standing.key else [None] * batch.num_rows
                for key, *row in zip(keys, *values, strict=True):
                    fields = {**dict(zip(names, row, strict=True)), "run_id": file.run_id}
                    yield msgspec.convert({**fields, "key": None if key is None else str(key)}, StandingRow)
    except (OSError, pa.ArrowException, msgspec.ValidationError) as error:
        raise JobError(f"{file.path} can't be read: {_reason(error)}") from None


def _batches(source: pq.ParquetFile, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield slices of at most SLICE_ROWS rows, fewer where rows are large."""
    for group in range(source.num_row_groups):
        about = source.metadata.row_group(group)
        rows = max(1, min(SLICE_ROWS, SLICE_BYTES * about.num_rows // max(about.total_byte_size, 1)))
        yield from source.iter_batches(rows, row_groups=[group], columns=names, use_threads=False)


def _values(column: pa.Array) -> list[object]:
    values: list[object] = (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()
    return values


def _reason(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
