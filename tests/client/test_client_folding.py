"""Streams into the body that the same reply has in one piece (PROTOCOL.md 2.5, and 1E for what servers send)."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from itertools import pairwise
from typing import Any

import pytest
from client_replies import GOOD, MODEL, body, reader
from client_streams import (
    CUTS,
    DONE,
    REFERENCE_STREAM,
    START,
    STOP,
    USAGE,
    arrived,
    chunk,
    event,
    folded,
    read,
    say,
    spelled,
    split,
)
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client import arriving as module
from batchrun.client.arriving import Arriving, ExchangeError
from batchrun.client.body import UnusableReplyError
from batchrun.model.attempt import Cost, Exchange

HI = START + say("h") + say("i")


def test_the_reference_stream() -> None:
    """PROTOCOL.md 0.1, the second usage row: to the digit."""
    assert folded(REFERENCE_STREAM) == {
        "id": "chatcmpl-R0",
        "object": "chat.completion",
        "created": 1736794523,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Jalapeño."}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    reply = read(REFERENCE_STREAM)
    assert (reply.status, reply.text, reply.finish_reason, reply.flags) == ("ok", "Jalapeño.", "stop", ())
    assert reply.cost == Cost(nanousd=179_460, source="server")
    assert json.loads(reply.usage.raw or "") == USAGE


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
CALLS = st.lists(
    st.fixed_dictionaries({"id": st.text("abc", min_size=1), "name": st.text("xyz", min_size=1), "arguments": TEXTS}),
    min_size=1,
    max_size=3,
)


@st.composite
def pieces(draw: st.DrawFn, text: str) -> list[str]:
    """A text cut at any places; empty pieces are pieces too."""
    places = [0, *sorted(draw(st.lists(st.integers(0, len(text)), max_size=4))), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]


@st.composite
def replies(draw: st.DrawFn) -> tuple[dict[str, Any], bytes]:
    """A reply in one piece, and as a stream whose choices take turns at random."""
    choices: list[dict[str, Any]] = []
    turns: list[list[bytes]] = []
    for index in range(draw(st.integers(1, 3))):
        message: dict[str, Any] = {"role": "assistant", "content": None}
        deltas: list[dict[str, Any]] = [{"role": "assistant"}]
        for name in ("reasoning_content", "reasoning", "refusal", "content"):
            if draw(st.booleans()):
                message[name] = draw(TEXTS)
                deltas += [{name: piece} for piece in draw(pieces(message[name]))]
        if message["content"] == "" and message.get("refusal"):
            message["content"] = None
        if draw(st.booleans()):
            calls = draw(CALLS)
            message["tool_calls"] = []
            message["content"] = message["content"] or None
            for at, call in enumerate(calls):
                function = {"name": call["name"], "arguments": call["arguments"]}
                message["tool_calls"].append({"id": call["id"], "type": "function", "function": function})
                first = {"index": at, "id": call["id"], "type": "function", "function": {**function, "arguments": ""}}
                deltas.append({"tool_calls": [first]})
                deltas += [
                    {"tool_calls": [{"index": at, "function": {"arguments": piece}}]}
                    for piece in draw(pieces(call["arguments"]))
                ]
        finish = draw(st.sampled_from(["stop", "length", "tool_calls", "content_filter", "novel"]))
        choices.append({"index": index, "message": message, "finish_reason": finish})
        turns.append([chunk(delta, index=index) for delta in deltas] + [chunk(index=index, finish=finish)])
    order = draw(st.permutations([index for index, own in enumerate(turns) for _ in own]))
    stream = b"".join(turns[index].pop(0) for index in order)
    usage = draw(st.none() | st.just(USAGE))
    whole: dict[str, Any] = {"id": "chatcmpl-R0", "object": "chat.completion", "created": 1736794523, "model": MODEL}
    whole["choices"] = choices
    if usage is not None:
        whole["usage"] = usage
        stream += event({"id": "chatcmpl-R0", "model": MODEL, "choices": [], "usage": usage})
    return whole, stream + (DONE if draw(st.booleans()) else b"")


@given(data=st.data(), reply=replies(), cuts=CUTS)
def test_any_stream_in_any_spelling_and_split_is_the_plain_reply(
    data: st.DataObject, reply: tuple[dict[str, Any], bytes], cuts: list[int]
) -> None:
    """Line ends, comments, BOM, and cuts through UTF-8 and CRLF: the folded body is the body in one piece."""
    plain, stream = reply
    chunks = split(data.draw(spelled(stream)), cuts)
    assert folded(*chunks) == plain
    exchange = arrived(*chunks)
    assert exchange is not None
    assert exchange.flags == ()
    wanted = reader(keep_raw=True).read(json.dumps(plain, ensure_ascii=False, separators=(",", ":")).encode(), {})
    assert reader(keep_raw=True).read(exchange.body, {}) == wanted


@given(cuts=CUTS)
def test_a_stream_byte_by_byte_and_cut_anywhere(cuts: list[int]) -> None:
    assert read(*split(REFERENCE_STREAM, cuts)) == read(*(bytes([one]) for one in REFERENCE_STREAM))


@pytest.mark.parametrize(
    ("stream", "text"),
    [
        (HI + STOP + DONE, "hi"),
        (HI + chunk(finish="stop") + event({"choices": [], "usage": USAGE}) + DONE, "hi"),
        (HI + chunk(finish="stop", usage=USAGE) + event({"choices": [], "usage": None}) + DONE, "hi"),
        (event({"choices": [], "prompt_filter_results": [], "id": "", "model": ""}) + HI + STOP + DONE, "hi"),
        (HI + chunk() + chunk({"content": None}) + event({"choices": [{}], "model": MODEL}) + STOP + DONE, "hi"),
        (HI + chunk(finish="stop", choices=None) + STOP + DONE, "hi"),
        (b": OPENROUTER PROCESSING\n\n" + HI + b": again\n\n" + STOP + DONE, "hi"),
        (event({"type": "ping"}, "ping") + HI + STOP + DONE, "hi"),
        (HI + say("x", usage={"prompt_tokens": 1}) + STOP + DONE, "hix"),
        (HI + STOP + b"data:  [DONE] \n\n", "hi"),
        (HI + STOP + DONE + say("after the end") + event({"error": "after the end"}), "hi"),
        (b" \r\n\n\xef\xbb\xbf" + HI + STOP + DONE, "hi"),
        (HI + chunk(finish="stop", obfuscation="xyz", usage=USAGE) + DONE, "hi"),
        (event({"model": MODEL, "choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE})
         + DONE, "hi"),
        (chunk({"content": "h"}, usage=USAGE).replace(b'"index":0', b'"index":0.0')
         + chunk({"content": "i"}, finish="stop").replace(b'"index":0', b'"index":null'), "hi"),
    ],
)  # fmt: skip
def test_chunks_that_are_legal(stream: bytes, text: str) -> None:
    """`choices: []`, `delta: {}`, null content, usage that is null or comes twice, keys that are missing."""
    exchange = arrived(stream)
    assert exchange is not None
    assert (exchange.flags, exchange.problem) == ((), None)
    reply = reader().read(exchange.body, {})
    assert (reply.status, reply.text, reply.usage.completion_tokens, reply.flags) == ("ok", text, 593, ())


def test_what_servers_say_beside_the_text_is_kept() -> None:
    stream = (
        event({"id": "", "model": "", "created": 0, "choices": [], "prompt_filter_results": [{"a": 1}]})
        + event({"id": "x", "model": "m", "created": 5, "provider": "P", "service_tier": "auto", "choices": [
            {"index": 0, "delta": {"role": "assistant", "content": "a"}}], "x_groq": {"id": "req_1"}})
        + event({"id": "y", "model": "n", "created": 6, "choices": [
            {"index": 0, "delta": {"content": "b"}, "logprobs": {"content": [{"token": "b"}], "refusal": None}}]})
        + event({"id": "z", "model": "o", "created": 7, "service_tier": "flex", "timings": {"cache_n": 3}, "choices": [
            {"index": 0, "delta": {"content": "c"}, "finish_reason": "stop", "stop_reason": 7, "stop": None,
             "logprobs": {"content": [{"token": "c"}]}}], "x_groq": {"usage": {"prompt_tokens": 4, "queue_time": 0.1}}})
        + DONE
    )  # fmt: skip
    assert folded(stream) == {
        "id": "x",
        "model": "m",
        "object": "chat.completion",
        "created": 5,
        "prompt_filter_results": [{"a": 1}],
        "provider": "P",
        "service_tier": "flex",
        "timings": {"cache_n": 3},
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "abc"},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": "b"}, {"token": "c"}]},
                "stop_reason": 7,
            }
        ],
        "usage": {"prompt_tokens": 4, "queue_time": 0.1},
        "x_groq": {"id": "req_1", "usage": {"prompt_tokens": 4, "queue_time": 0.1}},
    }


def test_usage_is_kept_to_the_digit() -> None:
    stream = (HI + chunk(finish="stop")).replace(b"\n\n", b"", 0) + (
        b'data: {"choices":[],"usage":{"prompt_tokens":1,"estimated_cost":1.0000000000000000000000000001E-9}}\n\n'
    )
    exchange = arrived(stream)
    assert exchange is not None
    assert b'"estimated_cost":1.0000000000000000000000000001E-9' in exchange.body


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([{"reasoning_content": "r"}, {"reasoning_content": "s"}, {"content": "a"}],
         {"content": "a", "reasoning_content": "rs"}),
        ([{"reasoning": "r"}, {"reasoning": "", "content": "a"}], {"content": "a", "reasoning": "r"}),
        ([{"content": ""}, {"refusal": "I "}, {"refusal": "can't"}], {"content": None, "refusal": "I can't"}),
        ([{"content": ""}], {"content": ""}),
        ([{"content": None}], {"content": None}),
        ([{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}]}]},
          {"content": [{"type": "thinking", "thinking": ["m"]}]}, {"content": "a"},
          {"content": [{"type": "text", "text": "b"}, "c", {"type": "image"}]}],
         {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                      {"type": "text", "text": "abc"}]}),
        ([{"reasoning_details": [{"type": "reasoning.text", "text": "r", "index": 0}]},
          {"reasoning_details": [{"type": "reasoning.text", "text": "s", "index": 0, "signature": "x"}]},
          {"reasoning_details": [{"type": "reasoning.encrypted", "data": "d", "index": 0}]}],
         {"content": None, "reasoning_details": [
             {"type": "reasoning.text", "text": "rs", "index": 0, "signature": "x"},
             {"type": "reasoning.encrypted", "data": "d", "index": 0}]}),
        ([{"function_call": {"name": "f", "arguments": "{"}}, {"function_call": {"arguments": "}"}}],
         {"content": None, "function_call": {"name": "f", "arguments": "{}"}}),
        ([{"role": "tool", "content": "a"}], {"role": "tool", "content": "a"}),
    ],
)  # fmt: skip
def test_texts_of_a_message(deltas: list[dict[str, Any]], message: dict[str, Any]) -> None:
    stream = b"".join(chunk(delta) for delta in deltas) + chunk(finish="stop")
    assert folded(stream)["choices"][0]["message"] == {"role": "assistant", **message}


def call(at: int | None, name: str | None, arguments: object, of: str | None = None) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    return piece | ({} if at is None else {"index": at}) | ({} if of is None else {"id": of, "type": "function"})


@pytest.mark.parametrize(
    ("calls", "joined"),
    [
        ([[call(0, "f", "", "1")], [call(0, None, "{")], [call(0, None, "}")]], [("1", "f", "{}")]),
        ([[call(0, "f", "", "1")], [call(1, "g", "", "2")], [call(1, None, "b")], [call(0, None, "a")]],
         [("1", "f", "a"), ("2", "g", "b")]),
        ([[call(1, "g", "b", "2")], [call(0, "f", "a", "1")]], [("1", "f", "a"), ("2", "g", "b")]),
        ([[call(0, "f", "a", "1"), call(1, "g", "b", "2")]], [("1", "f", "a"), ("2", "g", "b")]),
        ([[call(None, "f", "a", "1")], [call(None, "f", "b", "2")]], [("1", "f", "a"), ("2", "f", "b")]),
        ([[call(None, "f", "a")], [call(None, "g", "b")]], [(None, "f", "a"), (None, "g", "b")]),
        ([[call(None, "f", "a", "1")], [call(None, None, "b")]], [("1", "f", "ab")]),
        ([[call(0, "f", "a", "1")], [call(0, "g", "b", "2")]], [("1", "f", "a"), ("2", "g", "b")]),
        ([[call(0, "f", "a", "1")], [call(0, None, "b", "other")]], [("1", "f", "ab")]),
        ([[call(0, "f", "a", "1")], [call(0, "f", "b", "1")]], [("1", "f", "ab")]),
        ([[call(0, "f", {"x": 1}, "1")]], [("1", "f", {"x": 1})]),
    ],
)  # fmt: skip
def test_tool_calls_are_joined_by_their_index(
    calls: list[list[dict[str, Any]]], joined: list[tuple[str | None, str, str]]
) -> None:
    """Also where Gemini gives no index, Ollama one index to all, older vLLM another id to each piece."""
    stream = START + b"".join(chunk({"tool_calls": some}) for some in calls) + chunk(finish="tool_calls")
    message = folded(stream)["choices"][0]["message"]
    assert message["content"] is None
    assert [
        (one.get("id"), one["function"]["name"], one["function"]["arguments"]) for one in message["tool_calls"]
    ] == joined
    assert all("index" not in one for one in message["tool_calls"])
    reply = read(stream)
    assert (reply.status, reply.finish_reason) == ("ok", "tool_calls")
    assert json.loads(reply.tool_calls or "") == message["tool_calls"]


ERROR = {"message": "m", "code": 429}


@pytest.mark.parametrize(
    ("error", "wanted"),
    [
        (event({"error": ERROR}), ERROR),
        (event({"error": "overloaded", "error_type": "overloaded"}), "overloaded"),
        (event({"error": ERROR}) + DONE, ERROR),
        (chunk(finish="error", error=ERROR), ERROR),
        (event({"choices": [], "x_groq": {"id": "r", "error": "over"}}), "over"),
        (chunk(finish="stop", x_groq={"error": "over"}) + DONE, "over"),
        (event(ERROR, "error"), ERROR),
        (event({"error": ERROR}, "error"), ERROR),
        (event("upstream died", "error"), "upstream died"),
        (event({"object": "error", **ERROR}), {"object": "error", **ERROR}),
        (event([{"error": ERROR}]), ERROR),
        (event({"error": ERROR}) + event({"error": "later"}) + STOP + DONE, ERROR),
        (event({"error": ERROR})[:-2], ERROR),
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_an_error_ends_the_stream_and_keeps_the_usage(error: bytes, wanted: object, *, broken: bool) -> None:
    """Object or string, at the top, in x_groq or by the event's name; before it usage may have come (#21)."""
    exchange = arrived(HI + say("x", usage=USAGE), error, broken=broken)
    assert exchange is not None
    tree = json.loads(exchange.body)
    assert tree["error"] == wanted
    assert tree["usage"] == USAGE
    assert reader().salvage(exchange.body, {})[1] == Cost(nanousd=179_460, source="server")


