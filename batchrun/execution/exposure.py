"""What an output has cost by its ledger, and how much a kill would, noted before anything is sent until the end."""

from __future__ import annotations

from batchrun.budget import Spent, most_completion_tokens
from batchrun.events import Watcher
from batchrun.execution.leftovers import LOST
from batchrun.execution.resume import OpenRun
from batchrun.job.lanes import most_in_flight
from batchrun.ledger.lost import count_lost


def begin_sending(run: OpenRun, watcher: Watcher, *, most: int | None = None) -> None:
    """Note in the ledger how many attempts may be in flight from now on, so that a kill can't make them unseen.

    They are `most`, default: all that the job allows, but no more than rows are left. Those that an earlier run may
    have had in flight when it was killed count as billed, each as dear as the dearest, or where none was answered yet
    as the most that the output of one may cost.
    """
    pending = sum(part.pending for part in run.open_parts)
    most = min(most_in_flight(run.job), pending) if most is None else most
    with run.store.changing():
        lost = run.store.begin_sending(most, unseen_nanousd=_most_of_an_output(run))
        count_lost(run.store, lost)
    if lost:
        watcher.noted(LOST, attempts=lost)


def _most_of_an_output(run: OpenRun) -> int:
    """Return the most that the output of one attempt may cost by the job alone, in nano-USD; 0 where nothing says so.

    Not that of any row: a template that never ends may be why the run before was killed.
    """
    rates, completion_tokens = run.examined.quote.rates, most_completion_tokens(run.job.request)
    return 0 if rates is None or completion_tokens is None else rates.most_nanousd(0, completion_tokens)


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
