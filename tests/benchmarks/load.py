"""How fast `server.py` is: a plain client that sends one prepared request over and over, on another core.

python tests/benchmarks/load.py [--requests 200000] [--connections 64]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from typing import cast

import msgspec
from endpoint import Endpoint, serving
from server import HEADS_END, new_event_loop

ENOUGH_PER_CPU_S = 20_000


def request(chars: int) -> bytes:
    """Return a whole HTTP request whose prompt has `chars` characters."""
    content = ("lorem ipsum " * (chars // 12 + 1))[:chars]
    body = msgspec.json.encode(
        {"model": "m", "temperature": 0, "messages": [{"role": "user", "content": content}], "stream": False}
    )
    head = f"POST /v1/openai/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Sender(asyncio.Protocol):
    """Sends the request again as soon as its reply is there, while any are left."""

    def __init__(self, content: bytes, left: list[int], done: asyncio.Event) -> None:
        self._content = content
        self._left = left
        self._done = done
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._reply_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._content)

    def data_received(self, data: bytes) -> None:
        """Take the reply; all replies are as long as the first."""
        assert self._transport is not None
        self._buffer += data
        if not self._reply_bytes and HEADS_END in self._buffer:
            head, _, _ = self._buffer.partition(HEADS_END)
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
            self._reply_bytes = len(head) + len(HEADS_END) + length
        if self._reply_bytes and len(self._buffer) >= self._reply_bytes:
            self._buffer = self._buffer[self._reply_bytes :]
            self._left[0] -= 1
            if self._left[0] > 0:
                self._transport.write(self._content)
            else:
                self._done.set()


async def load(served: Endpoint, content: bytes, *, requests: int, connections: int) -> None:
    """Send so many requests over so many connections."""
    loop = asyncio.get_running_loop()
    left, done = [requests], asyncio.Event()
    for _ in range(connections):
        await loop.create_connection(lambda: Sender(content, left, done), "127.0.0.1", served.port)
    await done.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--chars", type=int, default=1000, help="of the prompt")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    with serving(core=cores[-1]) as served:
        os.sched_setaffinity(0, {cores[0]})
        before, began = served.stats(), time.monotonic()
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(load(served, request(options.chars), requests=options.requests, connections=options.connections))
        wall_s = time.monotonic() - began
        after = served.stats()
    replies, cpu_s = after["replies"] - before["replies"], after["cpu_s"] - before["cpu_s"]
    print(f"{replies / wall_s:,.0f} requests/s by the clock, {replies / cpu_s:,.0f} for a second of the server's CPU")
    return 0 if replies / cpu_s >= ENOUGH_PER_CPU_S else 1


if __name__ == "__main__":
    raise SystemExit(main())
