"""Proxy variables into the proxy that is used, and what goes over it (DEMAND.md R42)."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop
from client_certificates import Certificate, certificate
from client_raw_server import Peer, answer, closed_port, raw_server, whole
from client_replies import GOOD

from batchrun.client.arriving import ExchangeError
from batchrun.client.proxy import proxy_for
from batchrun.client.transport import open_transport
from batchrun.errors import JobError

__all__ = ["certificate"]
KEY = "SENTINEL0key0of0no0known0form"
PASSWORD = "SENTINEL0password"
P = "http://proxy:3128"


@pytest.mark.parametrize(
    ("url", "environ", "proxy"),
    [
        ("https://api.host/v1", {}, None),
        ("https://api.host/v1", {"HTTPS_PROXY": P}, P),
        ("https://api.host/v1", {"https_proxy": P}, P),
        ("https://api.host/v1", {"HTTP_PROXY": P}, None),
        ("http://api.host/v1", {"HTTP_PROXY": P}, P),
        ("http://api.host/v1", {"HTTPS_PROXY": P}, None),
        ("http://api.host/v1", {"ALL_PROXY": P}, P),
        ("https://api.host/v1", {"all_proxy": "http://other:1", "https_proxy": P}, P),
        ("https://api.host/v1", {"HTTPS_PROXY": "http://other:1", "https_proxy": P}, P),
        ("https://api.host/v1", {"https_proxy": P, "HTTPS_PROXY": "http://other:1"}, P),
        ("https://api.host/v1", {"https_proxy": "", "HTTPS_PROXY": P}, None),
        ("https://api.host/v1", {"HTTPS_PROXY": "proxy:3128"}, P),
        ("https://api.host/v1", {"HTTPS_PROXY": "https://proxy:3128"}, "https://proxy:3128"),
        ("https://api.host/v1", {"HTTPS_PROXY": "http://u:p@proxy"}, "http://u:p@proxy"),
        ("https://api.host/v1", {"HTTPS_PROXY": P, "NO_PROXY": ""}, P),
        ("https://api.host/v1", {"HTTPS_PROXY": P, "NO_PROXY": "*"}, None),
        ("https://api.host/v1", {"HTTPS_PROXY": P, "NO_PROXY": "localhost, .host"}, None),
        ("https://api.host/v1", {"HTTPS_PROXY": P, "no_proxy": "host"}, None),
        ("https://api.host/v1", {"HTTPS_PROXY": P, "no_proxy": "API.HOST"}, None),
        ("https://api.host/v1", {"HTTPS_PROXY": P, "no_proxy": "other.host,ost"}, P),
        ("https://api.host:8443/v1", {"HTTPS_PROXY": P, "no_proxy": "api.host:8443"}, None),
        ("https://api.host:8444/v1", {"HTTPS_PROXY": P, "no_proxy": "api.host:8443"}, P),
        ("http://127.0.0.1:8000/v1", {"HTTP_PROXY": P, "NO_PROXY": "localhost,127.0.0.1"}, None),
        ("http://[::1]:8000/v1", {"HTTP_PROXY": P, "NO_PROXY": "::1"}, None),
        ("http://[::1]:8000/v1", {"HTTP_PROXY": P, "NO_PROXY": "[::1]"}, None),
        ("http://127.0.0.1:8000/v1", {"HTTP_PROXY": P, "NO_PROXY": " , ,"}, P),
    ],
)
def test_r42_which_proxy_is_used(url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(url, environ) == proxy


@pytest.mark.parametrize(
    "value", ["socks5://proxy:1", "ftp://proxy", "http://", "http://proxy:0x1", "http://[::1", "http://proxy\n", "://"]
)
def test_r42_what_is_no_http_proxy_is_refused_and_never_quoted(value: str) -> None:
    marked = value.replace("proxy", f"me:{PASSWORD}@proxy")
    with pytest.raises(JobError, match="variable All_Proxy: expected an http:// or https:// URL") as refused:
        proxy_for("https://host/v1", {"All_Proxy": marked})
    assert PASSWORD not in str(refused.value)
    assert proxy_for("https://host/v1", {"All_Proxy": marked, "no_proxy": "host"}) is None


def run(main: Coroutine[Any, Any, None], loops: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    with asyncio.Runner(loop_factory=loops) as runner:
        runner.run(asyncio.wait_for(main, 10))


def opened(base_url: str, auth_header: str = "Authorization") -> Any:
    headers = {auth_header: f"Bearer {KEY}"}
    return open_transport(base_url=base_url, headers=headers, query={}, timeout_s=5.0, concurrency=4, trust_env=True)


class Tunnel:
    """A proxy that opens a tunnel to `port` of loopback, whatever host it is asked for, and keeps what it saw."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.heads: list[bytes] = []
        self.passed = b""

    async def __call__(self, peer: Peer) -> None:
        self.heads.append(await peer.reader.readuntil(b"\r\n\r\n"))
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        await peer.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        back = asyncio.create_task(self._carry(reader, peer.writer))
        try:
            await self._carry(peer.reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
            await asyncio.wait([back])

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                self.passed += data
                writer.write(data)
                await writer.drain()


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Set the environment so that a proxy with a password listens at this port of loopback."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)

    def at(port: int) -> None:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://me:{PASSWORD}@127.0.0.1:{port}")

    return at


@pytest.mark.parametrize("loops", [None, uvloop.new_event_loop])
@pytest.mark.parametrize("auth_header", ["Authorization", "api-key"])
@pytest.mark.parametrize("has_password", [False, True])
def test_r42_https_goes_through_a_tunnel_that_never_sees_the_key(
    certificate: Certificate,
    proxied: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
    loops: Callable[[], asyncio.AbstractEventLoop] | None,
    auth_header: str,
    *,
    has_password: bool,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))

    async def main() -> None:
        async with raw_server(answer(whole(GOOD)), tls=certificate.server_context()) as origin:
            tunnel = Tunnel(origin.port)
            async with raw_server(tunnel) as proxy:
                proxied(proxy.port)
                if not has_password:
                    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
                async with opened("https://api.example.invalid/v1", auth_header) as transport:
                    for _ in range(2):
                        assert (await transport.exchange(b"{}")).body == GOOD
            assert len(tunnel.heads) == len(origin.requests) == 2
            for head in tunnel.heads:
                assert head.startswith(b"CONNECT api.example.invalid:443 HTTP/1.1\r\n")
                assert (b"\r\nProxy-Authorization: Basic " in head) is has_password
                assert (b"Proxy-Authorization" in head) is has_password
                assert KEY.encode() not in head + tunnel.passed
            for asked in origin.requests:
                assert asked.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.example.invalid\r\n")
                assert f"\r\n{auth_header}: Bearer {KEY}\r\n".encode() in asked
                assert b"Proxy-Authorization" not in asked

    run(main(), loops)


