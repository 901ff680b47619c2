"""What became of a record: a completion or a failure, with the account of its attempts."""

# Without `from __future__ import annotations`: msgspec would compile each field's text again, in 40 µs (measured).

from collections.abc import Sequence
from typing import Literal

import msgspec

from batchrun.model.attempt import CostSource, ErrorClass, Reply, Tries, Usage

Status = Literal["ok", "truncated", "refused", "empty", "invalid", "failed"]
STATUSES: tuple[Status, ...] = ("ok", "truncated", "refused", "empty", "invalid", "failed")


class Account(msgspec.Struct, frozen=True, kw_only=True, array_like=True, gc=False):
    """What the attempts of one row came to; times in microseconds since 1970 UTC, money in nano-USD.

    `endpoint` is the name of the lane that made the last exchange.
    """

    attempts: int = 0
    cost_nanousd: int | None = None
    cost_source: CostSource | None = None
    http_status: int | None = None
    latency_ms: float | None = None
    started_us: int | None = None
    finished_us: int | None = None
    request_sha256: str | None = None
    flags: tuple[str, ...] = ()
    endpoint: str | None = None

    def tries(self) -> Tries:
        """Return what a row that is asked again takes along: attempts and money, with fresh budgets."""
        return Tries(
            attempts=self.attempts,
            maybe_billed="maybe_billed" in self.flags,
            cost_nanousd=self.cost_nanousd,
            cost_source=self.cost_source,
            first_sent_us=self.started_us,
        )


class Completion(msgspec.Struct, frozen=True, kw_only=True, tag="c", gc=False):
    """A record whose request was answered."""

    row: int
    reply: Reply
    account: Account

    @property
    def status(self) -> Status:
        """The row's status."""
        return self.reply.status

    @property
    def error_class(self) -> None:
        """Always None: a completion is no failure."""
        return None

    @property
    def usage(self) -> Usage:
        """Tokens of the final reply."""
        return self.reply.usage


class Failure(msgspec.Struct, frozen=True, kw_only=True, tag="f"):
    """A record that got no answer; `message` is never empty."""

    row: int
    error_class: ErrorClass
    message: str
    account: Account
    usage: Usage = Usage()
    raw: str | None = None

    @property
    def status(self) -> Status:
        """The row's status: `failed`."""
        return "failed"


Outcome = Completion | Failure


def is_unpriced(outcome: Outcome) -> bool:
    """Say whether a completed row's cost is not known."""
    return outcome.account.cost_nanousd is None and isinstance(outcome, Completion)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER: msgspec.msgpack.Decoder[Outcome] = msgspec.msgpack.Decoder(Completion | Failure)
_DECODER_OF_ALL: msgspec.msgpack.Decoder[list[Outcome]] = msgspec.msgpack.Decoder(list[Completion | Failure])


def pack(outcome: Outcome) -> bytes:
    """Encode an outcome as the ledger keeps it (MessagePack)."""
    return _ENCODER.encode(outcome)


def unpack(packed: bytes) -> Outcome:
    """Decode what `pack` made."""
    return _DECODER.decode(packed)


def pack_all(outcomes: Sequence[Outcome]) -> bytes:
    """Encode several outcomes as one value."""
    return _ENCODER.encode(outcomes)


def unpack_all(packed: bytes) -> list[Outcome]:
    """Decode what `pack_all` made."""
    return _DECODER_OF_ALL.decode(packed)
