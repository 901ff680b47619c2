"""A worker process: a run over the parts that it is handed, with its share of the limits and a ledger of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from batchrun.client.lane import Lane
from batchrun.client.lanes import Lanes
from batchrun.client.window import Sent
from batchrun.engine.channel import Channel
from batchrun.engine.local import drive
from batchrun.engine.messages import (
    Answered,
    Begin,
    Drain,
    Draining,
    Ended,
    Fitting,
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
from batchrun.engine.shares import Past, Share, name_of, slots_in
from batchrun.errors import BatchrunError, ExitStatus, innermost
from batchrun.events import Bound, LaneState, Progress
from batchrun.execution.affording import borrowing_of
from batchrun.execution.around import Access, Around
from batchrun.execution.before import Before
from batchrun.execution.ending import Ending
from batchrun.execution.flow import Flow
from batchrun.execution.parts import OpenPart
from batchrun.execution.pulse import Pulse
from batchrun.execution.resume import OpenRun
from batchrun.execution.sending import flow_of, open_lanes
from batchrun.execution.signals import SignalWatch
from batchrun.ledger.adopting import lend, make_worker_store
from batchrun.ledger.records import Entry
from batchrun.ledger.store import SENDING
from batchrun.model.outcome import Completion
from batchrun.spending import Spending

_ALONE = Ending(status=ExitStatus.SIGTERM, reason="the process that holds the output has ended")
_PIECES = 8
"""Slots that are given up go in about so many pieces, so that others need not wait for the last of them."""
_RATES: tuple[Bound, ...] = ("requests", "tokens", "daily requests", "daily tokens")


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
    employed.channel.close()
    await employed.gone


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
            employed.join(flow, lanes, pulse, spending)
            employed.take_share(begin)
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
        self._share: Share = {}
        self._kept: Share | None = None
        self._given_up: dict[str, list[tuple[float, float]]] = {}
        self._has_answered = False
        self._told: Drain | None = None
        self._hurried = self.is_over = False
        self._flow: Flow | None = None
        self._lanes: Lanes | None = None
        self._pulse: Pulse | None = None
        self._spending: Spending | None = None

    def join(self, flow: Flow, lanes: Lanes, pulse: Pulse, spending: Spending | None) -> None:
        """Have a flow to do for what is asked; what was asked for before it was there is done now."""
        self._flow, self._lanes, self._pulse, self._spending = flow, lanes, pulse, spending

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
        if self._flow is not None and self._told is not None:
            self._flow.drain(self._told.ending, self._told.after_s)
        if self._flow is not None and self._hurried:
            self._flow.let_go()

    def _lost(self) -> None:
        """Drain when the holder is gone: what is in flight is paid for, and the next run finds it."""
        if not self.gone.done():
            self.gone.set_result(None)
        if not self.begun.done():
            self.begun.set_result(None)
        if not self.is_over:
            self._told = Drain(ending=_ALONE)
            self._obey()

    async def attend(self, flow: Flow) -> None:
        """Change the share as the holder asks; what may be in flight is noted in the ledger before it is more."""
        self._obey()
        noted = slots_in(self._share)
        while True:
            order = await self._reshares.get()
            slots = slots_in(self._share if order is None else order.share)
            if slots > noted or order is None:
                await flow.ask(lambda store, slots=slots: store.note(**{SENDING: str(slots)}))  # type: ignore[misc]
                noted = slots
            if order is not None:
                self.take_share(order)

    def take_share(self, order: Begin | Reshare) -> None:
        """Hold to a share from now on; what is narrower is given up with its past, slots as they come back."""
        before, narrower = self._share, any(units < self._share.get(name, 0) for name, units in order.share.items())
        whole = isinstance(order, Begin) and order.is_first
        self._share = order.share
        given = {} if whole else self._resize(order.share)
        if narrower:
            self._kept, self._given_up = before, given
        if self._lanes is not None:
            ago_s = self._loop.time() - time.monotonic()
            for lane in self._lanes:
                lane.gate.take_on(
                    {
                        bound: [
                            Sent(at + ago_s, amount) for at, amount in order.past.get(name_of(lane.number, bound), ())
                        ]
                        for bound in _RATES
                    }
                )
                if isinstance(order, Begin) and not whole:
                    lane.breaker.answered()  # another process has seen that the endpoint does answer this job
        self._tell_if_fitting()

    def _resize(self, share: Share) -> dict[str, list[tuple[float, float]]]:
        given: dict[str, list[tuple[float, float]]] = {}
        for lane in self._lanes or ():
            limits: dict[Bound, float] = {
                bound: float(share[name]) for bound in _RATES if (name := name_of(lane.number, bound)) in share
            }
            self._add_past(given, lane, lane.gate.resize(share[name_of(lane.number, "slots")], limits))
        return given

    def _add_past(
        self, past: dict[str, list[tuple[float, float]]], lane: Lane, sent: Mapping[Bound, Iterable[Sent]]
    ) -> None:
        """Add what a lane let in, in the machine's time; what is of a day is all lanes' and stands with the first."""
        ahead_s = time.monotonic() - self._loop.time()
        for bound, some in sent.items():
            if (name := name_of(lane.number, bound)) in self._share:
                past[name] = [(at + ahead_s, amount) for at, amount in some]

    def _tell_if_fitting(self) -> None:
        """Tell what is kept on the way to a narrower share: at first, then by each eighth of the slots, and at last."""
        if self._kept is None or self._lanes is None:
            return
        names = {name_of(lane.number, "slots"): lane.gate.in_flight for lane in self._lanes}
        kept = {name: max(units, min(names.get(name, 0), self._kept[name])) for name, units in self._share.items()}
        least = max(1, (slots_in(self._kept) - slots_in(self._share)) // _PIECES)
        if kept != self._share and not self._given_up and slots_in(self._kept) - slots_in(kept) < least:
            return
        self.channel.send(Fitting(share=kept, past=self._given_up))
        self._kept, self._given_up = kept, {}
        if kept == self._share:
            self._kept = None
            self._reshares.put_nowait(None)

    def whole_past(self) -> Past:
        """Return all that was let in of late, for those who take the share over; nothing is let in any more."""
        past: dict[str, list[tuple[float, float]]] = {}
        for lane in self._lanes or ():
            self._add_past(past, lane, lane.gate.past())
        return past

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
        self._tell_if_fitting()

    def sealed(self, part: OpenPart) -> None:
        """Tell it."""
        self.channel.send(Sealed(part=part.part))

    def draining(self, ending: Ending, after_s: float) -> None:
        """Tell it where it is news, and wait for no part any more."""
        self._handed.put(None)
        if self._told is None or ending is not self._told.ending:
            self.channel.send(Draining(ending=ending, after_s=after_s))

    async def progressed(self, progress: Progress) -> None:
        """Report it."""
        self._tell_if_fitting()
        if self._lanes is None or self._pulse is None:
            return
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
                taken_nanousd=0 if self._spending is None else self._spending.taken_nanousd,
            )
        )


def _place_of(error: Exception) -> str:
    frames = traceback.extract_tb(innermost(error).__traceback__)
    return " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames[-3:]))
