"""The wait that a server asks for (PROTOCOL.md 2.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.client.hints import PRECEDENCE, hint_of, unreadable_hints

NOW = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC)
AT_37 = ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"]


def wait_hint_s(headers: Mapping[str, str], *, now: datetime) -> float | None:
    hint = hint_of(429, headers, {}, "", now=now)
    return None if hint is None else hint.wait_s


@pytest.mark.parametrize(
    ("text", "wait_s"),
    [
        ("5", 5.0),
        (" 5 ", 5.0),
        ("5.", 5.0),
        (".5", 0.5),
        ("0.25", 0.25),
        ('"7"', 7.0),
        ("'7'", 7.0),
        ("6m0s", 360.0),
        ("2m59.56s", 179.56),
        ("940ms", 0.94),
        ("1h2m3s", 3723.0),
        ("1d", 86400.0),
        ("3s2m", 123.0),
        ("5us", 5e-6),
        ("5µs", 5e-6),
        ("5ns", 5e-9),
        ("5, 10, 7", 10.0),
        ("5, 1m", 60.0),
        ("5, nonsense", 5.0),
        *((text, 37.0) for text in AT_37),
        (f'"{AT_37[0]}"', 37.0),
        ("0", None),
        ("0s", None),
        ("-1", None),
        ("-5s", None),
        ("", None),
        (",", None),
        ("None", None),
        ("null", None),
        ("inf", None),
        ("nan", None),
        ("1e3", None),
        ("soon", None),
        ("5 s", None),
        ("5s!", None),
        ("\u0665", None),
        ("9" * 400, None),
        ("9" * 400 + "s", None),
        ("Sun, 06 Nov 1994 08:48:37 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 2020 00:00:00 +999999999999999999", None),
        ("Mon, 99 Jan 2020 99:00:00 GMT", None),
    ],
)
def test_retry_after(text: str, wait_s: float | None) -> None:
    assert wait_hint_s({"retry-after": text}, now=NOW) == (None if wait_s is None else pytest.approx(wait_s))


def test_a_date_counts_from_the_replys_own_date() -> None:
    headers = {"retry-after": AT_37[0], "date": "Sun, 06 Nov 1994 08:49:30 GMT"}
    assert wait_hint_s(headers, now=datetime(2030, 1, 1, tzinfo=UTC)) == 7.0
    assert wait_hint_s({**headers, "date": "gone"}, now=NOW) == 37.0


@pytest.mark.parametrize(
    ("ms", "wait_s"),
    [
        ("1500", 1.5),
        ("0.5", 0.0005),
        ("1000, 2000", 2.0),
        ("0", 9.0),
        ("-1", 9.0),
        ("1s", 9.0),
        ("0." + "0" * 322 + "5", None),
    ],
)
def test_milliseconds_come_first_and_nonsense_falls_through(ms: str, wait_s: float | None) -> None:
    headers = {"retry-after-ms": ms} if wait_s is None else {"retry-after-ms": ms, "retry-after": "9"}
    assert wait_hint_s(headers, now=NOW) == wait_s


def test_no_header_is_no_hint() -> None:
    assert wait_hint_s({}, now=NOW) is None


HEADER = st.one_of(
    st.text(),
    st.text("0123456789.,:+-smhdµun\"' GMTJanSu", max_size=40),
    st.from_regex(r"[0-9]{1,400}(ms|s|h|d)?", fullmatch=True),
    st.from_regex(
        r"(Mon|Sun), [0-9]{1,25} (Jan|Dec) [0-9]{1,25} [0-9]{1,3}:[0-9]{2}:[0-9]{2} [+-]?[0-9]{0,22}", fullmatch=True
    ),
)


@given(HEADER, HEADER, HEADER)
def test_whatever_comes_is_a_positive_wait_or_none(seconds: str, ms: str, date: str) -> None:
    for headers in ({"retry-after": seconds, "retry-after-ms": ms, "date": date}, {"retry-after": seconds}):
        wait_s = wait_hint_s(headers, now=NOW)
        assert wait_s is None or (wait_s > 0 and math.isfinite(wait_s))


NAMES = ["retry-after", "retry-after-ms", "date", "x-ratelimit-reset", "x-ratelimit-remaining", "x-ratelimit-reset-t"]
NAMES += ["x-ratelimit-remaining-t", "ratelimitbysize-remaining", "ratelimitbysize-reset"]
VALUES = st.one_of(
    HEADER, st.sampled_from(["0", "-1", "None", "1736794523", "1736794523000", "9999-12-31T23:59:59-23:59"])
)
TREE = st.recursive(
    VALUES | st.none() | st.booleans() | st.floats() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["@type", "retryDelay", "headers", "X-RateLimit-Reset", "retry_after"]), inner
        )
    ),
    max_leaves=6,
)


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(NAMES), VALUES),
    st.dictionaries(st.sampled_from(["availability", "details", "metadata"]), TREE),
    st.one_of(st.text(), HEADER.map("try again in {}".format)),
    st.sampled_from([402, 429, 503]),
)
def test_whatever_a_reply_says_is_a_finite_wait_or_none(
    headers: Mapping[str, str], error: Mapping[str, object], message: str, status: int
) -> None:
    hint = hint_of(status, headers, error, message, now=NOW)
    assert hint is None or 0 < hint.wait_s < math.inf
    assert set(unreadable_hints(headers, now=NOW)) <= set(headers)


SAID: dict[str, dict[str, Any]] = {
    "retry-after-ms": {"headers": {"retry-after-ms": "1000"}},
    "retry-after": {"headers": {"retry-after": "2"}},
    "body": {"error": {"availability": {"retry_after": 3}}},
    "remaining": {"headers": {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "4s"}},
    "reset": {"headers": {"x-ratelimit-reset": "5"}},
    "text": {"message": "try again in 6s"},
}


@given(st.sets(st.sampled_from(list(SAID))))
def test_of_any_hints_the_first_of_the_precedence_counts(sources: set[str]) -> None:
    headers: dict[str, str] = {}
    error: dict[str, object] = {}
    for source in sources:
        headers |= SAID[source].get("headers", {})
        error |= SAID[source].get("error", {})
    hint = hint_of(429, headers, error, SAID["text"]["message"] if "text" in sources else "", now=NOW)
    order = [source for source, _ in PRECEDENCE]
    assert order == list(SAID)
    first = next((source for source in order if source in sources), None)
    assert (None if hint is None else hint.source) == first
    assert hint is None or hint.wait_s == order.index(hint.source) + 1


@pytest.mark.parametrize(
    ("text", "unreadable"),
    [("soon", True), ("5, soon", True), ("1e3", True), ("5", False), ("-1", False), ("None", False), ("", False)],
)
def test_nonsense_is_told_and_the_unknown_is_not(text: str, unreadable: bool) -> None:  # noqa: FBT001
    for name in ("retry-after", "retry-after-ms", "x-ratelimit-reset"):
        assert unreadable_hints({name: text}, now=NOW) == ((name,) if unreadable else ())
