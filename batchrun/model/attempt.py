"""One HTTP exchange for a request, and what it came to: a reply, or trouble with a way on."""

# Without `from __future__ import annotations`: msgspec would compile each field's text again, in 40 µs (measured).

from enum import Enum
from typing import Literal

import msgspec

ErrorClass = Literal[
    "input",
    "rejected",
    "context_overflow",
    "rate_limited",
    "server",
    "connect",
    "timeout",
    "disconnected",
    "bad_reply",
]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "other"]
CostSource = Literal["server", "price"]

GATEWAY_TIMEOUT = "16, 504"
"""The line of PROTOCOL.md 2.2 for a gateway that gave up waiting for the server behind it (504, 524)."""

PASSING_ERRORS: frozenset[str] = frozenset({"server", "connect", "timeout", "disconnected", "rate_limited"})
"""Error classes that a later run of a partial output tries again (SPEC.md, section 4)."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Token counts as the server reported them, None where it did not; `raw` is the JSON text as it came.

    `cached_tokens` were read from a cache and `cache_write_tokens` written to one; both are among the prompt tokens.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_write_tokens: int | None = None
    raw: str | None = None


class Cost(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one attempt cost, in nano-USD, and who says so."""

    nanousd: int
    source: CostSource


class Exchange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A whole HTTP reply: header names in lower case, `body` after content decoding.

    A reply that came as a stream of events has the body that it would have had in one piece; `flags` say what was odd
    about the stream, `problem` why it can't be used. `first_token_ms` is from the slot to the first chunk with text.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    flags: tuple[str, ...] = ()
    problem: str | None = None
    first_token_ms: float | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """What a successful attempt brought back; `text` and `finish_reason` are normalised (PROTOCOL.md 2.1)."""

    status: Literal["ok", "truncated", "refused", "empty"]
    text: str | None
    reasoning: str | None = None
    tool_calls: str | None = None
    finish_reason: FinishReason | None = None
    model: str | None = None
    response_id: str | None = None
    usage: Usage = Usage()
    cost: Cost | None = None
    flags: tuple[str, ...] = ()
    raw: str | None = None


class Then(Enum):
    """What to do after trouble."""

    RETRY = "retry"
    FAIL_ROW = "fail the row"
    REFUSE_ROW = "settle the row as refused"
    STOP_RUN = "stop the run"


class Spends(Enum):
    """Which of a row's budgets another try is taken from (DESIGN.md, section 4)."""

    ERROR = "error"
    THROTTLE = "throttle"
    AMBIGUOUS = "ambiguous"


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """What an attempt that brought no reply came to, and the way on.

    `line` is the line of PROTOCOL.md 2.2 that decided. `hint_s` is the wait the server asked for, in seconds, and
    `pauses` says that the whole lane is to keep it. `most_tries` bounds further tries of this row after trouble of this
    line where the verdict asks for fewer than the job allows, and `at_last` is what follows when none is left; where
    `instead` is given, the row is settled with that reply then. `maybe_billed` says that the request may have been paid
    for, `sent` is false when it can't have reached the server. `usage` and `cost` are what the server reported although
    the reply could not be used.
    """

    error_class: ErrorClass
    message: str
    then: Then
    spends: Spends = Spends.ERROR
    http_status: int | None = None
    code: str | None = None
    hint_s: float | None = None
    pauses: bool = False
    line: str = ""
    most_tries: int | None = None
    at_last: Then = Then.FAIL_ROW
    instead: Reply | None = None
    maybe_billed: bool = False
    sent: bool = True
    usage: Usage = Usage()
    cost: Cost | None = None
    raw: str | None = None


class Tries(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What a row's attempts have come to so far; kept in the ledger from the first attempt that was retried.

    `errors` and `ambiguous` count against their budgets, `throttled` only against the row's time. `lines` are the lines
    of PROTOCOL.md 2.2 that the counted errors came to, in order: some lines allow fewer tries than the budgets.
    `first_sent_us` is in microseconds since 1970, UTC.
    """

    attempts: int = 0
    errors: int = 0
    ambiguous: int = 0
    lines: tuple[str, ...] = ()
    throttled: int = 0
    maybe_billed: bool = False
    cost_nanousd: int | None = None
    cost_source: CostSource | None = None
    first_sent_us: int | None = None

    def afresh(self) -> "Tries":
        """Return what a new run takes over: all but the error budget, which begins anew."""
        return msgspec.structs.replace(self, errors=0, lines=(), throttled=0)

    @property
    def flags(self) -> tuple[str, ...]:
        """What its tries say about a row."""
        if not self.maybe_billed:  # so is every timeout of a gateway
            return ()
        gave_up_twice = self.lines.count(GATEWAY_TIMEOUT) > 1
        return ("maybe_billed", "gateway_timeouts") if gave_up_twice else ("maybe_billed",)
