"""The input named in a job into its files, one survey of them all, and a reader of what was surveyed."""

from __future__ import annotations

import glob
import os
import stat
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from batchrun.errors import JobError
from batchrun.prompt.openai_batch import CUSTOM_ID
from batchrun.reader.jsonl import JsonlReader, survey_jsonl
from batchrun.reader.keys import KeyCheck
from batchrun.reader.openai_batch import open_openai_batch, survey_openai_batch
from batchrun.reader.parquet import ParquetReader, survey_parquet
from batchrun.reader.source import Needs, Reader, label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from batchrun.job.settings import InputSettings
    from batchrun.model.record import InputFormat, Survey

_SUFFIXES: tuple[tuple[str, InputFormat], ...] = (
    *((stem + packed, "jsonl") for stem in (".jsonl", ".ndjson") for packed in ("", ".gz", ".zst")),
    (".parquet", "parquet"),
)
_NEVER_GUESSED: Mapping[InputFormat, InputFormat] = {"openai-batch": "jsonl"}
"""Formats that must be named, and the one whose suffixes their files have."""
_SUPPORTED = "a .jsonl, .ndjson (also .gz, .zst) or .parquet file"


def find_files(path: str, input_format: InputFormat | None = None) -> tuple[InputFormat, list[str]]:
    """Find the input files of a path, in byte order of their paths, and their format.

    A file is taken as it is. A directory is searched to its depths, and a glob (`**` included) is matched,
    for supported suffixes, of the given format if there is one; names that start with `_` or `.` are skipped,
    unless the glob spells them out as a folder. Raises JobError when there is nothing to read, or more than
    one format.
    """
    try:
        mode = Path(path).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except ValueError:
        raise JobError(f"input.path: {path!r} is no path") from None
    except OSError as error:
        _refuse(path, error)
    if stat.S_ISDIR(mode):
        found = list(_walk(path))
    elif mode:
        if not stat.S_ISREG(mode):
            raise JobError(f"input.path: {label(path)} is neither a file nor a directory")
        return _format_of_one(path, input_format), [path]
    elif glob.has_magic(path):
        matches = glob.iglob(path, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = [match for match in matches if _is_taken(path, match)]
    else:
        raise JobError(f"input.path: {label(path)} does not exist; expected a file, a directory or a glob")
    return _pick(path, found, input_format)


def _refuse(path: str, error: OSError) -> NoReturn:
    raise JobError(f"input.path: {label(path)} can't be read: {error.strerror}") from None


def _format_of(path: str) -> InputFormat | None:
    name = Path(path).name.lower()
    return next((of for suffix, of in _SUFFIXES if name.endswith(suffix)), None)


def _format_of_one(path: str, input_format: InputFormat | None) -> InputFormat:
    found = input_format or _format_of(path)
    if found is None:
        raise JobError(f"input.path: {label(path)} is not {_SUPPORTED}; rename it or set input.format")
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith(("_", "."))


def _walk(directory: str) -> Iterator[str]:
    def refuse(error: OSError) -> NoReturn:
        _refuse(error.filename, error)

    for folder, folders, names in os.walk(directory, onerror=refuse):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        for name in names:
            path = Path(folder, name)
            if not _is_hidden(name) and path.is_file():
                yield str(path)


def _is_taken(pattern: str, match: str) -> bool:
    """Whether a match is a file, and none of its names is hidden but those that the pattern spells out."""
    spelled = {*Path(pattern).parts[:-1], ".."}
    found = Path(match)
    return found.is_file() and not any(_is_hidden(name) and name not in spelled for name in found.parts)


def would_take(path: str, candidate: Path, input_format: InputFormat | None = None) -> bool:
    """Whether a directory or glob would take in a file, were it there, or could not be read because of it."""
    of = _format_of(candidate.name)
    parts = (*Path(path).parts, "**") if Path(path).is_dir() else Path(path).parts
    plain = next((at for at, part in enumerate(parts) if glob.has_magic(part)), None)
    if of is None or input_format not in {None, of} or plain is None:
        return False
    base, found = Path(*parts[:plain]).resolve(), candidate.parent.resolve() / candidate.name
    if not found.is_relative_to(base):
        return False
    names, patterns = found.relative_to(base).parts, parts[plain:]
    hidden = [name for name in names if _is_hidden(name) and name not in patterns[:-1]]
    return not hidden and _matches(names, patterns)


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether names match patterns one by one, where `**` stands for any number of names."""
    if not patterns:
        return not names
    if patterns[0] == "**":
        return any(_matches(names[at:], patterns[1:]) for at in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], patterns[0]) and _matches(names[1:], patterns[1:])


def _pick(path: str, found: list[str], input_format: InputFormat | None) -> tuple[InputFormat, list[str]]:
    formats: dict[str, InputFormat] = {match: of for match in found if (of := _format_of(match)) is not None}
    present = set(formats.values())
    if input_format is None and len(present) > 1:
        raise JobError(f"input.path: {label(path)} holds both JSONL and Parquet files; set input.format")
    wanted: InputFormat | None = input_format or (present.pop() if present else None)
    named = None if wanted is None else _NEVER_GUESSED.get(wanted, wanted)
    files = sorted((match for match, of in formats.items() if of == named), key=os.fsencode)
    if wanted is None or not files:
        asked = f" and input.format is {input_format}" if input_format else ""
        raise JobError(f"input.path: nothing to read in {label(path)}; expected {_SUPPORTED}{asked}")
    return wanted, files


def survey_input(settings: InputSettings, *, known: Survey | None = None) -> Survey:
    """Look at the whole input once: files, rows, digests, column types, and whether the key is unique.

    The key of an openai-batch input is `custom_id`. `known`, a survey of an earlier run, is returned as it is
    when format, key, and path, size and mtime of every file are the same. Raises JobError when the input can't be
    found or read, or its keys are no keys.
    """
    found, paths = find_files(settings.path, settings.format)
    key = CUSTOM_ID if found == "openai-batch" else settings.key
    if known is not None and _is_same(known, found, key, paths):
        return known
    if key is None:
        return survey_jsonl(paths) if found == "jsonl" else survey_parquet(paths)
    unit = "row" if found == "parquet" else "line"
    with closing(KeyCheck(key, unit=unit, strings_only=found == "openai-batch")) as keys:
        return _SCANS[found](paths, keys)


_SCANS: Mapping[InputFormat, Callable[[Sequence[str], KeyCheck], Survey]] = {
    "jsonl": survey_jsonl,
    "parquet": survey_parquet,
    "openai-batch": survey_openai_batch,
}


def _is_same(known: Survey, found: InputFormat, key: str | None, paths: list[str]) -> bool:
    if (known.format, known.key, [file.path for file in known.files]) != (found, key, paths):
        return False
    for file in known.files:
        try:
            now = Path(file.path).stat()
        except OSError as error:
            _refuse(file.path, error)
        if (now.st_size, now.st_mtime_ns) != (file.size, file.mtime_ns):
            return False
    return True


def open_reader(survey: Survey, needs: Needs) -> Reader:
    """Make a reader of what was surveyed; raises JobError when a column to carry was not seen."""
    missing = [name for name in needs.carried if name not in survey.column_names()]
    if missing:
        raise JobError(f"output.columns: no row has a column `{missing[0]}`")
    return _READERS[survey.format](survey, needs)


_READERS: Mapping[InputFormat, Callable[[Survey, Needs], Reader]] = {
    "jsonl": JsonlReader,
    "parquet": ParquetReader,
    "openai-batch": open_openai_batch,
}
