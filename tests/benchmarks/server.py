"""A fast chat completions endpoint on loopback, in a process of its own: raw asyncio protocol, uvloop where installed.

POST /v1/…/chat/completions is answered as DeepInfra answers (PROTOCOL.md 0.1), with usage and estimated_cost. A
completion begins with a digest of the last message, so that the right row can be told from a wrong one. GET /stats
counts what was asked and paid. It is no model of a provider: `batchrun simulate` is.

    python tests/benchmarks/server.py [--latency-ms 1000 --latency-sigma 0.5] [--faults 0.05] [--hang TEXT]
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import random
import signal
import sys
import time
from collections import Counter
from typing import cast

import msgspec

try:
    from uvloop import new_event_loop
except ImportError:
    from asyncio import new_event_loop

DIGEST_CHARS = 16
INPUT_NANOUSD, OUTPUT_NANOUSD = 120, 300
CHARS_PER_TOKEN = 4
HEADS_END = b"\r\n\r\n"
CUT = "cut"
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 411: "Length Required", 429: "Too Many Requests",
           500: "Internal Server Error", 503: "Service Unavailable"}  # fmt: skip


class Message(msgspec.Struct, gc=False):
    content: str


class Asked(msgspec.Struct, gc=False):
    model: str
    messages: list[Message]


class Tally:
    """Counts of one server; 8 bytes of digest are kept for each distinct prompt that was paid."""

    def __init__(self) -> None:
        self.requests = 0
        self.replies = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self.latency_s = 0.0
        self.first_request_at = self.last_reply_at = 0.0
        self.by_status: Counter[str] = Counter()
        self.paid: set[int] = set()

    def stats(self) -> bytes:
        return msgspec.json.encode(
            {
                "requests": self.requests,
                "replies": self.replies,
                "prompts": len(self.paid),
                "paid_twice": self.replies - len(self.paid),
                "by_status": self.by_status,
                "in_flight": self.in_flight,
                "max_in_flight": self.most_in_flight,
                "latency_s": self.latency_s,
                "span_s": self.last_reply_at - self.first_request_at,
                "cpu_s": time.process_time(),
            }
        )


class Behaviour:
    """What one request comes to: a reply after a while, or a fault."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._latency_s = options.latency_ms / 1000
        self._sigma = options.latency_sigma
        self._faults = options.faults
        self._kinds = itertools.cycle(options.fault_kinds.split(","))
        self._retry_after_s = options.retry_after_s
        self._hang = options.hang
        self._hang_s = options.hang_s
        self._hung: set[str] = set()
        self._random = random.Random(options.seed)
        self._filler = " ".join(["", *itertools.islice(itertools.cycle(("amber", "birch", "coast")), options.words)])
        self._words = options.words + 1
        self._models: dict[str, bytes] = {}

    def wait_s(self, text: str) -> float:
        """Return how long a request takes: the first try of a prompt with the hang's text takes very long."""
        if self._hang and self._hang in text and text not in self._hung:
            self._hung.add(text)
            return self._hang_s
        return self._latency_s * self._random.lognormvariate(0, self._sigma) if self._sigma else self._latency_s

    def fault(self) -> str | None:
        """Return the kind of fault that this request gets, None for none."""
        return next(self._kinds) if self._faults and self._random.random() < self._faults else None

    def refusal(self, status: int) -> bytes:
        """Return a whole HTTP reply with an error; a 429 may say when to come again."""
        after_s = self._random.uniform(0, self._retry_after_s) if status == 429 else 0.0
        return error(status, b"retry-after: %.2f\r\n" % after_s if after_s else b"")

    def completion(self, asked: Asked, digest: str, text: str) -> bytes:
        """Return the body of a 200."""
        tokens = max(1, len(text) // CHARS_PER_TOKEN)
        cost = tokens * INPUT_NANOUSD + self._words * OUTPUT_NANOUSD
        model = self._models.get(asked.model)
        if model is None:
            model = self._models[asked.model] = msgspec.json.encode(asked.model)
        return (
            b'{"id":"chatcmpl-%s","object":"chat.completion","created":1736779266,"model":%b,"choices":[{"index":0,'
            b'"message":{"role":"assistant","content":"%s%s","name":null,"tool_calls":null},"finish_reason":"stop"}],'
            b'"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"estimated_cost":%d.%09d}}'
            % (
                digest.encode(), model, digest[:DIGEST_CHARS].encode(), self._filler.encode(),
                tokens, tokens + self._words, self._words, *divmod(cost, 10**9),
            )
        )  # fmt: skip


def reply(status: int, body: bytes, lines: bytes = b"") -> bytes:
    """Return a whole HTTP reply; `lines` are more lines of its head."""
    return b"HTTP/1.1 %d %s\r\nserver: uvicorn\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b" % (
        status, REASONS[status].encode(), lines, len(body), body,
    )  # fmt: skip


def error(status: int, lines: bytes = b"") -> bytes:
    """Return a whole HTTP reply that tells an error."""
    return reply(status, b'{"error":{"message":"%s","type":"benchmark"}}' % REASONS[status].encode(), lines)


class Connection(asyncio.Protocol):
    """One connection: requests are answered one after the other, whatever arrives meanwhile waits in the buffer."""

    def __init__(self, tally: Tally, behaviour: Behaviour, loop: asyncio.AbstractEventLoop) -> None:
        self._tally = tally
        self._behaviour = behaviour
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._needs = 0
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no instances of it

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._advance()

    def _advance(self) -> None:
        """Answer the requests that have arrived whole, up to the first whose reply takes a while."""
        while self._transport is not None and not self._answering and (request := self._next_request()) is not None:
            self._answer(*request)

    def _next_request(self) -> tuple[bytes, bytes] | None:
        """Take a whole request from the buffer: its head in lower case, and its body."""
        if len(self._buffer) < self._needs or (end := self._buffer.find(HEADS_END)) < 0:
            return None
        head = bytes(self._buffer[:end]).lower()
        _, found, after = head.partition(b"\r\ncontent-length:")
        begin = end + len(HEADS_END)
        self._needs = begin + (int(after.partition(b"\r")[0]) if found else 0)
        if len(self._buffer) < self._needs:
            return None
        body = bytes(self._buffer[begin : self._needs])
        del self._buffer[: self._needs]
        self._needs = 0
        return head, body

    def _answer(self, head: bytes, body: bytes) -> None:
        method, path, *_ = head.split(b" ", 2)
        if method == b"get" and path == b"/stats":
            self._write(reply(200, self._tally.stats()))
        elif method != b"post" or not (path.startswith(b"/v1/") and path.endswith(b"/chat/completions")):
            self._write(error(404))
        elif b"\r\ntransfer-encoding:" in head:
            self._write(error(411))
            self._close()
        else:
            self._complete(body)

    def _complete(self, body: bytes) -> None:
        tally, behaviour = self._tally, self._behaviour
        tally.requests += 1
        tally.first_request_at = tally.first_request_at or time.monotonic()
        try:
            asked = ASKED.decode(body)
            text = asked.messages[-1].content
        except (msgspec.DecodeError, IndexError):
            tally.by_status["400"] += 1
            self._write(error(400))
            return
        fault = behaviour.fault()
        wait_s = behaviour.wait_s(text)
        tally.in_flight += 1
        tally.most_in_flight = max(tally.most_in_flight, tally.in_flight)
        if wait_s:
            self._answering = True
            tally.latency_s += wait_s
            self._loop.call_later(wait_s, self._finish, asked, text, fault)
        else:
            self._finish(asked, text, fault)

    def _finish(self, asked: Asked, text: str, fault: str | None) -> None:
        """Generate the reply, which costs whether anybody still waits for it or not."""
        tally = self._tally
        tally.in_flight -= 1
        tally.last_reply_at = time.monotonic()
        tally.by_status[fault or "200"] += 1
        if fault == CUT:
            self._close()
        elif fault is not None:
            self._write(self._behaviour.refusal(int(fault)))
        else:
            digest = hashlib.sha256(text.encode()).hexdigest()
            tally.replies += 1
            tally.paid.add(int(digest[:DIGEST_CHARS], 16))
            self._write(reply(200, self._behaviour.completion(asked, digest[:32], text)))
        if self._answering:
            self._answering = False
            self._advance()

    def _write(self, content: bytes) -> None:
        if self._transport is not None:
            self._transport.write(content)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None


ASKED = msgspec.json.Decoder(Asked)


def digest_of(text: str) -> str:
    """Return what the completion of a prompt begins with."""
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGTERM, SIGINT or, with --while-stdin, the end of standard input."""
    loop = asyncio.get_running_loop()
    tally, behaviour = Tally(), Behaviour(options)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if options.while_stdin:
        loop.add_reader(sys.stdin.fileno(), ended.set)
    server = await loop.create_server(
        lambda: Connection(tally, behaviour, loop), "127.0.0.1", options.port, backlog=4096
    )
    port = server.sockets[0].getsockname()[1]
    print(f"serving http://127.0.0.1:{port}/v1/openai", flush=True)
    await ended.wait()
    server.close()


def options_of(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="fixed, or the median")
    parser.add_argument("--latency-sigma", type=float, default=0.0, help="of a lognormal latency; 0: fixed")
    parser.add_argument("--words", type=int, default=12, help="words of a completion after the digest")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that get a fault")
    parser.add_argument("--fault-kinds", default="500,503,429", help="taken in turn: statuses, or `cut`")
    parser.add_argument(
        "--retry-after-s", type=float, default=0.0, help="a 429 says to wait up to that long; 0: nothing"
    )
    parser.add_argument("--hang", default="", help="the first try of a prompt with this text hangs")
    parser.add_argument("--hang-s", type=float, default=60.0, help="for this long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--while-stdin", action="store_true", help="end when standard input ends")
    return parser.parse_args(words)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(options_of(sys.argv[1:])))
