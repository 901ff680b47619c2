"""Requests and replies into the counts of /stats: what was asked, what was paid, what was paid twice."""

from __future__ import annotations

import msgspec

from batchrun.simulator.replies import Reply, usd_text

_ENCODE = msgspec.json.Encoder().encode


class Tally:
    """The counts of one simulator, some bytes for each distinct prompt and nothing for each request."""

    def __init__(self) -> None:
        """Start at nothing."""
        self._requests = 0
        self._first_request_at: float | None = None
        self._last_request_at: float | None = None
        self._by_status: dict[str, int] = {}
        self._paid: dict[int, int] = {}
        self._unpaid: dict[int, int] = {}
        self._replies = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._cost_nanousd = 0

    def receive(self, now: float) -> None:
        """Count a POST that was read; `now` is in unix seconds."""
        self._requests += 1
        self._last_request_at = now
        if self._first_request_at is None:
            self._first_request_at = now

    def begin(self, digest: str) -> int:
        """Count a try of a prompt and return how many came before it."""
        key = int(digest, 16)
        # The sum of both never falls, so tries that run at the same time have different numbers. Entries of
        # `unpaid` go when their tries are paid: what stays is what failed or is in flight.
        unpaid = self._unpaid.get(key, 0)
        self._unpaid[key] = unpaid + 1
        return unpaid + self._paid.get(key, 0)

    def pay(self, digest: str, reply: Reply) -> None:
        """Count a reply that was generated for a try that `begin` has counted."""
        key = int(digest, 16)
        left = self._unpaid[key] - 1
        if left:
            self._unpaid[key] = left
        else:
            del self._unpaid[key]
        self._paid[key] = self._paid.get(key, 0) + 1
        self._replies += 1
        self._prompt_tokens += reply.prompt_tokens
        self._completion_tokens += reply.completion_tokens
        self._cost_nanousd += reply.cost_nanousd

    def end(self, status: str) -> None:
        """Count how a request ended: an HTTP status, or reset, hang, truncated."""
        self._by_status[status] = self._by_status.get(status, 0) + 1

    def stats(self, *, in_flight: int, max_in_flight: int) -> bytes:
        """Return the body of /stats: counts since the start, times in unix seconds, money in USD."""
        return _ENCODE(
            {
                "requests": self._requests,
                "replies": self._replies,
                "by_status": self._by_status,
                "prompts": len(self._paid),
                "paid_twice": self._replies - len(self._paid),
                "in_flight": in_flight,
                "max_in_flight": max_in_flight,
                "first_request_at": self._first_request_at,
                "last_request_at": self._last_request_at,
                "tokens": {"in": self._prompt_tokens, "out": self._completion_tokens},
                "cost_usd": msgspec.Raw(usd_text(self._cost_nanousd).encode()),
            }
        )
