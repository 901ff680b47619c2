"""What a reply says about waiting into seconds (PROTOCOL.md 2.3); what can't be read counts as absent. Pure."""

# Without `from __future__ import annotations`: the text of each field would be compiled again, in 40 µs (measured).

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, NamedTuple, cast

from batchrun.client.body import as_object
from batchrun.job.duration import AMOUNT, UNIT, UNIT_S, go_duration_s

Source = Literal["retry-after-ms", "retry-after", "body", "remaining", "reset", "text"]
_Reading = Callable[[str], float | None]

_WORD_S = {"second": 1.0, "sec": 1.0, "minute": UNIT_S["m"], "min": UNIT_S["m"], "hour": UNIT_S["h"]} | {
    "day": UNIT_S["d"],
    "millisecond": UNIT_S["ms"],
}
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
# The others are compiled when they are first looked for: few runs need them.
_PROTO_DURATION = f"{AMOUNT}s"
_RFC3339 = r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
_TEXT = (
    rf"\b(?:retry|try again) (?:after|in) +"
    rf"(?:(?P<go>(?:{AMOUNT}{UNIT})+)|(?P<amount>{AMOUNT})(?: ?(?P<unit>[a-z\u00b5\u03bc]+))?)"
    r"(?![\w:/-]|[.,][0-9])"
)
_REMAINING = r"(?:rate|token)limit.*remaining"
_WEEKDAY = "[A-Z][a-z]{2,8}"
_NOTHING = frozenset(["", "none", "null", "-1"])
_LONGEST_COUNT_S = 1e8
_FIRST_EPOCH_S, _LAST_EPOCH_S, _FIRST_EPOCH_MS = 1e9, 1e11, 1e12
_THROTTLED = 429
_MOST_TEXT = 8000


class Hint(NamedTuple):
    """The wait that a server asks for, in seconds, > 0 and finite, and where it says so."""

    wait_s: float
    source: Source


class Said(NamedTuple):
    """An error reply as far as waits go: header names in lower case, the error its body holds, and its own time."""

    status: int
    headers: Mapping[str, str]
    error: Mapping[str, object]
    message: str
    now: datetime


def hint_of(
    status: int, headers: Mapping[str, str], error: Mapping[str, object], message: str, *, now: datetime
) -> Hint | None:
    """Return the first wait of the precedence of PROTOCOL.md 2.3 that can be read, or None.

    Dates are counted from the reply's own Date where there is one, else from `now`, an aware time.
    """
    said = Said(status, headers, error, message, _date(headers.get("date", "")) or now)
    for source, read in PRECEDENCE:
        wait_s = read(said)
        if wait_s is not None and 0 < wait_s < math.inf:
            return Hint(wait_s, source)
    return None


def unreadable_hints(headers: Mapping[str, str], *, now: datetime) -> tuple[str, ...]:
    """Return the names of the headers that should hold a wait and hold nonsense, so that it can be told."""
    readings: tuple[tuple[str, _Reading], ...] = (
        ("retry-after-ms", _number),
        ("retry-after", lambda text: _seconds(text, now)),
        ("x-ratelimit-reset", lambda text: _reset(text, now)),
    )
    return tuple(
        name
        for name, read in readings
        if any(read(part) is None and part.lower() not in _NOTHING for part in _members(headers.get(name, "")))
    )


def _in_milliseconds(said: Said) -> float | None:
    value = _longest(said.headers.get("retry-after-ms"), _number)
    return None if value is None else value / 1000


def _in_seconds(said: Said) -> float | None:
    """Read what the server asks for, else what a LiteLLM proxy hands on from the model behind it."""
    asked = _longest(said.headers.get("retry-after"), lambda text: _seconds(text, said.now))
    if asked is not None:
        return asked
    return _longest(said.headers.get("llm_provider-retry-after"), lambda text: _seconds(text, said.now))


