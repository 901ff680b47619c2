"""What an output has cost by its ledger, and how much a kill would, noted before anything is sent until the end."""

from __future__ import annotations

from batchrun.budget import Spent
from batchrun.events import Watcher
from batchrun.execution.leftovers import LOST
from batchrun.execution.resume import OpenRun
from batchrun.job.lanes import most_in_flight
from batchrun.ledger.lost import count_lost


def begin_sending(run: OpenRun, watcher: Watcher, *, most: int | None = None) -> None:
    """Note in the ledger how many attempts may be in flight from now on, so that a kill can't make them unseen.

    They are `most`, default: all that the job allows, but no more than rows are left. Those that an earlier run may
    have had in flight when it was killed count as billed, each as dear as the dearest.
    """
    pending = sum(part.pending for part in run.open_parts)
    with run.store.changing():
        lost = run.store.begin_sending(min(most_in_flight(run.job), pending) if most is None else most)
        count_lost(run.store, lost)
    if lost:
        watcher.noted(LOST, attempts=lost)


def end_sending(run: OpenRun) -> None:
    """Note that all that was in flight is recorded."""
    with run.store.changing():
        run.store.end_sending()


def spent_of(run: OpenRun) -> Spent:
    """Return what the ledger of a run says was spent."""
    totals = run.store.totals()
    return Spent(
        known_nanousd=totals.cost_nanousd,
        held_nanousd=totals.held_nanousd,
        uncosted=totals.uncosted,
        dearest_nanousd=run.store.dearest_nanousd(),
    )
