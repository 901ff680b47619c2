"""Rows that wait for the budget: in their order, woken by what comes back, and never for nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from batchrun.budget import Budget, MostTokens, Reservation, Spent
from batchrun.client.lanes import Lanes
from batchrun.errors import ExitStatus, RecordError
from batchrun.model.attempt import Cost
from batchrun.model.request import Request
from batchrun.pricing import Rates, rate
from batchrun.spending import Spending
from batchrun.worker import OpenRow, Worker


class Told:
    def __init__(self) -> None:
        self.events: list[str] = []

    def progressed(self, progress: object) -> None: ...

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append(event)


def spending(limit: int, *, priced: bool = True, told: Told | None = None) -> Spending:
    """A budget in nano-USD where each output token costs one."""
    rates = Rates(input=rate(0.0), output=rate(0.001)) if priced else None
    return Spending(Budget(limit, Spent()), fields={}, tariff=lambda *_: rates, watcher=told or Told())


async def got(held: Spending, nanousd: int) -> Reservation:
    reservation = await held.reserve(nanousd)
    assert reservation is not None
    return reservation


async def turn() -> None:
    """Let every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 10))


def test_r13_rows_are_served_in_their_order_however_small_they_are() -> None:
    async def main() -> None:
        held, order = spending(10), list[int]()

        async def row(nanousd: int) -> None:
            await got(held, nanousd)
            order.append(nanousd)

        first, second = await got(held, 5), await got(held, 4)
        waiting = [asyncio.create_task(row(nanousd)) for nanousd in (8, 1, 2)]
        await turn()
        assert (order, held.waiting) == ([], 3)
        held.give_back(second)
        await turn()
        assert order == []
        held.settle(first, Cost(nanousd=0, source="price"), owed=False, answered=True)
        await turn()
        assert (order, held.waiting) == ([8, 1], 1)
        held.close()
        with pytest.raises(AssertionError):
            await waiting[2]

    run(main())


def test_r13_a_row_takes_what_is_there_at_once_but_passes_nobody_who_waits() -> None:
    async def main() -> None:
        held = spending(10)
        first = held.reserve_now(6)
        assert first == Reservation(6)
        assert held.reserve_now(5) is None
        head = asyncio.create_task(held.reserve(5))
        await turn()
        assert held.reserve_now(1) is None
        held.give_back(first)
        assert await head == Reservation(5)
        assert held.reserve_now(5) == Reservation(5)
        held.close()
        assert held.reserve_now(0) is None

    run(main())


def test_r13_when_nothing_is_out_the_budget_is_used_up_and_all_are_sent_away() -> None:
    async def main() -> None:
        held = spending(10)
        only = await got(held, 10)
        waiting = [asyncio.create_task(held.reserve(4)) for _ in range(3)]
        await turn()
        assert held.take_ending() is None
        held.settle(only, Cost(nanousd=7, source="price"), owed=False, answered=True)
        assert [await one for one in waiting] == [None, None, None]
        reason = held.take_ending()
        assert reason is not None
        assert "max_cost_usd = 0.00000001 " in reason
        assert "0.000000007 USD are spent" in reason
        assert "it may cost 0.000000004;" in reason
        assert held.take_ending() is None
        assert await held.reserve(1) is None

    run(main())


def test_r13_a_row_that_is_cancelled_leaves_the_queue_to_the_next() -> None:
    """Also when it was cancelled in the same moment in which it got its reservation."""

    async def main() -> None:
        held = spending(10)
        only = await got(held, 5)
        head, late = (asyncio.create_task(held.reserve(nanousd)) for nanousd in (9, 5))
        await turn()
        head.cancel()
        await turn()
        assert late.done()
        assert late.result() == Reservation(5)
        unlucky = asyncio.create_task(held.reserve(6))
        await turn()
        held.give_back(Reservation(5))
        held.give_back(only)
        unlucky.cancel()
        await turn()
        assert await got(held, 10) == Reservation(10)

    run(main())


def test_a_row_without_a_bound_fails_where_a_price_is_known_and_goes_where_none_is() -> None:
    async def main() -> None:
        unbounded = MostTokens(prompt=1, completion=None)
        with pytest.raises(RecordError, match="max_tokens"):
            spending(10).bound_of(unbounded, None)
        unpriced = spending(10, priced=False)
        assert unpriced.bound_of(unbounded, None) is None
        assert await unpriced.reserve(None) == Reservation(None)

    run(main())


def test_a_row_that_waits_for_the_budget_has_its_bound_computed_once() -> None:
    async def main() -> None:
        asked: list[str | None] = []
        rates = Rates(input=rate(0.0), output=rate(0.001))

        def tariff(_: str | None, model: str | None) -> Rates:
            asked.append(model)
            return rates

        held = Spending(Budget(10, Spent()), fields={}, tariff=tariff, watcher=Told())
        assert held.reserve_now(6) == Reservation(6)
        worker = Worker(lanes=Lanes(()), clock=lambda: 0.0, wall_us=lambda: 0, spending=held)
        request = Request(row=0, body=b"{}", sha256="", model="m")
        row = OpenRow(row=0, request=request, most=MostTokens(prompt=1, completion=5))
        waiting = asyncio.create_task(worker.advance(row))
        await turn()
        assert (held.waiting, asked) == (1, ["m"])
        worker.close()
        assert (await waiting).status is ExitStatus.BUDGET
        assert asked == ["m"]

    run(main())


def test_r13_what_is_odd_is_told_once() -> None:
    async def main() -> None:
        told = Told()
        held = spending(100, told=told)
        for _ in range(2):
            held.settle(await got(held, 5), Cost(nanousd=6, source="server"), owed=False, answered=True)
            held.settle(await got(held, 5), None, owed=True, answered=True)
            held.settle(await got(held, 5), None, owed=True, answered=False)
            held.settle(await got(held, 5), None, owed=False, answered=False)
        assert told.events == [
            "an attempt cost more than its upper bound",
            "a reply's cost is not known; the budget counts what it may have been",
        ]
        reserved = [await got(held, 68)]  # 12 paid, 20 kept, none of the refused
        assert reserved == [Reservation(68)]

    run(main())