def choice_error(index: int, finish: str | None = None) -> bytes:
    return chunk(choices=[{"index": index, "delta": {}, "finish_reason": finish, "error": ERROR}])


@pytest.mark.parametrize("ends_with", [b"", DONE, STOP[:-9]])
@pytest.mark.parametrize("finish", [None, "error"])
def test_an_error_of_a_choice(finish: str | None, ends_with: bytes) -> None:
    tree = folded(HI + choice_error(0, finish) + ends_with)
    assert tree["choices"][0]["error"] == ERROR
    assert "error" not in tree


def test_an_error_of_another_choice_is_the_rows_where_it_cuts_the_first_one_short() -> None:
    assert folded(HI + choice_error(1) + DONE)["error"] == ERROR
    whole = folded(HI + STOP + choice_error(1) + DONE)
    assert "error" not in whole
    assert reader().read(json.dumps(whole).encode(), {}).text == "hi"


@pytest.mark.parametrize("error", [None, {}, "", False])
def test_an_empty_error_is_none(error: object) -> None:
    assert read(START + say("x", error=error) + STOP).text == "x"


@pytest.mark.parametrize(
    ("stream", "broken", "flags"),
    [
        (HI + STOP + DONE, False, ()),
        (HI + STOP + DONE, True, ()),
        (HI + STOP, False, ()),
        (HI + STOP, True, ()),
        (HI + chunk(finish="stop"), True, ()),
        (HI + STOP + say("never counted")[:-20], True, ("sse_no_terminator",)),
        (HI + STOP[:-1], False, ("sse_no_terminator",)),
        (HI + STOP[:-2], True, ("sse_no_terminator",)),
        (HI + STOP + DONE[:-2], False, ("sse_no_terminator",)),
        (HI + DONE, False, ("finish_reason_missing",)),
        (HI + DONE, True, ("finish_reason_missing",)),
        (HI + DONE[:-2], False, ("sse_no_terminator", "finish_reason_missing")),
        (HI + chunk({"content": "x"}, index=1) + STOP + DONE, False, ("finish_reason_missing",)),
        (HI + chunk(finish="") + DONE, False, ("finish_reason_missing",)),
        (HI + event("keep-alive") + STOP, False, ("sse_junk",)),
        (HI + event("null") + event('"ping"') + STOP, False, ("sse_junk",)),
        (HI + STOP + say("ñ")[: say("ñ").index(b"\xb1")], True, ("sse_no_terminator",)),
    ],
)
def test_streams_that_are_complete(stream: bytes, flags: tuple[str, ...], *, broken: bool) -> None:
    exchange = arrived(stream, broken=broken)
    assert exchange is not None
    assert exchange.flags == flags
    assert reader().read(exchange.body, {}).text == "hi"


