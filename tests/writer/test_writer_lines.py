"""Lines into a file: whole under its name or absent, and never in the place of what is no file."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from threading import Thread
from typing import BinaryIO, cast

import pytest

from batchrun.errors import JobError, OutputError
from batchrun.writer.lines import Lines, open_lines

FULL = Path("/dev/full")


def test_a_file_appears_when_it_is_whole_and_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_text("old")
    with open_lines(path) as lines:
        lines.write(b"one\n")
        lines.flush()
        assert path.read_text() == "old"
        lines.write(b"two\n")
    assert path.read_text() == "one\ntwo\n"
    assert os.listdir(tmp_path) == ["lines.jsonl"]  # noqa: PTH208


def test_nothing_is_left_when_the_writing_ends_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"

    def cut() -> None:
        with open_lines(path) as lines:
            lines.write(b"one\n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut()
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_one(tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    file.write_text("old")
    link.symlink_to(file)
    with open_lines(link) as lines:
        lines.write(b"new\n")
    assert link.is_symlink()
    assert file.read_text() == "new\n"


def test_a_pipe_is_written_to_as_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[str] = []
    reader = Thread(target=lambda: got.append(pipe.read_text()))
    reader.start()
    with open_lines(pipe) as lines:
        lines.write(b"one\n")
    reader.join(10)
    assert got == ["one\n"]
    assert pipe.is_fifo()


def test_a_directory_and_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="is a directory"), open_lines(tmp_path):
        pass
    with pytest.raises(OutputError, match="can't be written: No such file"), open_lines(tmp_path / "none" / "x"):
        pass


class Full:
    """A stream onto a full disk, or into a closed pipe."""

    def __init__(self, number: int) -> None:
        self._number = number

    def write(self, line: bytes) -> int:
        raise OSError(self._number, os.strerror(self._number))

    def flush(self) -> None:
        self.write(b"")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no full device")
def test_a_full_device_is_an_output_error_however_late_it_shows() -> None:
    for line in (b"short", b"x" * 1_000_000):
        with pytest.raises(OutputError, match="/dev/full: can't be written: No space left"), open_lines(FULL) as lines:
            lines.write(line)
    assert FULL.is_char_device()


def test_a_full_disk_names_the_file_and_a_closed_pipe_stays_one() -> None:
    full = Lines(cast("BinaryIO", Full(errno.ENOSPC)), "results.jsonl")
    for write in (lambda: full.write(b"x"), full.flush):
        with pytest.raises(OutputError, match=r"^results\.jsonl: can't be written: No space left on device$"):
            write()
    with pytest.raises(BrokenPipeError):
        Lines(cast("BinaryIO", Full(errno.EPIPE)), "results.jsonl").write(b"x")
