"""What a server says without being asked answers no later request, over either transport."""

from __future__ import annotations

import asyncio

import pytest
from client_raw_server import Peer, raw_server, whole
from client_replies import GOOD
from client_transports import idle_protocols, opened, transport_kind

__all__ = ["transport_kind"]

UNASKED = whole(b'{"who":"asked?"}')


@pytest.mark.parametrize("unasked", [UNASKED, UNASKED[:-1], b"HTTP/1.1 408 Too Slow\r\n", b"junk\r\n\r\n"])
def test_what_comes_at_rest_answers_no_later_request(unasked: bytes) -> None:
    """A server may send a 408 before it closes an idle connection; the next request goes over another one."""

    async def main() -> None:
        answered = asyncio.Event()

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(whole(GOOD))
            await answered.wait()
            await peer.send(unasked)
            await peer.gone()

        async with raw_server(script) as server, opened(server.base_url) as transport:
            for number in range(3):
                answered.clear()
                assert (await transport.exchange(b"{}")).body == GOOD
                answered.set()
                (protocol,) = idle_protocols(transport)
                while not protocol.should_close:  # noqa: ASYNC110 - turns of the loop; the suite's timeout bounds it
                    await asyncio.sleep(0)
                assert server.connections == number + 1

    asyncio.run(main())


@pytest.mark.parametrize("cut", [1, len(GOOD), len(whole(GOOD))])
@pytest.mark.parametrize("unasked", [UNASKED, UNASKED[:-1]])
def test_what_comes_in_one_piece_with_the_end_of_a_reply_answers_no_later_request(cut: int, unasked: bytes) -> None:
    async def main() -> None:
        begun = len(whole(GOOD)) - cut

        async def script(peer: Peer) -> None:
            await peer.request()
            await peer.send(whole(GOOD)[:begun])
            for _ in range(20):
                await asyncio.sleep(0)  # turns of the loop, which is the client's too
            await peer.send(whole(GOOD)[begun:] + unasked)
            await peer.gone()

        async with raw_server(script) as server, opened(server.base_url) as transport:
            for number in range(3):
                assert (await transport.exchange(b"{}")).body == GOOD
                assert server.connections == number + 1

    asyncio.run(main())
