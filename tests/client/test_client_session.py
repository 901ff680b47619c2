"""What only the session has to answer for; see test_client_transport.py and its neighbours for the rest."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD

from batchrun.client.session import _unread


def test_what_lies_in_a_body_is_told_only_where_it_is_all() -> None:
    async def main() -> None:
        payload = aiohttp.StreamReader(ResponseHandler(asyncio.get_running_loop()), 1024)
        payload.feed_data(b"ab")
        payload.feed_data(b"cd")
        assert (_unread(payload), _unread(payload)) == (b"abcd", b"abcd")
        assert await payload.read(2) == b"ab"
        assert _unread(payload) == b""
        assert _unread(EMPTY_PAYLOAD) == b""

    asyncio.run(main())
