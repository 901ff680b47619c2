"""A Go duration such as `5h30m` into seconds; job files and servers' headers (PROTOCOL.md 2.3) write it alike. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

UNIT_S: Mapping[str, float] = {
    "d": 86400.0,
    "h": 3600.0,
    "m": 60.0,
    "s": 1.0,
    "ms": 1e-3,
    "us": 1e-6,
    "\u00b5s": 1e-6,
    "\u03bcs": 1e-6,  # the Greek letter, where somebody does not write the micro sign
    "ns": 1e-9,
}
AMOUNT = r"[0-9]+(?:\.[0-9]+)?"
UNIT = "(?:ms|us|\u00b5s|\u03bcs|ns|d|h|m|s)"
_PART = f"({AMOUNT})({UNIT})"


def go_duration_s(text: str) -> float | None:
    """Return a Go duration such as `6m0s` or `940ms` in seconds, or None; beyond Go, `d` is a day of 24 hours."""
    parts = re.findall(_PART, text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        return None
    value = sum(float(amount) * UNIT_S[unit] for amount, unit in parts)
    return value if math.isfinite(value) else None
