"""DeepInfra's limit sizes the lane when it answers, and nothing depends on it (PROTOCOL.md 0, fact 1; 1F)."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from client_raw_server import Peer, RawServer, Script, closed_port, raw_server, whole
from client_replies import GOOD, MODEL

from batchrun.client import provider as module
from batchrun.client.lane import Lane
from batchrun.client.limiter import Gate
from batchrun.client.opening import open_lane
from batchrun.events import Progress
from batchrun.job.settings import EndpointSettings, InputSettings, Job, LimitSettings, OutputSettings

KEY = "SENTINEL0key0of0no0known0form"
LIMIT = whole(b'{"rate_limit":3,"tpm_rate_limit":1000000}')


class Told:
    """A Watcher that keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def progressed(self, progress: Progress) -> None: ...

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append((event, facts))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def job(*, concurrency: int = 8, **endpoint: Any) -> Job:
    return Job(
        name="n",
        input=InputSettings(path="i"),
        request={"model": MODEL},
        endpoint=EndpointSettings(base_url="b", **endpoint),
        output=OutputSettings(path="o"),
        limits=LimitSettings(concurrency=concurrency),
    )


def provider(reply: bytes) -> Script:
    """DeepInfra as its proxy sees it: the limit for a GET, a completion for a POST."""

    async def script(peer: Peer) -> None:
        while asked := await peer.request():
            await peer.send(reply if asked.startswith(b"GET ") else whole(GOOD))

    return script


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


async def slots_of(lane: Lane, most: int) -> int:
    """How many attempts the gate lets in at once."""
    for taken in range(most + 1):
        try:
            async with asyncio.timeout(0.02):
                await lane.gate.enter()
        except TimeoutError:
            return taken
    return most + 1


async def opened(
    reply: Script, monkeypatch: pytest.MonkeyPatch, *, host: str = "api.deepinfra.com", **options: Any
) -> tuple[int, RawServer, Told]:
    """Open a lane to `host` through a proxy that answers by `reply`, and count its slots."""
    told = Told()
    base_url = f"http://{host}/v1/openai"
    async with raw_server(reply) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        async with open_lane(
            job(**options), base_url=base_url, key=KEY, trust_env=True, clock=lambda: 0.0, watcher=told
        ) as lane:
            slots = await slots_of(lane, options.get("concurrency", 8))
            return slots, proxy, told


def test_the_limit_sizes_the_lane_over_the_same_proxy_with_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        slots, proxy, told = await opened(provider(LIMIT), monkeypatch, headers={"X-Extra": "1"}, query={"a": "1"})
        assert slots == 3
        (asked,) = proxy.requests
        assert asked.startswith(b"GET http://api.deepinfra.com/v1/me/rate_limit HTTP/1.1\r\n")
        assert f"\r\nAuthorization: Bearer {KEY}\r\n".encode() in asked
        assert told.events == [("the provider told its limit", {"in_flight": 3, "slots": 3})]

    run(main())


def test_the_job_asks_for_less_than_the_provider_lets_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        slots, _, told = await opened(provider(whole(b'{"rate_limit":200}')), monkeypatch, concurrency=2)
        assert slots == 2
        assert told.events == [("the provider told its limit", {"in_flight": 200, "slots": 2})]

    run(main())


async def _hang_up(peer: Peer) -> None:
    await peer.request()


async def _silent(peer: Peer) -> None:
    await peer.request()
    await peer.gone()


@pytest.mark.parametrize(
    "reply",
    [
        whole(b'{"detail":"Not Found"}', status="404 Not Found"),
        whole(b'{"error":{"message":"Not authenticated"}}', status="401 Unauthorized"),
        whole(b'{"rate_limit":3}', status="500 No"),
        whole(b'{"rate_limit":3}', status="203 Maybe"),
        whole(b"", status="302 Found", headers="Location: http://elsewhere.invalid/\r\n"),
        whole(b""),
        whole(b"<html>"),
        whole(b"[3]"),
        whole(b"3"),
        whole(b"null"),
        whole(b"{}"),
        whole(b'{"rate_limit":null}'),
        whole(b'{"rate_limit":"3"}'),
        whole(b'{"rate_limit":true}'),
        whole(b'{"rate_limit":3.5}'),
        whole(b'{"rate_limit":0}'),
        whole(b'{"rate_limit":-3}'),
        whole(b'{"rate_limit":3'),
        whole(b'{"rate_limit":\xff}'),
        whole(b"[" * 100_000),
        b"nonsense\r\n\r\n",
        whole(b'{"rate_limit":3}')[:-4],
    ],
)
def test_any_other_answer_is_as_good_as_none(reply: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is told, the lane is as wide as the job says, and the host is not asked again."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)

    async def main() -> None:
        slots, proxy, told = await opened(script, monkeypatch)
        assert (slots, len(proxy.requests), told.events) == (8, 1, [])

    run(main())


@pytest.mark.parametrize("script", [_hang_up, _silent])
def test_no_answer_is_waited_for_in_vain_and_then_forgotten(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT_TIMEOUT_S", 0.1)

    async def main() -> None:
        slots, proxy, told = await opened(script, monkeypatch)
        assert (slots, len(proxy.requests), told.events) == (8, 1, [])

    run(main())


def test_a_host_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
        base_url = "http://deepinfra.com/v1/openai"
        async with open_lane(job(), base_url=base_url, key=KEY, trust_env=True, clock=lambda: 0.0) as lane:
            assert await slots_of(lane, 8) == 8

    run(main())


@pytest.mark.parametrize(
    ("host", "asked"),
    [
        ("deepinfra.com", 1),
        ("API.DeepInfra.com", 1),
        ("eu.api.deepinfra.com", 1),
        ("deepinfra.com.example.invalid", 0),
        ("notdeepinfra.com", 0),
        ("api.openai.com", 0),
        ("deepinfra.org", 0),
    ],
)
def test_only_deepinfra_is_asked(host: str, asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        slots, proxy, _ = await opened(provider(LIMIT), monkeypatch, host=host)
        assert (len(proxy.requests), slots) == (asked, 3 if asked else 8)

    run(main())


def test_the_end_of_an_outage_opens_no_more_slots_than_the_provider_allows() -> None:
    async def main() -> None:
        gate = Gate(slots=3, requests_per_minute=None)
        gate.narrow(1)
        gate.narrow(50)
        gate.widen()
        for _ in range(3):
            assert await gate.enter()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await gate.enter()

    run(main())
