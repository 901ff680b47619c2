"""One run in flight: reading, workers and sealing as tasks whose nesting is the order in which a run drains.

    outer task group:  sealing, ticking, attending (end last)
      inner task group:  reading, workers

A slot is given back when the ledger has committed the attempt's entry, not when its worker is done with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import NoReturn, TypeVar

from batchrun.client.lane import Lane
from batchrun.client.lanes import Lanes
from batchrun.client.outage import Weather
from batchrun.errors import BatchrunError, innermost
from batchrun.events import Progress, Totals, Unwatched
from batchrun.execution.around import Around
from batchrun.execution.aside import Aside
from batchrun.execution.backlog import Backlog
from batchrun.execution.before import slots_note
from batchrun.execution.chunks import read_chunks
from batchrun.execution.company import Company
from batchrun.execution.deadline import Deadline
from batchrun.execution.ending import Ending
from batchrun.execution.endings import Endings, stopped_by
from batchrun.execution.grace import Grace
from batchrun.execution.parts import OpenPart
from batchrun.execution.resume import OpenRun
from batchrun.execution.sealing import Sealing
from batchrun.execution.settling import Settling
from batchrun.execution.suspects import Suspects
from batchrun.execution.tolerance import early_ending
from batchrun.job.lanes import lanes_of, most_in_flight
from batchrun.ledger.group_commit import Ledger
from batchrun.ledger.records import Entry
from batchrun.ledger.store import Store
from batchrun.worker import OpenRow, Worker
from batchrun.writer.spool import Spool

_Answer = TypeVar("_Answer")
TICK_S = 1.0
OLDEST_SHOWN = 3


class Flow:
    """Drives the parts that are handed to one run to their end; used once, inside the running loop."""

    def __init__(self, run: OpenRun, *, lanes: Lanes, worker: Worker, around: Around, company: Company) -> None:
        """Wire the parts of a run together; nothing starts yet."""
        self._run = run
        self._lanes = lanes
        self._worker = worker
        self._around = around
        self._company = company
        self._pulse = around.pulse
        self._watcher = around.watcher
        self._ledger = Ledger(run.store, slots=lambda: sum(lane.gate.slots for lane in lanes))
        self._spool = Spool(run.places.spool, run.layout)
        self._backlog = Backlog(most_waiting=4 * most_in_flight(run.job) + 1000)
        self._sealing = Sealing(run, self._ledger, self._spool)
        self._suspects = Suspects(lanes, self._sealing.put)
        self._settling = Settling(
            rows_per_part=run.layout.rows_per_part, lanes=lanes, backlog=self._backlog, suspects=self._suspects
        )
        self._inner: list[asyncio.Task[None]] = []
        own_watcher = around.watcher if around.alone else Unwatched()  # of others the one that leads them tells
        self._endings = Endings(own_watcher, lambda: lanes.in_flight)
        self._deadline = Deadline(
            run.ends_at,
            named=run.job.limits.deadline or "",
            most_attempt_s=max(lane.endpoint.timeout_s for lane in lanes_of(run.job)),
            watcher=own_watcher,
        )
        self._grace = Grace(run.options.grace_s, self._let_go)
        self._sealed = asyncio.Event()
        self._ended = asyncio.Event()
        self._hurried = self._has_drained = False
        self._failure: Exception | None = None

    async def go(self) -> Sequence[Ending]:
        """Run to the end; return why it ended early, empty when it did not.

        Raises OutputError when the output can't be written.
        """
        self._ledger.start(self._committed, self._ledger_failed)
        try:
            with self._around.signals.handled(self._signalled):
                await self._drive()
        except BaseExceptionGroup as group:
            _raise_first(group)
        finally:
            await asyncio.to_thread(self._ledger.stop)
            self._spool.remove()
        if self._failure is not None:
            raise self._failure
        return self._endings.all

    async def _drive(self) -> None:
        self._deadline.start(self.drain)
        self._stop_early()
        async with asyncio.TaskGroup() as outer:
            outer.create_task(self._seal(), name="sealing")
            outer.create_task(self._tick(), name="ticking")
            attending = outer.create_task(self._company.attend(self), name="attending")
            async with asyncio.TaskGroup() as inner:
                self._inner.append(inner.create_task(self._read(), name="reading"))
                for number in range(self._workers()):
                    self._inner.append(inner.create_task(self._work(), name=f"worker {number}"))
            self._has_drained = True
            self._deadline.end()
            if self._failure is None:
                await self._ledger.ask(self._note_slots)
            self._suspects.clear_all()
            self._sealing.end()
            await self._sealed.wait()
            attending.cancel()
            self._ended.set()

    def _note_slots(self, store: Store) -> None:
        """Keep what the slots came to for the next run; all that was put before is durable then."""
        for lane in self._lanes:
            if (learned := lane.gate.learned_slots) is not None:
                store.note(**{slots_note(lane.number, lane.name): str(learned)})

    def _workers(self) -> int:
        """Return how many workers the slots and the rows that are left deserve."""
        pending = sum(part.pending for part in self._run.open_parts)
        return min(most_in_flight(self._run.job), max(1, pending))

    async def _read(self) -> None:
        """Read the parts as they are handed out, spool what is carried, hand on what needs a request."""
        chunks = read_chunks(self._run, self._spool, self._company.parts())
        aside = Aside("reading")
        try:
            while not self._backlog.closed and (chunk := await aside.call(partial(next, chunks, None))):
                part, rows, count = chunk
                await self._backlog.add(rows)
                self._settling.read(part, count)
        except BatchrunError as error:
            self.drain(Ending(status=error.status, reason=str(error)))
        finally:
            aside.close()
        self._backlog.all_read()

    async def _work(self) -> None:
        while (row := self._backlog.take_now() or await self._backlog.take()) is not None:
            try:
                step = await self._worker.advance(row)
            except asyncio.CancelledError:
                if row.in_flight:
                    self._record(row, self._worker.cut_off(row), Weather.FAIR)
                raise
            if step.entry is not None:
                self._record(row, step.entry, step.weather)
            if step.stop is not None:
                self.drain(Ending(status=step.status, reason=step.stop))
            elif step.wait_s is not None:
                self._backlog.retry_in(row, step.wait_s)
            elif step.entry is not None:
                self._backlog.settled()

    def _record(self, row: OpenRow, entry: Entry, weather: Weather) -> None:
        """Have an attempt's entry committed, and tell whoever follows what becomes of rows."""
        if not entry.holds_slot:
            self._backlog.put_without_slot()
        self._ledger.put(entry)
        if weather is not Weather.FAIR:
            self._note_weather(weather, self._lanes[entry.lane])
        self._suspects.note(row, entry.outcome)
        if entry.reverts:
            self._backlog.reopened(len(entry.reverts))

    def _note_weather(self, weather: Weather, lane: Lane) -> None:
        if weather in {Weather.BEGINS, Weather.ENDS, Weather.CROWDED}:
            name = {"endpoint": lane.name} if self._lanes.are_several else {}
            self._watcher.noted(weather.value, **name, in_flight=lane.gate.in_flight)

    def _committed(self, entries: Sequence[Entry], totals: Totals) -> None:
        """Take note of what is durable, and end the run early where that calls for it."""
        self._settling.committed(entries)
        self._pulse.add(entries, totals)
        self._deadline.add(entries)
        self._company.committed(entries)
        self._stop_early()

    def take_back(self, lane: int, rows: tuple[int, ...]) -> None:
        """Make failures pending again that a lane's breaker may still take back; too late once nothing is in flight."""
        if rows and not self._has_drained:
            self._backlog.put_without_slot()
            self._ledger.put(Entry(row=rows[0], totals=Totals(), lane=lane, holds_slot=False, reverts=rows))
            self._backlog.reopened(len(rows))

    async def _seal(self) -> None:
        """Seal parts as they get ready."""
        try:
            await self._sealing.seal(goes_on=lambda: not self._hurried, sealed=self._part_sealed)
        except BatchrunError as error:  # what is in flight can still be kept: the ledger may be well
            self.drain(Ending(status=error.status, reason=str(error)))
        finally:
            self._sealed.set()

    def _part_sealed(self, part: OpenPart) -> None:
        self._pulse.part_sealed()
        self._company.sealed(part)

    async def _tick(self) -> None:
        while True:
            ended = self._ended.is_set()
            progress = self._progress()
            self._watcher.progressed(progress)
            self._deadline.follow(progress)
            await self._company.progressed(progress)
            if ended:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._ended.wait()

    def _progress(self) -> Progress:
        return self._pulse.progress(
            self._worker.state(),
            lanes=self._lanes.progress(),
            waiting=self._backlog.waiting,
            draining=bool(self._endings.all),
            oldest=self._worker.oldest(OLDEST_SHOWN),
            deadline_s=self._deadline.left_s,
        )

    def drain(self, ending: Ending, after_s: float = 0.0) -> None:
        """Send nothing new; after `after_s` seconds give what is in flight the grace time, then let go of it."""
        self._endings.add(ending)
        self._company.draining(ending, after_s)
        self._close()
        self._grace.begin(after_s=after_s)

    def _close(self) -> None:
        self._backlog.close()
        self._lanes.close()
        self._worker.close()

    def _stop_early(self) -> None:
        """Drain once more rows have failed than may, where the job says so."""
        limits, pulse = self._run.job.limits, self._pulse
        if not (limits.stop_early and self._around.alone):
            return
        failed = pulse.failed - (self._lanes.suspected if "failed" in limits.fail_on else 0)
        ending = early_ending(limits, self._run.rows, settled=pulse.settled, failed=failed)
        if ending is not None and not self._endings.all:
            self.drain(ending)

    def let_go(self) -> None:
        """Cancel what is in flight, and seal nothing more; what is in hand is committed."""
        self._hurried = True
        self._let_go()

    async def ask(self, question: Callable[[Store], _Answer]) -> _Answer:
        """Run `question` on the ledger in a transaction of its own, after what was put before."""
        return await self._ledger.ask(question)

    def _let_go(self) -> None:
        for task in self._inner:
            task.cancel()

    def _ledger_failed(self, error: Exception) -> None:
        """Send nothing more: no slot would come back, and what was paid could not be kept."""
        self._failure = error
        self._close()
        self.let_go()

    def _signalled(self, number: signal.Signals) -> None:
        """Drain on the first signal, let go on the second."""
        if self._endings.have_signal:
            self.let_go()
        self.drain(stopped_by(number))


def _raise_first(group: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raise the one error that says why the run ended: a known one before a fault."""
    known = group.subgroup(BatchrunError)
    raise innermost(known if known is not None else group)
