"""The server over a real loopback socket: replies, refusals, failures and what it counts."""

from __future__ import annotations

import asyncio
import gzip
import json
import time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from simulator_wire import COMPLETIONS, ask, exchange, request_bytes, send, stats, stats_when

from batchrun.errors import JobError
from batchrun.job.settings import SimulatorSettings
from batchrun.simulator.address import base_url, loopback
from batchrun.simulator.draws import prompt_digest
from batchrun.simulator.server import serve, serve_forever

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Body = Callable[[int], Awaitable[None]]


@pytest.fixture(params=["asyncio", "uvloop"])
def against(request: pytest.FixtureRequest) -> Callable[[SimulatorSettings, Body], None]:
    """Run a test body against a server with these settings, on either loop."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    async def served(settings: SimulatorSettings, body: Body) -> None:
        async with asyncio.timeout(30), serve(settings) as port:
            await body(port)

    def run(settings: SimulatorSettings, body: Body) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(served(settings, body))

    return run


Against = Any


def test_a_reply_as_the_reference_sends_it(against: Against) -> None:
    async def body(port: int) -> None:
        before = int(time.time())
        reply = await exchange(port, ask())
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        assert int(reply.headers["content-length"]) == len(reply.body)
        assert before <= reply.json["created"] <= time.time()
        digest = prompt_digest([{"role": "user", "content": "hello"}])
        assert reply.json["choices"][0]["message"]["content"].startswith(digest + " ")

    against(SimulatorSettings(), body)


def test_one_connection_serves_many_requests(against: Against) -> None:
    async def body(port: int) -> None:
        data = ask()
        head = f"POST {COMPLETIONS}?x=1 HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        reader, writer = await send(port, (head + data) * 3)
        for _ in range(3):
            headers = await reader.readuntil(b"\r\n\r\n")
            length = int(headers.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            assert json.loads(await reader.readexactly(length))["object"] == "chat.completion"
        writer.close()
        assert (await stats(port))["paid_twice"] == 2

    against(SimulatorSettings(), body)


def test_all_paths(against: Against) -> None:
    async def body(port: int) -> None:
        for path in (COMPLETIONS, "/v1/chat/completions", "/chat/completions"):
            assert (await exchange(port, ask(), path=path)).status == 200
        models = await exchange(port, method="GET", path="/v1/openai/models")
        assert models.json["data"][0]["metadata"]["pricing"] == {"input_tokens": 0.12, "output_tokens": 0.3}
        for method, path, status in (
            ("POST", "/v1/completions", 404),
            ("GET", "/", 404),
            ("GET", COMPLETIONS, 405),
            ("PUT", COMPLETIONS, 405),
        ):
            reply = await exchange(port, method=method, path=path)
            assert (reply.status, reply.headers["content-type"]) == (status, "application/json")
            assert reply.json["error"]["message"]

    against(SimulatorSettings(), body)


def test_large_gzipped_and_expecting_requests(against: Against) -> None:
    """Bodies beyond aiohttp's default of 1 MiB are read, gzip is undone, and 100-continue is answered."""

    async def body(port: int) -> None:
        assert (await exchange(port, ask("x" * 3_000_000))).json["usage"]["prompt_tokens"] == 750_000
        zipped = await exchange(port, gzip.compress(ask()), extra="Content-Encoding: gzip\r\n")
        assert zipped.json["usage"]["prompt_tokens"] == 1
        broken = await exchange(port, b"no gzip", extra="Content-Encoding: gzip\r\n")
        assert broken.status == 400
        data = ask()
        head, _, _ = request_bytes(data, extra="Expect: 100-continue\r\n").partition(b"\r\n\r\n")
        reader, writer = await send(port, head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(data)
        assert b"chat.completion" in await reader.read()
        writer.close()

    against(SimulatorSettings(), body)


def test_refusals_are_counted_and_not_paid(against: Against) -> None:
    async def body(port: int) -> None:
        seen = [
            (await exchange(port, given)).status
            for given in (b"{", ask(stream="false"), ask("a BAD prompt"), b'{"model":"m"}', ask())
        ]
        assert seen == [400, 400, 400, 422, 200]
        counts = await stats(port)
        assert counts["by_status"] == {"400": 3, "422": 1, "200": 1}
        assert (counts["requests"], counts["replies"]) == (5, 1)

    against(SimulatorSettings(reject_containing="BAD"), body)


def test_stats_count_what_was_paid(against: Against) -> None:
    async def body(port: int) -> None:
        fresh = await stats(port)
        assert (fresh["requests"], fresh["first_request_at"], fresh["cost_usd"]) == (0, None, 0)
        replies = [(await exchange(port, ask(prompt))).body for prompt in ("a", "b", "b", "c", "b")]
        usages = [json.loads(reply, parse_float=Decimal)["usage"] for reply in replies]
        raw = await exchange(port, method="GET", path="/stats")
        counts = json.loads(raw.body, parse_float=Decimal)
        assert (counts["requests"], counts["replies"], counts["prompts"], counts["paid_twice"]) == (
            5,
            5,
            3,
            2,
        )
        assert (counts["in_flight"], counts["max_in_flight"]) == (0, 1)
        assert counts["tokens"] == {
            "in": sum(usage["prompt_tokens"] for usage in usages),
            "out": sum(usage["completion_tokens"] for usage in usages),
        }
        assert counts["cost_usd"] == sum(usage["estimated_cost"] for usage in usages)
        assert 0 <= counts["last_request_at"] - counts["first_request_at"] < 60

    against(SimulatorSettings(), body)


def test_errors(against: Against) -> None:
    async def body(port: int) -> None:
        reply = await exchange(port, ask())
        assert (reply.status, reply.json["error"]["type"]) == (500, "server_error")
        counts = await stats(port)
        assert (counts["by_status"], counts["replies"], counts["prompts"]) == ({"500": 1}, 0, 0)

    against(SimulatorSettings(error_rate=1), body)


def test_a_retry_may_succeed(against: Against) -> None:
    async def body(port: int) -> None:
        seen = [(await exchange(port, ask())).status for _ in range(20)]
        assert set(seen) == {200, 500}

    against(SimulatorSettings(error_rate=0.5), body)


def test_truncated_replies_are_paid(against: Against) -> None:
    """All headers come, then half of the body that they promise, then the end."""

    async def body(port: int) -> None:
        reply = await exchange(port, ask())
        promised = int(reply.headers["content-length"])
        assert (reply.status, len(reply.body)) == (200, promised // 2)
        counts = await stats(port)
        assert (counts["by_status"], counts["replies"], counts["in_flight"]) == ({"truncated": 1}, 1, 0)

    against(SimulatorSettings(truncate_rate=1), body)


def events_of(body: bytes) -> list[bytes]:
    """The events in a chunked body, and whether its last chunk came as an empty event."""
    found: list[bytes] = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        found.append(rest[: int(size, 16)])
        body = rest[int(size, 16) + 2 :]
    return found


def test_a_stream_comes_event_by_event_spread_over_its_latency(against: Against) -> None:
    """Its headers are the reference's; it is paid from its first event on, and says the same as a whole reply."""

    async def body(port: int) -> None:
        plain = (await exchange(port, ask())).json
        reader, writer = await send(port, request_bytes(ask(stream=True)))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"\r\nContent-Type: text/event-stream; charset=utf-8\r\n" in head
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert b"\r\nCache-Control: no-store\r\n" in head
        first = await reader.readuntil(b"\n\n\r\n")
        counts = await stats(port)
        assert (counts["in_flight"], counts["replies"], counts["paid_twice"]) == (1, 2, 1)
        events = events_of(first + await reader.read())
        writer.close()
        assert events[-2:] == [b"data: [DONE]\n\n", b""]
        chunks = [json.loads(event.removeprefix(b"data: ")) for event in events[:-2]]
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
        assert text == plain["choices"][0]["message"]["content"]
        assert chunks[-1]["usage"] == plain["usage"]
        assert (await stats(port))["by_status"] == {"200": 2}

    against(SimulatorSettings(latency_ms=200), body)


def test_a_stream_that_is_cut_ends_in_its_middle_and_is_paid(against: Against) -> None:
    async def body(port: int) -> None:
        reply = await exchange(port, ask(stream=True))
        events = events_of(reply.body)
        assert len(events) >= 3
        assert b"[DONE]" not in events[-1]
        assert all(json.loads(event.removeprefix(b"data: "))["usage"] is None for event in events)
        counts = await stats(port)
        assert (counts["by_status"], counts["replies"], counts["in_flight"]) == ({"truncated": 1}, 1, 0)

    against(SimulatorSettings(truncate_rate=1), body)


def test_an_error_instead_of_a_stream_is_no_stream(against: Against) -> None:
    async def body(port: int) -> None:
        reply = await exchange(port, ask(stream=True))
        assert (reply.status, reply.headers["content-type"]) == (500, "application/json")

    against(SimulatorSettings(error_rate=1), body)


def test_a_stream_whose_client_has_gone_ends_and_is_paid_once(against: Against) -> None:
    async def body(port: int) -> None:
        reader, writer = await send(port, request_bytes(ask(stream=True)))
        await reader.readuntil(b"\n\n\r\n")
        writer.close()
        counts = await stats_when(port, lambda now: now["in_flight"] == 0)
        assert (counts["replies"], counts["by_status"]) == (1, {"200": 1})

    against(SimulatorSettings(latency_ms=200), body)


def test_stopping_ends_a_stream(against: Against) -> None:
    async def body(_port: int) -> None:
        async with serve(SimulatorSettings(latency_ms=60_000)) as port:
            _, writer = await send(port, request_bytes(ask(stream=True)))
            await stats_when(port, lambda now: now["in_flight"] == 1)
        async with serve(SimulatorSettings(latency_ms=1000)) as port:
            reader, other = await send(port, request_bytes(ask(stream=True)))
            await reader.readuntil(b"\n\n\r\n")
        assert b"[DONE]" not in await reader.read()
        writer.close()
        other.close()

    against(SimulatorSettings(), body)


def test_resets_are_tcp_resets(against: Against) -> None:
    async def body(port: int) -> None:
        with pytest.raises(ConnectionResetError):
            await exchange(port, ask())
        counts = await stats(port)
        assert (counts["by_status"], counts["replies"], counts["in_flight"]) == ({"reset": 1}, 0, 0)

    against(SimulatorSettings(reset_rate=1), body)


def test_hanging_ends_with_its_client(against: Against) -> None:
    async def body(port: int) -> None:
        _, writer = await send(port, request_bytes(ask()))
        counts = await stats_when(port, lambda now: now["by_status"] == {"hang": 1})
        assert (counts["in_flight"], counts["replies"]) == (1, 0)
        writer.close()
        await stats_when(port, lambda now: now["in_flight"] == 0)

    against(SimulatorSettings(hang_rate=1), body)


@pytest.mark.parametrize("settings", [SimulatorSettings(hang_rate=1), SimulatorSettings(latency_ms=60_000)])
def test_stopping_waits_for_nothing(against: Against, settings: SimulatorSettings) -> None:
    """Neither a hanging request nor one under latency, nor one whose client has gone, outlives the server."""

    async def body(_port: int) -> None:
        before = asyncio.all_tasks()
        async with serve(settings) as port:
            _, gone = await send(port, request_bytes(ask()))
            reader, writer = await send(port, request_bytes(ask("again")))
            await stats_when(port, lambda now: now["in_flight"] == 2)
            gone.close()
            await gone.wait_closed()
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 1
        assert await reader.read() == b""
        writer.close()
        assert asyncio.all_tasks() == before

    against(settings, body)


def test_a_reply_is_paid_although_its_client_has_gone(against: Against) -> None:
    async def body(port: int) -> None:
        _, writer = await send(port, request_bytes(ask()))
        await stats_when(port, lambda now: now["in_flight"] == 1)
        writer.close()
        counts = await stats_when(port, lambda now: now["in_flight"] == 0)
        assert (counts["replies"], counts["by_status"]) == (1, {"200": 1})

    against(SimulatorSettings(latency_ms=200), body)


def test_latency_is_waited_for(against: Against) -> None:
    async def body(port: int) -> None:
        started = time.monotonic()
        assert (await exchange(port, ask())).status == 200
        assert time.monotonic() - started >= 0.1

    against(SimulatorSettings(latency_ms=100), body)


def test_busy_above_max_in_flight(against: Against) -> None:
    async def body(port: int) -> None:
        _, writer = await send(port, request_bytes(ask()))
        await stats_when(port, lambda now: now["in_flight"] == 1)
        reply = await exchange(port, ask("another"))
        assert (reply.status, reply.headers["retry-after"]) == (429, "2")
        assert reply.json == {
            "error": {
                "message": "Model busy, retry later",
                "type": "invalid_request_error",
                "param": None,
                "code": "engine_overloaded",
            }
        }
        writer.close()

    against(SimulatorSettings(hang_rate=1, max_in_flight=1, retry_after_s=2), body)


def test_rate_limited_above_requests_per_minute(against: Against) -> None:
    async def body(port: int) -> None:
        replies = [await exchange(port, ask()) for _ in range(3)]
        assert [reply.status for reply in replies] == [200, 200, 429]
        error = replies[2].json["error"]
        assert (error["code"], error["message"]) == ("rate_limit_exceeded", "Rate limited")
        assert "retry-after" not in replies[2].headers
        assert (await stats(port))["by_status"] == {"200": 2, "429": 1}

    against(SimulatorSettings(requests_per_minute=2), body)


def test_a_fractional_retry_after(against: Against) -> None:
    async def body(port: int) -> None:
        await exchange(port, ask())
        assert (await exchange(port, ask())).headers["retry-after"] == "0.25"

    against(SimulatorSettings(requests_per_minute=1, retry_after_s=0.25), body)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com", "", "127.0.0.1.example.com"])
def test_only_loopback_is_bound(host: str) -> None:
    with pytest.raises(JobError, match="loopback"):
        loopback(host)


def test_hosts_and_urls() -> None:
    assert base_url("localhost", 80) == "http://127.0.0.1:80/v1/openai"
    assert base_url("127.9.9.9", 80) == "http://127.9.9.9:80/v1/openai"
    assert base_url("::1", 80) == "http://[::1]:80/v1/openai"


def test_a_port_that_is_taken_is_the_users_error() -> None:
    async def body() -> None:
        async with serve(SimulatorSettings()) as port:
            with pytest.raises(JobError, match=str(port)):
                async with serve(SimulatorSettings(), port=port):
                    pass
        with pytest.raises(JobError, match="70000"):
            async with serve(SimulatorSettings(), port=70_000):
                pass

    asyncio.run(body())


def test_serve_forever_announces_and_ends_when_cancelled() -> None:
    """The URL is announced once the port is bound, and the port is free once it was cancelled."""
    announced: list[str] = []

    async def body() -> None:
        loop = asyncio.get_running_loop()
        bound = loop.create_future()

        def announce(url: str) -> None:
            announced.append(url)
            bound.set_result(None)

        serving = asyncio.ensure_future(serve_forever(SimulatorSettings(), host="localhost", port=0, announce=announce))
        await bound
        port = int(announced[0].split(":")[2].split("/")[0])
        assert (await exchange(port, ask())).status == 200
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(ConnectionRefusedError):
            await exchange(port, ask())

    asyncio.run(body())
