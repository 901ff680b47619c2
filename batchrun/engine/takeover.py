"""What a worker process that is gone leaves: its ledger to the main one, its parts, share and budget to the others."""

from __future__ import annotations

import asyncio
import time

from batchrun.engine.lending import Lending
from batchrun.engine.member import Member
from batchrun.engine.shares import past_of_a_death
from batchrun.engine.sharing import Sharing
from batchrun.execution.around import Around
from batchrun.execution.exposure import spent_of
from batchrun.execution.leftovers import remove_spools
from batchrun.execution.parts import OpenPart
from batchrun.execution.resume import OpenRun, open_part, settle_replacing
from batchrun.ledger.adopting import Adopted, adopt


class Takeover:
    """Takes over what the worker processes of one run leave, one after the other."""

    def __init__(self, run: OpenRun, around: Around, sharing: Sharing, lending: Lending | None) -> None:
        """Put shares back into `sharing`, and settle what was lent by `lending`, where there is a budget."""
        self._run = run
        self._around = around
        self._sharing = sharing
        self._lending = lending

    async def take_over(self, member: Member, status: int) -> list[OpenPart]:
        """Take over what a member leaves that ended with this exit status; return the parts that others are to work.

        Raises OutputError or JobError where its ledger can't be read: what that holds was paid for.
        """
        run, pulse = self._run, self._around.pulse
        before = run.store.spent(0)
        adopted = await self._adopt(member)
        left = self._open_parts(member)
        if member.ended is not None:
            past = member.ended.past
        else:
            past = past_of_a_death(member.share, self._sharing.whole, before, adopted.spent, now=time.monotonic())
        self._sharing.ends(member, past)
        pulse.begin_from(run.store)
        member.report = None
        if self._lending is not None:
            self._lending.settle(member, spent_of(run))
        if member.ended is None:
            self._around.watcher.noted(
                "a worker process died; its parts are taken over, what it had in flight may be billed",
                process=member.seat.pid,
                status=status,
                parts=len(member.assigned),
                attempts=adopted.lost,
            )
        for _ in range(len(member.assigned) - len(left)):
            pulse.part_sealed()
        member.assigned.clear()
        return left

    async def _adopt(self, member: Member) -> Adopted:
        """Bring what its ledger holds into the main one."""
        run, places, adopted = self._run, self._run.places.of_worker(member.number), Adopted()
        if places.ledger.exists():
            adopted = await asyncio.to_thread(adopt, run.store, places.ledger)
            await asyncio.to_thread(settle_replacing, run.store, run.dataset, run.layout.rows_per_part)
        await asyncio.to_thread(remove_spools, [places.spool])
        return adopted

    def _open_parts(self, member: Member) -> list[OpenPart]:
        """Return the parts in a member's hands as they are open by the main ledger now."""
        store, hands = self._run.store, member.assigned.values()
        records = {record.part: record for record in store.parts()} if hands else {}
        left = (open_part(store, records.get(part.part), part.part, part.rows) for part in hands)
        return [part for part in left if part is not None]
