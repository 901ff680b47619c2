"""One HTTP exchange over aiohttp: request bytes out, status, headers and body bytes back.

The settings answer measured traps (TRAPS.md): no total timeout of aiohttp's own, because ours counts from the
slot (A1); a pool as large as the slots (A2); TCP keepalive on every socket (A6); idle connections dropped before
servers drop them (A4), after 0.75 s because some do after 1 s: a reconnect costs one handshake after a gap, a reused
connection that the server closes costs an attempt that may be billed; no redirects, which would turn a POST into a
GET (A14); exceptions translated `from None`, because theirs can carry the key (A7); a message for every one, because
theirs may be empty (A9); bodies as streams, because large ones would block the loop (A15). Connections never take the
last open files of the process, which the ledger and the parts need.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import resource
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Protocol

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from yarl import URL

from batchrun.client.arriving import ExchangeError, Phase
from batchrun.client.proxy import proxy_for
from batchrun.client.receiving import STREAM_IDLE_S, Receiving
from batchrun.model.attempt import Exchange

CONNECT_S = 30.0
IDLE_S = 0.75
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 45, 15, 4
SPARE_FILES = 16
"""Open files of the process that are left to all but connections."""
SHORTAGES = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL])
"""Errors of a connection that this machine could not even begin: it has no files, memory or ports left."""

_AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


class Transport(Protocol):
    """Makes exchanges with one endpoint."""

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        ...


class Inquirer(Protocol):
    """Looks up what an endpoint's host tells beside its answers."""

    async def look_up(self, path: str, *, timeout_s: float) -> Exchange:
        """GET `path` of the endpoint's host and return the whole reply; raises ExchangeError when there is none."""
        ...


class _Sending(aiohttp.BytesIOPayload):
    """A request body that knows whether any of it may have left."""

    sent = False

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        """Note that sending begins, then send."""
        self.sent = True
        await super().write_with_length(writer, content_length)


class SessionTransport:
    """A Transport over one aiohttp ClientSession."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, *, timeout_s: float) -> None:
        """Post to `url`; an exchange that takes longer than `timeout_s` seconds is given up."""
        self._session = session
        self._url = url
        self._timeout_s = timeout_s

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        sending = _Sending(io.BytesIO(body))
        receiving = Receiving()
        broken: ExchangeError | None = None
        try:
            async with (
                asyncio.timeout(self._timeout_s) as deadline,
                self._session.post(self._url, data=sending, allow_redirects=False) as response,
            ):
                await receiving.read(response.content.iter_any(), deadline, response.status, _lowered(response.headers))
        except (aiohttp.ClientError, OSError) as error:
            if not sending.sent:
                raise self._unsent(error) from None
            broken = self._cut(error, receiving)
        if (exchange := receiving.end()) is not None:
            return exchange
        raise broken or _ended_early() from None

    async def look_up(self, path: str, *, timeout_s: float) -> Exchange:
        """GET `path` of the endpoint's host, as `exchange` would; raises ExchangeError when there is no whole reply."""
        receiving = Receiving()
        url = self._url.origin().with_path(path)
        try:
            async with (
                asyncio.timeout(timeout_s) as deadline,
                self._session.get(url, allow_redirects=False, middlewares=(_once,)) as response,
            ):
                await receiving.read(response.content.iter_any(), deadline, response.status, _lowered(response.headers))
        except (aiohttp.ClientError, OSError) as error:
            raise self._unsent(error) from None
        if (exchange := receiving.end()) is None:
            raise _ended_early()
        return exchange

    def _cut(self, error: aiohttp.ClientError | OSError, receiving: Receiving) -> ExchangeError:
        if isinstance(error, TimeoutError):
            text = f"no reply within {self._timeout_s:g} s"
            if receiving.was_idle:
                text = f"the stream was silent for {STREAM_IDLE_S:g} s"
            return ExchangeError("timeout", text, sent=True)
        match error:
            case aiohttp.ServerDisconnectedError():
                text = "the server closed the connection"
            case aiohttp.ClientPayloadError():
                text = "the reply was cut before its end"
            case aiohttp.ClientResponseError():
                text = "the reply is not HTTP that can be read"
            case OSError():
                text = f"the exchange broke off: {_os_message(error)}"
            case _:
                text = f"the exchange broke off: {type(error).__name__}"
        return ExchangeError("disconnected", text, sent=True)

    def _unsent(self, error: aiohttp.ClientError | OSError) -> ExchangeError:
        phase: Phase = "connect"
        match error:
            case TimeoutError():
                text = f"no connection within {min(CONNECT_S, self._timeout_s):g} s"
            case aiohttp.ClientConnectorDNSError():
                phase, text = "dns", f"can't find the host: {_os_message(error.os_error)}"
            case aiohttp.ClientConnectorSSLError(os_error=ssl.SSLEOFError() | ssl.SSLZeroReturnError()):
                text = "can't connect: the server closed the TLS handshake"
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
                phase, text = "tls", _tls_message(error)
            case aiohttp.ClientHttpProxyError(status=status):
                phase = "proxy" if 400 <= status < 500 else "connect"  # noqa: PLR2004 - refused, or only busy
                text = f"the proxy answered {status}"
            case aiohttp.ClientConnectorError(os_error=OSError(errno=number)):
                phase = "shortage" if number in SHORTAGES else phase
                where = " to the proxy" if isinstance(error, aiohttp.ClientProxyConnectionError) else ""
                text = f"can't connect{where}: {_os_message(error.os_error)}"
            case _:
                text = f"can't connect: {type(error).__name__}"
        return ExchangeError(phase, text, sent=False)


