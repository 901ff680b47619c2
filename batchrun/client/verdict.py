"""Status, headers and body of an exchange into what to do: the table of PROTOCOL.md 2.2 as a table. Pure.

The first rule that applies decides. Rules see the status first, then the code, then the type (PROTOCOL.md 0, fact 3).
Nobody above reads a status or a message again. Line 22b is a reply's own (`reply.py`), line 24 is the breaker's.
"""

# Without `from __future__ import annotations`: the text of each field would be compiled again, in 40 µs (measured).

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import msgspec

from batchrun.client.body import Useless
from batchrun.model.attempt import GATEWAY_TIMEOUT, ErrorClass, Reply, Spends, Then, Trouble

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
_NO_KEY = frozenset(["no_db_connection"])
"""What a LiteLLM proxy without a database answers to a wrong key, as a 400."""
_CONTENT_FILTER = frozenset(["content_filter", "content_policy_violation", "refusal"])
_OVERFLOW_CODES = frozenset(["context_length_exceeded", "exceed_context_size_error"])
# Patterns of what only an error says are compiled when they are first looked for: `re` keeps them.
_OVERFLOW_TEXT = (
    r"(?i)maximum (?:context|input) length|context[ _]length[ _]exceeded|ContextWindowExceeded|model's context length"
    r"|exceeds the (?:available context size|context length|context window)|prompt is too long"
    r"|input token count .{0,40}exceeds the maximum"
    r"|`inputs` (?:tokens \+ `max_new_tokens` must be|must have less than)"
)
_MODERATION_TEXT = r"(?i)moderat|guardrail|content.?(policy|filter)|flagged"
_SUSPENDED_TEXT = r"(?i)billing|suspend|credit|payment"
_ZERO_QUOTA_TEXT = r"\blimit: 0(?!\.?\d)"
_INTERNAL_TEXT = r"(?i)internal ?server ?error|failed_generation|hallucinat"
_BUSY_TEXT = r"(?i)overloaded|slow_down|busy"
_PROMISES = frozenset(["retry-after-ms", "retry-after", "body"])


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the rules look at.

    `status` is 0 where no whole reply came; `phase` says then where the exchange ended (`transport.py`). An error that
    stands in a success has the status it stands for, and the exchange's own in `inside`; a success without a completion
    says in `useless` why. `code` and `kind` are the error's code and type as text, `reasons` what more it says about
    the content, `points_to` where a redirect leads; all are empty where there are none. `may_pass` says that the model,
    not the request, made it fail. `hint_s` is the wait the server asks for, `hint_from` where it says so (`hints.py`).
    `succeeded` says whether the lane has answered any request yet in this run.
    """

    status: int = 0
    inside: int = 0
    phase: str = ""
    sent: bool = True
    useless: Useless | Literal[""] = ""
    code: str = ""
    kind: str = ""
    message: str = ""
    reasons: str = ""
    limit_source: str = ""
    points_to: str = ""
    zero_quota: bool = False
    may_pass: bool = False
    hint_s: float | None = None
    hint_from: str = ""
    succeeded: bool = False
    should_retry: bool | None = None
    available: bool | None = None
    most_pause_s: float = 300.0

    def named(self, names: frozenset[str]) -> bool:
        """Say whether code or type is one of `names`."""
        return self.code in names or self.kind in names


class Ruling(NamedTuple):
    """What a rule decides.

    `wait_s` is a wait of its own, `pauses` lets the lane keep the server's, `advice` stands at the message's end.
    """

    then: Then
    error_class: ErrorClass = "rejected"
    spends: Spends = Spends.ERROR
    most_tries: int | None = None
    at_last: Then = Then.FAIL_ROW
    maybe_billed: bool = False
    wait_s: float | None = None
    pauses: bool = False
    advice: str = ""


class Rule(msgspec.Struct, frozen=True):
    """One line of the table: its number in PROTOCOL.md 2.2, when it applies, what it decides."""

    line: str
    applies: Callable[[Facts], bool]
    ruling: Ruling


_STOP = Ruling(Then.STOP_RUN)
_NO_CREDIT = _STOP._replace(advice="no credit?")
_WRONG_PLACE = _STOP._replace(advice="wrong endpoint.base_url or request.model?")
_WRONG_URL = _STOP._replace(advice="wrong endpoint.base_url?")
_FAIL = Ruling(Then.FAIL_ROW)
_ONCE = Ruling(Then.RETRY, most_tries=1)
_REFUSE = Ruling(Then.REFUSE_ROW)
_BUSY = Ruling(Then.RETRY, "rate_limited", Spends.THROTTLE)
_THROTTLE = _BUSY._replace(pauses=True)
_QUOTA = Ruling(Then.STOP_RUN, "rate_limited")
_SERVER = Ruling(Then.RETRY, "server")
_GATEWAY = _SERVER._replace(maybe_billed=True, advice="use streaming or lower max_tokens")
_OVERFLOW = Ruling(Then.FAIL_ROW, "context_overflow")
_CUT = Ruling(Then.RETRY, "disconnected", Spends.AMBIGUOUS, maybe_billed=True)
_USELESS = Ruling(Then.RETRY, "bad_reply", most_tries=2)

RULES: tuple[Rule, ...] = (
    Rule("1", lambda f: f.should_retry is True and f.status in {429, 498}, _THROTTLE),
    Rule("1", lambda f: f.should_retry is True and f.status >= 400, _SERVER),
    Rule("2", lambda f: f.named(_BILLING), _NO_CREDIT),
    Rule("3", lambda f: f.status == 402 and (f.hint_from in _PROMISES or _in_flight(f)), _THROTTLE),
    Rule("4", lambda f: f.status == 402 or (f.status == 412 and _says(_SUSPENDED_TEXT, f)), _NO_CREDIT),
    Rule("5", lambda f: (f.status == 401 or f.named(_NO_KEY)) and not f.succeeded, _STOP),
    Rule("5", lambda f: f.status == 401 or f.named(_NO_KEY), _ONCE._replace(at_last=Then.STOP_RUN, wait_s=1.0)),
    Rule("6", lambda f: f.status == 403 and (bool(f.reasons) or _says(_MODERATION_TEXT, f)), _REFUSE),
    Rule("7", lambda f: f.status == 403 and not f.succeeded, _STOP),
    Rule("7", lambda f: f.status == 403, _FAIL),
    Rule("8", lambda f: f.status in {404, 405} and not f.succeeded, _WRONG_PLACE),
    Rule("8", lambda f: f.status in {404, 405}, _ONCE),
    Rule(
        "9",
        lambda f: f.status in {400, 413, 422, 500} and (f.named(_OVERFLOW_CODES) or _says(_OVERFLOW_TEXT, f)),
        _OVERFLOW,
    ),
    Rule("10", lambda f: f.status == 400 and f.named(_CONTENT_FILTER), _REFUSE),
    Rule("11", lambda f: f.available is True and f.status in {429, 498}, _THROTTLE),
    Rule("11", lambda f: f.available is True, _SERVER),
    Rule("11", lambda f: f.available is False, _FAIL),
    Rule("14", lambda f: f.status == 429 and (f.zero_quota or _says(_ZERO_QUOTA_TEXT, f) or _too_long(f)), _QUOTA),
    Rule("12", lambda f: f.status == 498 or (f.status == 429 and f.hint_s is None and _says(_BUSY_TEXT, f)), _BUSY),
    Rule("12", lambda f: f.status == 529 or (f.status == 503 and _says(_BUSY_TEXT, f)), _SERVER),
    Rule("13", lambda f: f.status == 429, _THROTTLE),
    Rule(
        "15",
        lambda f: f.status in {400, 422} and (f.may_pass or _says(_INTERNAL_TEXT, f)),
        _ONCE,
    ),
    Rule("15", lambda f: f.status in {400, 422}, _FAIL),
    Rule(GATEWAY_TIMEOUT, lambda f: f.status in {504, 524}, _GATEWAY),
    Rule(
        "16",
        lambda f: (
            f.status in {408, 409, 425, 500, 502, 503, 530}
            or 520 <= f.status <= 523
            or (f.status == 424 and f.kind == "generation")
        ),
        _SERVER,
    ),
    Rule("17", lambda f: f.status in {407, 501, 505} or 300 <= f.status < 400, _WRONG_URL),
    Rule("18", lambda f: f.phase in {"dns", "proxy", "tls"} and not f.succeeded, Ruling(Then.STOP_RUN, "connect")),
    Rule("18", lambda f: bool(f.phase) and not f.sent, Ruling(Then.RETRY, "connect")),
    Rule("19", lambda f: f.phase == "timeout", _CUT._replace(error_class="timeout")),
    Rule("19", lambda f: f.phase == "too_large", _CUT._replace(error_class="bad_reply")),
    Rule("19", lambda f: bool(f.phase), _CUT),
    Rule("20", lambda f: f.useless == "page" and not f.succeeded, _WRONG_URL._replace(error_class="bad_reply")),
    Rule("20", lambda f: f.useless in {"page", "unparsable"}, _USELESS),
    Rule("22", lambda f: f.useless == "empty_choices", _USELESS),
    Rule("23", lambda f: f.useless == "nothing", _USELESS._replace(most_tries=1)),
    Rule("25", lambda f: f.status == 499, _CUT),
    Rule("other 5xx", lambda f: f.status >= 500, _SERVER),
    Rule("other", lambda _: True, _FAIL),
)


class Verdict(NamedTuple):
    """A ruling and the line of the table that made it."""

    line: str
    ruling: Ruling


def judge(facts: Facts) -> Verdict:
    """Return what an exchange that brought no completion comes to."""
    line, ruling = next((rule.line, rule.ruling) for rule in RULES if rule.applies(facts))
    if ruling.then is not Then.RETRY:
        return Verdict(line, ruling)
    if facts.should_retry is False:
        return Verdict(line, ruling._replace(then=ruling.at_last))  # line 1: no retry, fall through
    if _too_long(facts):
        return Verdict("14", _QUOTA)  # a pause longer than max_pause_s ends the run, whatever the status (SPEC.md, 2)
    return Verdict(line, ruling)


def trouble(facts: Facts, verdict: Verdict, *, now: datetime | None = None) -> Trouble:
    """Return the verdict as the trouble of one attempt, with a message that is never empty.

    `now` is the time of the exchange: with it the message says until when a pause would last that is too long.
    """
    ruling = verdict.ruling
    parts = [_told(facts)]
    if ruling.advice:
        parts.append(f"({ruling.advice})")
    if ruling.then is Then.STOP_RUN and facts.hint_s is not None and _too_long(facts):
        parts.append(f"(it asks to wait {facts.hint_s:g} s{_until(now, facts.hint_s)}")
        parts[-1] += f"; max_pause_s is {facts.most_pause_s:g})"
    return Trouble(
        error_class=ruling.error_class,
        message=" ".join(parts),
        then=ruling.then,
        spends=ruling.spends,
        http_status=facts.inside or facts.status or None,
        code=facts.code or None,
        hint_s=facts.hint_s if ruling.wait_s is None else max(ruling.wait_s, facts.hint_s or 0.0),
        pauses=ruling.pauses and ruling.then is Then.RETRY and facts.hint_s is not None,
        line=verdict.line,
        most_tries=ruling.most_tries,
        at_last=ruling.at_last,
        maybe_billed=ruling.maybe_billed,
        sent=facts.sent,
    )


def refused() -> Reply:
    """Return the reply of a row whose content a server refused before any model saw it (lines 6 and 10)."""
    return Reply(status="refused", text=None, finish_reason="content_filter")


def _told(facts: Facts) -> str:
    """Return status, code and message, as far as there are any."""
    if facts.phase or facts.useless:
        return facts.message
    code = facts.code if facts.code != str(facts.status) else ""
    label = f"HTTP {facts.inside} with error {facts.status}" if facts.inside else f"HTTP {facts.status}"
    label = f"{label} {code}" if code else label
    label = f"{label}, a redirect to {facts.points_to}" if facts.points_to else label
    return f"{label}: {facts.message}" if facts.message else label


def _until(now: datetime | None, wait_s: float) -> str:
    try:
        return "" if now is None else f", until {now + timedelta(seconds=wait_s):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return ""


def _in_flight(facts: Facts) -> bool:
    return "in_flight_budget" in facts.limit_source


def _says(pattern: str, facts: Facts) -> bool:
    return any(re.search(pattern, text) for text in (facts.message, facts.code, facts.kind))


def _too_long(facts: Facts) -> bool:
    return (facts.hint_s or 0.0) > facts.most_pause_s
