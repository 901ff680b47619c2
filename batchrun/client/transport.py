"""What makes exchanges with an endpoint, and which of the two ways of it is taken.

The lean one writes head and body at once and reads with aiohttp's parser; the session, aiohttp's own client, is for
what the lean one can't do: a proxy, or an aiohttp whose inside has changed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Literal, Protocol

import aiohttp
from yarl import URL

from batchrun.client.connecting import new_connector
from batchrun.client.lean import LeanTransport
from batchrun.client.proxy import proxy_for
from batchrun.client.rehearsal import is_offered
from batchrun.client.session import SessionTransport, open_session
from batchrun.events import Unwatched, Watcher
from batchrun.model.attempt import Exchange

TransportKind = Literal["auto", "lean", "session"]


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
    kind: TransportKind = "auto",
    watcher: Watcher | None = None,
) -> AsyncGenerator[SessionTransport | LeanTransport, None]:
    """Open what POSTs to `base_url`/chat/completions, closed at the end; `watcher` is told where lean can't be had.

    With `stream` and without TLS each request has a connection of its own, which costs little: llama.cpp promises to
    keep one, closes it after a stream, and so cuts a request that is on its way by then (1 of 120, measured).

    With `trust_env` the proxy that the environment names is used. It is looked up once, here: aiohttp would do so for
    each request, in a thread, and would send what ~/.netrc holds for the host, or fail beside an Authorization header.
    """
    url = URL(base_url + "/chat/completions").update_query(dict(query))
    proxy = proxy_for(base_url, os.environ) if trust_env else None
    is_tls = base_url.startswith("https:")
    reads_ca = is_tls or (proxy is not None and proxy.startswith("https:"))
    connector = new_connector(concurrency=concurrency, is_tls=reads_ca, keeps=is_tls or not stream)
    headers = {"Content-Type": "application/json", "Accept-Encoding": "gzip, deflate", **headers}
    async with open_session(connector, url, headers, timeout_s=timeout_s, proxy=proxy) as by_session:
        if kind == "session" or proxy is not None:
            yield by_session
        elif await is_offered(by_session):
            async with contextlib.aclosing(
                LeanTransport(connector, url, headers, timeout_s=timeout_s, inquirer=by_session)
            ) as lean:
                yield lean
        else:
            why = f"aiohttp {aiohttp.__version__} is not one that it knows"
            (watcher or Unwatched()).noted("the lean transport is not used", why=why)
            yield by_session
