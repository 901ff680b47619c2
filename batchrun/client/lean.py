"""One HTTP exchange over aiohttp's connector and response parser, without its request and response objects.

The head is built once a run, and head and body leave in one write. No task, timer, lock or context manager belongs to
an exchange that goes well: one timer watches over all of them, another one drops connections that have been idle. It
costs 20 µs of CPU where the session costs 75 (measured). What it needs of aiohttp's inside is tried by
client/rehearsal.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from yarl import URL

from batchrun.client.arriving import ExchangeError, at_once
from batchrun.client.connecting import IDLE_S, connect_bounds, cut, ended_early, lowered, unsent
from batchrun.client.flights import Flight, Flights
from batchrun.client.receiving import Receiving
from batchrun.client.session import SLICE_BYTES, SessionTransport
from batchrun.model.attempt import Exchange

_SWITCHING_PROTOCOLS, _OK = 101, 200
_BROKEN = (aiohttp.ClientError, OSError, HttpProcessingError, RuntimeError, aiohttp.EofStream)
"""What waiting for a reply may raise; a StreamReader says RuntimeError where its connection has gone."""


class LeanTransport:
    """A Transport over a connector; one loop's, and closed by `aclose`."""

    def __init__(
        self,
        connector: aiohttp.BaseConnector,
        url: URL,
        headers: Mapping[str, str],
        *,
        timeout_s: float,
        inquirer: SessionTransport,
    ) -> None:
        """Post to `url`; an exchange that takes longer than `timeout_s` seconds is given up."""
        self._connector = connector
        self._keeps = not connector.force_close
        self._request = _request(url, headers)
        self._head = _head(self._request, keeps=self._keeps)
        self._bounds = connect_bounds()
        self._timeout_s = timeout_s
        self._inquirer = inquirer
        self._loop = asyncio.get_running_loop()
        self._flights = Flights(timeout_s=timeout_s)
        self._idle: deque[tuple[Connection, ResponseHandler, float]] = deque()
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        flight = self._flights.begin()
        try:
            connection, protocol = self._kept() or await self._connect(flight)
            try:
                rest = self._send(protocol, body)
                exchange = await self._receive(protocol, flight)
            except BaseException:
                _drop(connection)
                raise
            if rest is None or rest.has_left:
                self._keep(connection, protocol)
            else:
                _drop(connection)
            return exchange
        finally:
            self._flights.end(flight)

    async def look_up(self, path: str, *, timeout_s: float) -> Exchange:
        """GET `path` of the endpoint's host; once a run, so by the session."""
        return await self._inquirer.look_up(path, timeout_s=timeout_s)

    async def aclose(self) -> None:
        """Leave the connections that are idle to the connector, which waits for their end when it closes."""
        self._flights.close()
        if self._sweep is not None:
            self._sweep.cancel()
        while self._idle:
            self._idle.pop()[0].release()

    def _kept(self) -> tuple[Connection, ResponseHandler] | None:
        """Take the connection that was used last, unless the server has closed it, or said what it was not asked."""
        while self._idle:
            connection, protocol, since = self._idle.pop()
            if self._loop.time() - since <= IDLE_S and protocol.is_connected() and not protocol.should_close:
                return connection, protocol
            connection.close()
        return None

    async def _connect(self, flight: Flight) -> tuple[Connection, ResponseHandler]:
        try:
            async with asyncio.timeout_at(flight.when()):
                connection = await self._connector.connect(self._request, [], self._bounds)
        except (aiohttp.ClientError, OSError) as error:
            raise unsent(error, timeout_s=self._timeout_s) from None
        protocol = connection.protocol
        if flight.expired() or protocol is None:
            _drop(connection)
            raise unsent(TimeoutError(), timeout_s=self._timeout_s)
        return connection, protocol

    def _send(self, protocol: ResponseHandler, body: bytes) -> _Rest | None:
        """Write the request, or its beginning and return the rest; raises ExchangeError where nothing can leave."""
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise unsent(aiohttp.ClientConnectionResetError(), timeout_s=self._timeout_s)
        protocol.set_response_params(read_until_eof=True, auto_decompress=True)
        head = b"%b%d\r\n\r\n" % (self._head, len(body))
        if len(body) <= SLICE_BYTES:
            transport.write(head + body)
            return None
        transport.write(head)
        rest = _Rest(protocol, body)
        rest.pour()
        return rest

    async def _receive(self, protocol: ResponseHandler, flight: Flight) -> Exchange:
        began_s = time.monotonic()
        receiving: Receiving | None = None
        broken: ExchangeError | None = None
        flight.head = protocol
        try:
            message, payload = await protocol.read()
            while message.code < _OK and message.code != _SWITCHING_PROTOCOLS:
                message, payload = await protocol.read()
            flight.body = payload
            if flight.expired():  # in the same turn of the loop, when the body could not be told
                raise TimeoutError
            headers = lowered(message.headers)
            head = payload.read_nowait() if payload.is_eof() else b""
            if (whole := at_once(message.code, headers, head)) is not None:
                return whole
            receiving = Receiving(message.code, headers, began_s=began_s)
            await receiving.read(payload, flight, head)
        except _BROKEN as error:
            broken = cut(error, timeout_s=self._timeout_s, was_idle=receiving is not None and receiving.was_idle)
        if receiving is not None and (exchange := receiving.end()) is not None:
            return exchange
        raise broken or ended_early() from None

    def _keep(self, connection: Connection, protocol: ResponseHandler) -> None:
        """Keep a connection for the next exchange, if both sides may."""
        transport = protocol.transport
        if not self._keeps or protocol.should_close or transport is None or transport.get_write_buffer_size():
            connection.close()
            return
        _stop_reading(protocol)
        self._idle.append((connection, protocol, self._loop.time()))
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_S, self._drop_idle)

    def _drop_idle(self) -> None:
        """Close what has been idle for too long, the oldest first; come again for the first of the others."""
        self._sweep = None
        while self._idle:
            due = self._idle[0][2] + IDLE_S
            if due > self._loop.time():
                self._sweep = self._loop.call_at(due, self._drop_idle)
                return
            self._idle.popleft()[0].close()


