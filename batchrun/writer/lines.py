"""Lines into a file that appears under its name only when it is whole, or onto a stream as they come."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO

from batchrun.errors import JobError, OutputError
from batchrun.writer.part import sync


class Lines:
    """Takes the lines of one file or stream; raises OutputError, naming it, when it can't be written.

    A closed pipe stays a BrokenPipeError: whoever read it has enough.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        """Write to `stream`, called `name` in messages."""
        self._stream = stream
        self._name = name

    def write(self, line: bytes) -> None:
        """Add one line."""
        with _translated(self._name):
            self._stream.write(line)

    def flush(self) -> None:
        """Hand on what is buffered."""
        with _translated(self._name):
            self._stream.flush()


@contextlib.contextmanager
def open_lines(path: Path) -> Generator[Lines, None, None]:
    """Write a file beside `path` and put it in place when the context ends without an error.

    What is there and is no file, such as a pipe, is written to as it is. Raises JobError for a directory.
    """
    target = path.resolve()
    if target.is_dir():
        raise JobError(f"{path} is a directory; expected the name of a file")
    in_place = target.exists() and not target.is_file()
    beside = target if in_place else target.with_name(f".{target.name}.partial")
    with _translated(str(path)):
        stream = beside.open("wb")
    try:
        with _translated(str(path)), stream:  # to close it writes what is left
            lines = Lines(stream, str(path))
            yield lines
            lines.flush()
            if not in_place:
                os.fsync(stream.fileno())
                beside.replace(target)
                sync(target.parent)
    except BaseException:
        if not in_place:
            beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def _translated(name: str) -> Generator[None, None, None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{name}: can't be written: {error.strerror}") from None
