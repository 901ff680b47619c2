"""The short way for a plain reply brings what aiohttp's own way brings, byte for byte, and never another reply's."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import pytest
from aiohttp.client_proto import ResponseHandler
from client_raw_server import whole
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.client.arriving import ExchangeError
from batchrun.client.connecting import HeaderNames, lowered
from batchrun.client.hearing import Hearing
from batchrun.client.session import SLICE_BYTES

HEAD, BODY = b"POST / HTTP/1.1\r\n\r\n", b"{}"
PLAIN = whole(b'{"a":1}', headers="X-A: 1\r\nx-a: 2\r\n")
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n[1,\r\n2\r\n2]\r\n0\r\n"
REPLIES = [
    PLAIN,
    whole(b"[]", status="500 No"),
    whole(b'{"b":2}', status="429 Slow", headers="Retry-After: 5\r\nX-B: \xe9\r\n"),
    b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}",
    b"\r\nHTTP/1.1 200 OK\nContent-Length: 2\n\n{}",
    CHUNKED + b"\r\n",
    CHUNKED + b"X-Trailer: t\r\n\r\n",
    whole(gzip.compress(b'{"z":1}', mtime=0), headers="Content-Encoding: gzip\r\n"),
    whole(b"", headers="X-Empty: 1\r\n"),
    whole(b"<html>"),
    whole(b"data: [DONE]\n\n", headers="Content-Type: text/event-stream\r\n"),
    b"HTTP/1.1 204 No\r\n\r\n",
    b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN,
    whole(b"{" + b" " * 300_000 + b"}"),
]

Came = tuple[int, dict[str, str], bytes]


class Wire(asyncio.Transport):
    """What a connection writes to; it says when it has no more room."""

    def __init__(self, protocol: ResponseHandler) -> None:
        super().__init__()
        self.written = b""
        self.has_room = True
        self._protocol = protocol
        protocol.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data
        if not self.has_room:
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def hearing() -> tuple[Hearing, Wire]:
    made = Hearing(asyncio.get_running_loop(), HeaderNames())
    return made, Wire(made)


async def arrive(protocol: ResponseHandler, *pieces: bytes) -> None:
    for piece in pieces:
        protocol.data_received(piece)
        await asyncio.sleep(0)


async def read(protocol: ResponseHandler) -> Came:
    message, payload = await protocol.read()
    while message.code < 200:
        message, payload = await protocol.read()
    return message.code, lowered(message.headers), await payload.read()


async def heard(by: Hearing, *pieces: bytes) -> Came:
    """Ask, and hear these pieces."""
    asked = by.ask(HEAD, BODY)
    arriving = asyncio.ensure_future(arrive(by, *pieces))
    exchange = await asked
    came = await read(by) if exchange is None else (exchange.status, exchange.headers, exchange.body)
    await arriving
    assert by.rest()
    return came


async def heard_by_aiohttp(*pieces: bytes) -> Came:
    """The same over a connection of aiohttp's own, and a new one each time."""
    protocol = ResponseHandler(asyncio.get_running_loop())
    Wire(protocol)
    protocol.set_response_params(read_until_eof=True, auto_decompress=True)
    arriving = asyncio.ensure_future(arrive(protocol, *pieces))
    came = await read(protocol)
    await arriving
    return came


