"""The life of connections under either transport: kept, dropped, raced, given back whatever an exchange comes to."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from client_certificates import Certificate, certificate
from client_raw_server import Peer, Script, answer, raw_server, whole
from client_replies import GOOD
from client_transports import Kind, idle_sockets, in_use, opened, transport_kind

from batchrun.client.arriving import ExchangeError
from batchrun.client.connecting import IDLE_S
from batchrun.client.lean import LeanTransport
from batchrun.client.session import SessionTransport
from batchrun.client.transport import Transport

__all__ = ["certificate", "transport_kind"]
ASK = b'{"model":"m"}'
LARGE = b"x" * (8 * 1024 * 1024)
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]
Loops = Callable[[], asyncio.AbstractEventLoop]


def run(main: Coroutine[Any, Any, None], loops: Loops) -> None:
    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(asyncio.wait_for(main, 20))


async def until(holds: Callable[[], object]) -> None:
    """Wait for it in turns of the loop; `run` bounds that."""
    while not holds():  # noqa: ASYNC110 - a test's way to see what has no event
        await asyncio.sleep(0.001)


def answering(*replies: bytes) -> Script:
    """Answer with these in turn over one connection, and wait then until the client has gone."""

    async def script(peer: Peer) -> None:
        for reply in replies:
            await peer.request()
            await peer.send(reply)
        await peer.gone()

    return script


def test_the_kind_that_is_asked_for_is_the_one_that_is_opened(transport_kind: Kind) -> None:
    async def main() -> None:
        async with opened("http://127.0.0.1:9/v1") as transport:
            assert type(transport) is {"lean": LeanTransport, "session": SessionTransport}[transport_kind]
        async with opened("https://127.0.0.1:9/v1", kind="auto") as transport:
            assert type(transport) is LeanTransport

    run(main(), asyncio.new_event_loop)


@pytest.mark.parametrize("loops", LOOPS)
def test_replies_in_every_framing_follow_each_other_on_one_connection(loops: Loops) -> None:
    replies = [
        whole(GOOD),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n",
        whole(gzip.compress(b"zipped"), headers="Content-Encoding: gzip\r\n"),
        b"HTTP/1.1 304 Same\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + whole(b"", status="500 No"),
        whole(b"data: [DONE]\n\n", status="400 No", headers="Content-Type: text/event-stream\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: deflate\r\n\r\n0\r\n\r\n",
        whole(b"last"),
    ]

    async def main() -> None:
        async with raw_server(answering(*replies)) as server, opened(server.base_url) as transport:
            came = [(one.status, one.body) for one in [await transport.exchange(ASK) for _ in range(6)]]
            assert came == [(200, GOOD), (200, b"abc"), (204, b""), (200, b"zipped"), (304, b""), (500, b"")]
            assert (await transport.exchange(ASK)).status == 400
            assert (await transport.exchange(ASK)).body == b""
            assert (await transport.exchange(ASK)).body == b"last"
            assert server.connections == 1

    run(main(), loops)


@pytest.mark.parametrize("loops", LOOPS)
def test_a_connection_that_the_server_closed_while_idle_is_not_used(loops: Loops) -> None:
    async def main() -> None:
        async with raw_server(answer(whole(GOOD))) as server, opened(server.base_url) as transport:
            for number in range(3):
                assert (await transport.exchange(ASK)).body == GOOD
                (sock,) = idle_sockets(transport) or (None,)
                await until(lambda sock=sock: sock is None or sock.fileno() < 0)
                assert server.connections == number + 1

    run(main(), loops)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("resets", [False, True])
def test_a_kept_connection_that_is_closed_on_the_next_request_is_ambiguous(loops: Loops, *, resets: bool) -> None:
    """A5: the server may have done the work before it closed, so nothing is sent twice by itself."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(GOOD))
        await peer.request()
        if resets:
            await peer.reset()

    async def main() -> None:
        async with raw_server(script) as server, opened(server.base_url) as transport:
            assert (await transport.exchange(ASK)).body == GOOD
            with pytest.raises(ExchangeError) as caught:
                await transport.exchange(ASK)
            assert (caught.value.phase, caught.value.sent) == ("disconnected", True)
            assert (server.connections, len(server.requests), in_use(transport)) == (1, 2, 0)
            assert (await transport.exchange(ASK)).body == GOOD

    run(main(), loops)


