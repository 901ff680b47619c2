"""What a success says of a limit that is nearly used, as a slower pace; never as a faster one (PROTOCOL.md 2.3).

Resets are not looked at: OpenAI's say when the limit is whole again, not when the next request may go.
"""

from __future__ import annotations

from collections.abc import Mapping

from batchrun.client.hints import least_known

NEARLY_USED = 0.05
OVER_LIMIT_GAP_S = 0.1
_COUNTED: tuple[tuple[str, str, float, bool], ...] = (
    ("x-ratelimit-remaining-requests", "x-ratelimit-limit-requests", 60.0, False),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-limit-tokens", 60.0, True),
    ("x-ratelimit-remaining", "x-ratelimit-limit", 1.0, False),
    ("x-tokenlimit-remaining", "x-tokenlimit-limit", 1.0, True),
)
"""What is left, of what, in how many seconds, and whether tokens are counted (PROTOCOL.md 1C); Together counts by the
second. Groq's requests are a day's, which this takes for a minute's: a gap too small to matter."""

_TOLD = frozenset(["x-ratelimit-over-limit", *(left_name for left_name, *_ in _COUNTED)])


def pace_gap_s(headers: Mapping[str, str], *, tokens: float) -> float:
    """Return the seconds to leave between attempts, 0 where there is room: the limit's own pace once < 5 % is left.

    `headers` have lower-case names; `tokens` is what an attempt uses.
    """
    if _TOLD.isdisjoint(headers):
        return 0.0
    gap_s = OVER_LIMIT_GAP_S if headers.get("x-ratelimit-over-limit", "").strip().lower() == "yes" else 0.0
    for left_name, limit_name, window_s, counts_tokens in _COUNTED:
        if left_name not in headers:
            continue
        left, limit = least_known(headers[left_name]), least_known(headers.get(limit_name, ""))
        if left is not None and limit and left / limit < NEARLY_USED:
            gap_s = max(gap_s, window_s / limit * (tokens if counts_tokens else 1.0))
    return gap_s
