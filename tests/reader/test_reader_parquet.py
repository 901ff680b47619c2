"""The rules of Parquet: types kept, columns selected, files alike, damage found."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reader_inputs import carried, kinds, records, stretches, survey, write_parquet

from batchrun.errors import JobError
from batchrun.reader.source import Needs
from batchrun.reader.survey import open_reader

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.model.record import Column

AT = dt.datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=dt.UTC)
TABLE = pa.table(
    {
        "list": pa.array([["a", None], [], None], pa.list_(pa.string())),
        "struct": pa.array([{"x": 1, "y": [{"z": "q"}]}, None, {"x": None, "y": None}]),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int32())),
        "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
        "at": pa.array([AT, None, AT], pa.timestamp("us", "UTC")),
        "decimal": pa.array([Decimal("1.50"), None, Decimal("-2.25")], pa.decimal128(10, 2)),
        "large": pa.array(["x", "y", None], pa.large_string()),
        "bytes": pa.array([b"\x00", None, b"\xff"]),
        "small": pa.array([1, 2, None], pa.uint8()),
        "nothing": pa.nulls(3),
    }
)


def of(column: Column) -> pa.Field:
    return pa.ipc.read_schema(pa.py_buffer(column.ipc)).field(0)


def test_every_type_is_carried_as_it_is(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "rows.parquet")
    found = survey(tmp_path / "rows.parquet")
    assert set(kinds(found).values()) == {"arrow"}
    (stretch,) = stretches(found)
    for column in found.columns:
        assert of(column) == pa.field(column.name, TABLE.schema.field(column.name).type)
        array = stretch.columns[column.name]
        assert isinstance(array, pa.Array)
        assert array.equals(TABLE[column.name].combine_chunks()) or column.name == "dictionary"
        assert array.type == TABLE.schema.field(column.name).type
    assert carried(found) == TABLE.to_pydict()


def test_prompts_get_python_values(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "rows.parquet")
    assert [record.values for record in records(survey(tmp_path))] == TABLE.to_pylist()


def test_nanoseconds_reach_prompts_as_microseconds_also_inside_lists(tmp_path: Path) -> None:
    """pyarrow alone would refuse them, or hand out a pandas type where pandas is installed."""
    times = pa.array([1_700_000_000_123_456_789, None], pa.timestamp("ns", "UTC"))
    nested = pa.array([[{"t": 1}], None], pa.list_(pa.struct([("t", pa.duration("ns"))])))
    pq.write_table(pa.table({"at": times, "nested": nested}), tmp_path / "rows.parquet")
    found = survey(tmp_path)
    first, second = records(found)
    at = dt.datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=dt.UTC)
    assert first.values == {"at": at, "nested": [{"t": dt.timedelta(0)}]}
    assert type(first.values["at"]) is dt.datetime
    assert second.values == {"at": None, "nested": None}
    assert of(found.columns[0]).type == pa.timestamp("ns", "UTC")
    assert stretches(found)[0].columns["at"].equals(times)


def test_field_metadata_and_nullability_are_not_part_of_a_column(tmp_path: Path) -> None:
    field = pa.field("a", pa.int64(), nullable=False, metadata={"note": "x"})
    pq.write_table(pa.table({"a": [1]}, schema=pa.schema([field], {"pandas": "{}"})), tmp_path / "rows.parquet")
    schema = pa.ipc.read_schema(pa.py_buffer(survey(tmp_path).columns[0].ipc))
    assert schema.field(0).nullable
    assert not schema.metadata
    assert not schema.field(0).metadata


@pytest.mark.parametrize("wanted", [("a.b",), ("a",), ("a.b", "a"), ("a", "a.b"), ("a.b.c", "a.b")])
def test_names_with_dots_are_names(tmp_path: Path, wanted: tuple[str, ...]) -> None:
    """Column `a.b` is not field b of column `a`."""
    rows: list[dict[str, object]] = [{"a": {"b": at, "c": [at]}, "a.b": -at, "a.b.c": str(at)} for at in range(5)]
    found = survey(write_parquet(tmp_path / "rows.parquet", rows))
    needs = Needs(values=frozenset(wanted), carried=wanted)
    (stretch,) = open_reader(found, needs).stretches([range(5)])
    expected = [{name: row[name] for name in wanted} for row in rows]
    assert [record.values for record in stretch.records] == expected
    assert {name: array.to_pylist() for name, array in stretch.columns.items()} == {
        name: [row[name] for row in rows] for name in wanted
    }


def test_only_needed_columns_become_values(tmp_path: Path) -> None:
    found = survey(write_parquet(tmp_path / "rows.parquet", [{"a": 1, "b": 2, "c": 3}]))
    needs = Needs(values=frozenset({"b", "nope"}), carried=("c",))
    (stretch,) = open_reader(found, needs).stretches([range(1)])
    assert stretch.records[0].values == {"b": 2}
    assert list(stretch.columns) == ["c"]


def test_files_may_order_their_columns_differently(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", [{"a": 1, "b": "x"}])
    write_parquet(tmp_path / "2.parquet", [{"b": "y", "a": 2}])
    found = survey(tmp_path)
    assert carried(found) == {"a": [1, 2], "b": ["x", "y"]}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1}, r"column `b` is in .*1.parquet but not in .*2.parquet"),
        ({"a": 1, "b": "y", "c": 1}, r"column `c` is in .*2.parquet but not in .*1.parquet"),
        ({"a": 1, "b": 2}, r"column `b` is string in .*1.parquet but int64 in .*2.parquet"),
    ],
)
def test_files_with_other_columns_are_refused(tmp_path: Path, row: dict[str, object], message: str) -> None:
    write_parquet(tmp_path / "1.parquet", [{"a": 1, "b": "x"}])
    write_parquet(tmp_path / "2.parquet", [row])
    with pytest.raises(JobError, match=r"^input.path: " + message):
        survey(tmp_path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "rows.parquet")
    with pytest.raises(JobError, match=r"rows\.parquet has more than one column `a`"):
        survey(tmp_path)


def test_files_without_rows_or_row_groups(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.int64())])
    pq.ParquetWriter(tmp_path / "1.parquet", schema).close()
    write_parquet(tmp_path / "2.parquet", [], schema)
    write_parquet(tmp_path / "3.parquet", [{"a": 1}], schema)
    with pq.ParquetWriter(tmp_path / "4.parquet", schema) as writer:
        for rows in ([], [{"a": 2}], [], [{"a": 3}], []):
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
    found = survey(tmp_path)
    assert [file.rows for file in found.files] == [0, 0, 1, 2]
    assert carried(found) == {"a": [1, 2, 3]}
    empty = survey(tmp_path / "1.parquet", key="a")
    assert (empty.rows, empty.column_names(), stretches(empty)) == (0, ("a",), [])


@pytest.mark.parametrize("compression", ["snappy", "zstd", "none"])
def test_a_damaged_row_group_is_found_by_the_survey(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"a": [f"text {at}" for at in range(3000)]})
    pq.write_table(
        table,
        path,
        row_group_size=1000,
        compression=compression,
        write_page_checksum=True,
        use_dictionary=False,
    )
    chunk = pq.read_metadata(path).row_group(1).column(0)
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    stored = bytearray(path.read_bytes())
    stored[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(stored)
    with pytest.raises(JobError, match=r"^input.path: row group 1 of .*rows.parquet can't be read"):
        survey(path)


def test_a_torn_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [{"a": at} for at in range(3000)])
    whole = path.read_bytes()
    for kept in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(JobError, match=r"^input.path: .*rows.parquet can't be read"):
            survey(path)


def test_a_row_group_that_is_not_wanted_is_not_read(tmp_path: Path) -> None:
    """Damage done after the survey shows only where it is read."""
    path = write_parquet(tmp_path / "rows.parquet", [{"a": f"text {at}"} for at in range(300)], group=100)
    found = survey(path)
    chunk = pq.read_metadata(path).row_group(1).column(0)
    stored = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    stored[start : start + 200] = b"\xff" * 200
    path.write_bytes(stored)
    assert [record.row for record in records(found, range(98, 100), range(200, 202))] == [98, 99, 200, 201]
    with pytest.raises(JobError, match="row group 1"):
        records(found, range(150, 151))


def test_a_row_of_invalid_utf8_fails_alone(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff\xfe", None, b"fine"])
    text = pa.Array.from_buffers(pa.string(), 4, raw.buffers())
    pq.write_table(pa.table({"n": [1, 2, 3, 4], "text": text}), tmp_path / "rows.parquet")
    found = survey(tmp_path)
    read = records(found)
    assert [record.values and record.values["text"] for record in read] == ["good", None, None, "fine"]
    assert [record.problem for record in read] == [
        None,
        "rows.parquet row 1: column `text`: not valid UTF-8",
        None,
        None,
    ]
    assert read[1].values is None
    assert stretches(found)[0].columns["n"].to_pylist() == [1, 2, 3, 4]


def test_large_rows_come_in_small_stretches(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"a": chr(65 + at % 26) * 1_000_000} for at in range(40)]
    found = survey(write_parquet(tmp_path / "rows.parquet", rows))
    sizes = [len(stretch.records) for stretch in stretches(found)]
    assert max(sizes) <= 5
    assert carried(found)["a"] == [row["a"] for row in rows]


def test_a_column_that_changed_type_since_the_survey_is_named(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [{"a": 1}])
    found = survey(path)
    write_parquet(path, [{"a": "x"}])
    with pytest.raises(JobError, match="changed: column `a` was surveyed as int64"):
        records(found)
    write_parquet(path, [{"b": 1}])
    with pytest.raises(JobError, match="changed: column `a`"):
        records(found)


def test_a_large_row_group_is_never_held_whole(tmp_path: Path) -> None:
    """pyarrow would read a row group whole before it hands out the first of its rows."""
    noise = random.Random(0)
    texts = [noise.randbytes(800).hex() for _ in range(15_000)]
    write_parquet(tmp_path / "rows.parquet", [{"text": text} for text in texts], group=len(texts))
    before = pa.total_allocated_bytes()
    held = []
    found = survey(tmp_path)
    for stretch in open_reader(found, Needs(values=frozenset({"text"}), carried=("text",))).stretches([range(15_000)]):
        held.append(pa.total_allocated_bytes() - before)
        assert [record.values for record in stretch.records] == [
            {"text": texts[record.row]} for record in stretch.records
        ]
    assert max(held) < (tmp_path / "rows.parquet").stat().st_size / 2, held[:3]
