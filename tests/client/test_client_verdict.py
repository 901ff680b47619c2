"""Status, headers and body into what to do: every line of PROTOCOL.md 2.2, with the bodies of 1D."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.error_body import facts_of, inner_status, read_error, request_id
from batchrun.client.masking import MOST_MESSAGE_CHARS, Masks
from batchrun.client.verdict import RULES, Facts, Ruling, judge, trouble
from batchrun.model.attempt import Exchange, Spends, Then

NOW = datetime(2026, 1, 2, tzinfo=UTC)
STOP = Ruling(Then.STOP_RUN)
NO_CREDIT = Ruling(Then.STOP_RUN, advice="no credit?")
WRONG_PLACE = Ruling(Then.STOP_RUN, advice="wrong endpoint.base_url or request.model?")
WRONG_URL = Ruling(Then.STOP_RUN, advice="wrong endpoint.base_url?")
QUOTA = Ruling(Then.STOP_RUN, "rate_limited")
FAIL = Ruling(Then.FAIL_ROW)
REFUSE = Ruling(Then.REFUSE_ROW)
OVERFLOW = Ruling(Then.FAIL_ROW, "context_overflow")
BUSY = Ruling(Then.RETRY, "rate_limited", Spends.THROTTLE)
THROTTLE = Ruling(Then.RETRY, "rate_limited", Spends.THROTTLE, pauses=True)
SERVER = Ruling(Then.RETRY, "server")
ONCE = Ruling(Then.RETRY, most_tries=1)
ONCE_THEN_STOP = Ruling(Then.RETRY, most_tries=1, at_last=Then.STOP_RUN, wait_s=1.0)
SLOW = Ruling(Then.RETRY, "server", maybe_billed=True, advice="use streaming or lower max_tokens")
CUT = Ruling(Then.RETRY, "disconnected", Spends.AMBIGUOUS, maybe_billed=True)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A reply and what it comes to before and after the lane's first success."""

    line: str
    status: int
    error: Any = None
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hint_s: float | None = None
    before: Ruling
    after: Ruling | None = None

    def facts(self, *, succeeded: bool) -> Facts:
        tree = {"error": self.error} if self.body is None else self.body
        data = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
        hint = {} if self.hint_s is None else {"retry-after": f"{self.hint_s:g}"}
        exchange = Exchange(status=self.status, headers={**self.headers, **hint}, body=data)
        return facts_of(exchange, read_error(data), now=NOW, succeeded=succeeded, most_pause_s=300.0)


