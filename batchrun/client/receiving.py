"""The chunks of one reply's body into its Exchange, within the bounds of time that a stream has.

A stream of events has three: the whole exchange's, STREAM_IDLE_S of silence once its first byte came (before that a
server may queue the request), and STREAM_END_S after its end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable
from typing import Protocol

import msgspec

from batchrun.client.arriving import Arriving
from batchrun.model.attempt import Exchange

STREAM_IDLE_S = 300.0
"""A stream that has begun may be silent for so long: far beyond any server's pause or keep-alive comment."""
STREAM_END_S = 1.0
"""How long the end of the body is waited for after `[DONE]`, so that the connection can be used again."""


class Deadline(Protocol):
    """When an exchange is given up, on the loop's clock; `asyncio.timeout` gives such a one."""

    def when(self) -> float | None:
        """Return the time, None for never."""
        ...

    def reschedule(self, when: float | None, /) -> None:
        """Set another time, not later than the one before."""
        ...

    def expired(self) -> bool:
        """Say whether it has come."""
        ...


class Payload(Protocol):
    """A body on its way, after content decoding; aiohttp's StreamReader is one."""

    def iter_any(self) -> AsyncIterable[bytes]:
        """Return it chunk by chunk as they come."""
        ...


class Receiving:
    """Reads one reply: notes when its first text comes, gives up a silent stream, leaves one that says it is done."""

    def __init__(self, status: int, headers: dict[str, str], *, began_s: float) -> None:
        """Expect the first byte of the body; `began_s` is when its exchange began, by `time.monotonic`."""
        self.was_idle = False
        self._loop = asyncio.get_running_loop()
        self._began_s, self._last = began_s, self._loop.time()
        self._arriving = Arriving(status, headers)
        self._first_token_ms: float | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._leaves = False
        self._is_read = False

    async def read(self, payload: Payload, deadline: Deadline, head: bytes = b"") -> None:
        """Take the body to its end, after `head`; `deadline` comes sooner for a silent stream, or one that is done."""
        try:
            if head:
                self._take(head, deadline)
            async for chunk in payload.iter_any():
                self._take(chunk, deadline)
            self._is_read = True
        finally:
            if self._watch is not None:
                self._watch.cancel()

    def end(self) -> Exchange | None:
        """Return the whole exchange, None where there is none; see Arriving.end."""
        exchange = self._arriving.end(broken=not self._is_read)
        if exchange is None or self._first_token_ms is None:
            return exchange
        return msgspec.structs.replace(exchange, first_token_ms=self._first_token_ms)

    def _take(self, chunk: bytes, deadline: Deadline) -> None:
        self._arriving.feed(chunk)
        if self._arriving.is_stream:
            self._note(deadline)

    def _note(self, deadline: Deadline) -> None:
        """Take note of bytes of a stream; one timer looks for silence, however many chunks come."""
        self._last = self._loop.time()
        if self._first_token_ms is None and self._arriving.has_text:
            self._first_token_ms = (time.monotonic() - self._began_s) * 1000  # the loop's own clock is coarse
        if self._arriving.has_ended and not self._leaves:
            self._leaves = True
            until, when = self._last + STREAM_END_S, deadline.when()
            deadline.reschedule(until if when is None else min(until, when))
        elif self._watch is None:
            self._watch = self._loop.call_later(STREAM_IDLE_S, self._look, deadline)

    def _look(self, deadline: Deadline) -> None:
        silent_s = self._loop.time() - self._last
        if silent_s < STREAM_IDLE_S:
            self._watch = self._loop.call_later(STREAM_IDLE_S - silent_s, self._look, deadline)
        elif not self._leaves and not deadline.expired():
            self.was_idle = True
            deadline.reschedule(self._loop.time())
