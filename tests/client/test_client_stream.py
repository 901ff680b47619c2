"""Streams over a real socket: each rule of PROTOCOL.md 2.5 and each dialect of 1E, to the attempt it comes to."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from client_raw_server import Peer, RawServer, Script, answer, raw_server, whole
from client_replies import GOOD, MODEL
from client_streams import DONE, REFERENCE_STREAM, START, STOP, USAGE, chunk, event, say
from client_transports import chosen, transport_kind
from client_virtual_clock import run_virtually

from batchrun.client.lane import Attempt
from batchrun.client.opening import open_lane
from batchrun.client.receiving import STREAM_END_S, STREAM_IDLE_S
from batchrun.job.settings import EndpointSettings, InputSettings, Job, OutputSettings
from batchrun.model.attempt import Cost, Reply, Spends, Then, Trouble

__all__ = ["transport_kind"]
ASK = b'{"model":"m","stream":true}'
KEY = "SENTINEL0key0of0no0known0form"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
HI = START + say("h") + say("i")


def chunked(*parts: bytes, ends: bool = True, head: bytes = HEAD) -> list[bytes]:
    """A reply whose parts are chunks of its transfer coding; without `ends` the last chunk never comes."""
    coded = [b"%x\r\n%s\r\n" % (len(part), part) for part in parts if part]
    return [head + b"Transfer-Encoding: chunked\r\n\r\n", *coded, *([b"0\r\n\r\n"] if ends else [])]


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main, 20))


async def attempt(script: Script, *, answered: int = 0, **endpoint: Any) -> tuple[Attempt, RawServer]:
    """One attempt against a script, after `answered` good ones."""
    job = Job(
        name="n",
        input=InputSettings(path="i"),
        request={"model": MODEL},
        endpoint=EndpointSettings(base_url="b", transport=chosen(), **endpoint),
        output=OutputSettings(path="o"),
    )
    loop = asyncio.get_running_loop()
    async with (
        raw_server(script) as server,
        open_lane(job, base_url=server.base_url, key=KEY, trust_env=False, clock=loop.time) as lane,
    ):
        for _ in range(answered + 1):
            assert await lane.gate.enter()
            came = await lane.attempt(ASK)
            lane.gate.leave()
        return came, server


RULES = (
    "2.5 BOM",
    "2.5 event fields",
    "2.5 comment",
    "2.5 data lines joined",
    "2.5 EOL CRLF",
    "2.5 EOL CR",
    "2.5 split anywhere",
    "2.5 empty data",
    "2.5 [DONE] trimmed",
    "2.5 EOF before a blank line",
    "2.5 choices []",
    "2.5 usage null overwrites nothing",
    "2.5 usage: the last wins",
    "2.5 delta {}",
    "2.5 content null",
    "2.5 missing keys",
    "2.5 an index each",
    "2.5 tool_calls by index",
    "2.5 id and created may change",
    "2.5 error object",
    "2.5 error string",
    "2.5 error of a choice",
    "2.5 error in x_groq",
    "2.5 event: error",
    "2.5 complete without [DONE]",
    "2.5 [DONE] without finish_reason",
    "2.5 neither",
    *(f"1E {name}" for name in ("DeepInfra", "OpenAI", "OpenRouter", "Groq", "vLLM", "SGLang", "TGI", "Ollama")),
    "1E gateways",
)
TOOLS = [
    {"index": 0, "id": "1", "type": "function", "function": {"name": "f", "arguments": ""}},
    {"index": 0, "function": {"arguments": "{}"}},
]

WHOLE: dict[str, tuple[list[bytes], str | None, tuple[str, ...]]] = {
    "1E DeepInfra": (chunked(REFERENCE_STREAM), "Jalapeño.", ()),
    "1E DeepInfra: an event a chunk": (chunked(START, say("h"), say("i"), STOP, DONE), "hi", ()),
    "1E OpenAI: usage in a chunk of its own": (
        chunked(HI, chunk(finish="stop", usage=None), event({"choices": [], "usage": USAGE}), DONE), "hi", ()),
    "1E OpenAI: obfuscated": (chunked(HI, chunk(finish="stop", obfuscation="x", usage=USAGE), DONE), "hi", ()),
    "1E OpenRouter: comments": (
        chunked(b": OPENROUTER PROCESSING\n\n" * 3, HI, b": OPENROUTER PROCESSING\n\n", STOP, DONE), "hi", ()),
    "1E Groq: usage in x_groq": (
        chunked(HI, chunk(finish="stop", x_groq={"id": "req_1", "usage": USAGE}), DONE), "hi", ()),
    "1E Ollama: the end without [DONE]": (chunked(HI, STOP), "hi", ()),
    "1E TGI: comments that keep alive": (chunked(b":\n\n", HI, b":keep-alive-text\n\n", STOP, DONE), "hi", ()),
    "1E gateways: comments with a blank line": (chunked(b": x\n\n\n\n", HI, b"\n\n: x\n\n", STOP, DONE), "hi", ()),
    "1E gateways: a body in one piece that says it is a stream": (
        [whole(GOOD + b"\n\ndata: [DONE]\n\n", headers="Content-Type: text/event-stream\r\n")],
        "Jalapeño.", ("trailing_junk",)),
    "1E gateways: blanks before a body in one piece": (
        [whole(b" \n\n  " + GOOD, headers="Content-Type: text/event-stream\r\n")], "Jalapeño.", ()),
    "1E Gemini: no finish_reason": (chunked(HI, chunk(usage=USAGE), DONE), "hi", ("finish_reason_missing",)),
    "2.5 BOM": (chunked(b"\xef\xbb\xbf" + HI, STOP, DONE), "hi", ()),
    "2.5 event fields": (chunked(b"id: 7\nretry: 1\nevent: message\nnovel: x\n" + HI, STOP, DONE), "hi", ()),
    "2.5 comment": (chunked(HI, b": inside\n" + STOP, DONE), "hi", ()),
    "2.5 data lines joined": (chunked(HI, STOP.replace(b',"usage"', b',\ndata: "usage"'), DONE), "hi", ()),
    "2.5 EOL CRLF": (chunked(*(part.replace(b"\n", b"\r\n") for part in (HI, STOP, DONE))), "hi", ()),
    "2.5 EOL CR": (chunked(*(part.replace(b"\n", b"\r") for part in (HI, STOP, DONE))), "hi", ()),
    "2.5 split anywhere": (
        chunked(*(bytes([one]) for one in REFERENCE_STREAM.replace(b"\n", b"\r\n"))), "Jalapeño.", ()),
    "2.5 empty data": (chunked(b"data\n\ndata:\n\ndata: \n\n", HI, STOP, DONE), "hi", ()),
    "2.5 [DONE] trimmed": (chunked(HI, STOP, b"data:   [DONE]  \n\n"), "hi", ()),
    "2.5 [DONE] trimmed: nothing counts after it": (chunked(HI, STOP, DONE, say("more"), ends=False), "hi", ()),
    "2.5 EOF before a blank line": (chunked(HI, STOP[:-2]), "hi", ("sse_no_terminator",)),
    "2.5 EOF before a blank line: after [DONE]": (chunked(HI, STOP, DONE[:-2]), "hi", ("sse_no_terminator",)),
    "2.5 choices []: Azure's filter chunk": (
        chunked(event({"id": "", "model": "", "choices": [], "prompt_filter_results": []}), HI, STOP, DONE), "hi", ()),
    "2.5 usage null overwrites nothing": (chunked(HI, STOP, event({"choices": [], "usage": None}), DONE), "hi", ()),
    "2.5 usage: the last wins": (chunked(HI, chunk(usage={"prompt_tokens": 1}), STOP, DONE), "hi", ()),
    "2.5 delta {}": (chunked(HI, chunk({}), STOP, DONE), "hi", ()),
    "2.5 content null": (chunked(HI, chunk({"content": None}), STOP, DONE), "hi", ()),
    "2.5 missing keys": (chunked(HI, event({"choices": [{}]}), event({}), STOP, DONE), "hi", ()),
    "2.5 an index each": (
        chunked(HI, chunk({"content": "x"}, index=1), chunk(finish="stop", index=1), STOP, DONE),
        "hi", ("choices_dropped",)),
    "2.5 tool_calls by index": (
        chunked(START, *(chunk({"tool_calls": [piece]}) for piece in TOOLS), STOP, DONE), None, ()),
    "2.5 id and created may change": (chunked(HI, say("!", id="other", created=1), STOP, DONE), "hi!", ()),
    "2.5 complete without [DONE]: the connection breaks": (chunked(HI, STOP, ends=False), "hi", ()),
    "2.5 complete without [DONE]: cut inside an event": (
        chunked(HI, STOP, say("x")[:-9], ends=False), "hi", ("sse_no_terminator",)),
    "2.5 [DONE] without finish_reason": (chunked(HI, chunk(usage=USAGE), DONE), "hi", ("finish_reason_missing",)),
    "junk": (chunked(HI, event("ping"), event({"type": "ping"}, "ping"), STOP, DONE), "hi", ("sse_junk",)),
    "framing: with its length": (
        [whole(HI + STOP + DONE, headers="Content-Type: text/event-stream\r\n")], "hi", ()),
    "framing: until the connection closes": ([HEAD + b"\r\n", HI, STOP, DONE], "hi", ()),
    "framing: HTTP/1.0": ([HEAD.replace(b"1.1", b"1.0") + b"\r\n", HI, STOP, DONE], "hi", ()),
    "framing: gzip": ([whole(gzip.compress(HI + STOP + DONE), headers="Content-Encoding: gzip\r\n")], "hi", ()),
    "said to be JSON": (
        chunked(HI, STOP, DONE, head=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"), "hi", ()),
    "said to be nothing": (chunked(HI, STOP, DONE, head=b"HTTP/1.1 200 OK\r\n"), "hi", ()),
    "in one piece": ([whole(GOOD, headers="Content-Type: application/json\r\n")], "Jalapeño.", ()),
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_streams_and_bodies_that_are_replies(name: str) -> None:
    """The text, the flags, and the reported usage and cost, whatever the framing; nothing is ambiguous."""
    sent, text, flags = WHOLE[name]

    async def main() -> None:
        came, _ = await attempt(answer(*sent))
        assert isinstance(came.came_to, Reply), came.came_to
        reply = came.came_to
        assert (reply.text, reply.flags, came.http_status) == (text, flags, 200)
        plain = "in one piece" in name
        assert reply.cost == Cost(nanousd=162_360 if plain else 179_460, source="server")
        assert (came.first_token_ms is None) is plain
        assert plain or 0 < (came.first_token_ms or 0) < 20_000

    run(main())


CUT: dict[str, list[bytes]] = {
    "2.5 neither: nothing at all": chunked(),
    "2.5 neither: comments": chunked(b": waiting\n\n" * 3),
    "2.5 neither: a role": chunked(START),
    "2.5 neither: text": chunked(HI),
    "2.5 neither: usage": chunked(HI, event({"choices": [], "usage": USAGE})),
    "2.5 neither: half of the last event": chunked(HI, STOP[:-30]),
    "2.5 neither: one of two finished": chunked(HI, chunk({"content": "x"}, index=1), chunk(finish="stop")),
    "1E Ollama: it fails": chunked(HI, ends=False),
    "the connection breaks inside an event": chunked(HI, STOP[:-30], ends=False),
    "broken framing": [*chunked(HI, ends=False), b"zz\r\n"],
    "only a head": chunked(HI, ends=False)[:1],
    "until the connection closes": [HEAD + b"\r\n", HI],
    "shorter than its length": [whole(HI + STOP + DONE, headers="Content-Type: text/event-stream\r\n")[:-200]],
    "no gzip": [HEAD + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nnogzi\r\n0\r\n\r\n"],
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("answered", [0, 1])
def test_streams_that_are_cut_are_ambiguous(name: str, answered: int) -> None:
    """#19: sent, then cut; it may have been billed, and its budget is the small one."""

    async def main() -> None:
        scripts = [answer(*chunked(REFERENCE_STREAM))] * answered + [answer(*CUT[name])]

        async def script(peer: Peer) -> None:
            await scripts.pop(0)(peer)

        came, _ = await attempt(script, answered=answered)
        trouble = came.came_to
        assert isinstance(trouble, Trouble), trouble
        assert (trouble.error_class, trouble.then, trouble.spends) == ("disconnected", Then.RETRY, Spends.AMBIGUOUS)
        assert (trouble.maybe_billed, trouble.sent, came.http_status) == (True, True, None)
        assert trouble.message
        assert came.first_token_ms is None

    run(main())


