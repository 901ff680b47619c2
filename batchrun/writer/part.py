"""The outcomes and carried columns of consecutive rows into one Parquet file, written beside, synced and checked."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
# pyarrow has no complete types

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.errors import OutputError
from batchrun.model.outcome import Outcome
from batchrun.writer.schema import Layout, joined_batch, output_schema
from batchrun.writer.spool import SpooledPart

ROW_GROUP_BYTES = 64 * 1024 * 1024
SLICE_ROWS = 256


class WrittenPart(msgspec.Struct, frozen=True, kw_only=True):
    """A part file that is whole and synced; its rows counted by status and error class."""

    rows: int
    sha256: str
    by_status: Mapping[str, int]
    by_error_class: Mapping[str, int]
    unpriced: int


class PartWriter:
    """Writes the parts of one output."""

    def __init__(self, layout: Layout, *, run_id: str, compression: str) -> None:
        """Fix the schema."""
        self._layout = layout
        self._compression = compression
        self._schema = output_schema(layout, run_id=run_id)

    def write(
        self,
        path: Path,
        rows: range,
        outcomes: Iterator[Outcome],
        carried: SpooledPart,
        old: Path | None,
    ) -> WrittenPart:
        """Write the rows of one part to `path`.

        `outcomes` come in row order. `carried` are the carried columns of all `rows`. Rows without an outcome are
        taken as they stand from the part file `old`. Raises OutputError when the file can't be written or rows are
        missing.
        """
        try:
            return self._write(path, self._batches(rows, outcomes, carried, old), len(rows))
        except (OSError, pa.ArrowException) as error:
            path.unlink(missing_ok=True)
            raise OutputError(f"{path}: can't write the part: {_reason(error)}") from None

    def _batches(
        self, rows: range, outcomes: Iterator[Outcome], carried: SpooledPart, old: Path | None
    ) -> Iterator[pa.RecordBatch]:
        if old is not None:
            yield from self._merged(rows, outcomes, carried, old)
        elif not self._layout.carried:
            while some := list(islice(outcomes, SLICE_ROWS)):
                yield joined_batch([], some, self._layout, self._schema)
        else:
            for batch in carried.batches():
                some = list(islice(outcomes, batch.num_rows))
                if len(some) < batch.num_rows:
                    raise OutputError(f"rows {rows.start} to {rows.stop - 1}: an outcome is missing in the ledger")
                yield joined_batch(batch.columns, some, self._layout, self._schema)

    def _merged(
        self, rows: range, outcomes: Iterator[Outcome], carried: SpooledPart, old: Path
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of an old part, those that have a new outcome put in their places."""
        before = pq.read_table(old).select(self._schema.names).replace_schema_metadata(self._schema.metadata)
        held = pa.Table.from_batches(carried.batches()).combine_chunks() if self._layout.carried else None
        at = rows.start
        for some in _runs(outcomes):
            first = some[0].row
            yield from before.slice(at - rows.start, first - at).to_batches()
            place = first - rows.start
            arrays = [] if held is None else [c.chunk(0).slice(place, len(some)) for c in held.columns]
            yield joined_batch(arrays, some, self._layout, self._schema)
            at = first + len(some)
        yield from before.slice(at - rows.start, rows.stop - at).to_batches()

    def _write(self, path: Path, batches: Iterable[pa.RecordBatch], rows: int) -> WrittenPart:
        tally = _Tally(self._layout.prefix)
        with pq.ParquetWriter(path, self._schema, compression=self._compression) as writer:
            held: list[pa.RecordBatch] = []
            held_bytes = 0
            for batch in batches:
                tally.add(batch)
                held.append(batch)
                held_bytes += batch.nbytes
                if held_bytes >= ROW_GROUP_BYTES:
                    self._flush(writer, held)
                    held, held_bytes = [], 0
            if held or not rows:
                self._flush(writer, held)
        sync(path)
        _check(path, self._schema, rows)
        return WrittenPart(
            rows=rows,
            sha256=digest_of(path),
            by_status=dict(tally.by_status),
            by_error_class=dict(tally.by_error_class),
            unpriced=tally.unpriced,
        )

    def _flush(self, writer: pq.ParquetWriter, held: list[pa.RecordBatch]) -> None:
        table = pa.Table.from_batches(held, schema=self._schema)
        writer.write_table(table, row_group_size=max(1, table.num_rows))


class _Tally:
    """Counts the rows of a part as they pass."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.by_status: Counter[str] = Counter()
        self.by_error_class: Counter[str] = Counter()
        self.unpriced = 0

    def add(self, batch: pa.RecordBatch) -> None:
        statuses = batch.column(self._prefix + "status").to_pylist()
        costless = batch.column(self._prefix + "cost_usd").is_null().to_pylist()
        self.by_status.update(statuses)
        self.by_error_class.update(batch.column(self._prefix + "error_class").drop_null().to_pylist())
        self.unpriced += sum(without and status != "failed" for status, without in zip(statuses, costless, strict=True))


def _runs(outcomes: Iterator[Outcome]) -> Iterator[list[Outcome]]:
    """Group outcomes of consecutive rows, at most SLICE_ROWS together."""
    run: list[Outcome] = []
    for outcome in outcomes:
        if run and (outcome.row != run[-1].row + 1 or len(run) == SLICE_ROWS):
            yield run
            run = []
        run.append(outcome)
    if run:
        yield run


def _check(path: Path, schema: pa.Schema, rows: int) -> None:
    """Raise OutputError unless the closed file has a footer with the schema and all rows."""
    with pq.ParquetFile(path) as written:
        if written.metadata.num_rows != rows:
            raise OutputError(f"{path}: {written.metadata.num_rows} rows were written, expected {rows}")
        if not written.schema_arrow.equals(schema):
            raise OutputError(f"{path}: the schema on disk is not the one that was written")


def sync(path: Path) -> None:
    """Force a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
