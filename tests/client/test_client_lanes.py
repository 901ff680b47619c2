"""Several lanes as one: where a row goes, what a lane keeps from the others, and when the run is to end (R41)."""

from __future__ import annotations

import asyncio
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Literal

import pytest
from client_replies import GOOD, MODEL, got, reader
from client_virtual_clock import run_virtually

from batchrun.client.arriving import ExchangeError
from batchrun.client.lane import Lane
from batchrun.client.lanes import Lanes, Shun
from batchrun.client.limiter import Gate
from batchrun.client.outage import Outage
from batchrun.events import Progress
from batchrun.execution.requesting import Requests
from batchrun.job.settings import LimitSettings
from batchrun.model.attempt import Exchange
from batchrun.model.outcome import Completion, Failure
from batchrun.model.record import Record
from batchrun.model.request import Envelope
from batchrun.prompt.prompter import Prompter
from batchrun.worker import OpenRow, Step, Worker

Strategy = Literal["spread", "fallback"]
BUSY_FOR_60_S = got(429, b'{"error":{"message":"slow down"}}', retry_after="60")
NO_KEY = got(401, b'{"error":{"message":"no such key"}}')


class Told:
    """A Watcher that keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def progressed(self, progress: Progress) -> None: ...

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append((event, facts))


class Served:
    """A Transport that answers as `act` says after `latency_s`, and keeps when it was asked what."""

    def __init__(self, act: Callable[[], Exchange], latency_s: float) -> None:
        self.act = act
        self.latency_s = latency_s
        self.at: list[float] = []
        self.bodies: list[dict[str, Any]] = []

    async def exchange(self, body: bytes) -> Exchange:
        self.at.append(asyncio.get_running_loop().time())
        self.bodies.append(json.loads(body))
        came = self.act()
        await asyncio.sleep(self.latency_s)
        return came

    def between(self, start: float, end: float) -> int:
        return bisect_left(self.at, end) - bisect_left(self.at, start)


class House:
    """Lanes over served transports, and workers that send rows through them as a run does, without its files."""

    def __init__(self, *served: Served, strategy: Strategy = "spread", slots: int = 4, **options: Any) -> None:
        loop = asyncio.get_running_loop()
        self.told = Told()
        self.slots = slots * len(served)
        rate, tokens = options.pop("requests_per_minute", None), options.pop("tokens_per_minute", None)
        self.limits = LimitSettings(**options)
        self.lanes = Lanes(
            [
                Lane(
                    gate=Gate(slots=slots, requests_per_minute=rate, tokens_per_minute=tokens),
                    transport=one,
                    replies=reader(),
                    limits=self.limits,
                    clock=loop.time,
                    outage=Outage(max_outage_s=self.limits.max_outage_s, clock=loop.time),
                    name="abc"[number],
                    number=number,
                )
                for number, one in enumerate(served)
            ],
            strategy=strategy,
            watcher=self.told,
        )
        self.worker = Worker(
            lanes=self.lanes,
            clock=loop.time,
            wall_us=lambda: 0,
        )
        self.requests = Requests(Prompter(None, ("prompt",)), Envelope(identity="x", fields={"model": MODEL}))
        self.stops: list[str] = []
        self.endpoints: Counter[str | None] = Counter()
        self.rows: dict[int, OpenRow] = {}
        self.number = 0

    async def step(self, row: OpenRow) -> Step:
        step = await self.worker.advance(row)
        if step.entry is not None:
            self.lanes[step.entry.lane].gate.leave()
        return step

    def row(self) -> OpenRow:
        self.number += 1
        return self.requests.row(Record(row=self.number, values={"prompt": "say it"}))

    async def work(self, until_s: float) -> None:
        """Advance rows one after the other until then; each to its end."""
        loop = asyncio.get_running_loop()
        while loop.time() < until_s and not self.stops:
            row = self.row()
            while True:
                step = await self.step(row)
                if step.stop is not None:
                    self.stops.append(step.stop)
                    self.lanes.close()
                    return
                if step.wait_s is None:
                    break
                await asyncio.sleep(step.wait_s)
            if step.entry is None:
                return
            assert step.entry.outcome is not None
            self.endpoints[step.entry.outcome.account.endpoint] += 1
            self.rows[row.row] = row

    async def run(self, until_s: float) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.slots):
                group.create_task(self.work(until_s))


def good() -> Exchange:
    return got(200, GOOD)


def within(start: float, end: float, exchange: Exchange, then: Exchange | None = None) -> Callable[[], Exchange]:
    """Answer with `exchange` between these times, else well."""

    def act() -> Exchange:
        now = asyncio.get_running_loop().time()
        return exchange if start <= now < end else then or good()

    return act


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_virtually(asyncio.wait_for(main(), 100_000))


def test_r41_a_429_with_a_wait_leaves_the_other_lane_at_full_rate() -> None:
    """A is silent for its 60 s and takes part again; B has all of its slots used, every second; no row waits for A."""

    async def main() -> None:
        a, b = Served(within(10, 11, BUSY_FOR_60_S), 0.5), Served(good, 0.5)
        house = House(a, b)
        await house.run(100)
        assert a.between(0, 10) == b.between(0, 10) == 80
        assert a.between(10, 11) == 4
        assert a.between(11, 70) == 0
        assert min(b.between(second, second + 1.01) for second in range(95)) >= 8
        assert a.between(71, 90) >= 0.9 * 19 * 8
        assert all(row.tries.errors == 0 for row in house.rows.values())

    run(main)


def test_r41_the_row_that_met_it_goes_to_the_other_lane_at_once() -> None:
    async def main() -> None:
        a, b = Served(lambda: BUSY_FOR_60_S, 0.5), Served(good, 0.5)
        house = House(a, b)
        row = house.row()
        step = await house.step(row)
        assert (step.wait_s, len(a.at)) == (0.0, 1)
        step = await house.step(row)
        assert step.entry is not None
        assert step.entry.outcome is not None
        assert (b.at, step.entry.outcome.account.endpoint) == ([pytest.approx(0.5, abs=0.01)], "b")
        assert (row.tries.attempts, row.tries.throttled) == (2, 1)

    run(main)


@pytest.mark.parametrize("strategy", ["spread", "fallback"])
def test_a_row_alone_waits_as_long_as_it_was_told_where_no_other_lane_has_room(strategy: Strategy) -> None:
    """A 503 with a wait is the row's alone: it keeps away from that lane, and holds up no other row."""

    async def main() -> None:
        a = Served(lambda: got(503, b"{}", retry_after="30"), 0.0)
        b = Served(good, 1000.0)
        house = House(a, b, strategy=strategy, slots=1)
        async with asyncio.TaskGroup() as group:
            if strategy == "spread":
                assert house.lanes[1].gate.enter_now()
            row = house.row()
            step = await house.step(row)
            assert step.wait_s is not None
            assert 30 <= step.wait_s <= 36
            row.shun = Shun(lane=house.lanes[0], until=25.0)
            house.lanes[1].gate.narrow(0)
            step = await house.step(row)
            assert (step.entry, step.wait_s) == (None, pytest.approx(25, abs=0.1))
            a.act = good
            task = group.create_task(house.step(house.row()))
            assert (await task).entry is not None

    run(main)


