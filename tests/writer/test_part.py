"""Outcomes, carried columns and rows of an old part into one file: each row in its place, in slices of bounded size."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.errors import OutputError
from batchrun.model.attempt import Reply
from batchrun.model.outcome import Account, Completion, Failure, Outcome
from batchrun.model.record import Column, Record, Stretch
from batchrun.writer.part import ROW_GROUP_BYTES, SLICE_BYTES, SLICE_ROWS, PartWriter
from batchrun.writer.schema import Layout, Values
from batchrun.writer.spool import Spool

MB = 1 << 20
CARRYING = Layout(rows_per_part=1000, carried=(Column(name="id", kind="int64"), Column(name="text", kind="string")))
BARE = Layout(rows_per_part=1000, carried=())


def completion(row: int, text: str) -> Completion:
    return Completion(row=row, reply=Reply(status="ok", text=text), account=Account(attempts=1))


def failure(row: int) -> Failure:
    return Failure(row=row, error_class="server", message="m", account=Account(attempts=2))


def spooled(folder: Path, layout: Layout, rows: range, cuts: list[int]) -> Spool:
    """Spool `rows` in stretches that end at `cuts`."""
    spool = Spool(folder, layout)
    for start, stop in pairwise([rows.start, *sorted({cut for cut in cuts if cut in rows[1:]}), rows.stop]):
        records = [Record(row=row, values={}) for row in range(start, stop)]
        columns = {"id": list(range(start, stop)), "text": [f"text {row}" for row in range(start, stop)]}
        spool.append(0, Stretch(records=records, columns=columns))
    spool.end()
    return spool


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_every_row_has_its_new_outcome_or_stands_as_it_was(data: st.DataObject) -> None:
    """Whatever was kept, sent again and added, and wherever the input's stretches end."""
    kept = data.draw(st.integers(0, 12), label="rows of the old part")
    count = kept + data.draw(st.integers(0 if kept else 1, 6), label="rows added by a larger limit")
    again = data.draw(st.sets(st.integers(0, max(0, kept - 1))), label="rows sent again")
    layout = data.draw(st.sampled_from([CARRYING, BARE]))
    rows = range(1000, 1000 + count)
    cuts = [1000 + cut for cut in data.draw(st.lists(st.integers(1, 18), max_size=4), label="stretches end")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = PartWriter(layout, run_id="r", compression="zstd")
        old = rows[:kept]
        if kept:
            first = spooled(folder / "old", layout, old, cuts[::-1])
            writer.write(folder / "a", old, (completion(row, f"old {row}") for row in old), first.of(0), None)
        new = [row for row in rows if row - 1000 in again or row not in old]
        outcomes: list[Outcome] = [completion(row, f"new {row}") if row % 3 else failure(row) for row in new]
        spool = spooled(folder / "spool", layout, rows, cuts)
        written = writer.write(folder / "b", rows, iter(outcomes), spool.of(0), folder / "a" if kept else None)
        table = pq.read_table(folder / "b").to_pylist()
    assert [row["row"] for row in table] == list(rows)
    for row in table:
        number = row["row"]
        expected = f"old {number}" if number not in new else f"new {number}" if number % 3 else None
        assert row["completion"] == expected
        if layout is CARRYING:
            assert (row["id"], row["text"]) == (number, f"text {number}")
    failed = sum(1 for row in new if row % 3 == 0)
    assert written.by_status.get("failed", 0) == failed
    assert written.by_status.get("ok", 0) == count - failed
    assert written.rows == count


@pytest.mark.parametrize("layout", [CARRYING, BARE])
def test_a_missing_outcome_is_never_passed_over(tmp_path: Path, layout: Layout) -> None:
    rows = range(5)
    for lost in rows:
        outcomes = (completion(row, "t") for row in rows if row != lost)
        spool = spooled(tmp_path / f"spool {lost}", layout, rows, [2])
        with pytest.raises(OutputError, match="missing in the ledger"):
            PartWriter(layout, run_id="r", compression="none").write(
                tmp_path / "part", rows, outcomes, spool.of(0), None
            )


def test_row_groups_are_cut_by_bytes_and_outcomes_are_taken_as_they_are_needed(tmp_path: Path) -> None:
    """Texts of 1 MB: a group holds 64 MB and at most a slice more, new or copied from an old part."""
    rows = range(150)
    ahead: list[int] = []
    asked = 0

    def outcomes(numbers: range) -> Iterator[Outcome]:
        nonlocal asked
        for number in numbers:
            asked += 1
            yield completion(number, f"{number:07} " * (MB // 8))

    class Noting(PartWriter):
        def _joined(self, held: object, some: list[Values]) -> Iterator[object]:
            ahead.append(asked - cast("int", some[0][0]))
            return super()._joined(held, some)  # type: ignore[arg-type]

    writer = Noting(BARE, run_id="r", compression="snappy")
    spool = Spool(tmp_path / "spool", BARE)
    writer.write(tmp_path / "a", rows, outcomes(rows), spool.of(0), None)
    assert max(ahead) <= SLICE_BYTES // MB + 1
    writer.write(tmp_path / "b", rows, outcomes(rows[70:72]), spool.of(0), tmp_path / "a")
    for name in ("a", "b"):
        about = pq.read_metadata(tmp_path / name)
        sizes = [about.row_group(group).total_byte_size for group in range(about.num_row_groups)]
        assert len(sizes) == 3
        assert all(ROW_GROUP_BYTES - MB < size < ROW_GROUP_BYTES + 2 * SLICE_BYTES for size in sizes[:-1])
    assert pq.read_table(tmp_path / "b").equals(pq.read_table(tmp_path / "a"))


def test_a_dictionary_is_built_only_where_values_repeat_also_inside_a_carried_column(tmp_path: Path) -> None:
    """Nested columns are known to Parquet by the paths of their leaves, and carried ones may hold anything."""
    nested = pa.struct({"a": pa.list_(pa.string()), "b": pa.int64()})
    ipc = pa.schema([pa.field("nested", nested)]).serialize().to_pybytes()
    layout = Layout(rows_per_part=100, carried=(Column(name="nested", kind="arrow", ipc=ipc),), prefix="out_")
    rows = range(100)
    values = pa.array([{"a": ["x", "y"], "b": 1} for _ in rows], type=nested)
    spool = Spool(tmp_path / "spool", layout)
    records = [Record(row=row, values={}) for row in rows]
    spool.append(0, Stretch(records=records, columns={"nested": values}))
    spool.end()
    outcomes = (completion(row, f"text {row}") for row in rows)
    PartWriter(layout, run_id="r", compression="zstd").write(tmp_path / "part", rows, outcomes, spool.of(0), None)
    group = pq.read_metadata(tmp_path / "part").row_group(0)
    columns = [group.column(at) for at in range(group.num_columns)]
    plain = {column.path_in_schema for column in columns if not column.has_dictionary_page}
    assert plain >= {"out_row", "out_completion", "out_request_sha256", "out_started_at"}
    assert not [path for path in plain if path.startswith(("nested", "out_status", "out_attempts", "out_http_status"))]
    assert pq.read_table(tmp_path / "part").column("nested").to_pylist() == values.to_pylist()


def test_outcomes_are_joined_with_stretches_that_are_shorter_and_longer_than_a_slice(tmp_path: Path) -> None:
    rows = range(3 * SLICE_ROWS)
    spool = spooled(tmp_path / "spool", CARRYING, rows, [*range(100, SLICE_ROWS, 100), SLICE_ROWS + 1])
    outcomes = (completion(row, f"new {row}") for row in rows)
    PartWriter(CARRYING, run_id="r", compression="zstd").write(tmp_path / "part", rows, outcomes, spool.of(0), None)
    table = pq.read_table(tmp_path / "part", columns=["id", "text", "row", "completion"]).to_pylist()
    assert table == [{"id": row, "text": f"text {row}", "row": row, "completion": f"new {row}"} for row in rows]
