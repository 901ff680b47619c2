"""A worker process: a run over the parts that it is handed, with its share of the limits and a ledger of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import time
import traceback
from collections.abc import Iterator, Sequence

import msgspec

from batchrun.client.lanes import Lanes
from batchrun.engine.channel import Channel
from batchrun.engine.keeping import Keeping
from batchrun.engine.messages import (
    Answered,
    Begin,
    Drain,
    Draining,
    Ended,
    Lend,
    LetGo,
    NoMoreParts,
    Note,
    Order,
    Part,
    Recall,
    Report,
    Reshare,
    Returned,
    Sealed,
    Short,
    Wanting,
)
from batchrun.engine.shares import Past, slots_in
from batchrun.errors import BatchrunError, ExitStatus, innermost
from batchrun.events import LaneState, Progress
from batchrun.execution.affording import borrowing_of
from batchrun.execution.around import Access, Around
from batchrun.execution.before import Before
from batchrun.execution.company import Steered
from batchrun.execution.ending import Ending
from batchrun.execution.parts import OpenPart
from batchrun.execution.pulse import Pulse
from batchrun.execution.resume import OpenRun
from batchrun.execution.sending import flow_of, open_lanes
from batchrun.execution.signals import SignalWatch
from batchrun.ledger.adopting import lend, make_worker_store
from batchrun.ledger.records import Entry
from batchrun.loop import drive
from batchrun.model.outcome import Completion
from batchrun.spending import Spending

_ALONE = Ending(status=ExitStatus.SIGTERM, reason="the process that holds the output has ended")


def work(run: OpenRun, access: Sequence[Access], number: int, end: socket.socket) -> None:
    """Work as process `number` for whoever is at the other end, until it says so, is gone, or a run ends here."""
    drive(_work(run, tuple(access), number, end))


async def _work(run: OpenRun, access: tuple[Access, ...], number: int, end: socket.socket) -> None:
    employed = Employed(run, number)
    await employed.channel.open(end)
    if (begin := await employed.begun) is None:
        return
    try:
        ended = Ended(endings=await _sent(run, access, number, begin, employed), past=employed.whole_past())
    except BatchrunError as error:
        ended = Ended(endings=[Ending(status=error.status, reason=str(error))])
    except Exception as error:  # noqa: BLE001 - the last frame of this process: the holder tells it
        ending = Ending(status=ExitStatus.FAULT, reason=f"internal error: {type(error).__name__}")
        ended = Ended(endings=[ending], fault=_place_of(error))
    employed.is_over = True
    employed.channel.send(ended)
    await employed.gone  # the holder hangs up: what it writes to a closed end takes with it what it has not read yet


async def _sent(
    run: OpenRun, access: tuple[Access, ...], number: int, begin: Begin, employed: Employed
) -> Sequence[Ending]:
    places = run.places.of_worker(number)
    store = make_worker_store(places.ledger, run_id=run.run_id, rows_per_part=run.layout.rows_per_part)
    with contextlib.closing(store):
        own = msgspec.structs.replace(
            run,
            examined=msgspec.structs.replace(run.examined, places=places),
            store=store,
            before=run.before if begin.is_first else Before(slots=begin.slots),
        )
        pulse = Pulse(own, clock=time.monotonic)
        signals = SignalWatch(enabled=False)
        around = Around(access=access, watcher=Relay(employed.channel), signals=signals, pulse=pulse, alone=False)
        async with open_lanes(own, around, begin.urls, asks_providers=begin.is_first) as lanes:
            spending = borrowing_of(
                own, around.watcher, dearest_nanousd=begin.dearest_nanousd, lender=employed.ask_for_more
            )
            flow = flow_of(own, around, lanes, employed, spending)
            with store.changing():
                store.begin_sending(slots_in(begin.share))
            employed.join(begin, flow, lanes, pulse, spending)
            endings = await flow.go()
            with store.changing():
                store.end_sending()
            return endings


class Relay:
    """Tells the holder what a watcher is to be told; a Watcher."""

    def __init__(self, channel: Channel[Order]) -> None:
        """Tell it over `channel`."""
        self._channel = channel

    def progressed(self, progress: Progress) -> None:
        """Do nothing: the company of the flow reports."""

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Pass it on."""
        self._channel.send(Note(event=event, facts=facts))


