"""One HTTP exchange over aiohttp's session: the transport for whatever the lean one can't do, proxies above all.

No redirects, which would turn a POST into a GET (TRAPS.md A14); bodies as streams, because large ones would block the
loop (A15). See client/connecting.py for the rest.
"""

from __future__ import annotations

import asyncio
import io

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from batchrun.client.arriving import ExchangeError
from batchrun.client.connecting import cut, ended_early, lowered, unsent
from batchrun.client.receiving import Receiving
from batchrun.model.attempt import Exchange


class _Sending(aiohttp.BytesIOPayload):
    """A request body that knows whether any of it may have left."""

    sent = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Note that sending begins, then send."""
        self.sent = True
        await super().write_with_length(writer, content_length)


class SessionTransport:
    """A Transport over one aiohttp ClientSession."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, *, timeout_s: float) -> None:
        """Post to `url`; an exchange that takes longer than `timeout_s` seconds is given up."""
        self._session = session
        self._url = url
        self._timeout_s = timeout_s

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        sending = _Sending(io.BytesIO(body))
        receiving = Receiving()
        broken: ExchangeError | None = None
        try:
            async with (
                asyncio.timeout(self._timeout_s) as deadline,
                self._session.post(self._url, data=sending, allow_redirects=False) as response,
            ):
                await receiving.read(response.content, deadline, response.status, lowered(response.headers))
        except (aiohttp.ClientError, OSError) as error:
            if not sending.sent:
                raise unsent(error, timeout_s=self._timeout_s) from None
            broken = cut(error, timeout_s=self._timeout_s, was_idle=receiving.was_idle)
        if (exchange := receiving.end()) is not None:
            return exchange
        raise broken or ended_early() from None

    async def look_up(self, path: str, *, timeout_s: float) -> Exchange:
        """GET `path` of the endpoint's host, as `exchange` would; raises ExchangeError when there is no whole reply."""
        receiving = Receiving()
        url = self._url.origin().with_path(path)
        try:
            async with (
                asyncio.timeout(timeout_s) as deadline,
                self._session.get(url, allow_redirects=False, middlewares=(_once,)) as response,
            ):
                await receiving.read(response.content, deadline, response.status, lowered(response.headers))
        except (aiohttp.ClientError, OSError) as error:
            raise unsent(error, timeout_s=timeout_s) from None
        if (exchange := receiving.end()) is None:
            raise ended_early()
        return exchange


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a GET once; aiohttp itself would send it a second time where the connection breaks."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise ExchangeError("disconnected", "the connection broke", sent=True) from None
