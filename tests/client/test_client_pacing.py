"""When the next attempt may go by what the server said: pauses, the return from them, limits that are nearly used."""

from __future__ import annotations

import asyncio
from bisect import bisect_left

import pytest
from client_replies import GOOD, got, lane
from client_virtual_clock import run_virtually

from batchrun.client.limiter import Gate
from batchrun.client.pace import OVER_LIMIT_GAP_S, pace_gap_s
from batchrun.client.pacing import SPACED_S


def test_r06_after_a_pause_the_return_is_spread() -> None:
    """50 workers, 5 s: nothing before, then no more than a quarter of them in any 100 ms, all within a second."""
    times: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=50, requests_per_minute=None)
        gate.pause(5.0)

        async def worker() -> None:
            assert await gate.enter()
            times.append(loop.time())

        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(worker())

    run_virtually(main())
    assert min(times) >= 5.0
    assert max(bisect_left(times, at + 0.1) - place for place, at in enumerate(times)) <= 50 // 4
    assert max(times) <= 6.0


def test_r06_a_later_pause_counts_and_an_earlier_end_does_not() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=2, requests_per_minute=None)
        for wait_s in (2.0, 4.0, 8.0, 1.0, 0.0):
            gate.pause(wait_s)
        assert await gate.enter()
        assert 8.0 <= loop.time() < 8.1

    run_virtually(main())


@pytest.mark.parametrize(
    ("headers", "tokens", "gap_s"),
    [
        ({}, 100.0, 0.0),
        ({"x-ratelimit-remaining-requests": "50", "x-ratelimit-limit-requests": "600"}, 100.0, 0.0),
        ({"x-ratelimit-remaining-requests": "29", "x-ratelimit-limit-requests": "600"}, 100.0, 0.1),
        ({"x-ratelimit-remaining-tokens": "100", "x-ratelimit-limit-tokens": "60000"}, 500.0, 0.5),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-limit": "10"}, 1.0, 0.1),
        ({"x-ratelimit-over-limit": "yes"}, 1.0, OVER_LIMIT_GAP_S),
        ({"x-ratelimit-remaining-requests": "None", "x-ratelimit-limit-requests": "600"}, 1.0, 0.0),
        ({"x-ratelimit-remaining-requests": "-1", "x-ratelimit-limit-requests": "-1"}, 1.0, 0.0),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-limit-requests": "0"}, 1.0, 0.0),
        ({"x-ratelimit-remaining-requests": "0"}, 1.0, 0.0),
    ],
)
def test_a_limit_that_is_nearly_used_gives_its_own_pace(headers: dict[str, str], tokens: float, gap_s: float) -> None:
    assert pace_gap_s(headers, tokens=tokens) == pytest.approx(gap_s)


def test_a_slower_pace_is_kept_for_a_while_and_never_makes_faster() -> None:
    times: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=50, requests_per_minute=600)
        gate.space(0.5)
        while loop.time() < 2 * SPACED_S:
            assert await gate.enter()
            times.append(loop.time())
            gate.leave()

    run_virtually(main())
    slow = [at for at in times if at < SPACED_S]
    assert len(slow) <= SPACED_S / 0.5 + 1
    assert len(times) - len(slow) >= 0.95 * SPACED_S * 10


def test_no_gap_lasts_longer_than_the_pace_it_belongs_to() -> None:
    """A limit of one token a minute asks for gaps of days; after five seconds it is asked anew."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=5, requests_per_minute=None)
        gate.space(240_000.0)
        assert await gate.enter()
        assert await gate.enter()
        assert loop.time() <= SPACED_S + 0.1

    run_virtually(main())


def test_r06_the_first_replies_after_a_pause_let_no_second_herd_in() -> None:
    """50 workers whose replies take 0.5 s: never more than a quarter of them in 100 ms, for two seconds."""
    times: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=50, requests_per_minute=None)
        gate.pause(5.0)

        async def worker() -> None:
            while loop.time() < 7.5:
                assert await gate.enter()
                times.append(loop.time())
                await asyncio.sleep(0.5)
                gate.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(50):
                group.create_task(worker())

    run_virtually(main())
    assert min(times) >= 5.0
    assert max(bisect_left(times, at + 0.1) - place for place, at in enumerate(times)) <= 50 // 4
    assert len(times) >= 200


@pytest.mark.parametrize("limit", [None, 1e9])
def test_tokens_of_a_server_that_calls_them_nearly_used_set_the_pace_limited_here_or_not(limit: float | None) -> None:
    """Where no limit of tokens needs an estimate, what the reply used says how many an attempt is."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        nearly = got(200, GOOD, x_ratelimit_remaining_tokens="100", x_ratelimit_limit_tokens="60000")
        made = lane(nearly, tokens_per_minute=limit)
        expected = made.expected_tokens(b"x" * 400)
        assert expected == (0.0 if limit is None else 612.0)
        await made.attempt(b"x" * 400, tokens=expected)
        times: list[float] = []
        for _ in range(3):
            assert await made.gate.enter(expected)
            times.append(loop.time())
        assert times[2] - times[0] == pytest.approx(2 * (expected or 549) / 1000, rel=0.01)

    run_virtually(main())