ERROR = {"message": "m", "type": "t"}


ERRORS: dict[str, tuple[list[bytes], str, Then, str]] = {
    "2.5 error object": ([event({"error": {**ERROR, "code": 400}})], "rejected", Then.FAIL_ROW, "error 400"),
    "2.5 error object: no credit": (
        [event({"error": {**ERROR, "code": "insufficient_quota"}})], "rejected", Then.STOP_RUN, "insufficient_quota"),
    "2.5 error string": ([event({"error": "broken"})], "server", Then.RETRY, "broken"),
    "2.5 error string: its kind beside it": (
        [event({"error": "wait", "error_type": "rate_limit_exceeded"})], "rate_limited", Then.RETRY, "wait"),
    "2.5 error of a choice": (
        [chunk(choices=[{"index": 0, "error": {**ERROR, "code": 400}}])], "rejected", Then.FAIL_ROW, "error 400"),
    "2.5 error of a choice: finish_reason": ([chunk(finish="abort"), DONE], "server", Then.RETRY, "abort"),
    "2.5 error in x_groq: 1E Groq": (
        [chunk(x_groq={"id": "r", "error": "over capacity"})], "server", Then.RETRY, "over capacity"),
    "2.5 event: error": ([event({**ERROR, "code": 400}, "error")], "rejected", Then.FAIL_ROW, "error 400"),
    "2.5 event: error that is text": ([event("the upstream died", "error")], "server", Then.RETRY, "upstream died"),
    "1E OpenRouter: a number": (
        [chunk(finish="error", error={**ERROR, "code": 502})], "server", Then.RETRY, "error 502"),
    "1E OpenRouter: digits": (
        [chunk(finish="error", error={**ERROR, "code": "502"})], "server", Then.RETRY, "error 502"),
    "1E vLLM: then [DONE]": (
        [event({"error": {**ERROR, "code": 429}}), DONE], "rate_limited", Then.RETRY, "error 429"),
    "1E SGLang": (
        [event({"error": {"object": "error", **ERROR, "code": 500}})], "server", Then.RETRY, "error 500"),
    "1E TGI: always 422": (
        [event({"error": {"message": "m", "http_status_code": 422}}), DONE], "server", Then.RETRY, "m"),
    "flat, as older vLLM": (
        [event({"object": "error", "message": "m", "type": "BadRequestError", "code": 400})],
        "rejected", Then.FAIL_ROW, "error 400"),
}  # fmt: skip


