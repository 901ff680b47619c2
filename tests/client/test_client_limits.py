"""All limits of a lane as one: a lot lets in what the limits would have, one by one, and they learn of all of it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import pytest
from client_virtual_clock import run_virtually
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrun.client.limits import Limits, Quotas
from batchrun.client.rate import Quota
from batchrun.client.window import Sent

WIDE = 6_000_000.0
"""A limit a minute that is 100,000 a second: 200 of them are paid at once."""


def limits(requests: float | None, tokens: float | None, *, a_day: float | None = None) -> Limits:
    quotas = None if a_day is None else Quotas(requests=Quota(a_day), tokens=Quota(50 * a_day))
    return Limits(requests_per_minute=requests, tokens_per_minute=tokens, quotas=quotas)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "take", "take", "correct", "correct", "wait", "back", "resize", "take on"]),
        st.floats(0, 400),
        st.integers(0, 30),
    ),
    max_size=120,
)


class Both:
    """Limits with lots beside the same ones that are asked how far they are used before each step: that ends a lot."""

    def __init__(self, requests: float | None, tokens: float | None, a_day: float | None) -> None:
        self.mine, self.each = (limits(requests, tokens, a_day=a_day) for _ in range(2))
        self.requests = requests
        self.took: list[tuple[float, float]] = []

    def take(self, amount: float, number: int, now: float) -> None:
        for _ in range(1 + number % 5):
            self.each.used(now)
            answer = self.each.take_now(amount, now)
            assert self.mine.take_now(amount, now) is answer
            self.took += [(now, amount)] if answer else []

    def correct(self, amount: float, number: int, now: float) -> None:
        sent_at, had = self.took[number % len(self.took)] if self.took else (now, 0.0)
        for one in (self.mine, self.each):
            one.correct(max(-had, 2 * amount - 400), min(now, sent_at + number / 300))

    def back(self, amount: float, number: int, now: float) -> None:
        if self.took:
            tokens = self.took.pop()[1]
            self.mine.take_back(tokens, now)
            self.each.take_back(tokens, now)

    def resize(self, amount: float, number: int, now: float) -> None:
        to = {} if self.requests is None or number < 20 else {"requests": self.requests / (1 + number % 3)}
        assert self.mine.resize(to, now) == self.each.resize(to, now)

    def take_on(self, amount: float, number: int, now: float) -> None:
        for one in (self.mine, self.each) if number > 25 else ():
            one.take_on({"requests": [Sent(now, 1.0)], "tokens": [Sent(now, amount)]})


@settings(max_examples=150, deadline=None)
@given(
    steps=STEPS,
    requests=st.sampled_from([None, 60.0, 60_000.0, WIDE]),
    tokens=st.sampled_from([None, 60_000.0, WIDE, 100 * WIDE]),
    a_day=st.sampled_from([None, 40.0, 5000.0]),
)
def test_a_lot_decides_as_the_limits_would_one_by_one(
    steps: Sequence[tuple[str, float, int]], requests: float | None, tokens: float | None, a_day: float | None
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        both = Both(requests, tokens, a_day)
        kinds = {
            "take": both.take,
            "correct": both.correct,
            "back": both.back,
            "resize": both.resize,
            "take on": both.take_on,
        }
        for step, amount, number in steps:
            if step == "wait":
                await asyncio.sleep(amount / 2000 * (1 + number % 3 * 40))
            else:
                both.each.used(loop.time())
                kinds[step](amount, number, loop.time())
        assert both.mine.used(loop.time()) == pytest.approx(both.each.used(loop.time()), abs=2e-4)
        for bound, sent in both.mine.past().items():
            other = both.each.past()[bound]
            assert [one.at for one in sent] == [one.at for one in other]
            assert [one.amount for one in sent] == pytest.approx([one.amount for one in other], abs=1e-6)

    run_virtually(main())


def test_what_is_taken_of_a_lot_counts_where_it_was_taken() -> None:
    """A lot ends with its grain of 50 ms: what is taken after that counts there, and leaves the minute later."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wide = limits(WIDE, WIDE)
        for _ in range(7):
            assert wide.take_now(10.0, loop.time())
        await asyncio.sleep(0.06)
        for _ in range(5):
            assert wide.take_now(10.0, loop.time())
        assert [round(sent.amount) for sent in wide.past()["requests"]] == [7, 5]
        assert [round(sent.amount) for sent in wide.past()["tokens"]] == [70, 50]

    run_virtually(main())


@pytest.mark.parametrize("dimension", ["requests", "tokens"])
def test_a_lot_is_no_larger_than_what_the_minute_or_the_day_has_left(dimension: str) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        quota = Quota(25.0)
        quotas = Quotas(requests=quota) if dimension == "requests" else Quotas(tokens=quota)
        both = Limits(requests_per_minute=WIDE, tokens_per_minute=WIDE, quotas=quotas)
        assert sum(both.take_now(1.0, loop.time()) for _ in range(100)) == 25

    run_virtually(main())


def test_a_debt_is_not_lent_again_by_a_lot() -> None:
    """A reply that was dearer than its estimate takes from the lot at hand."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wide = limits(None, WIDE)
        for _ in range(20):
            assert wide.take_now(1.0, loop.time())
        wide.correct(150_000.0, loop.time())
        assert not wide.take_now(1.0, loop.time())
        assert sum(sent.amount for sent in wide.past()["tokens"]) == 150_020

    run_virtually(main())


def test_what_was_taken_of_a_lot_is_not_forgotten_for_a_correction_that_counts_later() -> None:
    """The attempt was sent a grain after it was let in; what counts for an older grain than the newest is known."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wide = limits(None, WIDE)
        for _ in range(20):
            assert wide.take_now(1.0, loop.time())
        wide.correct(-0.5, loop.time() + 0.051)
        assert [sent.amount for sent in wide.past()["tokens"]] == [20.0, -0.5]

    run_virtually(main())


def test_lanes_that_share_the_limits_a_day_let_in_no_more_together() -> None:
    async def drive() -> None:
        quotas = Quotas(requests=Quota(100), tokens=Quota(700))
        lanes = [Limits(requests_per_minute=WIDE, tokens_per_minute=WIDE, quotas=quotas) for _ in range(3)]
        asked = [lane.take_now(5.0, 0.0) for _ in range(100) for lane in lanes]
        assert sum(asked) == 100
        lanes[0].correct(200.0, 0.0)
        assert quotas.tokens is not None
        assert quotas.tokens.window.used(0.0) == 1.0

    asyncio.run(drive())


def test_without_limits_everything_is_let_in() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        none = limits(None, None)
        for _ in range(3):
            assert none.take_now(math.inf, loop.time())
            none.correct(5.0, loop.time())
            assert none.used(loop.time()) == {}

    run_virtually(main())
