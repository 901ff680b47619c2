"""Status, headers and body of an exchange into what to do: the table of PROTOCOL.md 2.2 as a table. Pure.

The first rule that applies decides. Rules see the status first, then the code, then the type (PROTOCOL.md 0, fact 3).
Nobody above reads a status or a message again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import msgspec

from batchrun.client.body import as_object
from batchrun.model.attempt import ErrorClass, Spends, Then, Trouble

MOST_MESSAGE_CHARS = 2000
MOST_CODE_CHARS = 100
_BILLING = frozenset(
    [
        "insufficient_quota",
        "credit_balance_exhausted",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
        "organization_usage_limit_exceeded",
        "billing_hard_limit_reached",
        "budget_exceeded",
    ]
)
_CONTENT_FILTER = frozenset(["content_filter", "content_policy_violation", "refusal"])
_OVERFLOW_CODES = frozenset(["context_length_exceeded", "exceed_context_size_error"])
_OVERFLOW_TEXT = re.compile(r"maximum context length|maximum input length|context_length_exceeded", re.IGNORECASE)
_MODERATION_TEXT = re.compile(r"moderat|guardrail|content.?(policy|filter)|flagged", re.IGNORECASE)
_SUSPENDED_TEXT = re.compile(r"billing|suspend|credit|payment", re.IGNORECASE)
_ZERO_QUOTA_TEXT = re.compile(r"\blimit: 0\b")
_INTERNAL_TEXT = re.compile(r"internal ?server ?error|failed_generation|hallucinat", re.IGNORECASE)
_BUSY_TEXT = re.compile(r"overloaded|slow_down|busy", re.IGNORECASE)
_SECRET = re.compile(r"\b(?:Bearer\s+\S+|(?:sk|pk|rk|gsk|hf|xai|jwt)[-_:][A-Za-z0-9_.\-]{8,})")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules look at.

    `code` and `kind` are the error's code and type as text, empty where there is none. `hint_s` is the wait the
    server asks for. `succeeded` says whether the lane has answered any request yet in this run.
    """

    status: int
    code: str = ""
    kind: str = ""
    message: str = ""
    limit_source: str = ""
    hint_s: float | None = None
    succeeded: bool = False
    should_retry: bool | None = None
    available: bool | None = None
    most_pause_s: float = 300.0

    def named(self, names: frozenset[str]) -> bool:
        """Say whether code or type is one of `names`."""
        return self.code in names or self.kind in names


