"""The gate: order, slots, rate, pause, close (DESIGN.md, section 4)."""

from __future__ import annotations

import asyncio
import math
import random
from bisect import bisect_left
from collections.abc import Sequence

import pytest
from client_virtual_clock import run_virtually
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.client.limiter import Gate
from batchrun.client.rate import burst_and_period_s


async def settle() -> None:
    """Let every task run until it waits for a timer or another task."""
    for _ in range(50):
        await asyncio.sleep(0)


def most_in_window(times: Sequence[float], window_s: float) -> int:
    """The most of `times`, which are sorted, in any half-open window."""
    return max(bisect_left(times, start + window_s) - at for at, start in enumerate(times))


def sends(requests_per_minute: float, *, for_s: float, pause_at_s: float | None = None) -> list[float]:
    """The times at which workers that always want to send get in."""
    times: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=4, requests_per_minute=requests_per_minute)
        loop.call_later(for_s, gate.close)
        if pause_at_s is not None:
            loop.call_later(pause_at_s, gate.pause, 30.0)

        async def worker() -> None:
            while await gate.enter():
                times.append(loop.time())
                gate.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(worker())

    run_virtually(main())
    return times


def test_r21_600_a_minute_is_kept_in_every_window_and_used() -> None:
    times = sends(600, for_s=600)
    assert times[0] < 0.001
    assert most_in_window(times, 1.0) <= 12
    assert most_in_window(times, 60.0) <= 600
    assert len(times) >= 0.99 * 6000


@pytest.mark.parametrize(("limit", "for_s"), [(7, 3600), (0.5, 3600), (1, 600), (6000, 150), (60_000, 65), (90.5, 600)])
def test_no_minute_holds_more_than_the_limit(limit: float, for_s: float) -> None:
    times = sends(limit, for_s=for_s)
    assert most_in_window(times, 60.0) <= max(1, limit)
    assert len(times) >= int(0.99 * (math.floor(limit) or limit) * for_s / 60)


@pytest.mark.parametrize("limit", [7, 600, 6000])
def test_a_pause_makes_no_room_for_more(limit: float) -> None:
    times = sends(limit, for_s=200, pause_at_s=65.01)
    assert not [at for at in times if 65.01 < at < 95.01]
    assert most_in_window(times, 60.0) <= limit


@given(st.floats(0.01, 1e7))
def test_the_bucket_holds_at_least_one_and_at_most_a_hundredth_of_the_minute(limit: float) -> None:
    capacity, period_s = burst_and_period_s(limit)
    assert 1 <= capacity <= max(1.0, limit / 100)
    assert period_s > 0
    assert capacity + 60 * capacity / period_s <= (limit + 1) * (1 + 1e-9)


@pytest.mark.parametrize("limit", [None, 60_000.0])
def test_first_come_first_served_and_never_more_than_the_slots(limit: float | None) -> None:
    async def main() -> None:
        gate = Gate(slots=3, requests_per_minute=limit)
        order: list[int] = []
        chance = random.Random(7)

        async def worker(number: int) -> None:
            assert await gate.enter()
            order.append(number)
            assert gate.in_flight <= 3
            await asyncio.sleep(chance.random())
            gate.leave()

        async with asyncio.TaskGroup() as group:
            for number in range(200):
                group.create_task(worker(number))
        assert order == list(range(200))
        assert gate.in_flight == 0

    run_virtually(main())


def test_a_newcomer_does_not_pass_those_who_wait() -> None:
    async def main() -> None:
        gate = Gate(slots=1, requests_per_minute=None)
        order: list[str] = []

        async def worker(name: str) -> None:
            await gate.enter()
            order.append(name)

        assert await gate.enter()
        first = asyncio.create_task(worker("first"))
        await settle()
        gate.leave()
        await worker_in(gate, order)
        gate.leave()
        await first
        assert order[0] == "first"

    async def worker_in(gate: Gate, order: list[str]) -> None:
        late = asyncio.create_task(gate.enter())
        await settle()
        assert order == ["first"]
        gate.leave()
        assert await late

    run_virtually(main())


