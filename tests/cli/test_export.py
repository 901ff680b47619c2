"""`batchrun export`: one line for each row, where it was asked for, and a word about rows that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from made_outputs import completed, failed, make_output

from batchrun.cli.main import cli
from batchrun.errors import BatchrunError, JobError

OUTCOMES = [completed(row) if row % 5 else failed(row, http_status=400) for row in range(30)]
IDS = [f"request-{row}" for row in range(30)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_output(tmp_path / "out", OUTCOMES, carried={"custom_id": IDS, "n": list(range(30))}, rows_per_part=7)


def export(*words: str | Path) -> None:
    cli(["export", "--format", "openai-batch", *map(str, words)], standalone_mode=False)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_all_lines_go_to_standard_output_in_row_order(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(out)
    told = capfd.readouterr()
    lines = lines_of(told.out)
    assert [line["custom_id"] for line in lines] == IDS
    assert [line["error"] is not None for line in lines] == [row % 5 == 0 for row in range(30)]
    assert told.err == ""


def test_failed_rows_go_to_a_file_of_their_own_where_one_is_named(
    out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    export(out, "--output", tmp_path / "results.jsonl", "--errors", tmp_path / "errors.jsonl")
    assert capfd.readouterr() == ("", "")
    good = lines_of((tmp_path / "results.jsonl").read_text())
    bad = lines_of((tmp_path / "errors.jsonl").read_text())
    assert [line["custom_id"] for line in good] == [name for row, name in enumerate(IDS) if row % 5]
    assert [line["custom_id"] for line in bad] == [name for row, name in enumerate(IDS) if row % 5 == 0]
    assert {line["response"]["status_code"] for line in bad} == {400}
    export(out, "--errors", tmp_path / "errors.jsonl")
    assert lines_of(capfd.readouterr().out) == good
    export(out, "--output", tmp_path / "results.jsonl", "--errors", "-")
    assert lines_of(capfd.readouterr().out) == bad


def test_a_file_for_errors_is_made_even_when_there_are_none(tmp_path: Path) -> None:
    path = make_output(tmp_path / "out.parquet", [completed(0)])
    (tmp_path / "errors.jsonl").write_text("of last night\n")
    export(path, "--output", tmp_path / "results.jsonl", "--errors", tmp_path / "errors.jsonl")
    assert (tmp_path / "errors.jsonl").read_text() == ""


def test_the_same_file_for_both_keeps_the_row_order(out: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    export(out, "--output", both, "--errors", both)
    assert [line["custom_id"] for line in lines_of(both.read_text())] == IDS


def test_another_column_names_the_rows(out: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export(out, "--key", "n")
    assert [line["custom_id"] for line in lines_of(capfd.readouterr().out)] == [str(row) for row in range(30)]


def test_a_partial_output_is_exported_as_far_as_it_stands(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = make_output(tmp_path / "out", OUTCOMES, rows_per_part=10, written=[0, 2])
    export(path)
    told = capfd.readouterr()
    assert [line["custom_id"] for line in lines_of(told.out)] == [f"row-{row}" for row in (*range(10), *range(20, 30))]
    assert told.err == f"batchrun: {path} is partial: it holds 20 of 30 rows as yet\n"


def test_without_a_record_of_the_run_only_a_gap_is_sure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = make_output(tmp_path / "out", OUTCOMES, rows_per_part=10, written=[0, 1], rows_noted=None)
    export(path)
    assert "whether more rows are to come is not known" in capfd.readouterr().err
    (path / "part-000000.parquet").unlink()
    export(path)
    assert "it holds 10 of 20 rows as yet" in capfd.readouterr().err
    single = make_output(tmp_path / "one.parquet", OUTCOMES, rows_noted=None)
    export(single)
    assert capfd.readouterr().err == ""


def test_what_is_wrong_is_told_and_nothing_is_written(
    out: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "results.jsonl"
    for words in (
        (tmp_path / "nope", "--output", target),
        (out, "--output", target, "--key", "nope"),
        (out, "--output", target, "--errors", out / "errors.jsonl"),
        (out, "--output", out / "part-000000.parquet"),
        (out / "part-000000.parquet", "--output", out / "part-000000.parquet"),
        (out, "--output", tmp_path),
    ):
        with pytest.raises(JobError):
            export(*words)
    with pytest.raises(BatchrunError) as unwritable:
        export(out, "--output", tmp_path / "none" / "results.jsonl")
    assert unwritable.value.status == 7
    assert not target.exists()
    assert capfd.readouterr().out == ""


def test_the_format_must_be_named_and_known(out: Path) -> None:
    for words in (["export", str(out)], ["export", str(out), "--format", "csv"]):
        with pytest.raises(click.UsageError):
            cli(words, standalone_mode=False)
