"""What a worker process that is gone leaves: its ledger to the main one, its parts and its share to the others."""

from __future__ import annotations

import asyncio
import time

import msgspec

from batchrun.engine.member import Member
from batchrun.engine.shares import Past, Share, past_of_a_death
from batchrun.execution.leftovers import remove_spools
from batchrun.execution.parts import OpenPart
from batchrun.execution.resume import OpenRun, open_part, settle_replacing
from batchrun.ledger.adopting import Adopted, adopt


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken over: the past of the share, the parts that are open still, and the attempts that were in flight.

    Those that were in flight are known only of a process that died, and may be billed.
    """

    past: Past
    parts: tuple[OpenPart, ...]
    lost: int


async def take_over(run: OpenRun, member: Member, whole: Share) -> Taken:
    """Adopt the ledger of a member that is gone, whose share was one of `whole`; return what it leaves to others.

    Raises OutputError or JobError where its ledger can't be read: what that holds was paid for.
    """
    store, places = run.store, run.places.of_worker(member.number)
    before, adopted = store.spent(0), Adopted()
    if places.ledger.exists():
        adopted = await asyncio.to_thread(adopt, store, places.ledger)
        await asyncio.to_thread(settle_replacing, store, run.dataset, run.layout.rows_per_part)
    await asyncio.to_thread(remove_spools, [places.spool])
    if member.ended is not None:
        past = member.ended.past
    else:
        past = past_of_a_death(member.share, whole, before, adopted.spent, now=time.monotonic())
    return Taken(past=past, parts=_open_parts(run, member), lost=adopted.lost)


def _open_parts(run: OpenRun, member: Member) -> tuple[OpenPart, ...]:
    """Return the parts in a member's hands as they are open by the main ledger now."""
    records = {record.part: record for record in run.store.parts()} if member.assigned else {}
    left = (open_part(run.store, records.get(part.part), part.part, part.rows) for part in member.assigned.values())
    return tuple([part for part in left if part is not None])
