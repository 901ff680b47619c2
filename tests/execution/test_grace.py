"""A drain for the deadline may begin long before it; a signal that comes meanwhile does not wait for that."""

from __future__ import annotations

import asyncio

import pytest

from batchrun.execution.grace import Grace

HOUR_S = 3600.0


@pytest.mark.parametrize("afters_s", [(0.0,), (HOUR_S, 0.0), (0.0, HOUR_S), (HOUR_S, 0.0, HOUR_S)])
def test_the_grace_time_that_is_over_first_counts(afters_s: tuple[float, ...]) -> None:
    async def main() -> int:
        over = asyncio.Event()
        calls: list[None] = []

        def let_go() -> None:
            calls.append(None)
            over.set()

        grace = Grace(0.01, let_go)
        for after_s in afters_s:
            grace.begin(after_s=after_s)
        assert not calls
        await over.wait()
        return len(calls)

    assert asyncio.run(asyncio.wait_for(main(), 60)) == 1