class Ruling(NamedTuple):
    """What a rule decides; None for `error_class` means: settle the row as refused."""

    then: Then
    error_class: ErrorClass = "rejected"
    spends: Spends = Spends.ERROR
    most_tries: int | None = None
    at_last: Then = Then.FAIL_ROW
    maybe_billed: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the table: its number in PROTOCOL.md 2.2, when it applies, what it decides."""

    line: str
    applies: Callable[[Facts], bool]
    ruling: Ruling


_STOP = Ruling(Then.STOP_RUN)
_FAIL = Ruling(Then.FAIL_ROW)
_REFUSE = Ruling(Then.REFUSE_ROW)
_THROTTLE = Ruling(Then.RETRY, "rate_limited", Spends.THROTTLE)
_QUOTA = Ruling(Then.STOP_RUN, "rate_limited")
_SERVER = Ruling(Then.RETRY, "server")
_OVERFLOW = Ruling(Then.FAIL_ROW, "context_overflow")

RULES: tuple[Rule, ...] = (
    Rule("1", lambda f: f.should_retry is True and f.status == 429, _THROTTLE),
    Rule("1", lambda f: f.should_retry is True and f.status >= 400, _SERVER),
    Rule("2", lambda f: f.named(_BILLING), _STOP),
    Rule(
        "3",
        lambda f: f.status == 402 and (f.hint_s is not None or "in_flight_budget" in f.limit_source),
        _THROTTLE,
    ),
    Rule("4", lambda f: f.status == 402 or (f.status == 412 and _says(_SUSPENDED_TEXT, f)), _STOP),
    Rule("5", lambda f: f.status == 401 and not f.succeeded, _STOP),
    Rule("5", lambda f: f.status == 401, Ruling(Then.RETRY, most_tries=1, at_last=Then.STOP_RUN)),
    Rule("6", lambda f: f.status == 403 and _says(_MODERATION_TEXT, f), _REFUSE),
    Rule("7", lambda f: f.status == 403 and not f.succeeded, _STOP),
    Rule("7", lambda f: f.status == 403, _FAIL),
    Rule("8", lambda f: f.status in {404, 405} and not f.succeeded, _STOP),
    Rule("8", lambda f: f.status in {404, 405}, Ruling(Then.RETRY, most_tries=1)),
    Rule(
        "9",
        lambda f: f.status in {400, 413, 422, 500} and (f.named(_OVERFLOW_CODES) or _says(_OVERFLOW_TEXT, f)),
        _OVERFLOW,
    ),
    Rule("10", lambda f: f.status == 400 and f.named(_CONTENT_FILTER), _REFUSE),
    Rule("11", lambda f: f.available is True and f.status == 429, _THROTTLE),
    Rule("11", lambda f: f.available is True, _SERVER),
    Rule("11", lambda f: f.available is False, _FAIL),
    Rule("14", lambda f: f.status == 429 and (_says(_ZERO_QUOTA_TEXT, f) or _pauses_too_long(f)), _QUOTA),
    Rule("12, 13", lambda f: f.status in {429, 498}, _THROTTLE),
    Rule("12", lambda f: f.status == 529 or (f.status == 503 and _says(_BUSY_TEXT, f)), _SERVER),
    Rule("15", lambda f: f.status in {400, 422} and _says(_INTERNAL_TEXT, f), Ruling(Then.RETRY, most_tries=1)),
    Rule("15", lambda f: f.status in {400, 422}, _FAIL),
    Rule("16", lambda f: f.status in {504, 524}, Ruling(Then.RETRY, "server", maybe_billed=True)),
    Rule(
        "16",
        lambda f: (
            f.status in {408, 409, 425, 500, 502, 503, 530}
            or 520 <= f.status <= 523
            or (f.status == 424 and f.kind == "generation")
        ),
        _SERVER,
    ),
    Rule("17", lambda f: f.status in {501, 505} or 300 <= f.status < 400, _STOP),
    Rule("other 5xx", lambda f: f.status >= 500, _SERVER),
    Rule("other 4xx", lambda _: True, _FAIL),
)


def judge(facts: Facts) -> Ruling:
    """Return what an exchange that brought no reply comes to."""
    ruling = next(rule.ruling for rule in RULES if rule.applies(facts))
    if facts.should_retry is False and ruling.then is Then.RETRY:
        return ruling._replace(then=ruling.at_last)  # line 1: no retry, fall through
    if ruling.then is Then.RETRY and _pauses_too_long(facts):
        return _QUOTA  # a pause longer than max_pause_s ends the run, whatever the status (SPEC.md, section 2)
    return ruling


def trouble(facts: Facts, ruling: Ruling) -> Trouble:
    """Return the ruling as the trouble of one attempt, with a message that is never empty."""
    label = f"HTTP {facts.status}" + (f" {facts.code}" if facts.code and facts.code != str(facts.status) else "")
    message = f"{label}: {facts.message}" if facts.message else label
    if ruling.then is Then.STOP_RUN and _pauses_too_long(facts):
        message = f"{message} (it asks to wait {facts.hint_s:g} s, max_pause_s is {facts.most_pause_s:g})"
    return Trouble(
        error_class=ruling.error_class,
        message=message,
        then=ruling.then,
        spends=ruling.spends,
        http_status=facts.status,
        code=facts.code or None,
        hint_s=facts.hint_s,
        most_tries=ruling.most_tries,
        at_last=ruling.at_last,
        maybe_billed=ruling.maybe_billed,
    )


def facts_of(
    *,
    status: int,
    headers: Mapping[str, str],
    error: Mapping[str, object],
    hint_s: float | None,
    succeeded: bool,
    most_pause_s: float,
) -> Facts:
    """Gather the facts of an error status; `error` is what `read_error` found in the body."""
    availability = as_object(error.get("availability"))
    available = availability.get("retryable")
    wait = availability.get("retry_after")
    if hint_s is None and isinstance(wait, int | float) and 0 < wait < math.inf:
        hint_s = float(wait)
    metadata = as_object(error.get("metadata"))
    return Facts(
        status=status,
        code=_word(error.get("code")),
        kind=_word(error.get("type")) or _word(error.get("error_type")) or _word(metadata.get("error_type")),
        message=_message(error),
        limit_source=_word(metadata.get("limit_source")),
        hint_s=hint_s,
        succeeded=succeeded,
        should_retry=_literal_bool(headers.get("x-should-retry")),
        available=available if isinstance(available, bool) else None,
        most_pause_s=most_pause_s,
    )


def read_error(body: bytes) -> Mapping[str, object]:
    """Return the error that a body holds, by the extraction order of PROTOCOL.md 2.1; never raises."""
    try:
        tree: object = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body[:400].decode("utf-8", "replace")
        return {"message": "".join(char for char in text if char.isprintable())[:200].strip()}
    if isinstance(tree, list):
        many = cast("list[object]", tree)
        tree = next((one for one in many if "error" in as_object(one)), None)
    fields = as_object(tree)
    error = fields.get("error")
    if isinstance(error, dict):
        return cast("dict[str, object]", error)
    if isinstance(error, str):
        return {"message": error, "type": fields.get("error_type")}
    if fields.get("message") is not None:
        return fields
    return {"message": _detail(fields.get("detail"))}


def masked(text: str, secrets: tuple[str, ...]) -> str:
    """Return a server's text without control characters, keys and anything that looks like one, cut to 2,000."""
    for secret in secrets:
        text = text.replace(secret, "***")
    text = _SECRET.sub("***", text)[:MOST_MESSAGE_CHARS]
    return "".join(char if char.isprintable() else " " for char in text)


def _detail(detail: object) -> str:
    if isinstance(detail, str):
        return detail
    if isinstance(detail, list):
        return "; ".join(_located(part) for part in cast("list[object]", detail))
    fields = as_object(detail)
    return str(fields.get("error") or fields.get("message") or "")


def _located(part: object) -> str:
    if isinstance(part, str):
        return part
    fields = as_object(part)
    steps = fields.get("loc")
    loc = ".".join(str(step) for step in cast("list[object]", steps)) if isinstance(steps, list) else str(steps or "")
    return f"{loc}: {fields.get('msg')}" if loc else str(fields.get("msg"))


def _message(error: Mapping[str, object]) -> str:
    message = error.get("message")
    if isinstance(message, dict):
        message = as_object(cast("object", message)).get("message") or msgspec.json.encode(message).decode()
    return str(message) if message else ""


def _says(pattern: re.Pattern[str], facts: Facts) -> bool:
    return any(pattern.search(text) for text in (facts.message, facts.code, facts.kind))


def _pauses_too_long(facts: Facts) -> bool:
    return (facts.hint_s or 0.0) > facts.most_pause_s


def _word(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _literal_bool(text: str | None) -> bool | None:
    named: dict[str, Literal[True, False]] = {"true": True, "false": False}
    return None if text is None else named.get(text.strip().lower())
