"""How many attempts may be in flight (DESIGN.md, section 4): doubling, cut, growth, against a server that hides it."""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from client_virtual_clock import run_virtually
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.limiter import Gate
from batchrun.client.slots import Slots


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def slots_of(most: int = 200, *, learned: int | None = None, adaptive: bool = True) -> tuple[Slots, Clock]:
    clock = Clock()
    return Slots(most=most, adaptive=adaptive, learned=learned, clock=clock), clock


def test_they_start_at_32_at_the_ceiling_or_where_the_last_night_left_off() -> None:
    assert slots_of(200)[0].now == 32
    assert slots_of(8)[0].now == 8
    assert slots_of(200, learned=90)[0].now == 90
    assert slots_of(50, learned=90)[0].now == 50
    assert slots_of(200, adaptive=False, learned=90)[0].now == 200


def test_they_double_each_100_ms_while_all_are_used_and_nothing_was_refused() -> None:
    slots, clock = slots_of(200)
    slots.filled()
    assert slots.now == 32
    for after_s, wanted in ((0.1, 64), (0.15, 64), (0.2, 128), (0.31, 200), (0.5, 200)):
        clock.now_s = after_s
        slots.filled()
        assert slots.now == wanted


def test_a_refusal_sets_them_to_092_of_what_is_still_in_flight_and_ends_the_doubling() -> None:
    slots, clock = slots_of(200, learned=100)
    for still in range(99, 36, -1):
        slots.refused(still)
    assert slots.now == int(0.92 * 37)
    clock.now_s = 10.0
    slots.filled()
    assert slots.now == 34


def test_one_more_takes_twelve_windows_of_replies_that_came_while_all_were_used() -> None:
    slots, _ = slots_of(200, learned=11)
    slots.refused(11)
    assert slots.now == 10
    for _ in range(1000):
        slots.succeeded(all_used=False)
    assert slots.now == 10
    for _ in range(119):
        slots.succeeded(all_used=True)
    assert slots.now == 10
    slots.succeeded(all_used=True)
    assert slots.now == 11


def test_switched_off_nothing_moves_them() -> None:
    slots, clock = slots_of(200, adaptive=False)
    slots.refused(3)
    clock.now_s = 1.0
    slots.filled()
    slots.succeeded(all_used=True)
    assert slots.now == 200
    assert slots.learned is None


@given(st.lists(st.tuples(st.sampled_from(["filled", "refused", "succeeded", "later"]), st.integers(0, 300))))
def test_whatever_happens_they_stay_between_one_and_the_ceiling(steps: Sequence[tuple[str, int]]) -> None:
    slots, clock = slots_of(64)
    for step, number in steps:
        match step:
            case "filled":
                slots.filled()
            case "refused":
                slots.refused(number)
            case "succeeded":
                slots.succeeded(all_used=number % 2 == 0)
            case _:
                clock.now_s += number / 100
        assert 1 <= slots.now <= 64


@dataclass
class Trial:
    """What a server with a hidden capacity saw: (time, attempts that it serves) at each change, and its refusals."""

    served: list[tuple[float, int]] = field(default_factory=list)
    attempts: int = 0
    refusals: int = 0

    def mean(self, since_s: float, until_s: float) -> float:
        inside = [(at, count) for at, count in self.served if since_s <= at < until_s]
        ends = [at for at, _ in inside[1:]] + [until_s]
        return sum(count * (end - at) for (at, count), end in zip(inside, ends, strict=True)) / (until_s - since_s)

    def extremes(self, since_s: float, until_s: float) -> tuple[int, int]:
        inside = [count for at, count in self.served if since_s <= at < until_s]
        return min(inside), max(inside)