def test_each_rule_can_be_pointed_to() -> None:
    names = [*WHOLE, *CUT, *ERRORS]
    for rule in RULES:
        assert any(
            name == rule or name.startswith((f"{rule}:", f"{rule} ")) or f": {rule}" in name for name in names
        ), rule


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("ends", [True, False])
def test_an_error_in_a_stream_is_judged_by_the_table(name: str, *, ends: bool) -> None:
    """#21, also where the connection breaks right after it; usage that came before is not forgotten."""
    ends_with, error_class, then, says = ERRORS[name]

    async def main() -> None:
        came, _ = await attempt(answer(*chunked(HI + say("x", usage=USAGE), *ends_with, ends=ends)))
        trouble = came.came_to
        assert isinstance(trouble, Trouble), trouble
        assert (trouble.error_class, trouble.then, came.http_status) == (error_class, then, 200)
        assert says in trouble.message
        assert trouble.cost == Cost(nanousd=179_460, source="server")
        assert trouble.usage.completion_tokens == 593

    run(main())


@pytest.mark.parametrize(
    ("sent", "says", "tries"),
    [
        (chunked(HI, b'data: {"choices": [{]}\n\n', STOP, DONE), "JSON that can't be read", 2),
        (chunked(event({"choices": [], "usage": USAGE}), DONE), "no choices", 2),
        (chunked(DONE), "no choices", 2),
        (chunked(START, DONE), "is empty", 1),
    ],
)
def test_whole_streams_without_a_reply_are_bad_replies(sent: list[bytes], says: str, tries: int) -> None:
    """#20, #22, #23: the error budget, a bounded number of further tries."""

    async def main() -> None:
        trouble = (await attempt(answer(*sent)))[0].came_to
        assert isinstance(trouble, Trouble), trouble
        assert (trouble.error_class, trouble.then, trouble.spends) == ("bad_reply", Then.RETRY, Spends.ERROR)
        assert trouble.most_tries == tries
        assert says in trouble.message
        assert trouble.maybe_billed is (trouble.cost is None)

    run(main())


