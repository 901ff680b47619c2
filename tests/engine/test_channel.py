"""What is sent arrives whole and in order, however the socket cuts it, and nothing is sent to who is gone."""

from __future__ import annotations

import asyncio
import socket

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from batchrun.engine.channel import Channel
from batchrun.engine.messages import Lend, Note, Order, Recall, Word

notes = st.lists(st.builds(Note, event=st.text(max_size=300), facts=st.just({"count": 1.0})), max_size=5)


def framed(messages: list[Note]) -> bytes:
    contents = [msgspec.msgpack.encode(message) for message in messages]
    return b"".join(len(content).to_bytes(4, "big") + content for content in contents)


@given(notes, st.lists(st.integers(1, 40), min_size=1))
def test_messages_are_taken_out_whole_wherever_the_bytes_are_cut(messages: list[Note], sizes: list[int]) -> None:
    received: list[Word] = []
    channel = Channel(msgspec.msgpack.Decoder(Word), received.append, lambda: None)
    rest, turn = framed(messages), 0
    while rest:
        size = sizes[turn % len(sizes)]
        channel.data_received(rest[:size])
        rest, turn = rest[size:], turn + 1
    assert received == messages


def test_both_ends_talk_and_hear_that_the_other_is_gone() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        words: asyncio.Queue[Word | None] = asyncio.Queue()
        orders: asyncio.Queue[Order | None] = asyncio.Queue()
        one = Channel(msgspec.msgpack.Decoder(Word), words.put_nowait, lambda: words.put_nowait(None))
        other = Channel(msgspec.msgpack.Decoder(Order), orders.put_nowait, lambda: orders.put_nowait(None))
        await one.open(ours)
        await other.open(theirs)
        one.send(Lend(nanousd=5))
        one.send(Recall())
        assert [await orders.get(), await orders.get()] == [Lend(nanousd=5), Recall()]
        other.send(Note(event="last", facts={}))
        other.close()
        assert [await words.get(), await words.get()] == [Note(event="last", facts={}), None]
        one.send(Recall())  # to nobody
        assert await orders.get() is None

    asyncio.run(main())
