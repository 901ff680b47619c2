"""One HTTP exchange over aiohttp: request bytes out, status, headers and body bytes back.

The settings answer measured traps (TRAPS.md): no total timeout of aiohttp's own, because ours counts from the
slot (A1); a pool as large as the slots (A2); TCP keepalive on every socket (A6); idle connections dropped before
common servers drop them (A4); no redirects, which would turn a POST into a GET (A14); exceptions translated
`from None`, because theirs can carry the key (A7); a message for every one, because theirs may be empty (A9).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncGenerator, Mapping
from typing import Literal, Protocol

import aiohttp
from yarl import URL

from batchrun.model.attempt import Exchange

CONNECT_S = 30.0
IDLE_S = 4.0
MOST_BODY_BYTES = 64 * 1024 * 1024
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 45, 15, 4

Phase = Literal["connect", "tls", "timeout", "disconnected", "too_large"]


class ExchangeError(Exception):
    """Raised when an exchange brought no whole HTTP reply.

    `phase` says where it ended; `sent` is false when the request can't have reached the server.
    """

    def __init__(self, phase: Phase, message: str, *, sent: bool) -> None:
        """Describe the failure; `message` never holds headers or bodies."""
        super().__init__(message)
        self.phase: Phase = phase
        self.sent = sent


class Transport(Protocol):
    """Makes exchanges with one endpoint."""

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        ...


class SessionTransport:
    """A Transport over one aiohttp ClientSession."""

    def __init__(self, session: aiohttp.ClientSession, url: URL, *, timeout_s: float) -> None:
        """Post to `url`; an exchange that takes longer than `timeout_s` seconds is given up."""
        self._session = session
        self._url = url
        self._timeout_s = timeout_s

    async def exchange(self, body: bytes) -> Exchange:
        """POST `body` and return the whole reply; raises ExchangeError when there is none."""
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(self._url, data=body, allow_redirects=False) as response,
            ):
                return Exchange(
                    status=response.status,
                    headers=_lowered(response.headers),
                    body=await _read(response),
                )
        except aiohttp.ConnectionTimeoutError:
            raise ExchangeError("connect", f"no connection within {CONNECT_S:g} s", sent=False) from None
        except TimeoutError:
            raise ExchangeError("timeout", f"no reply within {self._timeout_s:g} s", sent=True) from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise ExchangeError("tls", _tls_message(error), sent=False) from None
        except aiohttp.ClientConnectorError as error:
            raise ExchangeError("connect", f"can't connect: {_os_message(error.os_error)}", sent=False) from None
        except aiohttp.ServerDisconnectedError:
            raise ExchangeError("disconnected", "the server closed the connection", sent=True) from None
        except aiohttp.ClientPayloadError:
            raise ExchangeError("disconnected", "the reply was cut before its end", sent=True) from None
        except (aiohttp.ClientError, OSError) as error:
            text = _os_message(error) if isinstance(error, OSError) else type(error).__name__
            raise ExchangeError("disconnected", f"the exchange broke off: {text}", sent=True) from None


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body of at most MOST_BODY_BYTES after decoding."""
    body = await response.content.read(MOST_BODY_BYTES)
    if response.content.at_eof():
        return body
    chunks, size = [body], len(body)
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MOST_BODY_BYTES:
            raise ExchangeError("too_large", f"the reply is larger than {MOST_BODY_BYTES >> 20} MiB", sent=True)
        chunks.append(chunk)
    return b"".join(chunks)


def _lowered(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers with names in lower case; a repeated header's values are joined by a comma."""
    lowered: dict[str, str] = {}
    for name, value in headers.items():
        key = name.lower()
        lowered[key] = f"{lowered[key]}, {value}" if key in lowered else value
    return lowered


def _os_message(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _tls_message(error: aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError) -> str:
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None)
    reason = getattr(inner, "verify_message", None) or getattr(inner, "reason", None) or type(inner).__name__
    return f"TLS failed: {reason}"


def _keepalive_socket(
    info: tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]],
) -> socket.socket:
    """Make a non-blocking socket whose silent death the kernel notices in about two minutes."""
    made = socket.socket(info[0], info[1], info[2])
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


@contextlib.asynccontextmanager
async def open_transport(
    *,
    base_url: str,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    timeout_s: float,
    concurrency: int,
    trust_env: bool,
) -> AsyncGenerator[Transport, None]:
    """Open a session for POSTs to `base_url`/chat/completions, closed at the end.

    `trust_env` makes aiohttp follow the proxy variables of the environment.
    """
    connector = aiohttp.TCPConnector(
        limit=concurrency + 8,
        ttl_dns_cache=300,
        keepalive_timeout=IDLE_S,
        socket_factory=_keepalive_socket,
        ssl=ssl.create_default_context() if base_url.startswith("https:") else True,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
        headers={"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate", **headers},
        trust_env=trust_env,
        auto_decompress=True,
    ) as session:
        url = URL(base_url + "/chat/completions").update_query(dict(query))
        yield SessionTransport(session, url, timeout_s=timeout_s)
