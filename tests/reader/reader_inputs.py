"""Input files for the tests of the reader, and what a reader makes of them."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from batchrun.job.settings import InputSettings
from batchrun.reader.source import Needs
from batchrun.reader.survey import open_reader, survey_input

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.model.record import Record, Stretch, Survey

Row = dict[str, object]


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    return write_text(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def write_text(path: Path, text: bytes) -> Path:
    packed = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}.get(
        path.suffix, bytes
    )(text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed)
    return path


def write_parquet(path: Path, rows: list[Row], schema: pa.Schema | None = None, group: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=group)
    return path


def survey(path: Path | str, key: str | None = None, known: Survey | None = None) -> Survey:
    return survey_input(InputSettings(path=str(path), key=key), known=known)


def stretches(found: Survey, *wanted: range, carried: tuple[str, ...] | None = None) -> list[Stretch]:
    names = found.column_names()
    needs = Needs(values=frozenset(names), carried=names if carried is None else carried)
    return list(open_reader(found, needs).stretches(wanted or (range(found.rows),)))


def records(found: Survey, *wanted: range) -> list[Record]:
    return [record for stretch in stretches(found, *wanted) for record in stretch.records]


def carried(found: Survey, *wanted: range) -> dict[str, list[object]]:
    """All carried columns in full, as Python values."""
    columns: dict[str, list[object]] = {name: [] for name in found.column_names()}
    for stretch in stretches(found, *wanted):
        for name, values in stretch.columns.items():
            assert len(values) == len(stretch.records)
            columns[name] += values.to_pylist() if isinstance(values, pa.Array) else values
    return columns


def kinds(found: Survey) -> dict[str, str]:
    return {column.name: column.kind for column in found.columns}