@pytest.mark.parametrize(
    "stream",
    [
        b"",
        b": only comments\n\n" * 3,
        START,
        HI,
        HI + event({"choices": [], "usage": USAGE}),
        HI + chunk(finish="stop", index=1),
        HI + STOP[:-20],
        HI + say("x")[:-2],
        HI + event({"choices": [], "x_groq": {"id": "r"}}),
        b"x" * 100,
    ],
)
@pytest.mark.parametrize("broken", [False, True])
def test_streams_that_are_cut(stream: bytes, *, broken: bool) -> None:
    """Neither a finish_reason for every index nor [DONE]: sent, then cut (#19)."""
    assert arrived(stream, broken=broken) is None


@pytest.mark.parametrize(
    "broken_event",
    [b'data: {"choices": [\n\n', b"data: {]\n\n", b"data: {}{}\n\n", b"data: [1, 2]\n\n", b"data: [DONE\n\n",
     b'data: {"choices": ' + b"[" * 100_000 + b"\n\n", b'data: {"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n\n"],
)  # fmt: skip
def test_an_event_that_cannot_be_read_spoils_the_reply_but_not_its_cost(broken_event: bytes) -> None:
    exchange = arrived(START, broken_event, STOP, DONE)
    assert exchange is not None
    assert exchange.problem is not None
    assert reader().salvage(exchange.body, {})[1] == Cost(nanousd=179_460, source="server")
    assert arrived(START, broken_event) is None


KEYS = st.sampled_from(
    ["choices", "delta", "message", "content", "role", "index", "finish_reason", "tool_calls", "function", "name",
     "arguments", "id", "type", "usage", "error", "x_groq", "logprobs", "reasoning", "reasoning_details", "thinking",
     "text", "model", "object", "refusal", "function_call", "prompt_tokens"]
)  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=25,
)
CHOICES = st.lists(
    st.dictionaries(KEYS, ANYTHING | st.dictionaries(KEYS, ANYTHING, max_size=4), max_size=4), max_size=2
)


