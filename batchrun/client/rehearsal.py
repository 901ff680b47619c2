"""Exchanges of the lean transport with nobody, to see whether the inside of the aiohttp at hand is as it needs it.

Everything is real but the sockets: connector, connections, parser.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from batchrun.client.arriving import ExchangeError
from batchrun.client.lean import LeanTransport
from batchrun.client.session import SLICE_BYTES, SessionTransport

REHEARSAL_S = 5.0
_HEAD = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n"
_ROOM = 3


async def is_offered(inquirer: SessionTransport) -> bool:
    """Say whether this aiohttp has what a LeanTransport needs; `inquirer` is not asked anything."""
    try:
        async with asyncio.timeout(REHEARSAL_S):
            return await _goes_well(inquirer) and await _is_given_up(inquirer)
    except (AttributeError, TypeError, ValueError, RuntimeError, LookupError, OSError, AssertionError):
        return False
    except (aiohttp.ClientError, ExchangeError):
        return False


async def _goes_well(inquirer: SessionTransport) -> bool:
    """Try a whole reply, one in halves on the same connection, then a byte too much, and a body larger than a slice."""
    large = b" " * (_ROOM * SLICE_BYTES)
    async with _nobody(inquirer, timeout_s=60) as (connector, transport):
        came = [await transport.exchange(b"{}")]
        connector.replies = [_HEAD + b"[", b"]"]
        came.append(await transport.exchange(b"{}"))
        connector.answer(b"H")
        came.append(await transport.exchange(large))
    first, second, *rest = connector.written
    return (
        [(one.status, one.headers, one.body) for one in came] == [(200, {"x-a": "1", "content-length": "2"}, b"[]")] * 3
        and connector.made == 2  # noqa: PLR2004 - the second because of the byte too much
        and first == second
        and first.startswith(b"POST /a?b=c HTTP/1.1\r\n")
        and all(line in first for line in (b"\r\nHost: nobody:1\r\n", b"\r\nX: y\r\n"))
        and first.endswith(b"\r\nContent-Length: 2\r\n\r\n{}")
        and len(rest) == 1 + _ROOM
        and b"".join(rest).endswith(b"\r\n\r\n" + large)
    )


async def _is_given_up(inquirer: SessionTransport) -> bool:
    """Try an exchange that is never answered."""
    async with _nobody(inquirer, timeout_s=0.001) as (connector, transport):
        connector.replies = []
        try:
            await transport.exchange(b"{}")
        except ExchangeError as error:
            return (error.phase, error.sent) == ("timeout", True)
    return False


@contextlib.asynccontextmanager
async def _nobody(
    inquirer: SessionTransport, *, timeout_s: float
) -> AsyncGenerator[tuple[_Nobodys, LeanTransport], None]:
    async with _Nobodys() as connector:
        url, headers = URL("http://nobody:1/a?b=c"), {"X": "y"}
        transport = LeanTransport(connector, url, headers, timeout_s=timeout_s, inquirer=inquirer)
        async with contextlib.aclosing(transport):
            yield connector, transport


class _Nobodys(aiohttp.BaseConnector):
    """A connector to nobody, who answers each request alike."""

    def __init__(self) -> None:
        super().__init__()
        self.replies = [_HEAD + b"[]"]
        self.written: list[bytes] = []
        self.made = 0
        self._protocol: ResponseHandler | None = None

    def answer(self, *parts: bytes) -> None:
        """Let these bytes come, each in a turn of the loop of its own."""
        if parts and self._protocol is not None:
            self._protocol.data_received(parts[0])
            asyncio.get_running_loop().call_soon(self.answer, *parts[1:])

    async def __aenter__(self) -> Self:
        return self

    async def _create_connection(self, *_: Any, **__: Any) -> ResponseHandler:
        self.made += 1
        self._protocol = ResponseHandler(asyncio.get_running_loop())
        self._protocol.connection_made(_Wire(self, self._protocol))
        return self._protocol


class _Wire(asyncio.Transport):
    """What a request is written to: it has room for a slice at a time, and is answered when the whole body is there."""

    def __init__(self, connector: _Nobodys, protocol: ResponseHandler) -> None:
        super().__init__()
        self._connector = connector
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._asked = b""
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._connector.written.append(bytes(data))
        self._asked += data
        if len(data) >= SLICE_BYTES:
            self._protocol.pause_writing()
            self._loop.call_soon(self._protocol.resume_writing)
        head, _, body = self._asked.partition(b"\r\n\r\n")
        if len(body) == int(head.rpartition(b" ")[2]):
            self._asked = b""
            self._loop.call_soon(self._connector.answer, *self._connector.replies)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close
