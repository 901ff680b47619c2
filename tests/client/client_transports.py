"""One suite for both transports: a module that imports `transport_kind` runs each of its tests over either."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from aiohttp import BaseConnector
from aiohttp.client_proto import ResponseHandler

from batchrun.client.lean import LeanTransport
from batchrun.client.session import SessionTransport
from batchrun.client.transport import Transport, open_transport

Kind = Literal["lean", "session"]
KINDS: tuple[Kind, ...] = ("lean", "session")
_chosen: list[Kind] = []


@contextlib.contextmanager
def choosing(kind: Kind) -> Iterator[Kind]:
    """Let all transports of this block be of one kind."""
    _chosen.append(kind)
    try:
        yield kind
    finally:
        _chosen.pop()


@pytest.fixture(autouse=True, params=KINDS)
def transport_kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    with choosing(request.param) as kind:
        yield kind


def chosen() -> Kind:
    return _chosen[-1]


def opened(base_url: str, **options: Any) -> Any:
    """Open a transport of the chosen kind."""
    defaults: dict[str, Any] = {"headers": {}, "query": {}, "timeout_s": 5.0, "concurrency": 4, "trust_env": False}
    return open_transport(base_url=base_url, **{**defaults, "kind": chosen(), **options})


def session_of(transport: Transport) -> Any:
    """The session of a transport, or that of what a lean one looks things up with."""
    by_session = transport._inquirer if isinstance(transport, LeanTransport) else transport
    assert isinstance(by_session, SessionTransport)
    return by_session._session


def pool_of(transport: Transport) -> BaseConnector:
    connector: BaseConnector = session_of(transport).connector
    return connector


def in_use(transport: Transport) -> int:
    """Connections, and places for one, that exchanges hold."""
    held = len(pool_of(transport)._acquired)
    return held - len(transport._idle) if isinstance(transport, LeanTransport) else held


def idle_protocols(transport: Transport) -> list[ResponseHandler]:
    """The connections that wait for the next exchange."""
    if isinstance(transport, LeanTransport):
        return [protocol for _, protocol, _ in transport._idle]
    return [protocol for kept in pool_of(transport)._conns.values() for protocol, _ in kept]


def idle_sockets(transport: Transport) -> list[socket.socket]:
    """Their sockets."""
    transports = [protocol.transport for protocol in idle_protocols(transport)]
    return [one.get_extra_info("socket") for one in transports if one is not None]