@given(given=st.lists(ANYTHING | st.fixed_dictionaries({"choices": CHOICES}), max_size=5))
def test_no_event_however_odd_ends_more_than_its_reply(given: list[object]) -> None:
    stream = b"".join(b"data: " + json.dumps(one).encode() + b"\n\n" for one in given)
    exchange = arrived(HI + stream + STOP + DONE)
    assert exchange is not None
    assert isinstance(json.loads(exchange.body), dict)
    if exchange.problem is None:
        with contextlib.suppress(UnusableReplyError):
            reader().read(exchange.body, {})


@pytest.mark.parametrize(
    ("raw", "text", "flags"),
    [
        (b'"\\ud83d"|"\\ude00"', "😀", ()),
        (b'"a\\ud83d"|"b"', "a\ufffdb", ("text_replaced",)),
        (b'"\\ud83d\\ude00"|"\xf0\x9f\x98\x80"', "😀😀", ()),
        (b'"\xff"|"b"', "\ufffdb", ("text_replaced",)),
        (b'"a\\u0000"|"b"', "a\0b", ()),
    ],
)
def test_unicode_of_any_kind(raw: bytes, text: str, flags: tuple[str, ...]) -> None:
    """Gateways written in JavaScript cut surrogate pairs in two; halves that never meet are replaced."""
    pieces_of = raw.split(b"|")
    stream = b"".join(say("@").replace(b'"@"', piece) for piece in pieces_of) + STOP
    exchange = arrived(stream)
    assert exchange is not None
    reply = reader().read(exchange.body, {})
    assert reply.text == text
    assert {*reply.flags, *exchange.flags} == set(flags)