@pytest.mark.parametrize("has_password", [False, True])
def test_r42_http_asks_the_proxy_itself_for_every_request(
    proxied: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, *, has_password: bool
) -> None:
    async def script(peer: Peer) -> None:
        for _ in range(3):
            await peer.request()
            await peer.send(whole(GOOD))

    async def main() -> None:
        async with raw_server(script) as proxy:
            proxied(proxy.port)
            if not has_password:
                monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.port}")
            async with opened("http://api.example.invalid/v1") as transport:
                for size in range(3):
                    await transport.exchange(b"x" * size)
        assert (proxy.connections, len(proxy.requests)) == (1, 3)
        for size, asked in enumerate(proxy.requests):
            assert asked.startswith(b"POST http://api.example.invalid/v1/chat/completions HTTP/1.1\r\n")
            assert asked.endswith(b"\r\n\r\n" + b"x" * size)
            assert asked.count(b"\r\nContent-Length: %d\r\n" % size) == asked.count(b"Content-Length") == 1
            assert asked.count(f"\r\nAuthorization: Bearer {KEY}\r\n".encode()) == asked.count(KEY.encode()) == 1
            assert asked.count(b"\r\nProxy-Authorization: Basic ") == asked.count(b"Proxy-") == int(has_password)

    run(main())


def test_r42_tls_is_verified_through_a_tunnel_too(
    certificate: Certificate, proxied: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the server's half of the handshake
        async with raw_server(answer(whole(GOOD)), tls=certificate.server_context()) as origin:
            async with raw_server(Tunnel(origin.port)) as proxy:
                proxied(proxy.port)
                async with opened("https://api.example.invalid/v1") as transport:
                    with pytest.raises(ExchangeError, match=r"TLS failed: self.signed certificate") as caught:
                        await transport.exchange(b"{}")
            assert (caught.value.phase, caught.value.sent, origin.requests) == ("tls", False, [])

    run(main())


@pytest.mark.parametrize(
    ("status", "phase"), [("407 Proxy Authentication Required", "proxy"), ("403 No", "proxy"), ("502 Bad", "connect")]
)
def test_r42_a_proxy_that_refuses_says_so_without_its_password(
    status: str, phase: str, proxied: Callable[[int], None]
) -> None:
    async def refuse(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(whole(PASSWORD.encode(), status=status))

    async def main() -> None:
        async with raw_server(refuse) as proxy:
            proxied(proxy.port)
            async with opened("https://api.example.invalid/v1") as transport:
                with pytest.raises(ExchangeError, match=f"the proxy answered {status[:3]}") as caught:
                    await transport.exchange(b"{}")
        assert (caught.value.phase, caught.value.sent) == (phase, False)
        assert PASSWORD not in f"{caught.value!r}"

    run(main())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_r42_a_proxy_that_is_not_there_is_not_sent_to(scheme: str, proxied: Callable[[int], None]) -> None:
    async def main() -> None:
        proxied(closed_port())
        async with opened(f"{scheme}://api.example.invalid/v1") as transport:
            with pytest.raises(ExchangeError, match="can't connect to the proxy: Connection refused") as caught:
                await transport.exchange(b"{}")
        assert (caught.value.phase, caught.value.sent) == ("connect", False)
        assert PASSWORD not in f"{caught.value!r}"

    run(main())


def test_r42_no_proxy_is_honoured(proxied: Callable[[int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with raw_server(answer(whole(GOOD))) as proxy, raw_server(answer(whole(GOOD))) as direct:
            proxied(proxy.port)
            monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
            async with opened(direct.base_url) as transport:
                assert (await transport.exchange(b"{}")).body == GOOD
            assert (proxy.connections, direct.connections) == (0, 1)

    run(main())
