"""Where aiohttp's inside is not what the lean transport needs, the session takes over; a wrong reply never results."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from aiohttp import BaseConnector, StreamReader, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import HttpResponseParser

from batchrun.client import rehearsal
from batchrun.client.lean import LeanTransport
from batchrun.client.session import SessionTransport
from batchrun.client.transport import TransportKind, open_transport

OPTIONS: dict[str, Any] = {"headers": {}, "query": {}, "timeout_s": 5.0, "concurrency": 4, "trust_env": False}


class Listener:
    """Keeps the events of a run."""

    def __init__(self) -> None:
        self.noticed: list[tuple[str, dict[str, Any]]] = []

    def progressed(self, progress: object) -> None:
        pass

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.noticed.append((event, facts))


def _gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ResponseHandler, "set_response_params")


def _other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResponseHandler, "set_response_params", lambda *_: None)


def _never_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a reply that is still on its way left its connection fit for another request."""
    monkeypatch.setattr(ResponseHandler, "should_close", False)


def _says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_: object) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr("batchrun.client.rehearsal.REHEARSAL_S", 0.01)
    monkeypatch.setattr(ResponseHandler, "read", read)


def _pours_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one were told in another way that there is room to write."""
    monkeypatch.setattr("batchrun.client.rehearsal.REHEARSAL_S", 0.01)
    monkeypatch.setattr(ResponseHandler, "resume_writing", lambda _: None)


def _gives_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrun.client.rehearsal.REHEARSAL_S", 0.01)
    monkeypatch.setattr(ResponseHandler, "set_exception", lambda *_: None)


def _connects_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(self: object, request: object) -> Any:
        raise AssertionError(self, request)

    monkeypatch.setattr(BaseConnector, "connect", connect)


class _Careless:
    """A parser that does not say when it has begun another reply."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.feed_data = HttpResponseParser(*args, **options).feed_data

    def feed_eof(self) -> None:
        pass


def _begins_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aiohttp.client_proto.HttpResponseParser", _Careless)


def _ends_too_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    _begins_in_silence(monkeypatch)
    monkeypatch.setattr("batchrun.client.rehearsal._WAYS", rehearsal._WAYS[:3])
    monkeypatch.setattr(StreamReader, "is_eof", lambda _: True)


def _makes_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a connector had another place that says what its connections are."""
    create = TCPConnector._create_direct_connection

    async def otherwise(self: TCPConnector, *args: Any, **options: Any) -> Any:
        self._factory = functools.partial(ResponseHandler, asyncio.get_running_loop())
        return await create(self, *args, **options)

    monkeypatch.setattr(TCPConnector, "_create_direct_connection", otherwise)


def _loses_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchrun.client.rehearsal.REHEARSAL_S", 0.01)
    monkeypatch.setattr(ResponseHandler, "connection_lost", lambda *_: None)


def _keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ResponseHandler, "should_close", True)


CHANGES = [
    _gone,
    _other_words,
    _never_closes,
    _says_nothing,
    _pours_nothing,
    _gives_up_nothing,
    _connects_otherwise,
    _begins_in_silence,
    _ends_too_soon,
    _makes_others,
    _loses_in_silence,
    _keeps_nothing,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["auto", "lean"])
def test_where_aiohttps_inside_has_changed_the_session_takes_over_and_says_so(
    change: Any, kind: TransportKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        listener = Listener()
        with monkeypatch.context() as changed:
            change(changed)
            opening = open_transport(base_url="http://127.0.0.1:9/v1", kind=kind, watcher=listener, **OPTIONS)
            async with opening as transport:
                assert isinstance(transport, SessionTransport)
        ((event, facts),) = listener.noticed
        assert event == "the lean transport is not used"
        assert str(facts["why"]).startswith("aiohttp 3.")

    asyncio.run(main())


def test_the_session_is_not_told_of_where_it_is_asked_for() -> None:
    async def main() -> None:
        listener = Listener()
        for kind, takes in (("session", SessionTransport), ("auto", LeanTransport)):
            opening = open_transport(base_url="http://127.0.0.1:9/v1", kind=kind, watcher=listener, **OPTIONS)  # type: ignore[arg-type]
            async with opening as transport:
                assert isinstance(transport, takes)
        assert listener.noticed == []

    asyncio.run(main())
