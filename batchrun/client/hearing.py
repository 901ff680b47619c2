"""A connection that hears one reply to each request: aiohttp's own protocol, with a short way for a plain reply.

Most replies come whole in one piece. Then the exchange is told to the one who asked, past aiohttp's queue and what
more pieces need. Whatever is not so plain goes aiohttp's way. What this needs of aiohttp's inside is tried by
client/rehearsal.py.
"""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp.helpers import TimerNoop
from aiohttp.http import RawResponseMessage
from aiohttp.http_parser import HttpParser

from batchrun.client.arriving import at_once
from batchrun.client.connecting import HeaderNames, Undisturbed, connect_by, unsent
from batchrun.client.session import SLICE_BYTES
from batchrun.model.attempt import Exchange

_NO_TIMER = TimerNoop()
"""For all bodies; each would make one of its own."""


class Hearing(Undisturbed):
    """One connection: asked, heard, at rest; whatever is said at rest spoils it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, names: HeaderNames) -> None:
        """Expect to be connected; `names` may be shared."""
        super().__init__(loop)
        self._names = names
        self._heard: asyncio.Future[Exchange | None] | None = None
        self._is_plain = False
        self._spare: HttpParser[RawResponseMessage] | None = None
        self._rest = memoryview(b"")

    def is_fit(self) -> bool:
        """Say whether it can be asked: it is connected, and nothing was said at rest."""
        transport = self.transport
        return transport is not None and not transport.is_closing() and not self.should_close

    def has_sent(self) -> bool:
        """Say whether all that was asked has left."""
        transport = self.transport
        return transport is not None and not transport.get_write_buffer_size() and not self._rest

    def ask(self, head: bytes, body: bytes) -> asyncio.Future[Exchange | None]:
        """Send a request; return the reply, or None as soon as it has to be waited for by `read`.

        A large body leaves in slices, the next when there is room, beside the exchange, which may be answered before.
        Raises ExchangeError where nothing can leave.
        """
        transport = self.transport
        if transport is None or transport.is_closing():
            raise unsent(aiohttp.ClientConnectionResetError(), timeout_s=0)
        self._heard = heard = self._loop.create_future()
        self._is_plain = False
        if self._spare is None:
            self.set_response_params(timer=_NO_TIMER, read_until_eof=True, auto_decompress=True)
        else:
            self._parser, self._spare = self._spare, None
        if len(body) <= SLICE_BYTES:
            transport.write(head + body)
        else:
            transport.write(head)
            self._rest = memoryview(body)
            self._pour()
        return heard

    def rest(self) -> bool:
        """Hear nothing until it is asked again; say whether it can be.

        Without a parser what comes is kept unread, even half a reply, and spoils the connection. The parser is as new
        after a body by its length that is no part of another reply. After a chunked one it is not: the trailer would
        become the first header of the next reply.
        """
        self._heard = None
        parser, self._parser = self._parser, None
        if not self._is_plain or parser is None:
            return not self.should_close
        try:
            has_begun = parser.feed_eof() is not None
        except Exception:  # noqa: BLE001 - a reply is at hand, and must not be lost for what may come after it
            return False
        self._spare = parser
        return not has_begun

    def resume_writing(self) -> None:
        """Send on."""
        super().resume_writing()
        self._pour()

    def feed_data(self, data: tuple[RawResponseMessage, aiohttp.StreamReader], size: int = 0) -> None:
        """Take a head that was read, and its body on its way; tell the one who asked what that comes to."""
        heard = self._heard
        if heard is None or heard.done():
            super().feed_data(data, size)
            return
        message, payload = data
        exchange: Exchange | None = None
        if payload.total_bytes and payload.is_eof():
            body = b"".join(payload._buffer)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
            exchange = at_once(message.code, self._names.lowered(message.headers), body)
        if exchange is None:
            super().feed_data(data, size)
        else:
            self._is_plain = not (message.chunked or message.compression or message.should_close)
        heard.set_result(exchange)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's
        """Read on; at the end of a body only what was paused (aiohttp before 3.14 never asks for anything else)."""
        if resume_parser:
            super().resume_reading()
        elif self._reading_paused:
            super().resume_reading(resume_parser=False)

    def set_exception(self, exc: BaseException, exc_cause: BaseException | None = None) -> None:
        """Let whoever waits get this exception from `read`."""
        super().set_exception(exc, *(() if exc_cause is None else (exc_cause,)))
        if self._heard is not None and not self._heard.done():
            self._heard.set_result(None)

    def _pour(self) -> None:
        while self._rest and not self.writing_paused and self.transport is not None and not self.transport.is_closing():
            self.transport.write(self._rest[:SLICE_BYTES])
            self._rest = self._rest[SLICE_BYTES:]


def hear_over(connector: aiohttp.BaseConnector) -> None:
    """Let each connection that is made from now on be a Hearing."""
    names = HeaderNames()
    connect_by(connector, lambda loop: Hearing(loop, names))