@pytest.mark.parametrize("slots", [2, 50])
def test_each_lane_uses_its_own_rate_and_never_more(slots: int) -> None:
    """Two lanes of 600 a minute are 1200: a permit taken on one is never lost while a row waits at both."""

    async def main() -> None:
        a, b = Served(good, 0.05), Served(good, 0.05)
        house = House(a, b, slots=slots, requests_per_minute=600)
        await house.run(120)
        for served in (a, b):
            assert max(served.between(start, start + 60) for start in served.at) <= 600
            assert len(served.at) >= 0.98 * 1200

    run(main)


def test_each_lane_uses_its_own_tokens_and_never_more() -> None:
    """Replies are worth 549 tokens; the estimate learns that, and a wait at two gates costs no tokens."""

    async def main() -> None:
        a, b = Served(good, 0.05), Served(good, 0.05)
        house = House(a, b, slots=50, tokens_per_minute=54_900)
        await house.run(300)
        for served in (a, b):
            late = [at for at in served.at if at > 120]
            assert max(served.between(start, start + 60) for start in late) <= 105
            assert len(late) >= 0.95 * 300

    run(main)


def test_rows_go_where_there_is_most_room() -> None:
    async def main() -> None:
        slow, quick = Served(good, 10.0), Served(good, 0.1)
        house = House(slow, quick, slots=5)
        await house.run(50)
        assert slow.between(0, 50) == 25
        assert quick.between(0, 50) >= 0.95 * 2500

    run(main)


def test_r41_a_401_retires_its_lane_only_and_its_rows_lose_no_try() -> None:
    async def main() -> None:
        a, b = Served(lambda: NO_KEY, 0.1), Served(good, 0.1)
        house = House(a, b)
        await house.run(10)
        assert house.stops == []
        assert len(a.at) == 4
        assert set(house.endpoints) == {"b"}
        assert [(event, facts["endpoint"]) for event, facts in house.told.events] == [("endpoint retired", "a")]
        assert "no such key" in house.told.events[0][1]["why"]
        met = [row for row in house.rows.values() if row.tries.attempts > 1]
        assert [(row.tries.attempts, row.tries.errors) for row in met] == [(2, 0)] * 4
        assert [(lane.name, lane.state) for lane in house.lanes.progress()] == [("a", "retired"), ("b", "open")]

    run(main)


