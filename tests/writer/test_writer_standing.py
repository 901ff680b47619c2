"""Outputs as they stand: found by their path, read in row order, refused when they are none of ours."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_outputs import RUN_ID, completed, failed, make_output, reply

from batchrun.errors import JobError
from batchrun.job.places import places_at
from batchrun.writer.standing import Standing, find_output, read_rows

OUTCOMES = [completed(row) if row % 7 else failed(row) for row in range(50)]
KEYS = [f"key {row}" for row in range(50)]


def found(path: Path, key: str | None = None) -> Standing:
    return find_output(path, key=key, default_key="custom_id")


def refusal(path: Path, key: str | None = None) -> str:
    with pytest.raises(JobError) as refused:
        list(read_rows(found(path, key)))
    return str(refused.value)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
@pytest.mark.parametrize("prefix", ["", "llm_"])
def test_all_rows_in_order_from_parts_and_from_one_file(tmp_path: Path, name: str, prefix: str) -> None:
    path = make_output(tmp_path / name, OUTCOMES, carried={"custom_id": KEYS}, rows_per_part=20, prefix=prefix)
    standing = found(path)
    assert (standing.rows, standing.rows_asked, standing.prefix, standing.key) == (50, 50, prefix, "custom_id")
    assert (standing.is_single, len(standing.files)) == ((True, 1) if name == "out.parquet" else (False, 3))
    rows = list(read_rows(standing))
    assert [row.row for row in rows] == list(range(50))
    assert [row.key for row in rows] == KEYS
    assert [row.completion for row in rows] == [f"text {row}" if row % 7 else None for row in range(50)]
    assert {row.run_id for row in rows} == {RUN_ID}


def test_parts_beyond_a_million_come_last(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out", OUTCOMES, rows_per_part=25)
    (path / "part-000001.parquet").rename(path / "part-1000000.parquet")
    (path / "part-000000.parquet").rename(path / "part-999999.parquet")
    assert [row.row for row in read_rows(found(path))] == list(range(50))


def test_parts_of_a_single_file_that_is_not_there_yet(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out.parquet", OUTCOMES, rows_per_part=20, written=[0, 2])
    standing = found(path)
    assert (standing.rows, standing.rows_asked, standing.is_single) == (30, 50, False)
    assert [row.row for row in read_rows(standing)] == [*range(20), *range(40, 50)]


def test_the_newest_record_of_the_same_run_says_how_many_rows_there_are_to_be(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out", OUTCOMES)
    places = places_at(str(path))
    for run_id, rows in (("another run", 50), (RUN_ID, 700)):
        places.progress.write_text(json.dumps({"run_id": run_id, "rows": 700}))
        assert found(path).rows_asked == rows
    places.progress.write_text("{")
    places.summary.unlink()
    assert found(path).rows_asked is None


def test_an_output_of_no_rows(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out", OUTCOMES[:1])
    table = pq.read_table(path / "part-000000.parquet")
    pq.write_table(table.slice(0, 0), path / "part-000000.parquet")
    assert list(read_rows(found(path))) == []


def test_keys_are_strings_or_integers_as_text(tmp_path: Path) -> None:
    carried = {"id": [7, None, 9], "name": ["a", "b", None]}
    path = make_output(tmp_path / "out", OUTCOMES[:3], carried=carried)
    assert [row.key for row in read_rows(found(path, "id"))] == ["7", None, "9"]
    assert [row.key for row in read_rows(found(path, "name"))] == ["a", "b", None]
    assert [row.key for row in read_rows(found(path))] == [None, None, None]
    assert refusal(path, "nope").startswith(
        f"{path / 'part-000000.parquet'} has no column `nope`; it has id, name, row"
    )
    assert refusal(path, "latency_ms").endswith(
        "column `latency_ms` is double; expected strings or integers to name the rows by"
    )


def test_a_named_key_goes_before_the_default(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out", OUTCOMES[:2], carried={"custom_id": ["a", "b"], "id": [1, 2]})
    assert found(path).key == "custom_id"
    assert [row.key for row in read_rows(found(path, "id"))] == ["1", "2"]


def test_kept_bodies_are_read_where_they_are(tmp_path: Path) -> None:
    outcomes = [completed(0, reply(raw="{}"))]
    kept = make_output(tmp_path / "kept", outcomes, keep_raw=True, prefix="p_")
    assert [row.response_json for row in read_rows(found(kept))] == ["{}"]
    assert [row.response_json for row in read_rows(found(make_output(tmp_path / "not", outcomes)))] == [None]


def test_what_is_no_output_of_ours(tmp_path: Path) -> None:
    assert refusal(tmp_path / "nope") == (
        f"{tmp_path / 'nope'} does not exist; expected the output of a run, a directory or a .parquet file"
    )
    assert "holds no part files" in refusal(tmp_path)
    text = tmp_path / "text.jsonl"
    text.write_text("{}\n")
    assert refusal(text).startswith(f"{text} can't be read as Parquet: ")
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"a": [1]}), foreign)
    assert refusal(foreign) == f"{foreign} was not written by batchrun"
    (tmp_path / "begun" / "_batchrun").mkdir(parents=True)
    assert refusal(tmp_path / "begun") == f"{tmp_path / 'begun'}: no part of this output is written yet"


def test_an_output_whose_columns_were_taken_away(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out.parquet", OUTCOMES)
    pq.write_table(pq.read_table(path).drop_columns(["usage_json"]), path)
    assert "has no column `usage_json`" in refusal(path)


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out", OUTCOMES, rows_per_part=25)
    part = path / "part-000001.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert refusal(path).startswith(f"{part} can't be read")
    part.write_bytes(b"PAR1" + b"\xff" * 400 + whole[404:])
    assert refusal(path).startswith(f"{part} can't be read")


def test_an_output_that_is_being_replaced(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out", OUTCOMES, rows_per_part=25)
    places = places_at(str(path))
    places.publishing.write_text('{"parts": 2}')
    assert "a fresh output is just being put in its place" in refusal(path)
    places.publishing.unlink()
    (path / "part-000001.parquet").write_bytes((path / "part-000000.parquet").read_bytes())
    assert "row 0 comes after row 24" in refusal(path)


def test_parts_with_different_prefixes_are_of_different_jobs(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out", OUTCOMES[:20], rows_per_part=20)
    other = make_output(tmp_path / "other", OUTCOMES[:20], rows_per_part=20, prefix="p_")
    (path / "part-000001.parquet").write_bytes((other / "part-000000.parquet").read_bytes())
    assert "its files have different columns" in refusal(path)


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """2,000 rows of 20 kB are read in far less than they hold."""
    path = make_output(tmp_path / "out", [completed(row, reply(f"{row} " * 4000)) for row in range(2000)])
    standing = found(path)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    most = 0
    for _ in read_rows(standing):
        most = max(most, pa.total_allocated_bytes() - before)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12_000_000
    assert most < 60_000_000
