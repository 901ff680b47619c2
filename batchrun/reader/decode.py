"""Lines of JSONL into Python values.

A stretch of plain JSON takes the fast way; one with any other line is decoded line by line, tolerantly.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NoReturn, cast

import msgspec

if TYPE_CHECKING:
    from batchrun.reader.lines import Lines

_ESCAPED_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Integers of any length are exact since msgspec 0.17.
_DECODE = msgspec.json.Decoder(dict[str, object]).decode
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Rows(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Decoded lines, each a dict, empty for one that is no JSON object.

    By position, `problems` says what is wrong with bad lines, and `replaced` which lines held text that is
    not Unicode.
    """

    values: list[dict[str, object]]
    problems: dict[int, str] = {}
    replaced: frozenset[int] = frozenset()


class _NotJsonError(ValueError):
    """Raised when a line is JSON only to a decoder that takes more than JSON."""


def _refuse_constant(name: str) -> NoReturn:
    raise _NotJsonError(f"{name} is no JSON value")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _NotJsonError("a number is out of range")
    return value


_TOLERANT = json.JSONDecoder(parse_constant=_refuse_constant, parse_float=_finite)


def decode_lines(lines: Lines, name: str) -> Rows:
    """Decode lines of the file `name`; integers are exact, duplicate keys give the last value.

    A problem names file and line and never holds the line's text.
    """
    try:
        return Rows(values=list(map(_DECODE, lines.texts)))
    except _REFUSED:
        pass
    values: list[dict[str, object]] = []
    problems: dict[int, str] = {}
    replaced: set[int] = set()
    for at, (text, number) in enumerate(zip(lines.texts, lines.numbers, strict=True)):
        value, changed = _decode_line(text)
        if isinstance(value, str):
            problems[at] = f"{name} line {number}: {value}"
            values.append({})
            continue
        if changed:
            replaced.add(at)
        values.append(value)
    return Rows(values=values, problems=problems, replaced=frozenset(replaced))


def _decode_line(line: bytes) -> tuple[dict[str, object] | str, bool]:
    """Decode one line to its object, or to what is wrong with it; and whether text in it was replaced."""
    try:
        return _DECODE(line), False
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    except RecursionError as error:
        return _problem_of(error), False
    text = line.decode("utf-8", "replace")
    try:
        value = cast("object", _TOLERANT.decode(text))
        mended = _mend(value) if _ESCAPED_SURROGATE.search(text) else value
        changed = mended != value or line != text.encode()
    except (ValueError, RecursionError) as error:
        return _problem_of(error), False
    if not isinstance(mended, dict):
        return f"expected a JSON object, got {_kind_of(mended)}", False
    return cast("dict[str, object]", mended), changed


def _problem_of(error: ValueError | RecursionError) -> str:
    match error:
        case json.JSONDecodeError():
            # What follows the colon in some of these messages is text of the line.
            what = error.msg.partition(":")[0].removesuffix(" at")
            return f"not JSON: {what} at character {error.pos + 1}"
        case _NotJsonError():
            return f"not JSON: {error}"
        case RecursionError():
            return "not JSON: nested too deeply"
        case _:
            return "not JSON: an integer has too many digits"


def _mend(value: object) -> object:
    """Replace each lone surrogate in all strings and keys by U+FFFD."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [_mend(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, object]", value).items()
        return {_SURROGATE.sub("\ufffd", key): _mend(item) for key, item in items}
    return value


def _kind_of(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "a number"