@pytest.mark.parametrize("content_type", ["text/event-stream", "Text/Event-Stream; charset=utf-8", "", "text/plain",
                                          "application/json"])  # fmt: skip
@pytest.mark.parametrize("junk", [b"", b"\xef\xbb\xbf", b"\n \r\n\t", b"\xef\xbb\xbf\n"])
def test_the_first_bytes_decide_what_a_body_is(content_type: str, junk: bytes) -> None:
    """PROTOCOL.md 2.4: whatever was asked for, and whatever Content-Type says."""
    for size in (1, 3, 1000):
        for stream in (HI, b": hello\n\n" + HI, b"event: x\n" + HI, b"id: 1\n" + HI, b"retry: 1\n" + HI):
            data = junk + stream + STOP + DONE
            exchange = arrived(*(data[at : at + size] for at in range(0, len(data), size)), content_type=content_type)
            assert exchange is not None
            assert reader().read(exchange.body, {}).text == "hi"
        data = junk + GOOD
        exchange = arrived(*(data[at : at + size] for at in range(0, len(data), size)), content_type=content_type)
        assert exchange is not None
        assert exchange.body == data


def test_a_body_that_only_ends_like_a_stream_is_plain() -> None:
    """A gateway's habit (1E): JSON, then `data: [DONE]`."""
    exchange = arrived(GOOD + b"\ndata: [DONE]\n\n")
    assert exchange is not None
    assert reader().read(exchange.body, {}).flags == ("trailing_junk",)