@pytest.mark.parametrize(
    ("status", "body", "error_class", "then"),
    [
        ("401 No", b'{"error":{"message":"m"}}', "rejected", Then.STOP_RUN),
        ("429 Slow", b'{"error":{"message":"m"}}', "rate_limited", Then.RETRY),
        ("400 Bad", event({"error": {"message": "m", "code": "context_length_exceeded"}}), "context_overflow",
         Then.FAIL_ROW),
        ("502 Bad", b"<html>", "server", Then.RETRY),
        ("500 Bad", event({"error": {"message": "maximum context length"}}), "context_overflow", Then.FAIL_ROW),
    ],
)  # fmt: skip
def test_error_statuses_are_judged_as_ever(status: str, body: bytes, error_class: str, then: Then) -> None:
    async def main() -> None:
        for content_type in ("application/json", "text/event-stream"):
            reply = whole(body, status=status, headers=f"Content-Type: {content_type}\r\n")
            trouble = (await attempt(answer(reply)))[0].came_to
            assert isinstance(trouble, Trouble), trouble
            assert (trouble.error_class, trouble.then) == (error_class, then)
            assert not trouble.maybe_billed

    run(main())


def test_a_key_echoed_in_pieces_is_masked() -> None:
    async def main() -> None:
        stream = [START, say(KEY[:9]), say(KEY[9:]), STOP, DONE]
        came, _ = await attempt(answer(*chunked(*stream)), keep_raw=True)
        assert isinstance(came.came_to, Reply)
        assert came.came_to.text == "***"
        assert KEY not in repr(came)
        assert json.loads(came.came_to.raw or "")["choices"][0]["message"]["content"] == "***"

    run(main())