async def _once(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Send a GET once; aiohttp itself would send it a second time where the connection breaks."""
    try:
        return await send(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
        raise ExchangeError("disconnected", "the connection broke", sent=True) from None


def _ended_early() -> ExchangeError:
    return ExchangeError("disconnected", "the stream ended before the reply did", sent=True)


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with names in lower case; a repeated header's values are joined by a comma."""
    lowered: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        lowered[key] = f"{lowered[key]}, {value}" if key in lowered else value
    return lowered


def _os_message(error: OSError) -> str:
    """Say what went wrong by its number, because aiohttp puts the URL, which may hold secrets, into some texts."""
    if isinstance(error, socket.gaierror):
        return error.strerror or "unknown host"
    return os.strerror(error.errno) if error.errno else type(error).__name__


def _tls_message(error: aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    reason = getattr(inner, "verify_message", None) or getattr(inner, "reason", None) or type(inner).__name__
    advice = "; name a CA of your own in SSL_CERT_FILE" if isinstance(inner, ssl.SSLCertVerificationError) else ""
    return f"TLS failed: {reason}{advice}"


def _socket_factory() -> Callable[[_AddressInfo], socket.socket]:
    """Return what makes sockets; numbers go up from 0, so the number of one says how many files are left."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    def make(info: _AddressInfo) -> socket.socket:
        """Make a non-blocking socket whose silent death the kernel notices in about two minutes."""
        made = socket.socket(info[0], info[1], info[2])
        if soft != resource.RLIM_INFINITY and made.fileno() >= soft - SPARE_FILES:
            made.close()
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.setblocking(False)  # noqa: FBT003 - the name of the standard library
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", KEEPALIVE_IDLE_S),
            ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S),
            ("TCP_KEEPCNT", KEEPALIVE_PROBES),
        ):
            if hasattr(socket, option):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return made

    return make


@contextlib.asynccontextmanager
async def open_transport(  # noqa: PLR0913 - each is a fact of its own about the connections
    *,
    base_url: str,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    timeout_s: float,
    concurrency: int,
    trust_env: bool,
    stream: bool = False,
) -> AsyncGenerator[SessionTransport, None]:
    """Open a session for POSTs to `base_url`/chat/completions, closed at the end.

    With `stream` and without TLS each request has a connection of its own, which costs little: llama.cpp promises to
    keep one, closes it after a stream, and so cuts a request that is on its way by then (1 of 120, measured).

    With `trust_env` the proxy that the environment names is used. It is looked up once, here: aiohttp would do so for
    each request, in a thread, and would send what ~/.netrc holds for the host, or fail beside an Authorization header.
    """
    url = URL(base_url + "/chat/completions").update_query(dict(query))
    proxy = proxy_for(base_url, os.environ) if trust_env else None
    lone = stream and base_url.startswith("http:")
    connector = aiohttp.TCPConnector(
        limit=concurrency + 8,
        ttl_dns_cache=300,
        force_close=lone,
        keepalive_timeout=None if lone else IDLE_S,
        socket_factory=_socket_factory(),
        ssl=ssl.create_default_context() if base_url.startswith("https:") else True,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        headers={"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate", **headers},
        proxy=proxy,
        auto_decompress=True,
    ) as session:
        yield SessionTransport(session, url, timeout_s=timeout_s)
