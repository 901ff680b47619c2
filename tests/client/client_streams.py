"""Streams of events as servers send them, and the ways their bytes may be split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from client_replies import MODEL, reader
from hypothesis import strategies as st

from batchrun.client.arriving import Arriving
from batchrun.model.attempt import Exchange, Reply

DONE = b"data: [DONE]\n\n"
USAGE: dict[str, Any] = {
    "prompt_tokens": 13,
    "total_tokens": 606,
    "completion_tokens": 593,
    "estimated_cost": 0.00017946,
}


def event(data: object, name: str | None = None) -> bytes:
    """One event with this data, as JSON unless it is text already."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + b"data: " + text.encode() + b"\n\n"


def chunk(delta: dict[str, Any] | None = None, *, finish: str | None = None, index: int = 0, **fields: Any) -> bytes:
    """One event with a chunk of one choice; fields stand beside the usual ones or instead of them."""
    choice = {"index": index, "delta": {} if delta is None else delta, "finish_reason": finish}
    return event(
        {
            "id": "chatcmpl-R0",
            "object": "chat.completion.chunk",
            "created": 1736794523,
            "model": MODEL,
            "choices": [choice],
            **fields,
        }
    )


def say(text: str, **fields: Any) -> bytes:
    return chunk({"content": text}, **fields)


START = chunk({"role": "assistant", "content": ""}, usage=None)
STOP = chunk(finish="stop", usage=USAGE)
REFERENCE_STREAM = START + say("Jala", usage=None) + say("peño.", usage=None) + STOP + DONE
"""The stream of PROTOCOL.md 0.1: usage is null but on the last chunk, which has the finish_reason too."""


def arrived(
    *chunks: bytes, content_type: str = "text/event-stream; charset=utf-8", status: int = 200, broken: bool = False
) -> Exchange | None:
    """What a transport hands on when these chunks came."""
    arriving = Arriving(status, {"content-type": content_type})
    for one in chunks:
        arriving.feed(one)
    return arriving.end(broken=broken)


def folded(*chunks: bytes) -> Any:
    """The JSON body that a whole stream comes to."""
    exchange = arrived(*chunks)
    assert exchange is not None, "the stream is cut"
    assert exchange.problem is None
    return json.loads(exchange.body)


def read(*chunks: bytes) -> Reply:
    """The reply that a whole stream comes to."""
    exchange = arrived(*chunks)
    assert exchange is not None, "the stream is cut"
    return reader().read(exchange.body, exchange.headers)


def split(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut data at these places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(places)]


CUTS = st.lists(st.integers(0, 10**6), max_size=12)
EOLS = st.sampled_from([b"\n", b"\r", b"\r\n"])
COMMENTS = st.sampled_from([b"", b":", b": OPENROUTER PROCESSING", ": ñ".encode(), b"id: 7", b"retry: 10", b"x"])


@st.composite
def spelled(draw: st.DrawFn, stream: bytes) -> bytes:
    """The same events with any line ends, and with comments, other fields and empty events between the lines."""
    written = b"\xef\xbb\xbf" if draw(st.booleans()) else b""
    for line in stream.split(b"\n")[:-1]:
        lines = [line.replace(b"data: ", b"data:", 1) if draw(st.booleans()) else line]
        if comment := draw(COMMENTS):
            lines.insert(0, comment)
        if not line:
            lines += [b""] * draw(st.integers(0, 2))
        for one in lines:
            eol = draw(EOLS)
            joins = not one and written.endswith(b"\r") and eol.startswith(b"\n")  # CR and LF would be one line end
            written += one + (b"\r" if joins else eol)
    return written
