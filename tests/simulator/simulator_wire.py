"""Raw HTTP/1.1 exchanges over loopback, so that broken replies can be seen as they are."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

COMPLETIONS = "/v1/openai/chat/completions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Raw:
    """A reply as it came, until the connection ended."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(prompt: str = "hello", **fields: Any) -> bytes:
    """A request body with one user message."""
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}).encode()


def request_bytes(body: bytes, *, method: str = "POST", path: str = COMPLETIONS, extra: str = "") -> bytes:
    """A request after which the server closes the connection."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    return f"{head}Content-Length: {len(body)}\r\n{extra}\r\n".encode() + body


async def send(port: int, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a connection and send; whoever calls closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    await writer.drain()
    return reader, writer


async def exchange(
    port: int, body: bytes = b"", *, method: str = "POST", path: str = COMPLETIONS, extra: str = ""
) -> Raw:
    """Send one request and read until the server closes the connection."""
    reader, writer = await send(port, request_bytes(body, method=method, path=path, extra=extra))
    try:
        head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Raw(status=int(first.split()[1]), headers=headers, body=rest)


async def stats(port: int) -> Any:
    """The counts of the server."""
    return (await exchange(port, method="GET", path="/stats")).json


async def stats_when(port: int, holds: Callable[[Any], bool]) -> Any:
    """Ask for the counts until they are as expected, 10 s at most."""
    async with asyncio.timeout(10):
        while not holds(counts := await stats(port)):
            pass
    return counts
