"""Exchanges of the lean transport with nobody, to see whether the inside of the aiohttp at hand is as it needs it.

Everything is real but the sockets: connector, connections, parser.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from batchrun.client.arriving import ExchangeError, Phase
from batchrun.client.lean import LeanTransport
from batchrun.client.session import SLICE_BYTES, SessionTransport
from batchrun.model.attempt import Exchange

REHEARSAL_S = 5.0
_HEAD = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 2\r\n\r\n"
_WHOLE = _HEAD + b"[]"
_BEGUN = b"HTTP/1.1 500 No\r\nX-B: ", b"HTTP/1.1 500 No\r\nX"
_WAYS = (
    [_WHOLE],
    [_HEAD + b"[", b"]"],
    [b"HTTP/1.1 100 Continue\r\n\r\n", _WHOLE],
    *([_WHOLE + begun] for begun in _BEGUN),
    [_WHOLE],
)
"""Each is one reply, in pieces; the one before the last begins another one, which spoils its connection."""
_LOST = b""
_ROOM = 3


async def is_offered(inquirer: SessionTransport) -> bool:
    """Say whether this aiohttp has what a LeanTransport needs; `inquirer` is not asked anything."""
    try:
        async with asyncio.timeout(REHEARSAL_S):
            return (
                await _goes_well(inquirer)
                and await _fails(inquirer, "timeout", timeout_s=0.001)
                and await _fails(inquirer, "disconnected", _LOST, timeout_s=60)
            )
    except (AttributeError, TypeError, ValueError, RuntimeError, LookupError, OSError, AssertionError):
        return False
    except (aiohttp.ClientError, ExchangeError):
        return False


async def _goes_well(inquirer: SessionTransport) -> bool:
    """Try replies in several ways, then a byte too much, and a body larger than a slice."""
    large = b" " * (_ROOM * SLICE_BYTES)
    came: list[Exchange] = []
    async with _nobody(inquirer, timeout_s=60) as (connector, transport):
        for connector.replies in _WAYS:
            came.append(await transport.exchange(b"{}"))
        connector.answer(b"H")
        came.append(await transport.exchange(large))
    sent = connector.written[: len(_WAYS)]
    rest = connector.written[len(_WAYS) :]
    return (
        [(one.status, one.headers, one.body) for one in came]
        == [(200, {"x-a": "1", "content-length": "2"}, b"[]")] * (len(_WAYS) + 1)
        and connector.made == 2 + len(_BEGUN)  # what nobody asked for costs the connection
        and len(set(sent)) == 1
        and sent[0].startswith(b"POST /a?b=c HTTP/1.1\r\n")
        and all(line in sent[0] for line in (b"\r\nHost: 127.0.0.1:1\r\n", b"\r\nX: y\r\n"))
        and sent[0].endswith(b"\r\nContent-Length: 2\r\n\r\n{}")
        and len(rest) == 1 + _ROOM
        and b"".join(rest).endswith(b"\r\n\r\n" + large)
    )


async def _fails(inquirer: SessionTransport, phase: Phase, *replies: bytes, timeout_s: float) -> bool:
    """Try an exchange that ends so, although it was sent."""
    async with _nobody(inquirer, timeout_s=timeout_s) as (connector, transport):
        connector.replies = list(replies)
        try:
            await transport.exchange(b"{}")
        except ExchangeError as error:
            return (error.phase, error.sent) == (phase, True)
    return False


@contextlib.asynccontextmanager
async def _nobody(
    inquirer: SessionTransport, *, timeout_s: float
) -> AsyncGenerator[tuple[_Nobodys, LeanTransport], None]:
    async with _Nobodys() as connector:
        url, headers = URL("http://127.0.0.1:1/a?b=c"), {"X": "y"}
        transport = LeanTransport(connector, url, headers, timeout_s=timeout_s, inquirer=inquirer)
        async with contextlib.aclosing(transport):
            yield connector, transport


class _Nobodys(aiohttp.TCPConnector):
    """A connector to nobody, who answers each request alike."""

    def __init__(self) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.replies: list[bytes] = []
        self.written: list[bytes] = []
        self.made = 0
        self._protocol: ResponseHandler | None = None

    def answer(self, *parts: bytes) -> None:
        """Let these bytes come, each in a turn of the loop of its own; no bytes are the end of the connection."""
        if not parts or self._protocol is None:
            return
        try:
            if parts[0] == _LOST:
                self._protocol.connection_lost(None)
            else:
                self._protocol.data_received(parts[0])
        except Exception as error:  # noqa: BLE001 - so does a loop, whatever it is
            self._protocol.connection_lost(error)
        asyncio.get_running_loop().call_soon(self.answer, *parts[1:])

    async def __aenter__(self) -> Self:
        return self

    async def _wrap_create_connection(self, *args: Any, **_: Any) -> tuple[asyncio.Transport, ResponseHandler]:
        """Connect to nobody what aiohttp would connect to a socket."""
        make: Callable[[], ResponseHandler] = args[0]
        self.made += 1
        self._protocol = protocol = make()
        wire = _Wire(self, protocol)
        protocol.connection_made(wire)
        return wire, protocol


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
