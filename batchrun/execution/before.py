"""What a run takes over of the last day, from its own ledger and from one before it: a start for slots, used quotas."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence

import msgspec

from batchrun.client.rate import DAY_S
from batchrun.errors import OutputError
from batchrun.job.lanes import LanePlan
from batchrun.job.options import RunOptions
from batchrun.job.places import Places, places_of
from batchrun.job.settings import Job
from batchrun.ledger.adopting import LEDGER_ID
from batchrun.ledger.opening import reading
from batchrun.ledger.records import SpentMinute
from batchrun.ledger.store import Store

MINUTE_S = 60.0


class Before(msgspec.Struct, frozen=True, kw_only=True):
    """Where the slots of each lane left off, None where nothing is known, and what the last day's minutes used."""

    slots: tuple[int | None, ...] = ()
    spent: tuple[SpentMinute, ...] = ()


def slots_note(number: int, name: str) -> str:
    """Return the name under which the ledger notes where the slots of a lane left off."""
    return "slots" if number == 0 else f"slots of {name}"


def before_of(store: Store, others: Iterable[Places | None], lanes: Sequence[LanePlan]) -> Before:
    """Return what to take over from this output's ledger, and once from each of the `others`, where it can be read.

    The others are what a fresh start replaces, and the output of the day before. What they used of limits a day goes
    into this ledger, so that it is not forgotten with them.
    """
    names = [slots_note(number, lane.name) for number, lane in enumerate(lanes)]
    since_minute = int((time.time() - DAY_S) // MINUTE_S)
    for other in others:
        if other is not None and other.ledger.exists():
            for ledger in (other.ledger, *other.worker_ledgers()):
                with contextlib.suppress(OutputError), reading(ledger) as earlier:  # it would only have helped
                    _take_over(store, earlier, names, since_minute)
    noted = [store.noted(name) for name in names]
    slots = tuple(None if text is None else int(text) for text in noted)
    return Before(slots=slots, spent=tuple(store.spent(since_minute)))


def _take_over(store: Store, earlier: Store, names: Sequence[str], since_minute: int) -> None:
    taken = f"took over {earlier.noted(LEDGER_ID) or earlier.noted('run_id')}"
    spent = earlier.spent(since_minute)
    slots = {name: noted for name in names if (noted := earlier.noted(name)) and not store.noted(name)}
    if store.noted(taken) is None:
        with store.changing():
            store.add_spent(spent)
            store.note(**{taken: "yes", **slots})


def earlier_places(job: Job, options: RunOptions) -> Places | None:
    """Return the paths of the output that the run of the day before would have written to."""
    if options.earlier_output is None:
        return None
    return places_of(msgspec.structs.replace(job, output=options.earlier_output))
