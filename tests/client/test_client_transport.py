"""One exchange over a real socket: what comes back, what breaks, and what either means (TRAPS.md A1 to A17).

Each test runs over both transports.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from client_raw_server import Peer, RawServer, Script, answer, closed_port, raw_server, whole
from client_replies import GOOD
from client_transports import idle_sockets, in_use, opened, pool_of, session_of, transport_kind

from batchrun.client import arriving, connecting
from batchrun.client.arriving import ExchangeError
from batchrun.client.transport import Transport
from batchrun.model.attempt import Exchange

__all__ = ["transport_kind"]

KEY = "SENTINEL0key0of0no0known0form"
ASK = b'{"model":"m"}'


def run(main: Coroutine[Any, Any, None], loops: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Run on a loop of this kind, for at most ten seconds."""
    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(asyncio.wait_for(main, 10))


async def exchange(script: Script, **options: Any) -> tuple[Exchange | ExchangeError, RawServer]:
    async with raw_server(script) as server, opened(server.base_url, **options) as transport:
        try:
            return await transport.exchange(ASK), server
        except ExchangeError as error:
            return error, server


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"".join(
    b"%x\r\n%s\r\n" % (len(part), part) for part in (GOOD[:7], GOOD[7:100], GOOD[100:])
)
GZIPPED = gzip.compress(GOOD)


