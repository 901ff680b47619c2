"""Rows that lie ready are bounded by their number and by the additions that they came in."""

from __future__ import annotations

import asyncio

import pytest

from batchrun.execution.backlog import ADDITIONS_AHEAD, ROWS_AHEAD, Backlog
from batchrun.worker import OpenRow


def rows(first: int, count: int) -> list[OpenRow]:
    return [OpenRow(row=row, request=None) for row in range(first, first + count)]


@pytest.mark.parametrize(("in_an_addition", "additions"), [(1, ADDITIONS_AHEAD), (256, ROWS_AHEAD // 256)])
def test_reading_goes_on_only_when_an_addition_was_taken(in_an_addition: int, additions: int) -> None:
    """Eight additions of one large row are as much as two of 256 small ones."""

    async def main() -> None:
        backlog = Backlog(most_waiting=10)
        async with asyncio.TaskGroup() as group:
            for number in range(additions):
                await backlog.add(rows(number * in_an_addition, in_an_addition))
            more = group.create_task(backlog.add(rows(additions * in_an_addition, in_an_addition)))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not more.done()
            for number in range(in_an_addition):
                taken = await backlog.take()
                assert taken is not None
                assert taken.row == number
            await more
            backlog.all_read()
            for _ in range(additions * in_an_addition):
                assert await backlog.take() is not None

    asyncio.run(main())


def test_reading_goes_on_in_the_middle_of_an_addition_too() -> None:
    async def main() -> None:
        backlog = Backlog(most_waiting=10)
        async with asyncio.TaskGroup() as group:
            await backlog.add(rows(0, ROWS_AHEAD + 5))
            more = group.create_task(backlog.add(rows(ROWS_AHEAD + 5, 1)))
            for taken in range(6):
                for _ in range(10):
                    await asyncio.sleep(0)
                assert not more.done(), taken
                assert backlog.take_now() is not None
            await more

    asyncio.run(asyncio.wait_for(main(), 10))


def test_rows_that_wait_no_more_make_room() -> None:
    async def main() -> None:
        backlog = Backlog(most_waiting=1)
        async with asyncio.TaskGroup() as group:
            await backlog.add(rows(0, 1))
            retried = backlog.take_now()
            assert retried is not None
            backlog.retry_in(retried, 0.0)
            more = group.create_task(backlog.add(rows(1, 1)))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not more.done()
            assert backlog.take_now() is retried
            await more

    asyncio.run(asyncio.wait_for(main(), 10))


def test_an_addition_without_new_rows_takes_no_room() -> None:
    async def main() -> None:
        backlog = Backlog(most_waiting=10)
        for _ in range(10 * ADDITIONS_AHEAD):
            await backlog.add([])
        await backlog.add(rows(0, 1))
        taken = await backlog.take()
        assert taken is not None

    asyncio.run(asyncio.wait_for(main(), 10))