def tried(capacity: Callable[[float], int], *, latency_s: float, for_s: float, most: int = 200) -> Trial:
    """Send as much as the slots allow to a server that refuses above `capacity`, without a hint; virtual time."""
    chance, trial, clock = random.Random(37), Trial(), Clock()
    slots = Slots(most=most, adaptive=True, learned=None, clock=clock)
    ends: list[tuple[float, int, bool]] = []
    in_flight = served = 0
    while clock.now_s < for_s:
        while in_flight < slots.now:
            in_flight += 1
            trial.attempts += 1
            if in_flight == slots.now:
                slots.filled()
            taken = served < capacity(clock.now_s)
            served += taken
            takes_s = latency_s * chance.lognormvariate(0, 0.5) if taken else 0.005
            heapq.heappush(ends, (clock.now_s + takes_s, trial.attempts, taken))
        clock.now_s, _, taken = heapq.heappop(ends)
        all_used = in_flight >= slots.now
        in_flight -= 1
        served -= taken
        if taken:
            slots.succeeded(all_used=all_used)
        else:
            trial.refusals += 1
            slots.refused(in_flight)
        trial.served.append((clock.now_s, served))
    return trial


@pytest.mark.parametrize("latency_s", [0.1, 0.5, 1.0])
def test_r22_a_hidden_capacity_of_37_is_found_kept_and_followed(latency_s: float) -> None:
    """25 to 37 in flight, 30 in the mean, under 3 % refused; a drop to 10 is followed, and its return is used."""
    trial = tried(lambda now: 10 if 100 <= now < 130 else 37, latency_s=latency_s, for_s=230.0)
    assert trial.extremes(30, 100)[0] >= 25
    assert trial.extremes(30, 100)[1] <= 37
    assert trial.mean(30, 100) >= 30
    assert trial.mean(110, 130) >= 8
    assert trial.extremes(110, 130)[1] <= 10
    assert trial.mean(220, 230) >= 30
    assert trial.refusals < 0.03 * trial.attempts


def test_r22_without_refusals_all_the_concurrency_is_used_at_once() -> None:
    trial = tried(lambda _: 10_000, latency_s=1.0, for_s=20.0, most=1000)
    assert trial.refusals == 0
    assert trial.extremes(2, 20)[0] >= 999 - 1


def test_r21_slots_double_while_the_first_replies_are_still_out() -> None:
    """Replies take 30 s: a thousand slots are in use after a second all the same."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        slots = Slots(most=1000, adaptive=True, learned=None, clock=loop.time)
        gate = Gate(slots=1000, requests_per_minute=None, adaptive=slots)

        async def worker() -> None:
            assert await gate.enter()
            await asyncio.sleep(30)
            gate.leave()

        async with asyncio.TaskGroup() as group:
            for _ in range(1000):
                group.create_task(worker())
            await asyncio.sleep(1)
            assert gate.in_flight == 1000

    run_virtually(main())


def test_slots_that_an_outage_keeps_empty_do_not_grow() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        gate = Gate(
            slots=1000,
            requests_per_minute=None,
            adaptive=Slots(most=1000, adaptive=True, learned=None, clock=loop.time),
        )
        gate.narrow(1)
        for _ in range(100):
            assert await gate.enter()
            await asyncio.sleep(0.2)
            gate.succeeded()
            gate.leave()
        assert gate.learned_slots == 32

    run_virtually(main())


def test_slots_that_are_shared_out_and_come_back_keep_what_was_learned() -> None:
    slots = Slots(most=100, adaptive=True, learned=40, clock=lambda: 0.0)
    slots.resize(50)
    assert slots.now == 20
    slots.resize(3)
    assert slots.now == 1
    slots.resize(100)
    assert 1 <= slots.now <= 100
    fixed = Slots(most=100, adaptive=False, learned=None, clock=lambda: 0.0)
    fixed.resize(50)
    assert fixed.now == 50


@pytest.mark.parametrize("hold", ["narrow", "fit"])
def test_what_holds_slots_down_does_so_whatever_their_share_is_meanwhile(hold: str) -> None:
    """A lane in an outage, or without open files, has no more slots because another process has left it its own."""

    async def main() -> None:
        gate = Gate(slots=10, requests_per_minute=None)
        if hold == "narrow":
            gate.narrow(4)
        else:
            gate.fit(4, for_s=60.0)
        assert gate.slots == 4
        for share, slots in ((2, 2), (4, 4), (20, 4)):
            gate.resize(share, {})
            assert gate.slots == slots
        if hold == "narrow":
            gate.widen()
        else:
            await asyncio.sleep(61)
        assert gate.slots == gate.most_slots == 20

    run_virtually(main())
