"""A gate that takes in at once or not at all, and one that a row leaves before it was let in: for several lanes."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from client_virtual_clock import run_virtually
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.limiter import Gate
from batchrun.client.rate import Rate


@given(st.lists(st.tuples(st.sampled_from(["pay", "correct", "wait"]), st.floats(0, 2000)), max_size=40))
def test_what_a_bucket_affords_is_paid_at_once(changes: list[tuple[str, float]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        rate = Rate(60_000)
        for change, amount in changes:
            if change == "wait":
                await asyncio.sleep(amount / 1000)
            elif change == "correct":
                rate.correct(amount - 1000, loop.time())
            elif rate.has_room(amount, loop.time()):
                with contextlib.closing(rate.pay(amount)) as paying, pytest.raises(StopIteration):
                    paying.send(None)
            else:
                before = loop.time()
                await rate.pay(amount)
                assert loop.time() > before

    run_virtually(main())


@pytest.mark.parametrize("bound", ["slots", "pause", "requests", "tokens"])
def test_a_gate_takes_in_at_once_or_not_at_all(bound: str) -> None:
    """Whatever stands against it, nothing is taken and no time goes by; a row that is cancelled there paid nothing."""

    async def main() -> None:
        gate = Gate(slots=1 if bound == "slots" else 9, requests_per_minute=6000, tokens_per_minute=60_000)
        if bound == "pause":
            gate.pause(10)
        if bound == "slots":
            assert gate.enter_now(1)
        while bound in {"requests", "tokens"} and gate.enter_now(500 if bound == "tokens" else 1):
            gate.leave()
        before, used = gate.now(), gate.state().used
        assert not gate.enter_now(500)
        assert gate.state().used == used
        for _ in range(50):
            waiting = asyncio.ensure_future(gate.enter(500))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
        assert gate.now() - before < 0.01
        await asyncio.sleep(60)
        if bound == "slots":
            gate.leave()
        times: list[float] = []
        while len(times) < 200:
            assert await gate.enter(500)
            times.append(gate.now())
            gate.leave()
        assert times[-1] - times[0] == pytest.approx(199 * 0.5, rel=0.02)

    run_virtually(main())


def test_what_was_paid_by_a_row_that_left_the_gate_is_credit_for_the_next() -> None:
    async def main() -> None:
        gate = Gate(slots=1, requests_per_minute=60)
        assert gate.enter_now()
        gate.leave()
        waiting = asyncio.ensure_future(gate.enter())
        await asyncio.sleep(0.5)
        gate.narrow(0)
        await asyncio.sleep(1)  # it has paid by now, and waits for a slot
        waiting.cancel()
        await asyncio.wait([waiting])
        gate.widen()
        assert gate.enter_now()
        gate.leave()
        assert not gate.enter_now()

    run_virtually(main())
