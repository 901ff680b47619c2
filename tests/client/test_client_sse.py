"""Bytes into events (PROTOCOL.md 2.5, the WHATWG grammar)."""

from __future__ import annotations

import pytest
from client_streams import CUTS, EOLS, split
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.sse import Event, EventReader

NO_EOL = st.binary(max_size=12).filter(lambda value: not {10, 13} & set(value))


def events(*chunks: bytes) -> list[tuple[bytes, bytes]]:
    reader = EventReader()
    return [tuple(event) for one in chunks for event in reader.feed(one)]


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a \n\n", [b" a "]),
        (b"data: a\r\n\r\ndata: b\r\rdata: c\n\n", [b"a", b"b", b"c"]),
        (b"data: a\r\n\n", [b"a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\ndata\ndata: b\n\n", [b"a\n\nb"]),
        (b"data: a:b: c\n\n", [b"a:b: c"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),
        (b": a comment\n\ndata: a\n\n", [b"a"]),
        (b": OPENROUTER PROCESSING\n\n: again\n\n", []),
        (b"data: a\n: between\ndata: b\n\n", [b"a\nb"]),
        (b"\n\n\r\n\rdata: a\n\n\n\n", [b"a"]),
        (b"id: 1\nretry: 5\nnovel: x\ndata: a\n\n", [b"a"]),
        (b"data\n\ndata:\n\nevent: x\n\n", []),
        (b"Data: a\n data: b\ndatax: c\n\n", []),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"data: \xc3\xb1\xff\0\n\n", [b"\xc3\xb1\xff\0"]),
    ],
)
def test_grammar(stream: bytes, data: list[bytes]) -> None:
    assert [found for _, found in events(stream)] == data


def test_the_name_of_an_event_is_its_own() -> None:
    stream = b"event: error\ndata: a\n\ndata: b\n\nevent: x\nevent:ping\ndata: c\n\nevent\ndata: d\n\n"
    assert events(stream) == [(b"error", b"a"), (b"", b"b"), (b"ping", b"c"), (b"", b"d")]


@pytest.mark.parametrize(
    ("stream", "pending"),
    [
        (b"", None),
        (b"data: a\n\n", None),
        (b"data: a\n", Event(b"", b"a")),
        (b"data: a", Event(b"", b"a")),
        (b"data: a\r", Event(b"", b"a")),
        (b"event: error\ndata: a\ndata: b", Event(b"error", b"a\nb")),
        (b"\xef\xbb\xbfdata: a", Event(b"", b"a")),
        (b"data: a\n\n: a comment", None),
        (b"data: a\n\nevent: x", None),
        (b"data: a\n\ndata:", None),
    ],
)
def test_what_the_end_of_the_stream_cuts_off(stream: bytes, pending: Event | None) -> None:
    reader = EventReader()
    reader.feed(stream)
    assert reader.end() == pending


@given(
    given=st.lists(st.tuples(NO_EOL, st.lists(NO_EOL, min_size=1, max_size=3), EOLS), max_size=6),
    cuts=CUTS,
    has_bom=st.booleans(),
)
def test_any_split_and_any_line_end_give_the_same_events(
    given: list[tuple[bytes, list[bytes], bytes]], cuts: list[int], *, has_bom: bool
) -> None:
    stream = b"\xef\xbb\xbf" if has_bom else b""
    wanted: list[tuple[bytes, bytes]] = []
    for name, lines, eol in given:
        stream += b"event: " + name + eol + b"".join(b"data: " + line + eol for line in lines) + eol
        if data := b"\n".join(lines):
            wanted.append((name, data))
    assert events(*split(stream, cuts)) == wanted
    assert events(*(bytes([byte]) for byte in stream)) == wanted


@given(
    stream=st.lists(st.sampled_from([b"data", b":", b" ", b"\r", b"\n", b"x", b"\xef\xbb\xbf", b"event"])), cuts=CUTS
)
def test_any_split_of_any_bytes_gives_the_same(stream: list[bytes], cuts: list[int]) -> None:
    data = b"".join(stream)
    whole, parted = EventReader(), EventReader()
    assert whole.feed(data) == [event for one in split(data, cuts) for event in parted.feed(one)]
    assert whole.end() == parted.end()


def test_only_what_has_not_ended_is_held() -> None:
    reader = EventReader()
    for _ in range(100):
        reader.feed(b"data: " + b"x" * 1000 + b"\n\n")
    assert reader.held_bytes == 0
    reader.feed(b"data: " + b"x" * 1000)
    assert reader.held_bytes >= 1000
    reader.feed(b"\n" + b"data\n" * 1000)
    assert reader.held_bytes >= 3000
    reader.feed(b"\n")
    assert reader.held_bytes == 0
