"""The alarm, which rings at the soonest time, and the nap, which anybody can end."""

from __future__ import annotations

import asyncio

import pytest
from client_virtual_clock import run_virtually

from batchrun.client.waking import Alarm, Nap


def test_an_alarm_rings_once_at_the_soonest_of_its_times_and_can_be_set_anew() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        rung: list[float] = []
        alarm = Alarm(lambda: rung.append(loop.time()))
        for after_s in (5.0, 7.0, 3.0, 3.0, 4.0):
            alarm.set(after_s)
        await asyncio.sleep(20)
        assert rung == [pytest.approx(3.0, abs=1e-3)]
        alarm.set(5.0)
        await asyncio.sleep(20)
        assert rung[1:] == [pytest.approx(25.0, abs=1e-3)]

    run_virtually(main())


def test_an_alarm_may_be_set_anew_by_what_it_calls() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        rung: list[float] = []

        def ring() -> None:
            rung.append(loop.time())
            if len(rung) < 3:
                alarm.set(2.0)

        alarm = Alarm(ring)
        alarm.set(1.0)
        await asyncio.sleep(20)
        assert rung == pytest.approx([1.0, 3.0, 5.0], abs=1e-3)

    run_virtually(main())


def test_a_nap_ends_by_itself_or_when_somebody_ends_it() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        nap = Nap()
        nap.end()  # nobody waits
        await nap.take(3.0)
        assert loop.time() == pytest.approx(3.0, abs=1e-3)
        for at_most_s in (None, 100.0):
            began_s = loop.time()
            loop.call_later(2.0, nap.end)
            await nap.take(at_most_s)
            nap.end()
            assert loop.time() - began_s == pytest.approx(2.0, abs=1e-3)

    run_virtually(main())


def test_a_nap_that_is_cut_short_does_not_end_the_next_one() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        nap = Nap()
        cut = asyncio.create_task(nap.take(5.0))
        await asyncio.sleep(1)
        cut.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cut
        await nap.take(9.0)
        assert loop.time() == pytest.approx(10.0, abs=1e-3)

    run_virtually(main())
