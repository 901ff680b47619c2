"""Messages over one end of a socket pair: each goes as its length in four bytes and itself in MessagePack."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

_LENGTH = struct.Struct(">I")
_ENCODE = msgspec.msgpack.Encoder().encode
_Received = TypeVar("_Received")


class Channel(asyncio.Protocol, Generic[_Received]):
    """One end: messages are sent at once and received in order, each by a call on the loop."""

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[_Received],
        received: Callable[[_Received], None],
        lost: Callable[[], None],
    ) -> None:
        """Hand each message to `received`; call `lost` once when the other end is gone."""
        self._decode = decoder.decode
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    async def open(self, end: socket.socket) -> None:
        """Use this end, whose descriptor is the channel's from now on; call it once, on the running loop."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Have a transport."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no instances of it

    def data_received(self, data: bytes) -> None:
        """Take out each message that is there whole."""
        buffer = self._buffer
        buffer += data
        while len(buffer) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(buffer)[0]
            if len(buffer) < end:
                return
            message = bytes(buffer[_LENGTH.size : end])
            del buffer[:end]
            self._received(self._decode(message))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as a Protocol has it
        """Tell that the other end is gone."""
        self._transport = None
        self._lost()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message; it is dropped where the other end is gone."""
        if self._transport is not None:
            content = _ENCODE(message)
            self._transport.write(_LENGTH.pack(len(content)) + content)

    def close(self) -> None:
        """Close this end once all is sent; nothing more is."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