class _Rest:
    """What of a large body has not left yet; poured out beside the exchange, which may be answered before its end."""

    def __init__(self, protocol: ResponseHandler, body: bytes) -> None:
        self._protocol = protocol
        self._rest = memoryview(body)

    @property
    def has_left(self) -> bool:
        return not self._rest

    def pour(self, room: asyncio.Future[None] | None = None) -> None:
        """Write while there is room, and come again when there is; no task is needed for it."""
        if room is not None and room.exception() is not None:
            return
        transport = self._protocol.transport
        while self._rest and transport is not None and not transport.is_closing():
            if self._protocol.writing_paused:
                waiter = asyncio.get_running_loop().create_future()
                waiter.add_done_callback(self.pour)
                self._protocol._drain_waiter = waiter  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
                return
            transport.write(self._rest[:SLICE_BYTES])
            self._rest = self._rest[SLICE_BYTES:]


def _stop_reading(protocol: ResponseHandler) -> None:
    """Take the parser away until the next request: what comes before that, even half a reply, spoils the connection."""
    protocol._parser = None  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _drop(connection: Connection) -> None:
    """Close a connection that can't be used again, without waiting until what was written has left."""
    if (transport := connection.transport) is not None:
        transport.abort()
    connection.close()


def _request(url: URL, headers: Mapping[str, str]) -> aiohttp.ClientRequest:
    """Return what tells a connector where to connect; its headers are those that the session would send."""
    return aiohttp.ClientRequest("POST", url, headers=headers, loop=asyncio.get_running_loop())


def _head(request: aiohttp.ClientRequest, *, keeps: bool) -> bytes:
    """Return the head of every request up to the number of bytes in its body."""
    lines = [f"{request.method} {request.url.raw_path_qs} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "content-length"]
    lines += [] if keeps else ["Connection: close"]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a header holds a line end")
    return "\r\n".join([*lines, "Content-Length: "]).encode()