@pytest.mark.parametrize("data", [b"", b"<html>", b"dat", b"nothing", b"   ", b"\xef\xbb", b"error: x"])
def test_other_bodies_are_left_as_they_are(data: bytes) -> None:
    exchange = arrived(data, content_type="text/html")
    assert exchange is not None
    assert exchange.body == data
    assert arrived(data, content_type="text/html", broken=True) is None


def test_an_error_status_is_judged_by_what_came() -> None:
    for data in (event({"error": ERROR}), json.dumps({"error": ERROR}).encode()):
        exchange = arrived(data, status=429)
        assert exchange is not None
        assert json.loads(exchange.body)["error"] == ERROR
    assert arrived(b": nothing\n\n", status=500) is not None
    assert arrived(b": nothing\n\n", status=500, broken=True) is None


def test_the_first_text_is_noticed() -> None:
    for delta, has_text in (
        ({"role": "assistant", "content": ""}, False),
        ({"content": None}, False),
        ({"content": "a"}, True),
        ({"reasoning_content": "a"}, True),
        ({"refusal": "a"}, True),
        ({"tool_calls": [call(0, "f", "", "1")]}, True),
    ):
        arriving = Arriving(200, {})
        arriving.feed(chunk(delta))
        assert arriving.has_text is has_text, delta
    plain = Arriving(200, {})
    plain.feed(GOOD)
    assert (plain.has_text, plain.is_stream, plain.has_ended) == (False, False, False)