def test_an_idle_connection_is_closed_in_time() -> None:
    """R28: also where no further exchange asks for it."""

    async def main() -> None:
        async with raw_server(answering(whole(GOOD))) as server, opened(server.base_url) as transport:
            loop = asyncio.get_running_loop()
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(transport.exchange(ASK))
            began = loop.time()
            assert len(idle_sockets(transport)) == 3
            await until(lambda: not idle_sockets(transport))
            assert loop.time() - began >= IDLE_S - 0.01
            await server.closed.wait()
            assert (in_use(transport), server.connections) == (0, 3)

    run(main(), uvloop.new_event_loop)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("ends", ["reads on", "hangs"])
def test_an_answer_before_the_body_has_left_is_taken(loops: Loops, ends: str) -> None:
    """A gateway refuses what is too large without reading it."""

    async def script(peer: Peer) -> None:
        await peer.reader.read(100)
        await peer.send(whole(b"too large", status="413 No"))
        if ends == "reads on":
            await peer.gone()
        else:
            await asyncio.sleep(60)

    async def main() -> None:
        async with raw_server(script) as server, opened(server.base_url) as transport:
            for number in range(2):
                came = await transport.exchange(LARGE)
                assert (came.status, came.body) == (413, b"too large")
                assert in_use(transport) == 0
                assert server.connections == number + 1

    run(main(), loops)


@pytest.mark.parametrize("loops", LOOPS)
def test_a_large_body_leaves_whole_through_a_narrow_way(
    loops: Loops, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))

    async def slowly(peer: Peer) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        assert (await peer.request()).endswith(LARGE)
        await peer.send(whole(GOOD))
        await peer.request()
        await peer.send(whole(b"next"))

    async def main() -> None:
        for tls in (None, certificate.server_context()):
            async with raw_server(slowly, tls=tls) as server, opened(server.base_url) as transport:
                assert (await transport.exchange(LARGE)).body == GOOD
                assert (await transport.exchange(ASK)).body == b"next"
                assert server.connections == 1

    run(main(), loops)


async def _unread(peer: Peer) -> None:
    await peer.reader.read(100)
    peer.server.requests.append(b"")
    await peer.server.closed.wait()