def test_leave_wakes_who_waits_for_a_slot() -> None:
    async def main() -> None:
        gate = Gate(slots=1, requests_per_minute=None)
        assert await gate.enter()
        waiter = asyncio.create_task(gate.enter())
        await settle()
        assert not waiter.done()
        gate.leave()
        assert await waiter
        assert gate.in_flight == 1

    run_virtually(main())


@pytest.mark.parametrize("waits_for", ["slot", "limiter", "pause"])
def test_close_lets_every_waiter_go_at_once(waits_for: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=1 if waits_for == "slot" else 5, requests_per_minute=1 if waits_for == "limiter" else None)
        assert await gate.enter()
        if waits_for == "pause":
            gate.pause(1000)
        waiters = [asyncio.create_task(gate.enter()) for _ in range(100)]
        await settle()
        began = loop.time()
        gate.close()
        gate.close()
        assert await asyncio.gather(*waiters) == [False] * 100
        assert loop.time() - began < 0.01
        assert not await gate.enter()
        assert gate.in_flight == 1

    run_virtually(main())


@pytest.mark.parametrize("limit", [None, 6000.0])
def test_a_pause_holds_everybody_and_the_latest_end_counts(limit: float | None) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=50, requests_per_minute=limit)
        waiters = [asyncio.create_task(gate.enter()) for _ in range(5)]
        gate.pause(10)
        gate.pause(20)
        gate.pause(5)
        assert gate.paused_s == pytest.approx(20, abs=0.01)
        await asyncio.sleep(19.9)
        assert not [waiter for waiter in waiters if waiter.done()]
        assert all(await asyncio.gather(*waiters))
        assert 20.0 <= loop.time() < 20.2
        assert gate.paused_s == 0

    run_virtually(main())


def test_a_pause_longer_than_the_first_one_is_seen_by_who_waits_already() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(slots=1, requests_per_minute=None)
        gate.pause(10)
        waiter = asyncio.create_task(gate.enter())
        await asyncio.sleep(5)
        gate.pause(10)
        assert await waiter
        assert loop.time() == pytest.approx(15, abs=0.01)

    run_virtually(main())


@pytest.mark.parametrize("waits_for", ["slot", "limiter", "pause"])
@pytest.mark.parametrize("victim", [0, 1, 3])
def test_a_cancelled_waiter_loses_no_slot_and_no_order(waits_for: str, victim: int) -> None:
    async def main() -> None:
        gate = Gate(slots=1 if waits_for == "slot" else 9, requests_per_minute=60 if waits_for == "limiter" else None)
        order: list[int] = []

        async def worker(number: int) -> None:
            assert await gate.enter()
            order.append(number)
            gate.leave()

        assert await gate.enter()
        if waits_for == "pause":
            gate.pause(10)
        workers = [asyncio.create_task(worker(number)) for number in range(4)]
        await settle()
        workers[victim].cancel()
        await settle()
        gate.leave()
        await asyncio.gather(*workers, return_exceptions=True)
        assert workers[victim].cancelled()
        assert order == [number for number in range(4) if number != victim]
        assert gate.in_flight == 0
        assert await gate.enter()

    run_virtually(main())


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.sampled_from([None, 600.0]), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 29))))
def test_whatever_happens_no_slot_is_lost(slots: int, limit: float | None, steps: list[tuple[int, int]]) -> None:
    """Cancel, pause and wait in any order: at the end every slot is free and everybody has gone."""

    async def main() -> None:
        gate = Gate(slots=slots, requests_per_minute=limit)

        async def worker() -> None:
            if await gate.enter():
                try:
                    assert gate.in_flight <= slots
                    await asyncio.sleep(0.3)
                finally:
                    gate.leave()

        workers = [asyncio.create_task(worker()) for _ in range(30)]
        for kind, number in steps:
            if kind == 0:
                workers[number].cancel()
            elif kind == 1:
                gate.pause(number / 10)
            elif kind == 2:
                await asyncio.sleep(number / 20)
            else:
                await settle()
        for came_to in await asyncio.gather(*workers, return_exceptions=True):
            assert came_to is None or isinstance(came_to, asyncio.CancelledError)
        assert gate.in_flight == 0

    run_virtually(main())
