"""Header text into the wait a server asks for, in seconds (PROTOCOL.md 2.3); what can't be read counts as absent."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_Reading = Callable[[str], float | None]

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|us|µs|ns|d|h|m|s)")
_UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def wait_hint_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Return how long the server asks to wait, in seconds, > 0, or None.

    `headers` have lower-case names. A date is counted from the reply's own Date where there is one, else from
    `now`, an aware time. Of several values the longest counts.
    """
    if (value := _longest(headers.get("retry-after-ms"), _number)) is not None:
        return value / 1000 or None
    text = headers.get("retry-after")
    if text is None:
        return None
    dated = _date(text)
    if dated is not None:
        wait_s = (dated - (_date(headers.get("date", "")) or now)).total_seconds()
        return wait_s if wait_s > 0 else None
    return _longest(text, lambda part: _number(part) or go_duration_s(part))


def go_duration_s(text: str) -> float | None:
    """Return a Go duration such as `6m0s` or `940ms` in seconds, or None."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    value = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    return value if math.isfinite(value) else None


def _longest(text: str | None, read: _Reading) -> float | None:
    if text is None:
        return None
    values = [read(part.strip().strip("\"'").strip()) for part in text.split(",")]
    known = [value for value in values if value is not None and value > 0]
    return max(known, default=None)


def _number(text: str) -> float | None:
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def _date(text: str) -> datetime | None:
    """Read an HTTP-date in any of its three forms."""
    try:
        dated = parsedate_to_datetime(text.strip().strip('"'))
    except (ValueError, IndexError, TypeError, OverflowError):
        return None
    return dated if dated.tzinfo else dated.replace(tzinfo=UTC)
