"""What only the lean transport has to answer for; see test_client_transport.py and its neighbours for the rest."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler
from client_raw_server import Peer, answer, raw_server, whole
from client_replies import GOOD

from batchrun.client.arriving import ExchangeError
from batchrun.client.lean import LeanTransport
from batchrun.client.transport import open_transport

OPTIONS: dict[str, Any] = {"headers": {}, "query": {}, "timeout_s": 5.0, "concurrency": 4, "trust_env": False}


def test_a_head_that_comes_in_the_moment_of_giving_up_does_not_begin_an_endless_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(whole(GOOD)[:-1])
        await peer.gone()

    async def main() -> None:
        async with (
            raw_server(script) as server,
            open_transport(base_url=server.base_url, kind="lean", **{**OPTIONS, "timeout_s": 900}) as transport,
        ):
            assert isinstance(transport, LeanTransport)
            flights, feed_data = transport._flights, ResponseHandler.feed_data

            def feed(self: ResponseHandler, *data: Any) -> None:
                feed_data(self, *data)
                for flight in flights._flying:
                    flight.give_up()

            monkeypatch.setattr(ResponseHandler, "feed_data", feed)
            with pytest.raises(ExchangeError, match="no reply within 900 s"):
                await asyncio.wait_for(transport.exchange(b"{}"), 5)

    asyncio.run(main())


def test_a_header_of_two_lines_is_refused() -> None:
    async def main() -> None:
        options = {**OPTIONS, "headers": {"X": "a\r\nY: b"}}
        with pytest.raises(ValueError, match="line end"):
            async with open_transport(base_url="http://127.0.0.1:9/v1", kind="lean", **options):
                pass

    asyncio.run(main())


def test_no_exchange_is_left_to_watch_over_when_it_is_closed() -> None:
    """A timer that lived on would keep the transport, and fire into the next one's time."""

    async def main() -> None:
        async with raw_server(answer(whole(GOOD))) as server:
            async with open_transport(base_url=server.base_url, kind="lean", **OPTIONS) as transport:
                assert isinstance(transport, LeanTransport)
                await transport.exchange(b"{}")
            timers: Any = asyncio.get_running_loop()
            ours = [one for one in timers._scheduled if not one.cancelled() and "batchrun" in repr(one)]
            assert ours == []

    asyncio.run(main())
