"""The outcomes and carried columns of consecutive rows into one Parquet file, written beside, synced and checked."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false
# pyarrow has no complete types

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.errors import OutputError
from batchrun.model.outcome import Completion, Outcome
from batchrun.writer.schema import Layout, Values, distinct_columns, joined_batch, output_schema, values_of
from batchrun.writer.spool import SpooledPart

ROW_GROUP_BYTES = 64 * 1024 * 1024
SLICE_ROWS, OLD_SLICE_ROWS = 2048, 4096
SLICE_BYTES = 4 * 1024 * 1024
"""Rows and bytes that are in hand as Python values, or decoded, beside the row group that is being filled."""


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
        self._repeating = [leaf for leaf in _leaves(self._schema) if leaf not in distinct_columns(layout)]

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
        """Yield the rows in order, each with its outcome or, where it has none, as it stands in the old part."""
        held = _Pieces(carried.batches())
        before = _Pieces(_old_batches(old, self._schema) if old is not None else iter(()))
        at = rows.start
        for first, some in _runs(outcomes):
            yield from _standing(before, range(at, first))
            held.pass_over(first - at)
            yield from self._joined(held, some)
            before.pass_over(len(some))
            at = first + len(some)
        yield from _standing(before, range(at, rows.stop))

    def _joined(self, held: _Pieces, some: list[Values]) -> Iterator[pa.RecordBatch]:
        """Yield consecutive rows beside their carried columns."""
        if not self._layout.carried:
            yield joined_batch([], some, self._layout, self._schema)
            return
        done = 0
        for pieces in _gathered(held.take(len(some))):
            columns = [pa.concat_arrays([piece.column(at) for piece in pieces]) for at in range(pieces[0].num_columns)]
            upto = done + sum(piece.num_rows for piece in pieces)
            yield joined_batch(columns, some[done:upto], self._layout, self._schema)
            done = upto

    def _write(self, path: Path, batches: Iterable[pa.RecordBatch], rows: int) -> WrittenPart:
        tally = _Tally(self._layout.prefix)
        with pq.ParquetWriter(
            path, self._schema, compression=self._compression, use_dictionary=self._repeating
        ) as writer:
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
        """Count a batch; without Arrow's compute functions, which take 30 ms to import."""
        statuses = batch.column(self._prefix + "status").to_pylist()
        errors, costs = batch.column(self._prefix + "error_class"), batch.column(self._prefix + "cost_usd")
        self.by_status.update(statuses)
        if errors.null_count < len(errors):
            self.by_error_class.update(error for error in errors.to_pylist() if error is not None)
        if costs.null_count:
            priced = zip(statuses, costs.to_pylist(), strict=True)
            self.unpriced += sum(cost is None and status != "failed" for status, cost in priced)


class _Pieces:
    """A place in batches of rows that moves forward only."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._left: pa.RecordBatch | None = None

    def take(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the next `rows` rows, not copied; fewer where there are no more."""
        while rows:
            if self._left is None or not self._left.num_rows:
                self._left = next(self._batches, None)
                if self._left is None:
                    return
            piece = self._left.slice(0, rows)
            self._left = self._left.slice(piece.num_rows)
            rows -= piece.num_rows
            yield piece

    def pass_over(self, rows: int) -> None:
        """Go `rows` rows on, or to the end."""
        for _ in self.take(rows):
            pass


def _gathered(pieces: Iterator[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Gather pieces to about SLICE_BYTES: what is done once for each slice costs as much as hundreds of short rows."""
    some: list[pa.RecordBatch] = []
    some_bytes = 0
    for piece in pieces:
        some.append(piece)
        some_bytes += piece.nbytes
        if some_bytes >= SLICE_BYTES:
            yield some
            some, some_bytes = [], 0
    if some:
        yield some


def _leaves(schema: pa.Schema) -> list[str]:
    """Return what Parquet calls the columns of a schema, those inside nested ones too."""
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, schema):
        pass
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    return [leaves.column(at).path for at in range(len(leaves))]


def _standing(before: _Pieces, rows: range) -> Iterator[pa.RecordBatch]:
    """Yield rows as they stand in the old part; raises OutputError when it does not hold them."""
    missing = len(rows)
    for piece in before.take(missing):
        missing -= piece.num_rows
        yield piece
    if missing:
        raise OutputError(f"rows {rows.start} to {rows.stop - 1}: an outcome is missing in the ledger")


def _old_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Read a part file in slices, with the columns of `schema`."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            about = file.metadata.row_group(group)
            size = min(OLD_SLICE_ROWS, SLICE_BYTES * about.num_rows // max(1, about.total_byte_size))
            for batch in file.iter_batches(max(1, size), row_groups=[group], use_threads=False):
                yield pa.RecordBatch.from_arrays([batch.column(name) for name in schema.names], schema=schema)


def _runs(outcomes: Iterator[Outcome]) -> Iterator[tuple[int, list[Values]]]:
    """Group outcomes of consecutive rows, at most SLICE_ROWS and about SLICE_BYTES; each group with its first row."""
    first = chars = 0
    run: list[Values] = []
    for outcome in outcomes:
        if run and (outcome.row != first + len(run) or len(run) == SLICE_ROWS or chars >= SLICE_BYTES):
            yield first, run
            run, chars = [], 0
        if not run:
            first = outcome.row
        run.append(values_of(outcome))
        chars += _chars_of(outcome)
    if run:
        yield first, run


def _chars_of(outcome: Outcome) -> int:
    """Return the length of all that may be long in an outcome."""
    if not isinstance(outcome, Completion):
        return len(outcome.raw or "")
    reply = outcome.reply
    return len(reply.text or "") + len(reply.reasoning or "") + len(reply.tool_calls or "") + len(reply.raw or "")


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