def test_a_connection_is_used_again_after_a_stream() -> None:
    async def script(peer: Peer) -> None:
        for _ in range(3):
            await peer.request()
            for part in chunked(START, say("h"), say("i"), STOP, DONE):
                await peer.send(part)

    async def main() -> None:
        came, server = await attempt(script, answered=2)
        assert isinstance(came.came_to, Reply)
        assert server.connections == 1

    run(main())


def scripted(*steps: bytes | float) -> Script:
    """Send bytes, and wait for seconds; then neither send nor close until the client has gone."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for step in steps:
            if isinstance(step, bytes):
                await peer.send(step)
            else:
                await asyncio.sleep(step)
        await peer.gone()

    return script


def in_hours(script: Script, **endpoint: Any) -> Attempt:
    """One attempt on a virtual clock."""

    async def main() -> Attempt:
        return (await attempt(script, **endpoint))[0]

    return run_virtually(main())


OPEN = chunked(ends=False)[0]


def part(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_any_byte_keeps_a_stream_alive() -> None:
    """Comments too: an hour's generation behind a proxy comes through, with the time to its first text."""
    waits = [step for _ in range(6) for step in (STREAM_IDLE_S - 1, part(b": still here\n\n"))]
    halves = [step for byte in START for step in (STREAM_IDLE_S - 1, part(bytes([byte])))][:20]
    came = in_hours(
        scripted(OPEN, *waits, part(say("h")), *waits, part(say("i")), *halves[:-1], part(START[10:]), part(STOP),
                 part(DONE), b"0\r\n\r\n"),
        timeout_s=9000,
    )  # fmt: skip
    assert isinstance(came.came_to, Reply), came.came_to
    assert came.came_to.text == "hi"
    assert came.first_token_ms is not None
    assert came.latency_ms >= 21 * (STREAM_IDLE_S - 1) * 1000


