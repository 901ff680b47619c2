"""A worker process keeps to its share, and tells what it has given up of a wider one as it comes back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from batchrun.client.limiter import Gate
from batchrun.engine.keeping import Keeping
from batchrun.engine.messages import Begin, Fitting, Reshare
from batchrun.engine.shares import Share


class Wire:
    """The channel to the holder, which keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Fitting] = []

    def send(self, message: Fitting) -> None:
        self.sent.append(message)


class Noting:
    """A flow whose ledger is the list of what is noted in it, with the most slots there were then."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.noted: list[tuple[str, int]] = []

    def note(self, **notes: str) -> None:
        self.noted.extend((note, self._gate.most_slots) for note in notes.values())

    async def ask(self, question: Callable[[Any], None]) -> None:
        question(self)


class Breaker:
    """A breaker that knows whether it was told of an answer."""

    has_answer = False

    def answered(self) -> None:
        self.has_answer = True


class Kept:
    """One lane of 10 slots and 60,000 requests a minute under a Keeping that attends."""

    def __init__(self, begin: Begin) -> None:
        self.gate = Gate(slots=10, requests_per_minute=60_000)
        self.breaker = Breaker()
        self.wire, self.flow = Wire(), Noting(self.gate)
        self.reshares: asyncio.Queue[Reshare | None] = asyncio.Queue()
        lane = SimpleNamespace(number=0, gate=self.gate, breaker=self.breaker)
        self.keeping = Keeping(begin, [lane], self.wire, self.reshares)  # type: ignore[arg-type]

    async def attended(self, order: Reshare | None = None) -> None:
        """Have it attend until it waits for the next order, for which nothing but turns of the loop is needed."""
        if order is not None:
            self.reshares.put_nowait(order)
        attending = asyncio.ensure_future(self.keeping.attend(self.flow))  # type: ignore[arg-type]
        for _ in range(5):
            await asyncio.sleep(0)
        attending.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await attending


def begin(share: Share, *, is_first: bool) -> Begin:
    return Begin(urls=(), share=share, is_first=is_first)


def test_a_narrower_share_gives_up_requests_with_their_past_at_once_and_slots_as_they_come_back() -> None:
    async def main() -> None:
        kept = Kept(begin({"0 slots": 10, "0 requests": 60_000}, is_first=True))
        for _ in range(10):
            assert await kept.gate.enter()
        await kept.attended(Reshare(share={"0 slots": 7, "0 requests": 30_000}))
        (first,) = kept.wire.sent
        assert first.share == {"0 slots": 10, "0 requests": 30_000}
        assert sum(amount for _, amount in first.past["0 requests"]) == 5
        for slots in (9, 8, 7):
            assert not kept.flow.noted
            kept.gate.leave()
            kept.keeping.tell_if_fitting()
            assert kept.wire.sent[-1] == Fitting(share={"0 slots": slots, "0 requests": 30_000})
        await kept.attended()
        assert kept.flow.noted == [("7", 7)]
        assert not kept.gate.enter_now()
        kept.keeping.tell_if_fitting()
        assert len(kept.wire.sent) == 4

    asyncio.run(main())


def test_a_wider_share_is_noted_before_it_is_used_and_takes_its_past_along() -> None:
    async def main() -> None:
        kept = Kept(begin({"0 slots": 2, "0 requests": 6_000}, is_first=False))
        assert kept.breaker.has_answer
        assert kept.gate.most_slots == 2
        await kept.attended(Reshare(share={"0 slots": 5, "0 requests": 60_000}, past={"0 requests": [(0.0, 300.0)]}))
        assert kept.flow.noted == [("5", 2)]
        assert kept.gate.most_slots == 5
        assert not kept.wire.sent

    asyncio.run(main())


def test_the_first_to_begin_has_all_and_is_told_nothing_of_answers() -> None:
    async def main() -> None:
        kept = Kept(begin({"0 slots": 10, "0 requests": 60_000}, is_first=True))
        assert not kept.breaker.has_answer
        assert kept.gate.most_slots == 10
        assert kept.keeping.whole_past() == {"0 requests": []}

    asyncio.run(main())