def test_r41_a_key_that_is_withdrawn_in_the_middle_retires_its_lane() -> None:
    """Each row that met it tries a second time, as with one lane; then the lane is out and every row is answered."""

    async def main() -> None:
        a, b = Served(within(10, 1e9, NO_KEY), 0.1), Served(good, 0.1)
        house = House(a, b)
        await house.run(60)
        assert house.stops == []
        assert house.lanes[0].condition == "retired"
        assert a.between(15, 100) == 0
        assert house.endpoints["a"] == a.between(0, 10)

    run(main)


def test_r41_the_last_lane_ends_the_run_with_the_reasons_of_all() -> None:
    async def main() -> None:
        a = Served(lambda: NO_KEY, 0.1)
        b = Served(within(5, 100, got(402, b'{"error":{"message":"pay first"}}')), 0.1)
        house = House(a, b)
        await house.run(60)
        assert house.stops[0].startswith("a: HTTP 401: no such key (no key was sent")
        assert "; b: HTTP 402: pay first" in house.stops[0]
        assert len(house.told.events) == 2
        assert house.lanes.in_flight == 0

    run(main)


def test_a_pause_or_an_outage_that_is_too_long_retires_its_lane() -> None:
    async def main() -> None:
        a = Served(within(5, 6, got(429, b"{}", retry_after="1000")), 0.6)
        b = Served(within(5, 1e9, got(500, b"{}")), 0.6)
        c = Served(good, 0.6)
        house = House(a, b, c, max_outage_s=120)
        await house.run(200)
        assert [lane.state for lane in house.lanes.progress()] == ["retired", "retired", "open"]
        whys = {facts["endpoint"]: facts["why"] for _, facts in house.told.events}
        assert "max_pause_s" in whys["a"]
        assert "max_outage_s" in whys["b"]
        assert house.stops == []
        assert b.between(10, 200) <= 12

    run(main)


def test_an_outage_is_one_lanes_own_and_ends_by_its_probe() -> None:
    """While A is out its probes go to it, one at a time and ever more rarely, though B always has room."""

    async def main() -> None:
        a, b = Served(within(10, 40, got(502, b"{}")), 0.5), Served(good, 0.5)
        house = House(a, b, slots=20, max_attempts=50)
        await house.run(100)
        assert a.between(12, 40) <= 6
        assert b.between(15, 40) >= 0.95 * 25 * 40
        assert a.between(80, 99) >= 0.95 * 19 * 40
        assert set(house.endpoints) == {"a", "b"}

    run(main)


def test_r41_fallback_goes_down_the_list_only_while_a_lane_is_out_and_comes_back() -> None:
    async def main() -> None:
        a = Served(within(10, 11, BUSY_FOR_60_S), 0.5)
        b = Served(within(30, 40, got(502, b"{}")), 0.5)
        c = Served(good, 0.5)
        house = House(a, b, c, strategy="fallback", slots=20, max_attempts=50)
        await house.run(100)
        assert a.between(0, 10) == 20 * 20
        assert b.between(0, 10.5) == c.between(0, 30.4) == 0
        assert b.between(12, 30) >= 0.95 * 18 * 40
        assert c.between(35, 40) >= 0.9 * 5 * 40
        assert a.between(71, 99) >= 0.95 * 28 * 40
        assert b.between(72, 100) == c.between(72, 100) == 0

    run(main)


def test_a_short_pause_is_waited_out_before_falling_back() -> None:
    async def main() -> None:
        a = Served(within(10, 11, got(429, b"{}", retry_after="4")), 0.5)
        b = Served(good, 0.5)
        house = House(a, b, strategy="fallback")
        await house.run(30)
        assert b.at == []
        assert a.between(11, 14) == 0

    run(main)


@pytest.mark.parametrize("strategy", ["spread", "fallback"])
def test_whoever_waits_is_sent_away_when_it_closes(strategy: Strategy) -> None:
    async def main() -> None:
        house = House(Served(good, 1), Served(good, 1), strategy=strategy, slots=1)
        held = [await house.lanes.enter(b"") for _ in range(2 if strategy == "spread" else 1)]
        assert all(held)
        waiting = [asyncio.ensure_future(house.lanes.enter(b"")) for _ in range(5)]
        await asyncio.sleep(1)
        house.lanes.close()
        assert await asyncio.gather(*waiting) == [None] * 5
        assert house.lanes.in_flight == len(held)

    run(main)


