"""Several lanes as one: each row goes to one that has room for it, and the run goes on until the last is retired.

A row that waits is bound to no lane, so a lane that is paused or full holds none back. The first in the queue asks the
lanes in order; where none has room it waits at all of their gates and goes to the first that opens. These are the only
tasks beside those of a run: they live no longer than that wait, and a run with one lane has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container, Iterator, Sequence
from typing import Literal

import msgspec

from batchrun.client.breaker import Cause
from batchrun.client.lane import Lane
from batchrun.client.waits import BOUNDS
from batchrun.events import Bound, LaneProgress, LaneState, Unwatched, Watcher


class Shun(msgspec.Struct, frozen=True, kw_only=True):
    """A row is not to go to this lane again before `until`, in seconds of the loop's clock: its server said so.

    `earlier` is what another lane had said before.
    """

    lane: Lane
    until: float
    earlier: Shun | None = None

    def left(self) -> dict[Lane, float]:
        """Return the lanes that are still to be shunned, with the seconds that are left."""
        left = {} if self.earlier is None else self.earlier.left()
        if (left_s := self.until - asyncio.get_running_loop().time()) > 0:
            left[self.lane] = left_s
        return left

    @property
    def left_s(self) -> float:
        """Seconds until the first of these lanes may be asked again, 0 when there is none."""
        return min(self.left().values(), default=0.0)


class Admitted(msgspec.Struct, frozen=True, gc=False):
    """The lane that has taken a row in, and the tokens that were taken there for it."""

    lane: Lane
    tokens: float


class Lanes:
    """The lanes of one run; must be used inside one loop."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        strategy: Literal["spread", "fallback"] = "spread",
        watcher: Watcher | None = None,
    ) -> None:
        """Join lanes whose numbers are their places; `watcher` is told of each that is retired."""
        self._lanes = tuple(lanes)
        self.are_several = len(self._lanes) > 1
        """Whether there is more than one, retired ones counted."""
        self._strategy = strategy
        self._watcher = watcher or Unwatched()
        self._turn = asyncio.Lock()
        self._waiting: list[asyncio.Task[None]] = []
        self._closed = False

    def __getitem__(self, number: int) -> Lane:
        return self._lanes[number]

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def in_flight(self) -> int:
        """Slots taken, of all lanes."""
        return sum(lane.gate.in_flight for lane in self._lanes)

    def state(self) -> LaneState:
        """Return how far the limits of all lanes that are left are used; a pause is one when it is every lane's.

        A row that waits at several gates waits at each of them, so the longest wait of any lane is told, not the sum.
        """
        states = [lane.gate.state() for lane in self._lanes if lane.retired is None]
        states = states or [self._lanes[-1].gate.state()]
        if len(states) == 1 and not self.are_several:
            return states[0]
        used: dict[Bound, float] = {
            bound: round(sum(shares) / len(shares), 4)
            for bound in BOUNDS
            if (shares := [state.used[bound] for state in states if bound in state.used])
        }
        waited_s: dict[Bound, float] = {
            bound: max(lane.gate.state().waited_s[bound] for lane in self._lanes) for bound in states[0].waited_s
        }
        return LaneState(
            slots=sum(state.slots for state in states),
            in_flight=self.in_flight,
            paused_s=min(state.paused_s for state in states),
            used=used,
            waited_s=waited_s,
        )

    def progress(self) -> tuple[LaneProgress, ...]:
        """Return each lane as it stands, none where there is only one."""
        if not self.are_several:
            return ()
        return tuple(_progress(lane, lane.gate.state()) for lane in self._lanes)

    async def enter(self, body: bytes, shun: Shun | None = None) -> Admitted | None:
        """Wait for a turn and return the lane that has taken the row in; its slot is given back at its gate.

        None when the gates were closed instead, or when only the lane that the row is to shun is left for it now.
        """
        if not self.are_several:
            lane = self._lanes[0]
            tokens = lane.expected_tokens(body)
            return Admitted(lane, tokens) if await lane.gate.enter(tokens) else None
        async with self._turn:
            return await self._enter_as_head(body, shun)

    async def _enter_as_head(self, body: bytes, shun: Shun | None) -> Admitted | None:
        while not self._closed:
            shunned = {} if shun is None else {lane: s for lane, s in shun.left().items() if lane.retired is None}
            choice = [Admitted(lane, lane.expected_tokens(body)) for lane in self._choice(shunned)]
            for one in choice:
                if one.lane.gate.enter_now(one.tokens):
                    return one
            if shunned or not choice:
                return None
            if (opened := await self._first_to_open(choice)) is not None:
                return opened
        return None

    def _choice(self, shunned: Container[Lane]) -> list[Lane]:
        """Return the lanes that may take a row, in the order in which they are to be asked.

        A lane in an outage comes first: its gate lets no more than its next probe in. To fall back means to ask each
        lane only where all before it are out.
        """
        left = [lane for lane in self._lanes if lane.retired is None and lane not in shunned]
        if self._strategy == "spread":
            return sorted(left, key=lambda lane: (lane.condition != "outage", -lane.room))
        first = next((place for place, lane in enumerate(left) if not lane.is_out), len(left))
        return left[: first + 1]

    async def _first_to_open(self, choice: Sequence[Admitted]) -> Admitted | None:
        """Wait at all of these gates; return the one that let in, None when the lanes have changed instead."""
        entered: list[Admitted] = []

        async def wait_at(one: Admitted) -> None:
            if await one.lane.gate.enter(one.tokens):
                entered.append(one)
            self.changed()  # before another one that opens in the same moment lets in too

        try:
            async with asyncio.TaskGroup() as group:
                self._waiting += [group.create_task(wait_at(one), name=f"at {one.lane.name}") for one in choice]
        except BaseException:
            for one in entered:
                one.lane.gate.leave()
            raise
        finally:
            self._waiting.clear()
        return entered[0] if entered else None

    def shun(self, lane: Lane, wait_s: float, earlier: Shun | None = None) -> Shun | None:
        """Return what a row that this lane sent away for a while is to keep to, None where it has to wait instead.

        It need not wait where another lane has room for it and, where they fall back, this one is out.
        """
        if not self.are_several or (self._strategy == "fallback" and not lane.is_out):
            return None
        shunned = {} if earlier is None else earlier.left()
        others = [other for other in self._lanes if other is not lane and other not in shunned]
        if not any(other.room > 0 and not other.is_out for other in others):
            return None
        until = asyncio.get_running_loop().time() + wait_s
        return Shun(lane=lane, until=until, earlier=earlier if shunned else None)

    def changed(self) -> None:
        """Have the first in the queue look again, after what may have put a lane out."""
        for task in self._waiting:
            if task is not asyncio.current_task():
                task.cancel()

    def retire(self, lane: Lane, why: str) -> str | None:
        """Send nothing more to a lane; None while another one is left, else why the run ends: the reasons of all."""
        if not self.are_several:
            return why
        if lane.retired is None:
            lane.retired = why
            lane.gate.close()
            if not lane.breaker.has_tripped:
                lane.breaker.let_go()
            self._watcher.noted("endpoint retired", endpoint=lane.name, why=why)
            self.changed()
        if any(other.retired is None for other in self._lanes):
            return None
        return "; ".join(f"{other.name}: {other.retired}" for other in self._lanes)

    def rejected_beside(self, lane: Lane, cause: Cause) -> int:
        """Return how many rows other lanes rejected alike, 0 where any lane has answered anything else."""
        alike = [other.breaker.first_alike(cause) for other in self._lanes if other is not lane]
        return 0 if None in alike else sum(filter(None, alike))

    def suspect(self, rows: range) -> bool:
        """Say whether a lane's breaker, or an outage, may still take back a failure among `rows`."""
        return any(lane.breaker.suspects(rows) for lane in self._lanes)

    @property
    def suspected(self) -> int:
        """How many failures may still be taken back and tried again, by a breaker only where another lane is left."""
        return sum(lane.breaker.suspected if self.are_several else lane.breaker.excusable for lane in self._lanes)

    def close(self) -> None:
        """Let nothing in any more; whoever waits is sent away."""
        self._closed = True
        for lane in self._lanes:
            lane.gate.close()


def _progress(lane: Lane, state: LaneState) -> LaneProgress:
    return LaneProgress(
        name=lane.name,
        state=lane.condition,
        slots=state.slots,
        in_flight=state.in_flight,
        paused_s=state.paused_s,
        used=state.used,
    )
