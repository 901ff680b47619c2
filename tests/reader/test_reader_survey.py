"""Which files an input is, and in which format and order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from reader_inputs import survey, write_jsonl, write_parquet, write_text

from batchrun.errors import JobError
from batchrun.job.settings import InputSettings
from batchrun.reader.survey import find_files, survey_input, would_take


def touch(folder: Path, *names: str) -> None:
    for name in names:
        write_text(folder / name, b"")


def found(path: Path | str, base: Path) -> list[str]:
    return [os.path.relpath(match, base) for match in find_files(str(path))[1]]


def test_a_directory_gives_supported_files_of_all_depths_but_not_hidden_ones(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b.jsonl",
        "a.NDJSON",
        "deep/er/c.jsonl.gz",
        "deep/d.ndjson.zst",
        "e.jsonl.bz2",
        "f.txt",
        "g.json",
    )
    touch(tmp_path, "_SUCCESS.jsonl", ".x.jsonl", "_batchrun/y.jsonl", "deep/.git/z.jsonl")
    assert found(tmp_path, tmp_path) == ["a.NDJSON", "b.jsonl", "deep/d.ndjson.zst", "deep/er/c.jsonl.gz"]


def test_paths_are_in_byte_order(tmp_path: Path) -> None:
    names = ["a-b.jsonl", "a.jsonl", "a/x.jsonl", "B.jsonl", "é.jsonl", "\U0001f600.jsonl", "\uffee.jsonl"]
    touch(tmp_path, *names)
    assert found(tmp_path, tmp_path) == sorted(names, key=os.fsencode)


def test_a_glob_takes_files_only_and_no_hidden_names_but_spelled_ones(tmp_path: Path) -> None:
    touch(tmp_path, "1/a.jsonl", "2/a.jsonl", "2/_a.jsonl", "_raw/a.jsonl", "2/x.jsonl/b.jsonl", "3/a.txt")
    assert found(tmp_path / "*" / "*", tmp_path) == ["1/a.jsonl", "2/a.jsonl"]
    assert found(tmp_path / "**", tmp_path) == ["1/a.jsonl", "2/a.jsonl", "2/x.jsonl/b.jsonl"]
    assert found(tmp_path / "_raw" / "*.jsonl", tmp_path) == ["_raw/a.jsonl"]
    assert found(tmp_path / "[12]" / "?.jsonl", tmp_path) == ["1/a.jsonl", "2/a.jsonl"]


def test_a_path_that_exists_is_no_glob(tmp_path: Path) -> None:
    touch(tmp_path, "part[1].jsonl", "part1.jsonl", "d*r/a.jsonl", "dir/b.jsonl")
    assert found(tmp_path / "part[1].jsonl", tmp_path) == ["part[1].jsonl"]
    assert found(tmp_path / "d*r", tmp_path) == ["d*r/a.jsonl"]


def test_a_file_is_taken_as_it_is(tmp_path: Path) -> None:
    touch(tmp_path, "_hidden.jsonl")
    assert found(tmp_path / "_hidden.jsonl", tmp_path) == ["_hidden.jsonl"]


def test_a_given_format_takes_a_file_of_any_suffix_and_its_compression(tmp_path: Path) -> None:
    whole = write_jsonl(tmp_path / "rows.jsonl.gz", [{"a": 1}]).read_bytes()
    (tmp_path / "rows.txt.gz").write_bytes(whole)
    settings = InputSettings(path=str(tmp_path / "rows.txt.gz"), format="jsonl")
    assert survey_input(settings).column_names() == ("a",)


def test_mixed_formats_ask_for_one_and_it_chooses(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [{"a": 1}])
    write_parquet(tmp_path / "b.parquet", [{"b": 1}])
    with pytest.raises(JobError, match=r"^input.path: .*both JSONL and Parquet files; set input.format"):
        survey(tmp_path)
    assert survey_input(InputSettings(path=str(tmp_path), format="parquet")).column_names() == ("b",)


@pytest.mark.parametrize("name", ["missing.jsonl", "no*thing", "empty", "a.txt", "a.txt/b", "nul\0"])
def test_a_path_with_nothing_to_read_is_named(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.txt", "empty/a.txt")
    with pytest.raises(JobError, match=r"^input.path: ") as caught:
        survey(f"{tmp_path}/{name}")
    assert name.strip("\0") in str(caught.value)


def test_what_is_neither_file_nor_directory_is_refused(tmp_path: Path) -> None:
    """A pipe could not be read twice."""
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(JobError, match="neither a file nor a directory"):
        survey(tmp_path / "rows.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", ""])
def test_what_may_not_be_read_is_named(tmp_path: Path, name: str) -> None:
    locked = tmp_path / "locked"
    write_jsonl(locked / "rows.jsonl", [{"a": 1}])
    write_parquet(locked / "rows.parquet", [{"a": 1}])
    (locked / name).chmod(0)
    try:
        with pytest.raises(JobError, match=r"^input.path: .*locked.*Permission denied"):
            survey(locked / name)
    finally:
        (locked / name).chmod(0o700)


def test_a_file_name_that_is_not_unicode_is_read_and_shown_as_unicode(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jsonl")
    write_text(Path(path), b'{"a":1}\n{"a":\n')
    assert survey(tmp_path).rows == 2
    write_text(Path(path), b'{"k":1}\n{"k":1}\n')
    with pytest.raises(JobError) as caught:
        survey(tmp_path, "k")
    assert "\ufffd.jsonl:1" in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize("pattern", [
    "", "*", "**", "*.parquet", "**/*.parquet", "*/*", "*/*.parquet", "a/**", "a/**/b/*", "**/b/**", "_raw/*", "[x]*",
    "*/_raw/*.parquet", "out.parquet", "a*/?.parquet", "**/**", "**/a/**/*.parquet", "x.parquet*", "*.jsonl",
])  # fmt: skip
def test_what_an_input_would_take_is_what_it_takes_once_it_is_there(tmp_path: Path, pattern: str) -> None:
    path = str(tmp_path / pattern)
    (tmp_path / "keep").mkdir()
    for name in ("x.parquet", "out.parquet", "a/x.parquet", "a/b/x.parquet", "a/c/b/d/e.parquet", "_raw/x.parquet",
                 "a/_raw/x.parquet", "_x.parquet", "a/.x.parquet", "x.jsonl", "x.parquet.bak"):  # fmt: skip
        candidate = tmp_path / name
        foreseen = would_take(path, candidate)
        touch(tmp_path, name)
        try:
            taken = str(candidate) in map(os.path.normpath, find_files(path)[1])
        except JobError:
            taken = False
        single = pattern == name  # a file that is named is no glob: that is looked at elsewhere
        assert foreseen == (taken and not single), name
        candidate.unlink()


def test_a_file_of_another_format_is_taken_unless_the_format_is_said(tmp_path: Path) -> None:
    """Beside JSONL files it would make the input unreadable."""
    touch(tmp_path, "rows.jsonl")
    assert would_take(str(tmp_path / "*"), tmp_path / "all.parquet")
    assert not would_take(str(tmp_path / "*"), tmp_path / "all.parquet", "jsonl")
    assert not would_take(str(tmp_path / "*.jsonl"), tmp_path / "all.parquet")
