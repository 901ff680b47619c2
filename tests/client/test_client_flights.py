"""Exchanges on their way under one timer, on a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest
from client_virtual_clock import run_virtually
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.client.flights import Flight, Flights, Interrupting


class Awaited:
    """Notes when and how it failed."""

    def __init__(self) -> None:
        self.failed_at: float | None = None

    def set_exception(self, exc: BaseException, /) -> None:
        assert isinstance(exc, TimeoutError)
        self.failed_at = asyncio.get_running_loop().time()


TIMES = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 30)), max_size=30)


@settings(deadline=None)
@given(TIMES)
def test_each_is_given_up_at_its_time_or_ends_before(times: list[tuple[float, float]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        flights = Flights(timeout_s=10.0)

        async def fly(starts_s: float, lasts_s: float) -> None:
            await asyncio.sleep(starts_s)
            head, body = Awaited(), Awaited()
            flight = flights.begin()
            began, flight.head, flight.body = loop.time(), head, body
            await asyncio.sleep(lasts_s)
            flights.end(flight)
            if lasts_s > 10.1:
                assert flight.expired()
                assert head.failed_at == body.failed_at == pytest.approx(began + 10, abs=0.01)
            elif lasts_s < 9.9:
                assert (flight.expired(), head.failed_at, body.failed_at) == (False, None, None)

        async with asyncio.TaskGroup() as group:
            for starts_s, lasts_s in times:
                group.create_task(fly(starts_s, lasts_s))
        await asyncio.sleep(10)
        assert (flights._flying, flights._timer) == ({}, None)

    run_virtually(main())


@pytest.mark.parametrize(("asked_s", "comes_s"), [((3.0,), 3.0), ((3.0, 2.0), 2.0), ((2.0, 3.0), 2.0), ((99.0,), 10.0)])
def test_a_deadline_comes_sooner_but_never_later(asked_s: tuple[float, ...], comes_s: float) -> None:
    async def main() -> None:
        flights = Flights(timeout_s=10.0)
        flight = flights.begin()
        flight.head = awaited = Awaited()
        for one in asked_s:
            flight.reschedule(one)
        assert flight.when() == pytest.approx(comes_s, abs=0.01)
        await asyncio.sleep(20)
        assert awaited.failed_at == pytest.approx(comes_s, abs=0.01)
        flights.end(flight)

    run_virtually(main())


def test_one_that_has_ended_is_left_alone() -> None:
    async def main() -> None:
        flights = Flights(timeout_s=10.0)
        ended: list[Flight] = []
        for _ in range(3):
            flight = flights.begin()
            flight.head = Awaited()
            flight.reschedule(5.0)
            flights.end(flight)
            ended.append(flight)
        await asyncio.sleep(20)
        assert not any(flight.expired() for flight in ended)

    run_virtually(main())


async def _hurry(flight: Flight) -> None:
    flight.reschedule(asyncio.get_running_loop().time() + 3)
    await asyncio.sleep(99)


def test_a_task_is_interrupted_when_its_time_has_come_and_is_not_cancelled_for_good() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        flights = Flights(timeout_s=10.0)
        task = asyncio.current_task()
        assert task is not None
        for _ in range(2):
            began = loop.time()
            with pytest.raises(TimeoutError), Interrupting(flights) as flight:
                await asyncio.sleep(99)
            assert flight.expired()
            assert loop.time() - began == pytest.approx(10, abs=0.01)
            assert task.cancelling() == 0
        with pytest.raises(TimeoutError), Interrupting(flights) as flight:
            await _hurry(flight)
        assert loop.time() - began == pytest.approx(13, abs=0.01)

    run_virtually(main())


def test_what_ends_in_time_is_not_interrupted_later() -> None:
    async def main() -> None:
        flights = Flights(timeout_s=10.0)
        with Interrupting(flights):
            await asyncio.sleep(9)
        with pytest.raises(KeyError), Interrupting(flights):
            raise KeyError
        await asyncio.sleep(20)
        assert flights._flying == {}

    run_virtually(main())


@pytest.mark.parametrize("order", [("theirs",), ("theirs", "ours"), ("ours", "theirs")])
def test_anybody_elses_cancellation_passes_through(order: tuple[str, ...]) -> None:
    """Also where it comes in the same turn of the loop as the end of the time, before or after it."""

    async def main() -> None:
        flights = Flights(timeout_s=10.0)
        begun: list[Flight] = []

        async def fly() -> None:
            with Interrupting(flights) as flight:
                begun.append(flight)
                await asyncio.sleep(99)

        task = asyncio.ensure_future(fly())
        await asyncio.sleep(1)
        for whose in order:
            if whose == "ours":
                begun[0].give_up()
            else:
                task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (task.cancelled(), task.cancelling()) == (True, 1)

    run_virtually(main())


def test_a_cancellation_from_before_passes_through_what_is_still_done_then() -> None:
    async def main() -> None:
        flights = Flights(timeout_s=10.0)
        reached: list[str] = []

        async def fly() -> None:
            try:
                await asyncio.sleep(99)
            finally:
                try:
                    with Interrupting(flights):
                        await asyncio.sleep(99)
                except TimeoutError:
                    reached.append("given up")

        task = asyncio.ensure_future(fly())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (reached, task.cancelling()) == (["given up"], 1)

    run_virtually(main())


def test_one_that_answered_in_the_moment_of_giving_up_is_not_cancelled_for_good() -> None:
    async def main() -> None:
        flights = Flights(timeout_s=10.0)
        task = asyncio.current_task()
        assert task is not None
        with Interrupting(flights) as flight:
            flight.give_up()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)
        assert task.cancelling() == 0

    run_virtually(main())
