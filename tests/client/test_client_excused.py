"""Rows that have no try left for what turns out to be an outage of the endpoint are pending again when it does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_replies import GOOD, got
from client_virtual_clock import run_virtually
from test_client_lanes import House, Served

from batchrun.client.arriving import ExchangeError
from batchrun.client.outage import IN_A_ROW, Weather
from batchrun.model.attempt import Exchange
from batchrun.worker import Step

FINE = got(200, GOOD)
BUSY = got(429, b'{"error":{"message":"slow down"}}')
BAD = got(400, b'{"error":{"message":"no such parameter"}}')
BROKEN = got(500, b'{"error":{"message":"oops"}}')
REFUSED = ExchangeError("connect", "refused", sent=False)
CUT = ExchangeError("disconnected", "cut", sent=True)
JUST_NOT = IN_A_ROW - 1


def steps_of(came: list[Exchange | ExchangeError], **limits: Any) -> tuple[House, list[Step]]:
    """Advance as many new rows as there are exchanges, one after the other; row 1 is the first."""
    left = iter(came)

    def act() -> Exchange:
        if isinstance(one := next(left), ExchangeError):
            raise one
        return one

    async def advance() -> tuple[House, list[Step]]:
        house = House(Served(act, 0.1), **limits)
        steps: list[Step] = []
        for _ in came:
            steps.append(await house.step(house.row()))
            await asyncio.sleep(0.1)
        return house, steps

    return run_virtually(advance())


@pytest.mark.parametrize("failure", [REFUSED, BROKEN, CUT])
def test_rows_that_failed_before_it_was_known_for_an_outage_are_taken_back(failure: Exchange | ExchangeError) -> None:
    house, steps = steps_of([FINE, *[failure] * (IN_A_ROW + 1)], max_attempts=1)
    *failed, begins, goes_on = steps[1:]
    assert [step.entry.outcome is not None for step in failed if step.entry] == [True] * JUST_NOT
    assert begins.entry is not None
    assert (begins.weather, begins.wait_s, begins.entry.outcome) == (Weather.BEGINS, 0.0, None)
    assert begins.entry.reverts == tuple(range(2, 2 + JUST_NOT))
    assert goes_on.entry is not None
    assert goes_on.entry.reverts == ()
    assert house.lanes.suspected == JUST_NOT
    house.lanes[0].breaker.returned(begins.entry.reverts)
    assert house.lanes.suspected == 0


@pytest.mark.parametrize("answer", [FINE, BUSY, BAD])
def test_what_failed_before_the_endpoint_was_last_seen_is_the_rows_own(answer: Exchange) -> None:
    house, steps = steps_of([REFUSED] * 3 + [answer] + [REFUSED] * IN_A_ROW, max_attempts=1)
    assert not house.lanes.suspect(range(1, 4))
    assert steps[-1].entry is not None
    assert steps[-1].entry.reverts == tuple(range(5, 5 + JUST_NOT))


def test_failures_that_are_no_outage_stay() -> None:
    house, steps = steps_of([REFUSED] * JUST_NOT + [FINE], max_attempts=1)
    assert not any(step.entry.reverts for step in steps if step.entry)
    assert house.lanes.suspected == 0


def test_an_outage_that_is_too_long_when_it_is_known_takes_them_back_too() -> None:
    _, steps = steps_of([CUT] * IN_A_ROW, max_attempts=1, max_outage_s=1)
    assert steps[-1].stop is not None
    assert (last := steps[-1].entry) is not None
    assert last.reverts == tuple(range(1, IN_A_ROW))
    assert last.tries is not None
    assert (last.tries.attempts, last.tries.errors, last.tries.ambiguous) == (1, 0, 0)


def test_a_row_that_may_not_be_billed_twice_stays_failed() -> None:
    """limits.max_ambiguous_attempts is kept, outage or not."""
    _, steps = steps_of([CUT, *[REFUSED] * JUST_NOT], max_attempts=1, max_ambiguous_attempts=0)
    assert steps[-1].entry is not None
    assert steps[-1].entry.reverts == tuple(range(2, IN_A_ROW))


def test_rejections_before_an_outage_are_still_suspected_by_the_breaker() -> None:
    house, steps = steps_of([BAD] * 5 + [REFUSED] * IN_A_ROW, max_attempts=1)
    assert steps[-1].entry is not None
    assert steps[-1].entry.reverts == tuple(range(6, 6 + JUST_NOT))
    breaker = house.lanes[0].breaker
    breaker.returned(steps[-1].entry.reverts)
    assert house.lanes.suspect(range(1, 2))
    assert not house.lanes.suspect(range(6, 7))