@pytest.mark.parametrize(
    "flood",
    [
        say("x" * 1000),
        b"data: " + b"x" * 1000,
        b"data: x\n" * 100,
        b"data\n" * 200,
        chunk({"tool_calls": [call(0, "f", "x" * 1000, "1")]}),
        chunk({"tool_calls": [{"type": kind} for kind in "ab" * 9]}),
        chunk(logprobs=None).replace(b'"delta"', b'"logprobs": {"content": ["' + b"x" * 1000 + b'"]}, "delta"'),
        b" " * 1000,
        b"{" + b"x" * 1000,
    ],
)
def test_what_would_have_to_be_kept_is_bounded(flood: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text, tool calls, an event without an end, a plain body: the same bound for all."""
    monkeypatch.setattr(module, "MOST_BODY_BYTES", 100_000)

    def fed() -> None:
        arriving = Arriving(200, {})
        for _ in range(300):
            arriving.feed(flood)

    with pytest.raises(ExchangeError, match="larger than") as caught:
        fed()
    assert (caught.value.phase, caught.value.sent) == ("too_large", True)


@pytest.mark.parametrize("harmless", [b": a comment that keeps alive\n\n", chunk({}), say("", usage=USAGE), event("x")])
def test_what_is_not_kept_has_no_bound(harmless: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long reply's stream is fifty times its text; only the text counts."""
    monkeypatch.setattr(module, "MOST_BODY_BYTES", 10_000)
    arriving = Arriving(200, {})
    arriving.feed(HI)
    for _ in range(1000):
        arriving.feed(harmless)
    arriving.feed(STOP)
    exchange = arriving.end(broken=False)
    assert isinstance(exchange, Exchange)
    assert len(exchange.body) < 1000


def test_a_stream_takes_the_room_of_its_text() -> None:
    """Not of its events, which are fifty times as long, and not of as many small strings."""
    arriving, event_of_text = Arriving(200, {}), say(" word")
    tracemalloc.start()
    for _ in range(10_000):
        arriving.feed(event_of_text)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < peak < 3 * 50_000 < 10_000 * len(event_of_text) / 10


def test_a_plain_reply_reads_as_before() -> None:
    exchange = arrived(body(), content_type="application/json")
    assert exchange == Exchange(status=200, headers={"content-type": "application/json"}, body=body())