def _cut(reply: bytes, places: list[float]) -> list[bytes]:
    ends = sorted({1 + int(place * (len(reply) - 1)) for place in places} | {len(reply)})
    return [reply[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


PIECES = st.builds(_cut, st.sampled_from(REPLIES), st.lists(st.floats(0, 1), max_size=3))


@settings(deadline=None)
@given(st.lists(PIECES, max_size=6))
def test_replies_over_one_connection_are_what_aiohttp_reads_over_a_new_one_each(replies: list[list[bytes]]) -> None:
    async def main() -> None:
        by, _ = hearing()
        for pieces in replies:
            assert await heard(by, *pieces) == await heard_by_aiohttp(*pieces)
            assert by.is_fit()

    run(main())


@pytest.mark.parametrize("before", REPLIES, ids=range(len(REPLIES)))
@pytest.mark.parametrize("after", REPLIES, ids=range(len(REPLIES)))
def test_each_reply_after_each_other_one_is_what_aiohttp_reads(before: bytes, after: bytes) -> None:
    async def main() -> None:
        by, _ = hearing()
        for reply in (PLAIN, before, after):
            assert await heard(by, reply) == await heard_by_aiohttp(reply)

    run(main())


def test_a_plain_reply_comes_the_short_way() -> None:
    async def main() -> None:
        by, _ = hearing()
        for _ in range(3):
            asked = by.ask(HEAD, BODY)
            by.data_received(PLAIN)
            exchange = asked.result()
            assert exchange is not None
            assert exchange.headers == {"content-length": "7", "x-a": "1, 2"}
            assert by.rest()

    run(main())


@pytest.mark.parametrize("size", range(len(PLAIN)))
def test_a_reply_that_is_cut_anywhere_is_none(size: int) -> None:
    async def main() -> None:
        by, _ = hearing()
        await heard(by, PLAIN)
        asked = by.ask(HEAD, BODY)
        if size:
            by.data_received(PLAIN[:size])
        by.connection_lost(None)
        assert await asked is None
        with pytest.raises(aiohttp.ClientError):
            await read(by)

    run(main())


@pytest.mark.parametrize("unasked", [PLAIN, PLAIN[:10], b"H", b"junk\r\n\r\n"])
def test_what_is_said_at_rest_spoils_the_connection(unasked: bytes) -> None:
    async def main() -> None:
        by, _ = hearing()
        await heard(by, PLAIN)
        by.data_received(unasked)
        assert not by.is_fit()

    run(main())


@pytest.mark.parametrize("reply", [PLAIN, CHUNKED + b"\r\n", whole(b"<html>")])
@pytest.mark.parametrize("unasked", [PLAIN, PLAIN[:10], b"H", b"HTTP/1.1 500 No\r\nX: "])
def test_what_begins_in_one_piece_with_a_reply_never_begins_the_next(reply: bytes, unasked: bytes) -> None:
    async def main() -> None:
        by, _ = hearing()
        asked = by.ask(HEAD, BODY)
        by.data_received(reply + unasked)
        exchange = await asked
        came = await read(by) if exchange is None else (exchange.status, exchange.headers, exchange.body)
        assert came == await heard_by_aiohttp(reply)
        if by.rest() and by.is_fit():
            assert exchange is None or reply != PLAIN
            assert await heard(by, REPLIES[1]) == await heard_by_aiohttp(REPLIES[1])

    run(main())


def test_a_server_that_speaks_first_is_heard_as_aiohttp_hears_it() -> None:
    async def main() -> None:
        by, _ = hearing()
        by.data_received(REPLIES[1])
        assert await heard(by) == await heard_by_aiohttp(REPLIES[1])

    run(main())


@pytest.mark.parametrize("pieces", [[], [PLAIN[:20]], [PLAIN[:-1]], [b"HTTP/1.1 100 Continue\r\n\r\n"]])
def test_one_that_is_given_up_says_why(pieces: list[bytes]) -> None:
    async def main() -> None:
        by, _ = hearing()
        asked = by.ask(HEAD, BODY)
        await arrive(by, *pieces)
        by.set_exception(TimeoutError())
        assert await asked is None
        if pieces == [PLAIN[:-1]]:
            assert (await by.read())[0].code == 200  # the body is told of it by its own flight
        else:
            with pytest.raises(TimeoutError):
                await read(by)
        assert not by.is_fit()

    run(main())


@pytest.mark.parametrize("then", [lambda by: by.set_exception(TimeoutError()), lambda by: by.connection_lost(None)])
def test_what_ends_in_the_same_turn_takes_no_whole_reply_away(then: Callable[[Hearing], None]) -> None:
    async def main() -> None:
        by, _ = hearing()
        asked = by.ask(HEAD, BODY)
        by.data_received(PLAIN)
        then(by)
        exchange = await asked
        assert exchange is not None
        assert exchange.status == 200
        assert not by.is_fit()

    run(main())


def test_one_that_is_cancelled_leaves_a_connection_that_is_spoiled_by_the_reply() -> None:
    async def main() -> None:
        by, _ = hearing()
        by.ask(HEAD, BODY).cancel()
        by.data_received(PLAIN)
        assert not by.is_fit()

    run(main())


def test_a_large_body_leaves_in_slices_as_there_is_room() -> None:
    async def main() -> None:
        by, wire = hearing()
        large = b"x" * (2 * SLICE_BYTES + 1)
        wire.has_room = False
        asked = by.ask(HEAD, large)
        for slices in range(3):
            assert len(wire.written) == len(HEAD) + slices * SLICE_BYTES
            assert not by.has_sent()
            by.resume_writing()
        assert wire.written == HEAD + large
        assert by.has_sent()
        by.data_received(PLAIN)
        assert asked.result() is not None

    run(main())


def test_nothing_can_be_asked_where_the_connection_is_lost() -> None:
    async def main() -> None:
        by, _ = hearing()
        by.connection_lost(None)
        assert (by.is_fit(), by.has_sent()) == (False, False)
        with pytest.raises(ExchangeError) as caught:
            by.ask(HEAD, BODY)
        assert (caught.value.phase, caught.value.sent) == ("connect", False)

    run(main())


NAMES = st.text("aBcD-", min_size=1, max_size=3)


@given(st.lists(st.dictionaries(NAMES, st.text(max_size=2), max_size=5), max_size=9), st.integers(1, 6))
def test_names_are_lowered_alike_whether_they_are_known_or_not(heads: list[dict[str, str]], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchrun.client.connecting.MOST_NAMES", most)
        names = HeaderNames()
        for head in heads * 2:
            assert names.lowered(head) == lowered(head)
            assert list(names.lowered(head)) == list(lowered(head))
            assert len(names._known) <= most
