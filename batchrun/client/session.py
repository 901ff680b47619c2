"""One HTTP exchange over aiohttp's session: the transport for whatever the lean one can't do, proxies above all.

No redirects, which would turn a POST into a GET (TRAPS.md A14); large bodies in slices, because all of one at once
would block the loop (A15). What aiohttp would do anew for each request and need not is done once: headers, cookies,
timers. See client/connecting.py for the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from http.cookies import BaseCookie, SimpleCookie

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.typedefs import LooseHeaders
from multidict import CIMultiDict
from yarl import URL

from batchrun.client.arriving import ExchangeError, at_once
from batchrun.client.connecting import (
    HeaderNames,
    Undisturbed,
    connect_bounds,
    connect_by,
    cut,
    ended_early,
    lowered,
    unsent,
)
from batchrun.client.flights import Flights, Interrupting
from batchrun.client.receiving import Receiving
from batchrun.model.attempt import Exchange

SLICE_BYTES = 256 * 1024
"""A larger body leaves in slices of this size, the next when the socket has room for it."""


@asynccontextmanager
async def open_session(
    connector: aiohttp.BaseConnector, url: URL, headers: Mapping[str, str], *, timeout_s: float, proxy: str | None
) -> AsyncGenerator[SessionTransport, None]:
    """Open what posts to `url` over `connector`, both closed at the end."""
    connect_by(connector, Undisturbed)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=_NoCookies(),
        timeout=connect_bounds(),
        proxy=proxy,
        request_class=_requests_with(_all_headers(url, headers)),
    ) as session:
        transport = SessionTransport(session, url, timeout_s=timeout_s)
        try:
            yield transport
        finally:
            transport.close()


class SessionTransport:
    """A Transport over one aiohttp ClientSession that `open_session` made; one loop's."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, *, timeout_s: float) -> None:
        """Post to `url`; an exchange that takes longer than `timeout_s` seconds is given up."""
        self._session = session
        self._url = url
        self._timeout_s = timeout_s
        self._flights = Flights(timeout_s=timeout_s)
        self._names = HeaderNames()

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        began_s = time.monotonic()
        sending = _Body(body)
        receiving: Receiving | None = None
        broken: ExchangeError | None = None
        try:
            with Interrupting(self._flights) as flight:
                response = await self._session.post(self._url, data=sending, allow_redirects=False)
                status, headers, payload = response.status, self._names.lowered(response.headers), response.content
                # closed: all of it is there, and its connection given back
                if response.closed and (whole := at_once(status, headers, _unread(payload))) is not None:
                    return whole
                async with response:
                    receiving = Receiving(status, headers, began_s=began_s)
                    await receiving.read(payload, flight)
        except (aiohttp.ClientError, OSError) as error:
            if not sending.sent:
                raise unsent(error, timeout_s=self._timeout_s) from None
            broken = cut(error, timeout_s=self._timeout_s, was_idle=receiving is not None and receiving.was_idle)
        if receiving is not None and (exchange := receiving.end()) is not None:
            return exchange
        raise broken or ended_early() from None

    async def look_up(self, path: str, *, timeout_s: float) -> Exchange:
        """GET `path` of the endpoint's host, as `exchange` would; raises ExchangeError when there is no whole reply."""
        began_s = time.monotonic()
        url = self._url.origin().with_path(path)
        try:
            async with (
                asyncio.timeout(timeout_s) as deadline,
                self._session.get(url, allow_redirects=False, middlewares=(_once,)) as response,
            ):
                receiving = Receiving(response.status, lowered(response.headers), began_s=began_s)
                await receiving.read(response.content, deadline)
        except (aiohttp.ClientError, OSError) as error:
            raise unsent(error, timeout_s=timeout_s) from None
        if (exchange := receiving.end()) is None:
            raise ended_early()
        return exchange

    def close(self) -> None:
        """Give up no exchange any more."""
        self._flights.close()


class _Body(aiohttp.Payload):
    """A request body that knows whether any of it may have left."""

    def __init__(self, value: bytes) -> None:
        super().__init__(value)
        self._size = len(value)
        self.sent = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:  # noqa: ARG002
        """Note that sending begins, then send; the length is always that of the whole."""
        self.sent = True
        if len(self._value) <= SLICE_BYTES:
            await writer.write(self._value)
            return
        value = memoryview(self._value)
        for begin in range(0, len(value), SLICE_BYTES):
            await writer.write(value[begin : begin + SLICE_BYTES])

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send."""
        await self.write_with_length(writer, None)

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return the text."""
        return bytes(self._value).decode(encoding, errors)


def _unread(payload: aiohttp.StreamReader) -> bytes:
    """Return what lies in `payload` and leave it there; nothing where that can't be said.

    To take it out costs 3 µs more: aiohttp lets the parser go on then, on a connection given back already.
    """
    body = b"".join(getattr(payload, "_buffer", ()))
    return body if len(body) == payload.total_bytes else b""


class _NoCookies(aiohttp.DummyCookieJar):
    """Has no cookies, and makes no new object for each request to say so."""

    def __init__(self) -> None:
        super().__init__()
        self._none: BaseCookie[str] = SimpleCookie()

    def filter_cookies(self, request_url: URL) -> BaseCookie[str]:  # noqa: ARG002 - the name of aiohttp
        return self._none


def _requests_with(all_headers: CIMultiDict[str]) -> type[aiohttp.ClientRequest]:
    """Return the requests of a session, which all have these headers.

    They are no default ones of the session, because aiohttp would tell those to a proxy, in the open.
    """

    class Request(aiohttp.ClientRequest):
        def update_headers(self, headers: LooseHeaders | None) -> None:  # noqa: ARG002 - the session's: none
            self.headers = all_headers.copy()

        def update_auto_headers(self, skip_auto_headers: Iterable[str] | None) -> None:
            """Add none: they are among all."""

    return Request


def _all_headers(url: URL, headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Return all headers that aiohttp would send with a POST to `url`, but for the length of its body."""
    request = aiohttp.ClientRequest("POST", url, headers=headers, loop=asyncio.get_running_loop())
    complete = request.headers.copy()
    complete.popall("Content-Length", None)
    return complete


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a GET once; aiohttp itself would send it a second time where the connection breaks."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise ExchangeError("disconnected", "the connection broke", sent=True) from None