@pytest.mark.parametrize("before", [[part(HI)], [part(b": waiting\n\n")], [part(HI), 200.0, part(b":")]])
def test_a_silent_stream_is_given_up(before: list[bytes | float]) -> None:
    came = in_hours(scripted(OPEN, *before), timeout_s=9000)
    trouble = came.came_to
    assert isinstance(trouble, Trouble)
    assert (trouble.error_class, trouble.spends, trouble.maybe_billed) == ("timeout", Spends.AMBIGUOUS, True)
    assert "silent for 300 s" in trouble.message
    silent_since_s = sum(step for step in before if isinstance(step, float))
    assert came.latency_ms == pytest.approx((silent_since_s + STREAM_IDLE_S) * 1000, rel=0.01)


def test_before_its_first_byte_a_stream_may_queue() -> None:
    """Servers send the head at once and queue then; only timeout_s bounds that."""
    late: list[bytes | float] = [part(HI), part(STOP), part(DONE), b"0\r\n\r\n"]
    for wait in ([OPEN, 800.0], [800.0, OPEN]):
        assert isinstance(in_hours(scripted(*wait, *late)).came_to, Reply)
    came = in_hours(scripted(OPEN, 1000.0, *late))
    assert isinstance(came.came_to, Trouble)
    assert came.came_to.error_class == "timeout"
    assert "no reply within 900 s" in came.came_to.message


def test_the_total_timeout_bounds_a_stream_that_never_ends() -> None:
    endless = [step for _ in range(100) for step in (part(say("x")), 10.0)]
    came = in_hours(scripted(OPEN, *endless))
    assert isinstance(came.came_to, Trouble)
    assert (came.came_to.error_class, came.came_to.spends) == ("timeout", Spends.AMBIGUOUS)
    assert came.latency_ms == pytest.approx(900_000, rel=0.01)


@pytest.mark.parametrize(
    ("ends_with", "lasts_s"),
    [
        ([STOP, DONE], STREAM_END_S),
        ([DONE], STREAM_END_S),
        ([event({"error": "m"})], STREAM_END_S),
        ([STOP], STREAM_IDLE_S),
    ],
)
def test_a_stream_that_is_done_but_not_closed_holds_its_slot_no_longer(ends_with: list[bytes], lasts_s: float) -> None:
    """After [DONE] or an error for a second; after the last finish_reason usage may still come."""
    came = in_hours(scripted(OPEN, part(HI), *map(part, ends_with)))
    assert isinstance(came.came_to, Reply) is (b"error" not in ends_with[0])
    assert came.latency_ms == pytest.approx(lasts_s * 1000, rel=0.01)
    assert came.http_status == 200
    keeps_sending = [step for _ in range(50) for step in (part(b": and on\n\n"), 0.1)]
    came = in_hours(scripted(OPEN, part(HI), part(STOP), part(DONE), *keeps_sending))
    assert came.latency_ms == pytest.approx(STREAM_END_S * 1000, rel=0.01)


def test_a_plain_body_has_no_idle_timer() -> None:
    slow: list[bytes | float] = [whole(GOOD)[:100], 700.0, whole(GOOD)[100:]]
    came = in_hours(scripted(*slow))
    assert isinstance(came.came_to, Reply)


@pytest.mark.parametrize("loops", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_cancellation_passes_through_a_stream(loops: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def main() -> None:
        reached = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(OPEN + part(HI))
            reached.set()
            await peer.gone()

        running = asyncio.ensure_future(attempt(script))
        await reached.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(asyncio.wait_for(main(), 20))
