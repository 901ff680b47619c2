"""`batchrun export`: an output into the result lines of a batch API, for tools that were made for those."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

from batchrun.cli.say import say
from batchrun.errors import JobError
from batchrun.prompt.openai_batch import CUSTOM_ID
from batchrun.writer.lines import Lines, open_lines
from batchrun.writer.openai_batch import result_line
from batchrun.writer.standing import Standing, find_output, read_rows

STDOUT = "-"


def export_output(path: str, *, output: str, errors: str | None, key: str | None) -> None:
    """Write the lines of an output's rows, in row order, to `output`; error lines to `errors` where it is given.

    Both are files, or `-` for standard output. Raises JobError when `path` is no output of batchrun's or a file would
    lie in it, and OutputError when a file can't be written.
    """
    standing = find_output(Path(path), key=key, default_key=CUSTOM_ID)
    names = (output, output if errors is None else errors)
    _refuse_own_files(Path(path), names)
    with contextlib.ExitStack() as stack:
        opened = {name: _open(stack, name) for name in dict.fromkeys(names)}
        last = _write(standing, opened[names[0]], opened[names[1]])
    if (note := _note(path, standing, last)) is not None:
        say(f"batchrun: {note}")


def _open(stack: contextlib.ExitStack, name: str) -> Lines:
    if name == STDOUT:
        return Lines(sys.stdout.buffer, "standard output")
    return stack.enter_context(open_lines(Path(name)))


def _write(standing: Standing, lines: Lines, error_lines: Lines) -> int:
    """Write all lines; return the last row, -1 where there is none."""
    last = -1
    for row in read_rows(standing):
        line = result_line(row)
        (error_lines if line.is_error else lines).write(line.text)
        last = row.row
    for sink in (lines, error_lines):
        sink.flush()
    return last


def _refuse_own_files(path: Path, names: Iterable[str]) -> None:
    """Raise JobError where a file would be written onto the output or among its parts."""
    for name in names:
        if name != STDOUT and Path(name).resolve().is_relative_to(path.resolve()):
            raise JobError(f"{name} lies in the output; choose a place outside of it")


def _note(path: str, standing: Standing, last: int) -> str | None:
    """Return what is to be known of rows that are not there, None when all are."""
    rows = max(standing.rows_asked or 0, last + 1)
    if standing.rows < rows:
        return f"{path} is partial: it holds {standing.rows:,} of {rows:,} rows as yet"
    if standing.rows_asked is None and not standing.is_single:
        return f"{path}: the record of its run is not here, so whether more rows are to come is not known"
    return None
