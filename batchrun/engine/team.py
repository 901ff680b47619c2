"""The worker processes of one run, led from the process that holds its output: parts, shares, budget, ends, ledgers.

All that is said comes through one queue and is dealt with in its order, so no two things are decided at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Iterable, Mapping, Sequence

from batchrun.client.breaker import Cause
from batchrun.engine.bank import Bank
from batchrun.engine.forking import Seat
from batchrun.engine.handing import Handing
from batchrun.engine.lending import Lending
from batchrun.engine.member import HURRY_S, Member
from batchrun.engine.messages import (
    Answered,
    Begin,
    Drain,
    Draining,
    Ended,
    Fitting,
    LetGo,
    NoMoreParts,
    Note,
    Report,
    Returned,
    Sealed,
    Short,
    Wanting,
    Word,
)
from batchrun.engine.shares import Past, Share, most_shares, name_of, slots_in, whole_share
from batchrun.engine.sharing import Sharing
from batchrun.engine.takeover import Takeover
from batchrun.engine.telling import Telling
from batchrun.errors import BatchrunError
from batchrun.execution.around import Around
from batchrun.execution.ending import Ending
from batchrun.execution.endings import Endings, stopped_by
from batchrun.execution.exposure import begin_sending, spent_of
from batchrun.execution.flow import TICK_S
from batchrun.execution.parts import OpenPart
from batchrun.execution.resume import OpenRun
from batchrun.execution.sending import base_urls, tell_unpriced
from batchrun.execution.signals import STATUSES
from batchrun.pricing import nanousd_from_usd


class Team:
    """Leads worker processes to the end of a run; used once, inside the running loop."""

    def __init__(self, run: OpenRun, around: Around, seats: Iterable[Seat], *, as_needed: bool) -> None:
        """Lead the processes of `seats`: from the first answer on all of them work, or as many as are needed."""
        self._run = run
        self._around = around
        self._heard: asyncio.Queue[tuple[Member, Word | None]] = asyncio.Queue()  # as much as members say
        self._members = [Member(seat, self._hear_later) for seat in seats]
        self._as_needed = as_needed
        self._wanted = 1
        self._sharing = Sharing(whole_share(run.job), self._opening)
        self._telling = Telling(run, around)
        self._urls: tuple[str, ...] = ()
        self._has_answers = False
        self._slots: tuple[int, ...] = ()
        self._parts = Handing(run.open_parts)
        self._endings = Endings(around.watcher, self._in_flight)
        self.fault: str | None = None
        limit = nanousd_from_usd(run.job.limits.max_cost_usd)
        self._lending = None if limit is None else Lending(Bank(limit, spent_of(run), workers=len(self._members)))
        self._takeover = Takeover(run, around, self._sharing, self._lending)

    @property
    def queue(self) -> Sequence[OpenPart]:
        """The parts that nobody works."""
        return self._parts.left

    @property
    def endings(self) -> Sequence[Ending]:
        """Why the run ends early, as far as that has come up."""
        return self._endings.all

    async def go(self) -> None:
        """Lead to the end: all processes have ended then, and their ledgers are adopted.

        What is left in `queue` was not worked; `endings` say why, unless all processes died. Where one of them came
        upon a fault, `fault` says where that was.
        """
        tell_unpriced(self._run, self._around)
        begin_sending(self._run, self._around.watcher, most=0)
        with self._around.signals.handled(self._signalled):
            async with base_urls(self._run.job) as self._urls:
                for member in self._members:
                    await member.channel.open(member.seat.end)
                if not self.endings:
                    self._sharing.begin_alone(self._members[0])
                self._go_on()
                await self._lead()
                await self._tell()
        self._telling.note_slots()

    async def _lead(self) -> None:
        loop = asyncio.get_running_loop()
        next_tick = loop.time()
        while not all(member.is_gone for member in self._members):
            if loop.time() >= next_tick:
                await self._tick()
                next_tick = loop.time() + TICK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_tick):
                    member, word = await self._heard.get()
                if word is None:
                    await self._gone(member)
                else:
                    self._hear(member, word)

    async def _tick(self) -> None:
        await self._tell()
        early = self._telling.early_ending(self._members)
        if early is not None and not self.endings:
            self._drain(early)
        if self._as_needed and self._has_answers and all(one.is_busy for one in self._working):
            self._wanted = len(self._working) + 1
            self._go_on()
        for member in self._working:
            self._hand_out(member, anyhow=True)
        self._lend()
        for member in self._members:
            if member.tick():
                self._around.watcher.noted("a worker process hangs, and is killed", process=member.seat.pid)
                member.speaks()
                member.kill()

    async def _tell(self) -> None:
        used = None if self._lending is None else self._lending.used(self._working)
        await self._telling.tell(self._members, draining=bool(self.endings), budget_used=used)

    # Who works, and on what.

    @property
    def past(self) -> Past:
        """What was let in of late by processes that are gone."""
        return self._sharing.left

    @property
    def _working(self) -> list[Member]:
        return [member for member in self._members if member.is_working]

    def _opening(self, share: Share, past: Past, is_first: bool) -> Begin:  # noqa: FBT001 - an Opening
        """Return the message by which a member begins: with its part of the slots that others have learned."""
        whole = self._sharing.whole
        names = [name_of(lane, "slots") for lane in range(len(self._urls))]
        known = self._slots or (None,) * len(names)
        return Begin(
            urls=self._urls,
            share=share,
            past=past,
            slots=tuple(
                None if now is None else max(1, round(now * share[name] / whole[name]))
                for now, name in zip(known, names, strict=True)
            ),
            is_first=is_first,
            dearest_nanousd=self._run.store.dearest_nanousd(),
        )

    def _go_on(self) -> None:
        """Have as many work as are wanted and find parts, share anew, and dismiss the others once nobody works."""
        working, idle = self._working, [member for member in self._members if member.is_idle]
        joining: list[Member] = []
        if not self.endings and (self._has_answers or not working):
            most = min(self._wanted, most_shares(self._sharing.whole)) - len(working)
            joining = idle[: max(0, min(most, len(self.queue)))]
        if working or joining:
            self._slots = self._telling.slots or self._slots
            self._sharing.reshare([*working, *joining])
            if working and joining:
                self._around.watcher.noted("worker processes share the work", processes=len(working) + len(joining))
        else:
            for member in idle:
                member.channel.send(NoMoreParts())

    def _hand_out(self, member: Member, *, anyhow: bool = False) -> None:
        """Hand the next part to a member that waits for one.

        Until the first answer none gets more than its slots can begin with: the others are to find parts too.
        """
        most_pending = None if self._has_answers or anyhow else slots_in(self._sharing.whole)
        self._parts.hand_to(member, most_pending=most_pending)

    # What members say.

    def _hear_later(self, member: Member, word: Word | None) -> None:
        self._heard.put_nowait((member, word))

    def _hear(self, member: Member, word: Word) -> None:
        member.speaks()
        match word:
            case Wanting():
                member.is_waiting = True
                self._hand_out(member)
            case Sealed():
                member.assigned.pop(word.part, None)
                self._around.pulse.part_sealed()
                self._hand_out(member)
            case Answered() | Fitting():
                self._hear_of_share(member, word)
            case Report():
                self._telling.reported(member, word, self._members)
            case Note():
                self._telling.note(member, word)
            case Short() | Returned():
                if self._lending is not None:
                    self._lending.hear(member, word)
                    self._lend(recalling=isinstance(word, Short))
            case Draining() | Ended():
                self._hear_of_end(member, word)

    def _hear_of_share(self, member: Member, word: Answered | Fitting) -> None:
        if isinstance(word, Fitting):
            self._sharing.fits(member, word.share, word.past)
        elif not self._has_answers:
            self._has_answers = True
            self._slots = word.slots
            self._sharing.take_told(member, word.most)
            if not self._as_needed:
                self._wanted = len(self._members)
            self._go_on()
            self._hand_out(member)

    def _hear_of_end(self, member: Member, word: Draining | Ended) -> None:
        if isinstance(word, Draining):
            self._drain(word.ending, word.after_s, but=member, tripped=word.tripped)
            return
        member.ended = word
        member.channel.close()
        self.fault = self.fault or word.fault
        for ending in word.endings:
            if ending not in self.endings:
                self._drain(ending, but=member)

    def _lend(self, *, recalling: bool = True) -> None:
        if self._lending is not None and not self.endings:
            ending = self._lending.go_on(self._working, recalling=recalling)
            if ending is not None:
                self._drain(ending)

    # How it ends.

    def _drain(
        self,
        ending: Ending,
        after_s: float = 0.0,
        but: Member | None = None,
        tripped: Mapping[int, Cause] | None = None,
    ) -> None:
        """Have nothing new sent, for this reason; a reason is given once, but for signals."""
        known = {one.status for one in self.endings}
        if ending.status in known and ending.status not in STATUSES.values():
            return
        self._endings.add(ending)
        self._parts.close()
        for member in self._working:
            if member is not but:
                member.channel.send(Drain(ending=ending, after_s=after_s, tripped=tripped or {}))
        self._go_on()

    def _in_flight(self) -> int:
        return sum(one.report.lane.in_flight for one in self._working if one.report is not None)

    def _signalled(self, number: signal.Signals) -> None:
        """Drain on the first signal, let go on the second."""
        if self._endings.have_signal:
            for member in self._members:
                member.channel.send(LetGo())
                asyncio.get_running_loop().call_later(HURRY_S, member.kill)
        self._drain(stopped_by(number))

    async def _gone(self, member: Member) -> None:
        """Have others work what a process leaves that is gone."""
        status = await member.end()
        if member.has_begun:
            try:
                left = await self._takeover.take_over(member, status)
            except BatchrunError as error:
                self._drain(Ending(status=error.status, reason=str(error)))
            else:
                self._parts.put_back(left)
        self._go_on()
        for other in self._working:
            self._hand_out(other)
        self._lend()