@pytest.mark.parametrize(
    "replies",
    [
        [whole(GOOD)],
        [whole(GOOD)[:20], whole(GOOD)[20:90], whole(GOOD)[90:]],
        [CHUNKED + b"0\r\n\r\n"],
        [CHUNKED + b"0\r\nTrailer: x\r\n\r\n"],
        [whole(GZIPPED, headers="Content-Encoding: gzip\r\n")],
        [whole(zlib.compress(GOOD), headers="Content-Encoding: deflate\r\n")],
        [whole(GOOD, headers="Connection: close\r\n")],
        [b"HTTP/1.1 200 OK\r\n\r\n" + GOOD],
        [b"HTTP/1.0 200 OK\r\n\r\n" + GOOD],
        [b"HTTP/1.1 100 Continue\r\n\r\n" + whole(GOOD)],
        [b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", whole(GOOD)],
    ],
)
@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
def test_whole_replies_in_every_framing(
    replies: list[bytes], loops: Callable[[], asyncio.AbstractEventLoop] | None
) -> None:
    async def main() -> None:
        came, _ = await exchange(answer(*replies))
        assert isinstance(came, Exchange)
        assert (came.status, came.body) == (200, GOOD)

    run(main(), loops)


def test_header_names_are_lowered_and_repeated_ones_joined() -> None:
    async def main() -> None:
        came, _ = await exchange(answer(whole(b"", headers="Retry-After: 5\r\nX-ID: A\r\nRETRY-AFTER: 9\r\n")))
        assert isinstance(came, Exchange)
        assert came.headers == {"content-length": "0", "retry-after": "5, 9", "x-id": "A"}

    run(main())


def test_error_statuses_are_replies_with_their_bodies() -> None:
    async def main() -> None:
        for status in ("502 Bad Gateway", "401 No", "429 Slow", "500 X", "404 Y"):
            came, _ = await exchange(answer(whole(b"<html>", status=status, headers="Content-Type: text/html\r\n")))
            assert isinstance(came, Exchange)
            assert (str(came.status), came.body) == (status[:3], b"<html>")
        came, _ = await exchange(answer(b"HTTP/1.1 204 Nothing\r\n\r\n"))
        assert isinstance(came, Exchange)
        assert (came.status, came.body) == (204, b"")

    run(main())


def test_the_request_as_it_goes_out() -> None:
    async def main() -> None:
        options: dict[str, Any] = {
            "headers": {"Authorization": f"Bearer {KEY}", "X-Extra": "1"},
            "query": {"api-version": "2024-10-21", "q": "a b&c"},
        }
        _, server = await exchange(answer(whole(GOOD)), **options)
        head, _, sent = server.requests[0].partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert first == "POST /v1/chat/completions?api-version=2024-10-21&q=a+b%26c HTTP/1.1"
        assert sent == ASK
        assert headers["content-type"] == "application/json"
        assert headers["content-length"] == str(len(ASK))
        assert headers["accept-encoding"] == "gzip, deflate"
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["x-extra"] == "1"
        assert not {"transfer-encoding", "cookie", "expect", "content-disposition"} & set(headers)

    run(main())


def test_a_body_of_megabytes_goes_out_whole_and_without_a_warning() -> None:
    """A15: aiohttp warns of, and blocks on, large bytes; warnings are errors here."""

    async def main() -> None:
        large = b"x" * (3 * 1024 * 1024)
        async with raw_server(answer(whole(GOOD))) as server, opened(server.base_url) as transport:
            await transport.exchange(large)
            assert server.requests[0].endswith(large)
            assert len(server.requests[0]) - len(large) < 1000

    run(main())


async def _nothing(peer: Peer) -> None:
    pass


async def _silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


async def _reset_after_request(peer: Peer) -> None:
    await peer.request()
    await peer.reset()


async def _reset_in_body(peer: Peer) -> None:
    await peer.request()
    await peer.send(whole(GOOD)[:-10])
    await peer.reset()


async def _hang_in_body(peer: Peer) -> None:
    await peer.request()
    await peer.send(whole(GOOD)[:-10])
    await peer.gone()


async def _reset_while_we_send(peer: Peer) -> None:
    await peer.reader.read(100)
    await peer.reset()


CUTS: list[tuple[Script, str]] = [
    (_nothing, "disconnected"),
    (answer(), "disconnected"),
    (answer(b"HTTP/1.1 200 OK\r\nContent-Le"), "disconnected"),
    (answer(whole(GOOD)[:-10]), "disconnected"),
    (answer(CHUNKED), "disconnected"),
    (answer(CHUNKED + b"zz\r\n"), "disconnected"),
    (answer(CHUNKED[:-60]), "disconnected"),
    (answer(whole(b"no gzip at all", headers="Content-Encoding: gzip\r\n")), "disconnected"),
    (answer(whole(b"no brotli", headers="Content-Encoding: br\r\n")), "disconnected"),
    (answer(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), "disconnected"),
    (answer(b"HTTP/1.1 abc OK\r\n\r\n"), "disconnected"),
    (answer(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"), "disconnected"),
    (answer(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"), "disconnected"),
    (answer(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 10_000 + b"\r\n"), "disconnected"),
    (_reset_after_request, "disconnected"),
    (_reset_in_body, "disconnected"),
    (_silent, "timeout"),
    (_hang_in_body, "timeout"),
]


@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
@pytest.mark.parametrize(("script", "phase"), CUTS)
def test_cut_after_sending(script: Script, phase: str, loops: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    async def main() -> None:
        came, _ = await exchange(script, timeout_s=0.15 if phase == "timeout" else 5.0, headers={"api-key": KEY})
        assert isinstance(came, ExchangeError)
        assert (came.phase, came.sent) == (phase, True)
        assert str(came)
        assert KEY not in f"{came!r}{came}"
        assert came.__cause__ is None
        assert came.__suppress_context__

    run(main(), loops)


@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
def test_a_reset_while_the_body_is_sent_names_no_url(loops: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    """aiohttp's text for it holds the whole URL, whose query may hold a secret."""

    async def main() -> None:
        async with (
            raw_server(_reset_while_we_send) as server,
            opened(server.base_url, query={"key": KEY}) as transport,
        ):
            with pytest.raises(ExchangeError) as caught:
                await transport.exchange(b"x" * (8 * 1024 * 1024))
        assert (caught.value.phase, caught.value.sent) == ("disconnected", True)
        assert KEY not in str(caught.value)

    run(main(), loops)


@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
def test_a_refused_connection_is_not_sent(loops: Callable[[], asyncio.AbstractEventLoop] | None) -> None:
    async def main() -> None:
        async with opened(f"http://127.0.0.1:{closed_port()}/v1") as transport:
            with pytest.raises(ExchangeError, match="refused") as caught:
                await transport.exchange(ASK)
        assert (caught.value.phase, caught.value.sent) == ("connect", False)

    run(main(), loops)


def test_a_host_without_an_address_is_its_own_phase() -> None:
    async def main() -> None:
        async def no_address(*_: Any, **__: Any) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        asyncio.get_running_loop().getaddrinfo = no_address  # type: ignore[method-assign]
        async with opened("http://nowhere.invalid/v1") as transport:
            with pytest.raises(ExchangeError, match="Name or service not known") as caught:
                await transport.exchange(ASK)
        assert (caught.value.phase, caught.value.sent) == ("dns", False)

    run(main())


@pytest.mark.parametrize("stuck", ["resolving", "connecting"])
def test_a_timeout_before_sending_is_not_sent(stuck: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own deadline may end while aiohttp still resolves or connects: then nothing can have been paid."""

    async def main() -> None:
        async def forever(*_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo" if stuck == "resolving" else "sock_connect", forever)
        host = "nowhere.invalid" if stuck == "resolving" else "127.0.0.1:9"
        async with opened(f"http://{host}/v1", timeout_s=0.05) as transport:
            with pytest.raises(ExchangeError, match=r"no connection within 0\.05 s") as caught:
                await transport.exchange(ASK)
            assert (caught.value.phase, caught.value.sent) == ("connect", False)
            assert not in_use(transport)

    run(main())


def test_a_connection_that_takes_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async def forever(*_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", forever)
        monkeypatch.setattr(connecting, "CONNECT_S", 0.05)
        async with opened("http://127.0.0.1:9/v1") as transport:
            with pytest.raises(ExchangeError, match=r"no connection within 0\.05 s") as caught:
                await transport.exchange(ASK)
        assert (caught.value.phase, caught.value.sent) == ("connect", False)

    run(main())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(status: int) -> None:
    async def main() -> None:
        async with raw_server(answer(whole(GOOD))) as elsewhere:
            target = f"Location: {elsewhere.base_url}\r\n"
            came, _ = await exchange(
                answer(whole(b"", status=f"{status} Moved", headers=target)), headers={"Authorization": f"Bearer {KEY}"}
            )
            assert isinstance(came, Exchange)
            assert came.status == status
            assert elsewhere.connections == 0

    run(main())


def test_a_connection_is_used_again_and_one_said_to_close_is_not() -> None:
    async def twice(peer: Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(whole(GOOD))

    async def main() -> None:
        for script, connections in ((twice, 1), (answer(whole(GOOD, headers="Connection: close\r\n")), 2)):
            async with raw_server(script) as server, opened(server.base_url) as transport:
                for _ in range(2):
                    assert (await transport.exchange(ASK)).body == GOOD
                assert server.connections == connections

    run(main())


def test_after_a_stream_without_tls_a_connection_is_not_used_again() -> None:
    """llama.cpp promises to keep the connection, then closes it: a request that is on its way would be cut."""

    async def llama(peer: Peer) -> None:
        await peer.request()
        end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        promise = "Content-Type: text/event-stream\r\nKeep-Alive: timeout=5, max=100\r\n"
        await peer.send(whole(end, headers=promise))
        await peer.reader.read(1)  # the next request, if it comes here

    async def main() -> None:
        async with raw_server(llama) as server, opened(server.base_url, stream=True) as transport:
            for _ in range(3):
                assert (await transport.exchange(ASK)).status == 200
            assert server.connections == 3

    run(main())


def test_r08_keepalive_is_set_on_the_live_socket() -> None:
    """A6: a peer that died silently is noticed in about two minutes."""

    async def once(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(GOOD))
        await peer.gone()

    async def main() -> None:
        async with raw_server(once) as server, opened(server.base_url) as transport:
            await transport.exchange(ASK)
            (sock,) = idle_sockets(transport)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) <= 15
            assert 0 < sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) <= 4

    run(main())


@pytest.mark.parametrize("zipped", [False, True])
def test_a_body_larger_than_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch, *, zipped: bool) -> None:
    async def main() -> None:
        monkeypatch.setattr(arriving, "MOST_BODY_BYTES", 1024 * 1024)
        for size, fits in ((1024 * 1024, True), (1024 * 1024 + 1, False)):
            data = b"x" * size
            reply = whole(gzip.compress(data), headers="Content-Encoding: gzip\r\n") if zipped else whole(data)
            came, _ = await exchange(answer(reply))
            if fits:
                assert isinstance(came, Exchange)
                assert came.body == data
            else:
                assert isinstance(came, ExchangeError)
                assert (came.phase, came.sent) == ("too_large", True)
                assert "1 MiB" in str(came)

    run(main())


@pytest.mark.parametrize("script", [_silent, _hang_in_body])
def test_cancellation_passes_and_gives_the_connection_back(script: Script) -> None:
    async def main() -> None:
        async with raw_server(script) as server, opened(server.base_url) as transport:
            task = asyncio.create_task(transport.exchange(ASK))
            while not server.requests:  # noqa: ASYNC110 - turns of the loop, bounded by run()
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.closed.wait()
            assert not in_use(transport)

    run(main())


def test_r09_the_pool_is_larger_than_the_slots_and_aiohttp_counts_no_time() -> None:
    async def main() -> None:
        async with opened("http://127.0.0.1:9/v1", concurrency=300) as transport:
            assert pool_of(transport).limit >= 300
            assert session_of(transport).timeout.total is None
            assert session_of(transport).timeout.sock_read is None

    run(main())


def test_the_environments_proxy_is_used_and_netrc_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """aiohttp's trust_env would fail on a netrc entry beside an Authorization header, and send it without one."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    async def main() -> None:
        async with raw_server(answer(whole(GOOD))) as proxy:
            monkeypatch.setenv("http_proxy", f"http://user:pass@127.0.0.1:{proxy.port}")
            for headers in ({}, {"Authorization": f"Bearer {KEY}"}):
                async with opened("http://api.invalid/v1", trust_env=True, headers=headers) as transport:
                    assert (await transport.exchange(ASK)).body == GOOD
            plain, keyed = proxy.requests
            assert plain.startswith(b"POST http://api.invalid/v1/chat/completions HTTP/1.1\r\n")
            assert b"Proxy-Authorization: Basic" in plain
            assert b"\r\nAuthorization:" not in plain
            assert b"\r\nAuthorization: Bearer" in keyed
            monkeypatch.setenv("no_proxy", "127.0.0.1")
            async with raw_server(answer(whole(GOOD))) as direct, opened(direct.base_url, trust_env=True) as transport:
                await transport.exchange(ASK)
                assert direct.connections == 1

    run(main())


def test_https_to_a_server_that_speaks_http() -> None:
    async def hello(peer: Peer) -> None:
        await peer.reader.read(1)
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def main() -> None:
        async with (
            raw_server(hello) as server,
            opened(server.base_url.replace("http:", "https:")) as transport,
        ):
            with pytest.raises(ExchangeError, match="TLS failed: ") as caught:
                await transport.exchange(ASK)
        assert (caught.value.phase, caught.value.sent) == ("tls", False)

    run(main())


def test_a_tls_handshake_that_breaks_off_is_a_refused_connection() -> None:
    """A load balancer that restarts must not end the run as a wrong certificate does."""

    async def hang_up(peer: Peer) -> None:
        await peer.reader.read(10_000)

    async def main() -> None:
        async with (
            raw_server(hang_up) as server,
            opened(server.base_url.replace("http:", "https:")) as transport,
        ):
            with pytest.raises(ExchangeError) as caught:
                await transport.exchange(ASK)
        assert (caught.value.phase, caught.value.sent) == ("connect", False)

    run(main())


PIECES = [
    whole(GOOD),
    CHUNKED + b"0\r\n\r\n",
    whole(GZIPPED, headers="Content-Encoding: gzip\r\n"),
    CHUNKED.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1) + b"0\r\n\r\n",
    whole(zlib.compress(GOOD), headers="Content-Encoding: deflate\r\n"),
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n" + GOOD,
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n" + GOOD,
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
]


def torn(chance: random.Random) -> list[bytes]:
    """A reply with bytes changed, cut in two, its second half lost at times."""
    data = bytearray(chance.choice(PIECES) + chance.choice([b"", b"", b"x", *PIECES]))
    for _ in range(chance.choice([0, 1, 1, 3])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    cut = chance.randrange(1, len(data))
    return [bytes(data[:cut]), *([bytes(data[cut:])] if chance.random() < 0.6 else [])]


def tearing(chance: random.Random) -> Script:
    """Answer one or two requests with torn replies, then close or reset."""

    async def script(peer: Peer) -> None:
        for _ in range(chance.randrange(1, 3)):
            await peer.request()
            for part in torn(chance):
                await peer.send(part)
        if chance.random() < 0.3:
            await peer.reset()

    return script


@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
def test_whatever_bytes_come_nothing_but_exchange_errors_get_out(
    loops: Callable[[], asyncio.AbstractEventLoop] | None,
) -> None:
    """Replies cut, torn and mixed at random, over few connections."""

    async def main() -> None:
        async with (
            raw_server(tearing(random.Random(20250113))) as server,
            opened(server.base_url, timeout_s=0.2) as transport,
        ):
            for _ in range(6):
                async with asyncio.TaskGroup() as group:
                    for _ in range(50):
                        group.create_task(one(transport))
            assert not in_use(transport)

    async def one(transport: Transport) -> None:
        try:
            came: Exchange | ExchangeError = await transport.exchange(ASK)
        except ExchangeError as error:
            came = error
        if isinstance(came, ExchangeError):
            assert str(came)
            assert came.phase in {"connect", "timeout", "disconnected"}

    run(main(), loops)
