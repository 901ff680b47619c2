"""One limit a minute (DESIGN.md, section 4): never more in any 60 s, hardly less, whatever the sizes and estimates."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence

import pytest
from client_virtual_clock import run_virtually

from batchrun.client.estimate import Estimate
from batchrun.client.limiter import Gate
from batchrun.client.limits import Quotas
from batchrun.client.rate import Quota
from batchrun.client.window import Sent
from batchrun.execution.before import Before
from batchrun.execution.quotas import quotas_of
from batchrun.job.settings import LimitSettings
from batchrun.ledger.records import SpentMinute
from batchrun.model.attempt import Usage

SMALL, LARGE = 100, 30_000
Log = list[tuple[float, float, float]]
"""When each attempt was let in, its tokens, and how long it had been at the head of the queue."""


def mixed(seed: int) -> Iterator[int]:
    chance = random.Random(seed)
    while True:
        yield LARGE if chance.random() < 0.1 else SMALL


def sent(limit: float, *, minutes: float, estimate: Callable[[int], float], latency_s: float = 1.0) -> Log:
    """Send mixed rows through a gate as fast as it lets; replies say after `latency_s` what each was worth."""
    log: Log = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=10_000, requests_per_minute=None, tokens_per_minute=limit)
        loop.call_later(minutes * 60, gate.close)
        for size in mixed(5):
            began, reserved = loop.time(), estimate(size)
            if not await gate.enter(reserved):
                return
            log.append((loop.time(), size, loop.time() - began))
            loop.call_later(latency_s, gate.correct, size - reserved, gate.now())
            loop.call_later(latency_s, gate.leave)

    run_virtually(main())
    return log


def most_in_a_minute(log: Sequence[tuple[float, float, float]]) -> float:
    most = held = 0.0
    first = 0
    for at, size, _ in log:
        held += size
        while log[first][0] <= at - 60:
            held -= log[first][1]
            first += 1
        most = max(most, held)
    return most


@pytest.mark.parametrize(("limit", "share"), [(1_000_000, 0.97), (200_000, 0.88)])
def test_r20_honest_estimates_never_exceed_the_limit_and_use_it(limit: float, share: float) -> None:
    """Rows of 100 and 30,000 tokens over an hour; no row waits two minutes at the head."""
    log = sent(limit, minutes=60, estimate=float)
    assert most_in_a_minute(log) <= limit
    assert sum(size for _, size, _ in log) >= share * limit * 60
    assert max(waited for _, _, waited in log) < 120


def test_r20_estimates_off_by_a_factor_of_two_stay_within_5_percent() -> None:
    chance = random.Random(2)
    for factor in (lambda: 0.5, lambda: 2.0, lambda: chance.choice((0.5, 2.0))):
        log = sent(1_000_000, minutes=30, estimate=lambda size, factor=factor: size * factor())
        assert most_in_a_minute(log) <= 1.05 * 1_000_000
        assert max(waited for _, _, waited in log) < 120


def test_r20_a_request_larger_than_the_minute_goes_alone() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=10, requests_per_minute=None, tokens_per_minute=1000)
        assert await gate.enter(100)
        first = loop.time()
        assert await gate.enter(5000)
        assert first + 60 <= loop.time() <= first + 62
        large = loop.time()
        assert await gate.enter(100)
        assert large + 60 <= loop.time()

    run_virtually(main())


def test_r20_requests_and_tokens_are_taken_together_and_in_order() -> None:
    """600 requests and 60,000 tokens a minute: neither is exceeded, and what binds is the one that is short."""
    times: list[tuple[float, float, float]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=50, requests_per_minute=600, tokens_per_minute=60_000)
        loop.call_later(600, gate.close)
        sizes = itertools.cycle([50.0, 250.0])  # 150 in the mean: tokens bind
        order: list[int] = []

        async def worker() -> None:
            while True:
                size, number = next(sizes), len(order)
                if not await gate.enter(size):
                    return
                order.append(number)
                times.append((loop.time(), size, 0.0))
                gate.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(worker())
        waited = gate.state().waited_s
        assert waited["tokens"] > 2 * waited["requests"]

    run_virtually(main())
    assert most_in_a_minute(times) <= 60_000
    assert most_in_a_minute([(at, 1.0, 0.0) for at, _, _ in times]) <= 600
    assert sum(size for _, size, _ in times) >= 0.97 * 600_000


def test_a_day_is_used_at_once_and_then_as_the_day_before_falls_out_of_it() -> None:
    """1,000 requests a day, of which 300 were sent 23 hours ago: 700 go now, the next in an hour."""
    times: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        quotas = Quotas(requests=Quota(1000, [Sent(loop.time() - 23 * 3600, 300)]))
        gate = Gate(slots=5000, requests_per_minute=None, quotas=quotas)
        while len(times) < 1500:
            assert await gate.enter()
            times.append(loop.time())
        assert gate.state().used["daily requests"] == pytest.approx(0.8)  # 300 of an hour after, 500 of now

    run_virtually(main())
    assert times[699] < 1
    assert 3600 <= times[700] <= 3600 + 144
    assert times[999] <= 3600 + 145
    assert times[1000] >= 86_400


def test_a_days_tokens_are_corrected_by_the_replies() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=10, requests_per_minute=None, quotas=Quotas(tokens=Quota(1000)))
        assert await gate.enter(900)
        gate.correct(-800, gate.now())
        assert await gate.enter(900)
        assert loop.time() < 1
        assert await gate.enter(100)
        assert loop.time() > 86_000

    run_virtually(main())


def test_an_estimate_learns_both_halves_from_the_replies() -> None:
    estimate = Estimate(most_output_tokens=100)
    assert estimate.tokens(400) == pytest.approx(200)
    for _ in range(300):
        estimate.learn(400, Usage(prompt_tokens=200, completion_tokens=30))
        estimate.learn(400, Usage())
    assert estimate.tokens(400) == pytest.approx(230, rel=0.01)
    assert estimate.tokens(4000) == pytest.approx(2030, rel=0.01)


def test_an_estimate_expects_no_more_output_than_is_allowed() -> None:
    assert Estimate(most_output_tokens=8).tokens(0) == 8
    assert Estimate(most_output_tokens=None).tokens(0) == 512


def test_one_wrong_count_stops_a_lane_for_minutes_at_most_and_is_not_learned() -> None:
    """A server that answers 4,294,967,295 tokens, an underflow, costs two minutes of the pace and no estimate."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=10, requests_per_minute=None, tokens_per_minute=200_000)
        assert await gate.enter(100)
        gate.correct(4_294_967_295 - 100, gate.now())
        assert await gate.enter(100)
        assert loop.time() <= 125

    run_virtually(main())
    estimate = Estimate(most_output_tokens=64)
    estimate.learn(400, Usage(prompt_tokens=100, completion_tokens=4_294_967_295))
    assert estimate.tokens(400) <= 400 + 64


def test_what_a_run_used_in_its_last_minute_counts_for_the_next_at_once() -> None:
    """Whenever in the minute it starts: the end of the minute that was counted lies ahead of the clock."""
    for moment in range(0, 60, 7):
        now_minute = int(time.time() // 60)
        before = Before(spent=(SpentMinute(now_minute, 1000, 0),))
        quotas = quotas_of(before, LimitSettings(requests_per_day=1000), clock=lambda at=moment: 10_000.0 + at)
        assert quotas.requests is not None
        assert quotas.requests.window.wait_s(1.0, 10_000.0 + moment) > 0