class Employed:
    """The company of a flow that works for another process; a Company."""

    def __init__(self, run: OpenRun, number: int) -> None:
        """Work parts of `run` as process `number`; must be made inside the running loop."""
        self._loop = asyncio.get_running_loop()
        self._main, self._own = run.places.ledger, run.places.of_worker(number).ledger
        self.channel = Channel(msgspec.msgpack.Decoder(Order), self._received, self._lost)
        self.begun: asyncio.Future[Begin | None] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._handed: queue.SimpleQueue[OpenPart | None] = queue.SimpleQueue()
        self._reshares: asyncio.Queue[Reshare | None] = asyncio.Queue()  # as many as the holder tells
        self._has_answered = False
        self._told: Drain | None = None
        self._hurried = self.is_over = False
        self._flow: Steered | None = None
        self._keeping: Keeping | None = None
        self._lanes: Lanes | None = None
        self._pulse: Pulse | None = None
        self._spending: Spending | None = None

    def join(self, begin: Begin, flow: Steered, lanes: Lanes, pulse: Pulse, spending: Spending | None) -> None:
        """Have a flow to do what is asked for; what was asked for before is done once it attends."""
        self._flow, self._lanes, self._pulse, self._spending = flow, lanes, pulse, spending
        self._keeping = Keeping(begin, lanes, self.channel, self._reshares)

    # What the holder asks for.

    def _received(self, order: Order) -> None:
        match order:
            case Begin():
                self.begun.set_result(order)
            case Part():
                self._handed.put(order.open_part())
            case NoMoreParts():
                self._handed.put(None)
                if not self.begun.done():
                    self.begun.set_result(None)
            case Reshare():
                self._reshares.put_nowait(order)
            case Lend() | Recall():
                self._settle_loan(order)
            case Drain():
                self._told = order
                self._obey()
            case LetGo():
                self._hurried = True
                self._obey()

    def _settle_loan(self, order: Lend | Recall) -> None:
        if self._spending is None:
            return
        if isinstance(order, Lend):
            self._spending.lend(order.nanousd)
        else:
            self.channel.send(Returned(nanousd=self._spending.return_free(), spent=self._spending.spent))

    def _obey(self) -> None:
        if self._flow is not None and self._lanes is not None and self._told is not None:
            for lane, cause in self._told.tripped.items():
                self._flow.take_back(lane, self._lanes[lane].breaker.trip(cause))
            self._flow.drain(self._told.ending, self._told.after_s)
        if self._flow is not None and self._hurried:
            self._flow.let_go()

    def _lost(self) -> None:
        """Drain when the holder is gone: what is in flight is paid for, and the next run finds it."""
        if not self.gone.done():
            self.gone.set_result(None)
        if not self.begun.done():
            self.begun.set_result(None)
        self._handed.put(None)
        if not self.is_over:
            self._told = Drain(ending=_ALONE)
            self._obey()

    async def attend(self, flow: Steered) -> None:
        """Do what was asked for before the flow was there, then change the share as the holder asks."""
        self._obey()
        if self._keeping is not None:
            await self._keeping.attend(flow)

    def whole_past(self) -> Past:
        """Return all that was let in of late, for those who take the share over."""
        return {} if self._keeping is None else self._keeping.whole_past()

    def ask_for_more(self, nanousd: int, out: int) -> None:
        """Ask for more of the budget; a Lender."""
        if self._spending is not None:
            self.channel.send(Short(nanousd=nanousd, out=out, spent=self._spending.spent))

    # What a Company is told.

    def parts(self) -> Iterator[OpenPart]:
        """Ask for one part after the other; what the main ledger holds of its rows is this one's before it is read."""
        while True:
            self._loop.call_soon_threadsafe(self.channel.send, Wanting())
            if (part := self._handed.get()) is None:
                return
            lend(self._main, self._own, part.rows)
            yield part

    def committed(self, entries: Sequence[Entry]) -> None:
        """Tell of the first answer, and once a narrower share is kept to."""
        if not self._has_answered and any(isinstance(entry.outcome, Completion) for entry in entries):
            self._has_answered = True
            lanes = tuple(self._lanes or ())
            self.channel.send(
                Answered(
                    most=tuple(lane.gate.most_slots for lane in lanes), slots=tuple(lane.gate.slots for lane in lanes)
                )
            )
        if self._keeping is not None:
            self._keeping.tell_if_fitting()

    def sealed(self, part: OpenPart) -> None:
        """Tell it."""
        self.channel.send(Sealed(part=part.part))

    def draining(self, ending: Ending, after_s: float) -> None:
        """Tell it where it is news, and wait for no part any more."""
        self._handed.put(None)
        if self._told is None or ending is not self._told.ending:
            lanes = {lane.number: lane.breaker.tripped_by for lane in self._lanes or ()}
            tripped = {lane: cause for lane, cause in lanes.items() if cause is not None}
            self.channel.send(Draining(ending=ending, after_s=after_s, tripped=tripped))

    async def progressed(self, progress: Progress) -> None:
        """Report it."""
        if self._keeping is None or self._lanes is None or self._pulse is None:
            return
        self._keeping.tell_if_fitting()
        lane = LaneState(
            slots=progress.slots,
            in_flight=progress.in_flight,
            paused_s=progress.paused_s,
            used=progress.used,
            waited_s=self._pulse.waited_s,
        )
        self.channel.send(
            Report(
                counted=self._pulse.counted(),
                lane=lane,
                lanes=progress.lanes,
                slots=tuple(lane.gate.slots for lane in self._lanes),
                learned=tuple(lane.gate.learned_slots for lane in self._lanes),
                waiting=progress.waiting,
                oldest=progress.oldest,
                first_tokens_ms=self._pulse.take_first_tokens(),
                suspected=self._lanes.suspected,
                cpu_s=time.process_time(),
                at_s=time.monotonic(),
                taken_nanousd=0 if self._spending is None else self._spending.taken_nanousd,
            )
        )


def _place_of(error: Exception) -> str:
    frames = traceback.extract_tb(innermost(error).__traceback__)
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames[-3:]))
