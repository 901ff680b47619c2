"""Every rule of PROTOCOL.md 2.3 as a 429 on the wire, and the wait that the lane and the row take from it."""

from __future__ import annotations

from client_dialect import ECHO, Case, error, ok, pending, reply
from client_replies import GOOD

RULES = (
    "retry-after-ms",
    "retry-after number",
    "retry-after HTTP-date",
    "retry-after go-duration",
    "remaining",
    "reset go-duration",
    "reset number",
    "reset epoch s",
    "reset epoch ms",
    "reset RFC 3339",
    "unit",
    "proto-duration",
    "text hint",
    "names in any case",
    "trimmed",
    "quotes",
    "most restrictive member",
    "parse failure is absence",
    "zero or negative is absence",
    "clock skew",
    "availability.retry_after",
    "X-RateLimit-Reset in the body",
    "Together's reset",
    "precedence",
    "floor",
    "beyond max_pause_s",
    "nothing to do on success",
)
DATE = "Date: Sun, 06 Nov 1994 08:49:00 GMT"
LATER, LATER_S = "Date: Mon, 13 Jan 2025 18:55:23 GMT", 1736794523
IN_37 = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994")
RETRY_INFO = "type.googleapis.com/google.rpc.RetryInfo"
HELP = {"@type": "type.googleapis.com/google.rpc.Help", "retryDelay": "9s"}


def waits(case_id: str, wait_s: float, *headers: str, **fields: object) -> Case:
    """A 429 that asks to wait so long: the lane pauses, and the row waits up to a fifth longer."""
    wire = error("429 Slow", *headers, **fields)
    return pending(f"2.3 {case_id}", wire, sent=1, pause_s=wait_s, wait_s=(max(wait_s, 0.25), max(wait_s, 0.25) * 1.2))


def backs_off(case_id: str, *headers: str, **fields: object) -> Case:
    """A 429 that asks for nothing that can be read: the row backs off, the lane does not pause."""
    return pending(f"2.3 {case_id}", error("429 Slow", *headers, **fields), sent=1, wait_s=(1.0, 2.1))


def reset(text: object, remaining: object = 0, dimension: str = "requests") -> tuple[str, str]:
    return f"X-RateLimit-Remaining-{dimension}: {remaining}", f"X-RateLimit-Reset-{dimension}: {text}"


def info(delay: object) -> dict[str, object]:
    return {"@type": RETRY_INFO, "retryDelay": delay}


def repeated(value: object, name: str = "X-RateLimit-Reset") -> dict[str, object]:
    return {"headers": {name: value}}