async def _silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def _in_head(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-")
    await peer.gone()


async def _in_body(peer: Peer) -> None:
    await peer.request()
    await peer.send(whole(GOOD)[:-10])
    await peer.gone()


async def _in_stream(peer: Peer) -> None:
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\n\r\ndata: {}\n\n")
    await peer.gone()


PHASES: dict[str, tuple[Script, bytes]] = {
    "sending": (_unread, LARGE),
    "waiting": (_silent, ASK),
    "in the head": (_in_head, ASK),
    "in the body": (_in_body, ASK),
    "in a stream": (_in_stream, ASK),
}


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("used_before", [False, True])
def test_cancelled_in_any_phase_an_exchange_leaves_nothing_behind(
    phase: str, loops: Loops, *, used_before: bool
) -> None:
    script, body = PHASES[phase]

    async def main() -> None:
        before = 0

        async def after_one(peer: Peer) -> None:
            if used_before:
                await peer.request()
                await peer.send(whole(GOOD))
            await script(peer)

        async with raw_server(after_one) as server, opened(server.base_url, concurrency=1) as transport:
            for _ in range(20):  # more often than the pool has places
                if used_before:
                    assert (await transport.exchange(ASK)).body == GOOD
                before = len(server.requests)
                task = asyncio.ensure_future(transport.exchange(body))
                await until(lambda before=before: len(server.requests) > before)
                await asyncio.sleep(0.005)  # so that what the server sent next is there
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert (in_use(transport), idle_sockets(transport)) == (0, [])

    run(main(), loops)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("phase", PHASES)
def test_given_up_in_any_phase_an_exchange_leaves_nothing_behind(phase: str, loops: Loops) -> None:
    script, body = PHASES[phase]

    async def main() -> None:
        async with raw_server(script) as server, opened(server.base_url, timeout_s=0.1) as transport:
            began = asyncio.get_running_loop().time()
            with pytest.raises(ExchangeError, match=r"no reply within 0\.1 s") as caught:
                await transport.exchange(body)
            assert asyncio.get_running_loop().time() - began >= 0.09
            assert (caught.value.phase, caught.value.sent) == ("timeout", True)
            assert (in_use(transport), idle_sockets(transport)) == (0, [])
            server.closed.set()

    run(main(), loops)


@pytest.mark.parametrize("loops", LOOPS)
@pytest.mark.parametrize("stuck", ["getaddrinfo", "sock_connect", "tls"])
@pytest.mark.parametrize("ends", ["cancelled", "given up"])
def test_before_a_connection_is_there_nothing_is_sent_or_left_behind(
    stuck: str, ends: str, loops: Loops, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(peer: Peer) -> None:
        await peer.gone()

    async def main() -> None:
        reached = asyncio.Event()

        async def forever(*_: Any, **__: Any) -> Any:
            reached.set()
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        if stuck != "tls" and isinstance(loop, uvloop.Loop):
            return  # its methods can't be replaced; the way over them is the same
        if stuck != "tls":
            monkeypatch.setattr(loop, stuck, forever)
        timeout_s = 0.05 if ends == "given up" else 5.0
        async with raw_server(never) as server:
            url = server.base_url.replace("http:", "https:")
            url = url.replace("127.0.0.1", "nowhere.invalid") if stuck == "getaddrinfo" else url
            async with opened(url, concurrency=1, timeout_s=timeout_s) as transport:
                for _ in range(12):
                    task = asyncio.ensure_future(transport.exchange(ASK))
                    if ends == "cancelled":
                        await until(lambda: server.connections if stuck == "tls" else reached.is_set())
                        task.cancel()
                    with pytest.raises((asyncio.CancelledError, ExchangeError)) as caught:
                        await task
                    if isinstance(caught.value, ExchangeError):
                        assert (caught.value.phase, caught.value.sent) == ("connect", False)
                        assert "no connection within 0.05 s" in str(caught.value)
                    assert isinstance(caught.value, asyncio.CancelledError) is (ends == "cancelled")
                    assert in_use(transport) == 0
            assert server.requests == []

    run(main(), loops)


def test_exchanges_that_began_apart_are_given_up_apart() -> None:
    """Each has its whole time, and not more, whatever began before it and ended sooner."""

    async def some(peer: Peer) -> None:
        while b"quick" in await peer.request():
            await peer.send(whole(GOOD))
        await peer.gone()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        lasted: list[float] = []

        async def one(transport: Transport, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            began = loop.time()
            with pytest.raises(ExchangeError, match=r"no reply within 0\.4 s"):
                await transport.exchange(ASK)
            lasted.append(loop.time() - began)

        async with raw_server(some) as server, opened(server.base_url, timeout_s=0.4, concurrency=9) as transport:
            async with asyncio.TaskGroup() as group:
                for number in range(5):
                    group.create_task(transport.exchange(b"quick"))
                    group.create_task(one(transport, number * 0.08))
            assert (len(lasted), in_use(transport)) == (5, 0)
            assert min(lasted) >= 0.39
            assert (await transport.exchange(b"quick")).body == GOOD

    run(main(), uvloop.new_event_loop)


def test_both_transports_send_the_same_head(tmp_path: Path) -> None:
    async def main() -> None:
        heads = []
        for kind in ("lean", "session"):
            for stream in (False, True):
                async with (
                    raw_server(answer(whole(GOOD))) as server,
                    opened(
                        server.base_url, kind=kind, stream=stream, headers={"X-É": "ü"}, query={"q": "a b"}
                    ) as transport,
                ):
                    await transport.exchange(ASK)
                    head = server.requests[0].replace(b":%d" % server.port, b"")
                    heads.append(sorted(head.split(b"\r\n")))
        assert heads[:2] == heads[2:]
        assert heads[0] != heads[1]

    run(main(), asyncio.new_event_loop)
