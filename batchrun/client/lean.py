"""One HTTP exchange over aiohttp's connector and response parser, without its request and response objects.

The head is built once a run, and head and body leave in one write. No task, timer, lock or context manager belongs to
an exchange that goes well: one timer watches over all of them, another one drops connections that have been idle. It
costs 15 µs of CPU where the session costs 75 (measured). What it needs of aiohttp's inside is tried by
client/rehearsal.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping

import aiohttp
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from yarl import URL

from batchrun.client.arriving import ExchangeError, at_once
from batchrun.client.connecting import IDLE_S, connect_bounds, cut, ended_early, lowered, unsent
from batchrun.client.flights import Flight, Flights
from batchrun.client.hearing import Hearing, hear_over
from batchrun.client.receiving import Receiving
from batchrun.client.session import SessionTransport
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
        hear_over(connector)
        self._connector = connector
        self._keeps = not connector.force_close
        self._request = _request(url, headers)
        self._head = _head(self._request, keeps=self._keeps)
        self._bounds = connect_bounds()
        self._timeout_s = timeout_s
        self._inquirer = inquirer
        self._loop = asyncio.get_running_loop()
        self._flights = Flights(timeout_s=timeout_s)
        self._idle: deque[tuple[Connection, Hearing, float]] = deque()
        self._sweep: asyncio.TimerHandle | None = None

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        flight = self._flights.begin()
        try:
            connection, hearing = self._kept() or await self._connect(flight)
            flight.head = hearing
            try:
                began_s = time.monotonic()
                exchange = await hearing.ask(b"%b%d\r\n\r\n" % (self._head, len(body)), body)
                if exchange is None:
                    exchange = await self._receive(hearing, flight, began_s)
            except BaseException:
                _drop(connection)
                raise
            self._keep(connection, hearing)
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

    def _kept(self) -> tuple[Connection, Hearing] | None:
        """Take the connection that was used last, unless the server has closed it, or said what it was not asked."""
        while self._idle:
            connection, hearing, since = self._idle.pop()
            if self._loop.time() - since <= IDLE_S and hearing.is_fit():
                return connection, hearing
            connection.close()
        return None

    async def _connect(self, flight: Flight) -> tuple[Connection, Hearing]:
        try:
            async with asyncio.timeout_at(flight.when()):
                connection = await self._connector.connect(self._request, [], self._bounds)
        except (aiohttp.ClientError, OSError) as error:
            raise unsent(error, timeout_s=self._timeout_s) from None
        hearing = connection.protocol
        if flight.expired() or hearing is None:
            _drop(connection)
            raise unsent(TimeoutError(), timeout_s=self._timeout_s)
        if not isinstance(hearing, Hearing):
            _drop(connection)
            raise TypeError("aiohttp makes its connections in another way")
        return connection, hearing

    async def _receive(self, hearing: Hearing, flight: Flight, began_s: float) -> Exchange:
        receiving: Receiving | None = None
        broken: ExchangeError | None = None
        try:
            message, payload = await hearing.read()
            while message.code < _OK and message.code != _SWITCHING_PROTOCOLS:
                message, payload = await hearing.read()
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

    def _keep(self, connection: Connection, hearing: Hearing) -> None:
        """Keep a connection for the next exchange, if both sides may."""
        if not hearing.has_sent():
            _drop(connection)
            return
        if not self._keeps or not hearing.rest():
            connection.close()
            return
        self._idle.append((connection, hearing, self._loop.time()))
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