YES, NO = {"x-should-retry": "true"}, {"x-should-retry": "false"}
MODEL_BUSY = {
    "message": "Model busy, retry later",
    "type": "invalid_request_error",
    "param": None,
    "code": "engine_overloaded",
}
NO_MONEY = {
    "message": "You exceeded your current quota",
    "type": "insufficient_quota",
    "param": None,
    "code": "credit_balance_exhausted",
}
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
CASES = [
    Case(line="1", status=429, headers=YES, before=THROTTLE),
    Case(line="1", status=429, headers=YES, hint_s=300, before=THROTTLE),
    Case(line="1, 14", status=429, headers=YES, hint_s=301, before=QUOTA),
    Case(line="1", status=400, headers={"x-should-retry": " TRUE "}, before=SERVER),
    Case(line="1", status=500, headers=NO, before=Ruling(Then.FAIL_ROW, "server")),
    Case(line="1", status=429, headers=NO, before=THROTTLE._replace(then=Then.FAIL_ROW)),
    Case(line="1", status=401, headers=NO, before=STOP, after=ONCE_THEN_STOP._replace(then=Then.STOP_RUN)),
    Case(line="1", status=400, headers={"x-should-retry": "maybe"}, before=FAIL),
    Case(line="2", status=429, error=NO_MONEY, before=NO_CREDIT),
    Case(line="2", status=429, error={**NO_MONEY, "code": None}, hint_s=1, before=NO_CREDIT),
    *(
        Case(line="2", status=429, error={"message": "m", "code": code}, before=NO_CREDIT)
        for code in (
            "insufficient_quota",
            "credit_balance_exhausted",
            "organization_spend_limit_exceeded",
            "project_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "billing_hard_limit_reached",
        )
    ),
    Case(line="2", status=400, error={"message": "Budget", "type": "budget_exceeded", "code": "400"}, before=NO_CREDIT),
    Case(line="3", status=402, hint_s=5, before=THROTTLE),
    Case(
        line="3",
        status=402,
        error={"code": 402, "message": "m", "metadata": {"limit_source": "openrouter_in_flight_budget"}},
        before=THROTTLE,
    ),
    Case(line="3, 14", status=402, hint_s=4000, before=QUOTA),
    Case(line="4", status=402, body={"detail": {"error": "add credit"}}, before=NO_CREDIT),
    Case(line="4", status=412, error={"message": "Account suspended"}, before=NO_CREDIT),
    Case(line="4", status=412, error={"message": "precondition"}, before=FAIL),
    Case(
        line="5",
        status=401,
        error={"message": "Not authenticated", "type": "invalid_request_error", "code": None},
        before=STOP,
        after=ONCE_THEN_STOP,
    ),
    Case(line="6", status=403, error={"code": 403, "message": "requires moderation; input was flagged"}, before=REFUSE),
    Case(line="6", status=403, error={"code": "content_policy_violation", "message": ""}, before=REFUSE),
    Case(line="7", status=403, error={"message": "region not supported"}, before=STOP, after=FAIL),
    Case(line="8", status=404, error={"code": "DeploymentNotFound", "message": "m"}, before=WRONG_PLACE, after=ONCE),
    Case(line="8", status=405, body=b"", before=WRONG_PLACE, after=ONCE),
    *(
        Case(line="9", status=status, error={"message": "This model's Maximum Context Length is 8192"}, before=OVERFLOW)
        for status in (400, 413, 422, 500)
    ),
    Case(
        line="9", status=400, error={"code": 400, "type": "exceed_context_size_error", "n_ctx": 4096}, before=OVERFLOW
    ),
    Case(line="9", status=400, error={"code": "context_length_exceeded", "message": "m"}, before=OVERFLOW),
    Case(line="9", status=500, body={"error": {"message": "maximum input length exceeded"}}, before=OVERFLOW),
    Case(line="10", status=400, error={"code": "content_filter", "message": "m", "type": None}, before=REFUSE),
    Case(line="10", status=400, error={"type": "content_policy_violation", "message": "m"}, before=REFUSE),
    Case(line="10", status=400, error={"code": "refusal", "message": "m"}, before=REFUSE),
    Case(line="11", status=429, error={"availability": {"retryable": True}}, before=THROTTLE),
    Case(line="11", status=400, error={"availability": {"retryable": True, "retry_after": 5}}, before=SERVER),
    Case(line="11", status=503, error={"availability": {"retryable": False}}, before=FAIL),
    Case(line="11, 14", status=429, error={"availability": {"retryable": True, "retry_after": 400}}, before=QUOTA),
    Case(line="12", status=429, error=MODEL_BUSY, before=BUSY),
    Case(line="12", status=498, error={"code": "capacity_exceeded"}, before=BUSY),
    Case(line="12", status=498, hint_s=400, before=QUOTA),
    Case(line="12", status=503, error={"message": "overloaded"}, before=SERVER),
    Case(line="12", status=503, error={"code": "slow_down"}, before=SERVER),
    Case(line="12", status=529, body=b"", before=SERVER),
    Case(line="13", status=429, body={"error": "Rate limited"}, before=THROTTLE),
    Case(line="12", status=429, body={"error": "text", "error_type": "overloaded"}, before=BUSY),
    Case(line="13", status=429, body={"error": "text", "error_type": "overloaded"}, hint_s=10, before=THROTTLE),
    Case(line="13", status=429, body=HTML, before=THROTTLE),
    Case(line="14", status=429, body=[{"error": {"code": 429, "message": "quota: x, limit: 0, model"}}], before=QUOTA),
    Case(line="14", status=429, error={"message": "limit: 0.5"}, hint_s=300.1, before=QUOTA),
    Case(line="13", status=429, error={"message": "limit: 05"}, before=THROTTLE),
    Case(line="15", status=400, error={"message": "bad role", "code": 400, "type": "BadRequestError"}, before=FAIL),
    Case(line="15", status=422, body={"detail": [{"loc": ["body", "x"], "msg": "field required"}]}, before=FAIL),
    Case(
        line="15",
        status=422,
        error={"message": "m", "failed_generation": "x", "code": "failed_generation"},
        before=ONCE,
    ),
    Case(line="15", status=400, error={"message": "m", "type": "InternalServerError"}, before=ONCE),
    *(Case(line="16", status=status, body=b"", before=SLOW) for status in (504, 524)),
    *(
        Case(line="16", status=status, body=HTML, before=SERVER)
        for status in (408, 409, 425, 500, 502, 503, 520, 521, 522, 523, 530)
    ),
    Case(line="16", status=424, body={"error": "text", "error_type": "generation"}, before=SERVER),
    Case(line="16", status=424, body={"error": "text"}, before=FAIL),
    *(
        Case(line="17", status=status, body=b"", before=WRONG_URL)
        for status in (300, 301, 302, 303, 304, 307, 308, 407, 501, 505)
    ),
    Case(line="25", status=499, body=b"", before=CUT),
    Case(line="other", status=507, body=b"", before=SERVER),
    Case(line="other", status=599, body=b"", before=SERVER),
    Case(line="other", status=418, body=b"", before=FAIL),
    Case(line="other", status=413, body=b"", before=FAIL),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"line {case.line}: {case.status}")
def test_the_table(case: Case) -> None:
    assert judge(case.facts(succeeded=False)).ruling == case.before
    assert judge(case.facts(succeeded=True)).ruling == (case.after or case.before)


WITHOUT_A_STATUS = [
    *(
        Facts(phase=phase, sent=False, succeeded=succeeded)
        for phase in ("dns", "connect")
        for succeeded in (False, True)
    ),
    *(Facts(phase=phase) for phase in ("timeout", "too_large", "disconnected")),
    *(
        Facts(useless=useless, succeeded=succeeded)
        for useless in ("page", "unparsable", "empty_choices", "nothing")
        for succeeded in (False, True)
    ),
]


