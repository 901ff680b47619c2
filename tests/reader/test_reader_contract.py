"""What every reader does, for both formats and every way to lay out the same rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from reader_inputs import Row, carried, records, stretches, survey, write_jsonl, write_parquet

from batchrun.errors import JobError
from batchrun.reader.source import STRETCH_ROWS, Needs
from batchrun.reader.survey import open_reader

if TYPE_CHECKING:
    from batchrun.model.record import Survey

ROWS: list[Row] = [{"id": at, "text": f"text {at}\u2028é", "score": at / 2 if at % 3 else None} for at in range(1000)]
PARTS = (ROWS[:300], [], ROWS[300:301], ROWS[301:])
Layout = Callable[[Path], str]


def one_file(suffix: str) -> Layout:
    def lay_out(folder: Path) -> str:
        return str(write_jsonl(folder / f"rows{suffix}", ROWS))

    return lay_out


def one_parquet(group: int) -> Layout:
    def lay_out(folder: Path) -> str:
        return str(write_parquet(folder / "rows.parquet", ROWS, group=group))

    return lay_out


def jsonl_parts(folder: Path) -> list[Path]:
    suffixes = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.zst")
    return [
        write_jsonl(folder / "data" / str(at // 2) / f"part-{at}{suffix}", part)
        for at, (part, suffix) in enumerate(zip(PARTS, suffixes, strict=True))
    ]


def parquet_parts(folder: Path) -> list[Path]:
    whole = write_parquet(folder / "schema.parquet", ROWS)
    schema = pq.read_schema(whole)
    return [
        write_parquet(folder / "data" / str(at // 2) / f"part-{at}.parquet", part, schema)
        for at, part in enumerate(PARTS)
    ]


def directory(parts: Callable[[Path], list[Path]]) -> Layout:
    def lay_out(folder: Path) -> str:
        parts(folder)
        return str(folder / "data")

    return lay_out


def pattern(parts: Callable[[Path], list[Path]]) -> Layout:
    def lay_out(folder: Path) -> str:
        parts(folder)
        return str(folder / "data" / "**" / "part-*")

    return lay_out


LAYOUTS: dict[str, Layout] = {
    "jsonl": one_file(".jsonl"),
    "jsonl.gz": one_file(".jsonl.gz"),
    "jsonl.zst": one_file(".jsonl.zst"),
    "parquet": one_parquet(1000),
    "parquet, small groups": one_parquet(70),
    "jsonl directory": directory(jsonl_parts),
    "parquet directory": directory(parquet_parts),
    "jsonl glob": pattern(jsonl_parts),
    "parquet glob": pattern(parquet_parts),
}


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def found(request: pytest.FixtureRequest, tmp_path: Path) -> Survey:
    return survey(request.param(tmp_path), key="id")


def test_survey_fixes_rows_columns_and_files(found: Survey) -> None:
    assert found.rows == len(ROWS)
    assert found.column_names() == ("id", "text", "score")
    assert [file.path for file in found.files] == sorted(file.path for file in found.files)
    assert all(len(file.sha256) == 64 and file.size == Path(file.path).stat().st_size for file in found.files)


def test_records_hold_every_row_in_order(found: Survey) -> None:
    read = records(found)
    assert [record.row for record in read] == list(range(len(ROWS)))
    assert [record.values for record in read] == ROWS
    assert not any(record.problem or record.replaced for record in read)


def test_carried_columns_hold_the_same_rows(found: Survey) -> None:
    assert carried(found) == {name: [row[name] for row in ROWS] for name in ROWS[0]}


WANTED = (range(3, 5), range(5, 6), range(10, 10), range(290, 700), range(990, 2000))


def test_wanted_ranges_give_the_same_records_as_reading_all(found: Survey) -> None:
    every = records(found)
    rows = [row for wanted in WANTED for row in wanted if row < len(ROWS)]
    assert records(found, *WANTED) == [every[row] for row in rows]
    assert carried(found, *WANTED)["id"] == rows


def test_stretches_stay_within_wanted_ranges_and_their_size(found: Survey) -> None:
    for stretch in stretches(found, *WANTED):
        rows = [record.row for record in stretch.records]
        assert 0 < len(rows) <= STRETCH_ROWS
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert any(rows[0] in wanted and rows[-1] in wanted for wanted in WANTED)


def test_wanted_ranges_are_taken_one_at_a_time(found: Survey) -> None:
    """A range is asked for only when the records before it were handed out."""
    taken: list[int] = []

    def wanted():  # noqa: ANN202
        for start in (0, 500):
            taken.append(start)
            yield range(start, start + 1)

    reading = open_reader(found, Needs(values=frozenset(), carried=())).stretches(wanted())
    next(reading)
    assert taken == [0]
    assert next(reading).records[0].row == 500
    assert next(reading, None) is None


def test_ranges_that_do_not_ascend_are_refused(found: Survey) -> None:
    with pytest.raises(ValueError, match="ascend"):
        stretches(found, range(5, 9), range(8, 10))


def test_no_needed_columns_still_give_every_record(found: Survey) -> None:
    reading = open_reader(found, Needs(values=frozenset(), carried=())).stretches([range(len(ROWS))])
    assert sum(len(stretch.records) for stretch in reading) == len(ROWS)


def test_only_the_needed_columns_are_carried_in_the_order_asked_for(found: Survey) -> None:
    for stretch in stretches(found, carried=("score", "id")):
        assert list(stretch.columns) == ["score", "id"]


def test_a_column_to_carry_that_no_row_has_is_refused(found: Survey) -> None:
    with pytest.raises(JobError, match="`nope`"):
        open_reader(found, Needs(values=frozenset(), carried=("nope",)))


def test_a_file_that_lost_rows_since_the_survey_is_named(found: Survey) -> None:
    last = Path(found.files[-1].path)
    shorter = ROWS[:5]
    if found.format == "jsonl":
        write_jsonl(last, shorter)
    else:
        write_parquet(last, shorter)
    with pytest.raises(JobError, match=f"{last.name} changed: it ends after 5 rows"):
        records(found)


def test_a_known_survey_of_the_same_files_is_returned_itself(found: Survey) -> None:
    path = found.files[0].path
    first = survey(path, key="id")
    assert survey(path, key="id", known=first) is first
    assert survey(path, known=first) is not first


def test_a_known_survey_is_made_anew_when_a_file_changed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", ROWS[:5])
    first = survey(path)
    write_jsonl(path, ROWS[:6])
    again = survey(path, known=first)
    assert (first.rows, again.rows) == (5, 6)
    assert first.files[0].sha256 != again.files[0].sha256