def test_a_row_that_is_let_go_while_it_waits_takes_no_slot_along() -> None:
    async def main() -> None:
        house = House(Served(good, 1), Served(good, 1), slots=1)
        first, second = await house.lanes.enter(b""), await house.lanes.enter(b"")
        assert first is not None
        assert second is not None
        assert {first.lane.name, second.lane.name} == {"a", "b"}
        waiting = [asyncio.ensure_future(house.lanes.enter(b"")) for _ in range(3)]
        await asyncio.sleep(1)
        first.lane.gate.leave()
        waiting[0].cancel()
        assert await waiting[1] == first
        second.lane.gate.leave()
        first.lane.gate.leave()
        assert (await waiting[2]) is not None
        assert house.lanes.in_flight == 1

    run(main)


def test_two_gates_that_open_in_the_same_moment_keep_no_slot() -> None:
    async def main() -> None:
        house = House(Served(good, 1), Served(good, 1), slots=1)
        for lane in (house.lanes[0], house.lanes[1]):
            lane.gate.pause(5)
        assert await house.lanes.enter(b"") is not None
        assert house.lanes.in_flight == 1

    run(main)


def test_the_models_of_lanes_and_rows() -> None:
    """A lane's model stands for the job's; a row's own goes everywhere. A reply is compared with what was asked for."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        served = Served(good, 0)

        def lane(model: str | None) -> Lane:
            return Lane(
                gate=Gate(slots=1, requests_per_minute=None),
                transport=served,
                replies=type(reader())(model=model or MODEL, tariff=None, keep_raw=False),
                limits=LimitSettings(),
                clock=loop.time,
                model=model,
            )

        body = b'{"model":"%s","n":1.0e2,"messages":[{"role":"user","content":"\\u00e9"}]}' % MODEL.encode()
        flags = [
            (await lane(model).attempt(body, model=own)).came_to.flags  # type: ignore[union-attr]
            for model, own in [(None, None), ("other", None), ("other", MODEL), (MODEL, None)]
        ]
        assert flags == [(), ("model_mismatch",), (), ()]
        assert [sent["model"] for sent in served.bodies] == [MODEL, "other", MODEL, MODEL]
        assert all(sent == {**json.loads(body), "model": sent["model"]} for sent in served.bodies)

    run(main)


def test_a_row_that_fails_on_its_own_fails_where_it_was() -> None:
    """Errors of a row are counted wherever they happen, and a rejected row is tried on no other lane."""

    async def main() -> None:
        house = House(
            Served(lambda: got(400, b'{"error":{"message":"no"}}'), 0.1), Served(good, 0.1), strategy="fallback"
        )
        step = await house.step(house.row())
        assert step.entry is not None
        assert isinstance(step.entry.outcome, Failure)
        assert (step.entry.outcome.account.endpoint, step.entry.outcome.error_class) == ("a", "rejected")

    run(main)


def test_an_attempt_that_can_t_be_sent_is_the_lanes_too() -> None:
    async def main() -> None:
        def refuse() -> Exchange:
            raise ExchangeError("tls", "no certificate", sent=False)

        house = House(Served(refuse, 0.1), Served(good, 0.1))
        await house.run(5)
        assert house.lanes[0].condition == "retired"
        assert set(house.endpoints) == {"b"}
        assert all(row.tries.errors == 0 for row in house.rows.values())

    run(main)


def test_r41_two_busy_lanes_are_each_asked_once_and_then_waited_for() -> None:
    """Both say 503 and 30 s: a row goes from one to the other, not back; its budget is spent as by one lane."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def act() -> Any:
            return got(503, b'{"error":{"message":"no"}}', retry_after="30") if loop.time() < 20 else good()

        served = [Served(act, 0.01), Served(act, 0.01)]
        house = House(*served)
        row = house.row()
        while (step := await house.step(row)).wait_s is not None:  # noqa: ASYNC110 - a virtual clock
            await asyncio.sleep(step.wait_s)
        assert step.entry is not None
        assert isinstance(step.entry.outcome, Completion)
        assert sorted(len(one.at) for one in served) == [1, 2]
        assert loop.time() >= 30

    run(main)


def test_r41_one_lanes_refusal_of_a_key_says_nothing_of_anothers() -> None:
    """A 401 of A and one passing 401 of B: the row tries B's key twice, and B stays."""

    async def main() -> None:
        a, b = Served(good, 0.01), Served(good, 0.01)
        house = House(a, b, slots=1)
        for lane in (0, 1):
            house.lanes[1 - lane].gate.enter_now()
            await house.step(house.row())
            house.lanes[1 - lane].gate.leave()
        first = [NO_KEY]
        a.act, b.act = lambda: NO_KEY, lambda: first.pop() if first else good()
        row = house.row()
        await house.step(row)
        house.lanes[0].gate.enter_now()  # A has no room now
        await house.step(row)
        assert house.lanes[1].retired is None

    run(main)