def test_every_rule_is_reached() -> None:
    reached = set()
    for case in CASES:
        for succeeded in (False, True):
            facts = case.facts(succeeded=succeeded)
            reached.add(next(at for at, rule in enumerate(RULES) if rule.applies(facts)))
    for facts in WITHOUT_A_STATUS:
        reached.add(next(at for at, rule in enumerate(RULES) if rule.applies(facts)))
    assert [RULES[at].line for at in range(len(RULES)) if at not in reached] == []


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"line {case.line}: {case.status}")
def test_trouble_says_what_the_ruling_says_and_never_nothing(case: Case) -> None:
    facts = case.facts(succeeded=False)
    line, ruling = judge(facts)
    came_to = trouble(facts, judge(facts))
    assert came_to.message.startswith(f"HTTP {case.status}")
    assert came_to.line == line
    assert came_to.pauses is (ruling.pauses and ruling.then is Then.RETRY and facts.hint_s is not None)
    assert (came_to.then, came_to.error_class, came_to.spends) == (ruling.then, ruling.error_class, ruling.spends)
    assert (came_to.most_tries, came_to.at_last, came_to.maybe_billed) == (
        ruling.most_tries,
        ruling.at_last,
        ruling.maybe_billed,
    )
    assert (came_to.http_status, came_to.hint_s, came_to.sent) == (case.status, ruling.wait_s or facts.hint_s, True)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "m", "code": 1}}, "m"),
        ({"error": "m"}, "m"),
        ([{"x": 1}, {"error": {"message": "m"}}], "m"),
        ({"object": "error", "message": "m"}, "m"),
        ({"object": "error", "message": {"message": "m"}}, "m"),
        ({"message": {"detail": "m"}}, '{"detail":"m"}'),
        ({"detail": "m"}, "m"),
        ({"detail": [{"loc": ["body", 0, "x"], "msg": "m"}, {"loc": ["y"], "msg": "n"}]}, "body.0.x: m; y: n"),
        ({"detail": [{"loc": 5, "msg": "m"}, "n", {"msg": "o"}]}, "5: m; n; o"),
        ({"detail": {"error": "m"}}, "m"),
        ({"detail": {"message": "m"}}, "m"),
        ({"detail": 5}, ""),
        ("text", ""),
        ([], ""),
        (b"", ""),
        (b"<html>\n\x00Bad \xff</html>", "<html>Bad \ufffd</html>"),
        (b"x" * 10_000, "x" * 200),
        (b"[" * 100_000, "[" * 200),
    ],
)
def test_where_the_message_stands(body: Any, message: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    exchange = Exchange(status=500, headers={}, body=data)
    facts = facts_of(exchange, read_error(data), now=NOW, succeeded=False, most_pause_s=300)
    assert facts.message == message


KEY = "SENTINEL0key0of0no0known0form"


@pytest.mark.parametrize(
    "text",
    [
        f"Incorrect API key provided: {KEY}.",
        f"Authorization: Bearer {KEY}",
        f"{KEY}{KEY}",
        "x" * 1990 + KEY,
    ],
)
def test_a_key_is_masked(text: str) -> None:
    shown = Masks([KEY]).text(text)
    assert KEY not in shown
    assert KEY[:9] not in shown
    assert len(shown) <= MOST_MESSAGE_CHARS


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdefgh12345678",
        "sk-proj-abc_def-12345678",
        "hf_abcdefghijkl",
        "gsk_abcdefghijkl",
        "jwt:eyJhbGci.x-y_z",
        "Bearer abc",
    ],
)
def test_what_looks_like_a_key_is_masked_too(secret: str) -> None:
    assert Masks([]).text(f"key {secret} is wrong") == "key *** is wrong"


@given(st.text(st.characters()), st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=4, max_size=9))
def test_masked_text_is_bounded_and_can_be_stored(text: str, secret: str) -> None:
    shown = Masks([secret]).text(text + secret + text)
    assert len(shown) <= MOST_MESSAGE_CHARS
    assert "\n" not in shown
    shown.encode()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "error",
                    "message",
                    "detail",
                    "code",
                    "type",
                    "loc",
                    "msg",
                    "metadata",
                    "availability",
                    "retryable",
                    "retry_after",
                    "details",
                    "violations",
                    "retryDelay",
                    "headers",
                    "reasons",
                    "raw",
                    "innererror",
                    "x_groq",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON, st.binary(max_size=2), st.integers(300, 599), st.sampled_from([{}, YES, NO]))
def test_any_error_body_comes_to_something(tree: Any, junk: bytes, status: int, headers: Mapping[str, str]) -> None:
    for data in (json.dumps(tree).encode(), json.dumps(tree).encode() + junk, junk):
        exchange = Exchange(status=status, headers=dict(headers), body=data)
        for inner in (None, inner_status(read_error(data))):
            facts = facts_of(exchange, read_error(data), inner=inner, now=NOW, succeeded=False, most_pause_s=300)
            assert trouble(facts, judge(facts), now=NOW).message
        request_id(headers, data)
