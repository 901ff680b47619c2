"""What both transports share: the sockets, the pool over them, and the words for what may go wrong with either.

The settings answer measured traps (TRAPS.md): a pool as large as the slots (A2); TCP keepalive on every socket (A6);
idle connections dropped before servers drop them (A4), after 0.75 s because some do after 1 s: a reconnect costs one
handshake after a gap, a reused connection that the server closes costs an attempt that may be billed; exceptions
translated `from None`, because theirs can carry the key (A7); a message for every one, because theirs may be empty
(A9). Connections never take the last open files of the process, which the ledger and the parts need.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import resource
import socket
import ssl
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpProcessingError

from batchrun.client.arriving import ExchangeError, Phase
from batchrun.client.receiving import STREAM_IDLE_S

CONNECT_S = 30.0
IDLE_S = 0.75
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 45, 15, 4
SPARE_FILES = 16
"""Open files of the process that are left to all but connections."""
MOST_NAMES = 512
"""Names of headers that are remembered; a server may say any number of them."""
SHORTAGES = frozenset([errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL])
"""Errors of a connection that this machine could not even begin: it has no files, memory or ports left."""

_AddressInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


def new_connector(*, concurrency: int, is_tls: bool, keeps: bool) -> aiohttp.TCPConnector:
    """Return a pool for so many exchanges at once; without `keeps` each has a connection of its own."""
    return aiohttp.TCPConnector(
        limit=concurrency + 8,
        ttl_dns_cache=300,
        force_close=not keeps,
        keepalive_timeout=IDLE_S if keeps else None,
        socket_factory=_socket_factory(),
        ssl=ssl.create_default_context() if is_tls else True,
    )


class Undisturbed(ResponseHandler):
    """A connection of aiohttp's that is not taken for another exchange once it was told what nobody asked for.

    aiohttp looks for that when an exchange gives its connection back, which may be before the rest of what came in one
    piece with the reply is read. Later it asks only `is_connected`.
    """

    def is_connected(self) -> bool:
        """Say whether it can be used again, or still is."""
        return super().is_connected() and not self.should_close


def connect_by(connector: aiohttp.BaseConnector, make: Callable[[asyncio.AbstractEventLoop], ResponseHandler]) -> None:
    """Let each connection that is made from now on be what `make` returns."""
    made = functools.partial(make, asyncio.get_running_loop())
    connector._factory = made  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def connect_bounds() -> aiohttp.ClientTimeout:
    """Return aiohttp's own bounds of time: one for a connection, none for an exchange, which ours has (A1)."""
    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)


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


class HeaderNames:
    """Knows the names of headers in lower case, because most servers say the same ones each time."""

    def __init__(self) -> None:
        """Know none yet."""
        self._known: dict[str, str] = {}

    def lowered(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return what `lowered` does, in half of its time."""
        known = self._known
        lower: dict[str, str] = {}
        try:
            for name, value in headers.items():
                lower[known[name]] = value
        except KeyError:
            self._learn(headers)
            return lowered(headers)
        return lower if len(lower) == len(headers) else _joined(headers)

    def _learn(self, headers: Mapping[str, str]) -> None:
        if len(self._known) + len(headers) > MOST_NAMES:
            self._known.clear()
        if len(headers) <= MOST_NAMES:
            self._known.update((name, name.lower()) for name in headers)


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with names in lower case; a repeated header's values are joined by a comma."""
    lower = {name.lower(): value for name, value in headers.items()}
    return lower if len(lower) == len(headers) else _joined(headers)


def _joined(headers: Mapping[str, str]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        joined[key] = f"{joined[key]}, {value}" if key in joined else value
    return joined


def unsent(error: Exception, *, timeout_s: float) -> ExchangeError:
    """Say why a request never left; `timeout_s` is the whole exchange's."""
    phase: Phase = "connect"
    match error:
        case TimeoutError():
            text = f"no connection within {min(CONNECT_S, timeout_s):g} s"
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


def cut(error: Exception, *, timeout_s: float, was_idle: bool) -> ExchangeError:
    """Say why there is no reply to a request that left, or may have; `was_idle`: its stream had gone silent."""
    if isinstance(error, TimeoutError):
        text = f"no reply within {timeout_s:g} s"
        if was_idle:
            text = f"the stream was silent for {STREAM_IDLE_S:g} s"
        return ExchangeError("timeout", text, sent=True)
    match error:
        case aiohttp.ServerDisconnectedError():
            text = "the server closed the connection"
        case aiohttp.ClientPayloadError():
            text = "the reply was cut before its end"
        case aiohttp.ClientResponseError() | HttpProcessingError():
            text = "the reply is not HTTP that can be read"
        case OSError():
            text = f"the exchange broke off: {_os_message(error)}"
        case _:
            text = f"the exchange broke off: {type(error).__name__}"
    return ExchangeError("disconnected", text, sent=True)


def ended_early() -> ExchangeError:
    """Return what a stream comes to that ends well as HTTP, but before the reply does."""
    return ExchangeError("disconnected", "the stream ended before the reply did", sent=True)


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