CASES: list[Case] = [
    waits("retry-after-ms: 1500", 1.5, "retry-after-ms: 1500"),
    waits("retry-after-ms: Azure sends both", 37, "retry-after-ms: 37000", "retry-after: 36"),
    waits("retry-after number: 40", 40, "Retry-After: 40"),
    waits("retry-after number: 7.5", 7.5, "Retry-After: 7.5"),
    waits("retry-after number: LiteLLM's of the model behind it", 60, "llm_provider-retry-after: 60"),
    waits("retry-after number: LiteLLM's own goes first", 5, "retry-after: 5", "llm_provider-retry-after: 60"),
    *(waits(f"retry-after HTTP-date: {text}", 37, f"Retry-After: {text}", DATE) for text in IN_37),
    waits("retry-after go-duration: 1m12.34s", 72.34, "Retry-After: 1m12.34s"),
    waits("remaining: 0", 60, *reset("1m0s")),
    waits("remaining: 0.0", 60, *reset("1m0s", "0.0")),
    *(
        backs_off(f"remaining: {text!r} is unknown", *reset("1m0s", text))
        for text in ("-1", "None", "null", "", "-0.5")
    ),
    backs_off("remaining: 5", *reset("1m0s", 5)),
    backs_off("remaining: 0 without a reset", "x-ratelimit-remaining-tokens: 0"),
    backs_off("remaining: Azure's -1, -1, 0", *reset("0", "-1"), "x-ratelimit-limit-requests: -1"),
    waits("remaining: only the dimension at 0 counts", 20, *reset("20s"), *reset("5m0s", 100, "tokens")),
    waits("remaining: of two at 0 the longer counts", 90, *reset("20s"), *reset("90", 0, "tokens")),
    waits("remaining: Cerebras", 33.25, *reset("33.25", 0, "requests-day")),
    waits("remaining: Mistral's names", 12, "ratelimitbysize-remaining: 0", "ratelimitbysize-reset: 12"),
    waits("remaining: usage-based tokens", 6, *reset("6s", 0, "tokens_usage_based")),
    waits(
        "remaining: LiteLLM passes names on",
        7.66,
        "llm_provider-x-ratelimit-remaining-tokens: 0",
        "llm_provider-x-ratelimit-reset-tokens: 7.66s",
        "x-ratelimit-remaining-tokens: None",
        "x-ratelimit-reset-tokens: None",
    ),
    *(waits(f"reset go-duration: {text}", s, *reset(text)) for text, s in (("2m59.56s", 179.56), ("940ms", 0.94))),
    waits("reset number: 59", 59, *reset("59")),
    waits("reset number: 0.5", 0.5, *reset("0.5")),
    waits("reset epoch s", 90, *reset(LATER_S + 90), LATER),
    waits("reset epoch ms", 90, *reset((LATER_S + 90) * 1000), LATER),
    backs_off("reset number: between count and epoch", *reset(5 * 10**8), DATE),
    waits("reset RFC 3339", 90.5, *reset("1994-11-06T08:50:30.5Z"), DATE),
    waits("reset RFC 3339: an offset, nanoseconds", 90, *reset("1994-11-06t10:50:30.000000000+02:00"), DATE),
    backs_off("reset RFC 3339: no such day", *reset("1994-02-31T08:50:30Z"), DATE),
    *(
        waits(f"unit {unit}", s, f"Retry-After: {text}")
        for unit, text, s in (
            ("d", "0.001d", 86.4),
            ("h", "0.01h", 36.0),
            ("m", "2m", 120.0),
            ("s", "3s", 3.0),
            ("ms", "1500ms", 1.5),
            ("us", "2000000us", 2.0),
            ("ns", "2500000000ns", 2.5),
            ("ms before m and s", "1s500ms", 1.5),
            ("in any order", "5s1m", 65.0),
        )
    ),
    waits("proto-duration: 45s", 45, details=[HELP, info("45s")]),
    waits("proto-duration: 45.57s", 45.57, details=[info("45.57s")]),
    *(
        backs_off(f"proto-duration: {text!r}", details=[info(text)])
        for text in ("45", "-4s", "1m5s", "s", 45, None, "0s")
    ),
    waits("text hint: Azure", 37, message="Please retry after 37 seconds.", code="429"),
    waits("text hint: Groq", 179.56, message="Rate limit reached. Please try again in 2m59.56s. Need more?"),
    waits("text hint: Gemini", 45.57, message=f"Please retry in 45.57s {ECHO}"),
    waits("text hint: OpenAI", 0.3, message="Please try again in 300ms. Visit"),
    waits("text hint: no unit is seconds", 30, message="Retry after 30"),
    waits("text hint: minutes", 120, message="try again in 2 minutes"),
    waits("text hint: of two the longer", 90, message="retry in 5s, or try again after 90 seconds"),
    *(
        backs_off(f"text hint: {text}", message=text)
        for text in (
            "retry later",
            "try again in 3 steps",
            "retry after 2027-01-01",
            "retry in 12:30",
            "retry in 1,000 s",
        )
    ),
    waits("names in any case", 40, "RETRY-after: 40"),
    waits("trimmed", 40, "Retry-After: \t 40 \t"),
    waits("quotes: double", 40, 'Retry-After: "40"'),
    waits("quotes: single", 40, "Retry-After: '40'"),
    waits("quotes: around each member", 40, 'Retry-After: "40", "30"'),
    waits("most restrictive member of a list", 50, "Retry-After: 5, 50, 7"),
    waits("most restrictive member of repeated headers", 50, "Retry-After: 5", "Retry-After: 50"),
    waits("most restrictive member of dates", 37, f"Retry-After: 5, {IN_37[0]}", DATE),
    waits("most restrictive member of remaining", 60, *reset("1m0s", "5, 0")),
    waits("most restrictive member of resets", 60, *reset("20s, 60s")),
    waits("parse failure is absence of a member", 5, "Retry-After: soon, 5"),
    *(
        backs_off(f"parse failure is absence: {text!r}", f"Retry-After: {text}")
        for text in ("soon", "None", "null", "", "5 s", "1e3", "inf", "nan", "9" * 400, "Mon, 99 Jan 2020 99:00:00 GMT")
    ),
    waits("parse failure is absence of the better header", 9, "retry-after-ms: 1s", "Retry-After: 9"),
    *(
        backs_off(f"zero or negative is absence: {line}", line, DATE)
        for line in ("Retry-After: 0", "Retry-After: -1", "Retry-After: 0s", "retry-after-ms: 0")
    ),
    backs_off("zero or negative is absence: a date gone by", "Retry-After: Sun, 06 Nov 1994 08:48:00 GMT", DATE),
    waits("clock skew: the reply's own Date counts", 37, f"Retry-After: {IN_37[0]}", DATE),
    backs_off("clock skew: without a Date our own clock counts", f"Retry-After: {IN_37[0]}"),
    waits("availability.retry_after", 12, availability={"retryable": True, "retry_after": 12}),
    *(
        backs_off(f"availability.retry_after: {value!r}", availability={"retry_after": value})
        for value in (0, -1, True, None, "soon")
    ),
    waits("X-RateLimit-Reset in the body: OpenRouter", 90, LATER, metadata=repeated(f"{(LATER_S + 90) * 1000}")),
    waits("X-RateLimit-Reset in the body: in any case", 5, metadata=repeated("5", "x-ratelimit-reset")),
    backs_off("X-RateLimit-Reset in the body: nonsense", metadata=repeated([])),
    waits("Together's reset", 2, "x-ratelimit-reset: 2", "x-ratelimit-remaining: 3"),
    waits("Together's reset: a duration", 2.5, "x-ratelimit-reset: 2.5s"),
    pending(
        "2.3 Together's reset: on a 429 only",
        error("503 Oops", "x-ratelimit-reset: 50"),
        sent=1,
        wait_s=(0.25, 1.3),
    ),
    waits("precedence: ms before seconds", 2, "Retry-After: 9", "retry-after-ms: 2000"),
    waits("precedence: header before body", 9, "Retry-After: 9", availability={"retry_after": 12}),
    waits("precedence: availability before RetryInfo", 12, availability={"retry_after": 12}, details=[info("45s")]),
    waits("precedence: RetryInfo before the body's reset", 45, details=[info("45s")], metadata=repeated("5")),
    waits("precedence: body before remaining", 45, *reset("20s"), details=[info("45s")]),
    waits("precedence: remaining before Together's reset", 20, *reset("20s"), "x-ratelimit-reset: 50"),
    waits("precedence: Together's reset before text", 50, "x-ratelimit-reset: 50", message="retry after 7 seconds"),
    waits("precedence: text before backoff", 7, message="retry after 7 seconds"),
    waits("precedence: what can't be read is passed over", 7, "Retry-After: x", *reset("?"), message="retry in 7s"),
    waits("floor: a tenth of a second", 0.1, "retry-after-ms: 100"),
    Case(
        id="2.3 beyond max_pause_s",
        wires=(error("429 Slow", *reset("6m0s")),),
        ends="stop",
        says=("360 s", "max_pause_s is 300", "until "),
    ),
    ok("2.3 nothing to do on success", reply("200 OK", None, *reset("6m0s"), "Retry-After: 9", body=GOOD)),
]