def _in_body(said: Said) -> float | None:
    """Read `availability.retry_after`, `RetryInfo.retryDelay`, or the reset that OpenRouter repeats in its body."""
    wait = as_object(said.error.get("availability")).get("retry_after")
    if isinstance(wait, int | float) and not isinstance(wait, bool) and 0 < wait < _FIRST_EPOCH_MS:
        return float(wait)
    details = said.error.get("details")
    for one in cast("list[object]", details) if isinstance(details, list) else []:
        fields = as_object(one)
        delay = fields.get("retryDelay") if str(fields.get("@type")).endswith("RetryInfo") else None
        if isinstance(delay, str) and re.fullmatch(_PROTO_DURATION, delay) and 0 < float(delay[:-1]) < math.inf:
            return float(delay[:-1])
    repeated = as_object(as_object(said.error.get("metadata")).get("headers"))
    for name, value in repeated.items():
        if name.lower() == "x-ratelimit-reset" and isinstance(value, str | int):
            return _longest(str(value), lambda text: _reset(text, said.now))
    return None


def _of_empty_dimension(said: Said) -> float | None:
    """Return the longest reset of those dimensions whose remaining is 0; names drift, so they go by pattern."""
    if said.status != _THROTTLED:
        return None
    waits = [
        _longest(said.headers.get(name.replace("remaining", "reset")), lambda text: _reset(text, said.now))
        for name, value in said.headers.items()
        if re.search(_REMAINING, name) and least_known(value) == 0
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def _plain_reset(said: Said) -> float | None:
    """Read what Together suggests as the time until the next try."""
    if said.status != _THROTTLED:
        return None
    return _longest(said.headers.get("x-ratelimit-reset"), lambda text: _reset(text, said.now))


def _in_text(said: Said) -> float | None:
    waits: list[float] = []
    for found in re.finditer(_TEXT, said.message[:_MOST_TEXT].lower()):
        unit = found["unit"] or "s"
        unit_s = UNIT_S.get(unit) or _WORD_S.get(unit.removesuffix("s"))
        wait_s = go_duration_s(found["go"]) if found["go"] else unit_s and float(found["amount"]) * unit_s
        waits += [wait_s] if wait_s else []
    return max(waits, default=None)


PRECEDENCE: tuple[tuple[Source, Callable[[Said], float | None]], ...] = (
    ("retry-after-ms", _in_milliseconds),
    ("retry-after", _in_seconds),
    ("body", _in_body),
    ("remaining", _of_empty_dimension),
    ("reset", _plain_reset),
    ("text", _in_text),
)


def _longest(text: str | None, read: _Reading) -> float | None:
    """Return the most restrictive of a header's values; a repeated header is a list with commas too."""
    values = [read(part) for part in _members(text or "")]
    return max((value for value in values if value is not None and value > 0), default=None)


def least_known(text: str) -> float | None:
    """Return the least of the counts that are known; -1, None and the like are not."""
    values = [_number(part) for part in _members(text)]
    return min((value for value in values if value is not None and value >= 0), default=None)


def _members(text: str) -> Iterator[str]:
    """Yield the members of a list, without blanks and one pair of quotes; the comma in a date is no border."""
    weekday = ""
    for part in _bare(text).split(","):
        bare = _bare(part)
        if re.fullmatch(_WEEKDAY, bare):
            weekday = f"{bare}, "
            continue
        yield weekday + bare
        weekday = ""


def _bare(text: str) -> str:
    text = text.strip()
    is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" and text[0] not in text[1:-1]
    return text[1:-1].strip() if is_quoted else text


def _seconds(text: str, now: datetime) -> float | None:
    value = _number(text)
    if value is None:
        value = go_duration_s(text)
    if value is None and (dated := _date(text)) is not None:
        value = (dated - now).total_seconds()
    return value


def _reset(text: str, now: datetime) -> float | None:
    value = _number(text)
    if value is None:
        return _until_rfc3339(text, now) if re.fullmatch(_RFC3339, text) else go_duration_s(text)
    if value < _LONGEST_COUNT_S:
        return value
    if _FIRST_EPOCH_S <= value <= _LAST_EPOCH_S:
        return value - now.timestamp()
    return value / 1000 - now.timestamp() if value >= _FIRST_EPOCH_MS else None


def _until_rfc3339(text: str, now: datetime) -> float | None:
    try:
        return (datetime.fromisoformat(text.upper()) - now).total_seconds()
    except (ValueError, OverflowError):
        return None


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _date(text: str) -> datetime | None:
    """Read an HTTP-date in any of its three forms."""
    if ":" not in text:
        return None
    try:
        dated = parsedate_to_datetime(_bare(text))
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return dated if dated.tzinfo else dated.replace(tzinfo=UTC)
