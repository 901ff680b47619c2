"""The first lines of a file that is no JSONL into what it is. Pure."""

from __future__ import annotations

import re

from batchrun.errors import JobError
from batchrun.reader.source import label

EXPECTED = "expected JSON lines: a JSON object on each line, in UTF-8, each line ended by LF"
# No line that is JSON begins like one of these; compiled when a file is looked at, which is once.
_MARKS = (
    (rb"\xff\xfe\x00\x00|\x00\x00\xfe\xff|\{\x00\x00\x00[^\x00]|\x00\x00\x00\{", "text in UTF-32"),
    (rb"\xff\xfe|\xfe\xff|\{\x00[^\x00]\x00|\x00\{\x00[^\x00]", "text in UTF-16"),
    (rb"PAR1", "a Parquet file"),
    (rb"\x1f\x8b", "compressed by gzip"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd"),
)
_OBJECT = rb"[ \t]*\{[ \t]*[\"}]"
_NEXT_AFTER_CR = rb"\}[ \t]*\r[ \t\r]*\{"


def refuse_foreign(path: str, lines: list[bytes]) -> None:
    """Raise JobError, saying what the file is, where its first lines can't be JSONL's.

    Where one of the others begins like an object, the first is no UTF-16 but a bad line among lines, which is a row.
    """
    if not lines:
        return
    is_what = next((what for mark, what in _MARKS if re.match(mark, lines[0])), None)
    if is_what is None and len(lines) == 1 and re.search(_NEXT_AFTER_CR, lines[0]):
        is_what = "text whose lines end in CR alone"
    if is_what is not None and is_what.startswith("text") and any(re.match(_OBJECT, line) for line in lines[1:]):
        return
    if is_what is not None:
        raise JobError(f"input.path: {label(path)} is {is_what}; {EXPECTED}")
