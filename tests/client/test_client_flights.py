"""Exchanges on their way under one timer, on a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest
from client_virtual_clock import run_virtually
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.client.flights import Flight, Flights


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
