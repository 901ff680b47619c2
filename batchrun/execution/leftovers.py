"""What worker processes of a killed run left behind, taken over: their ledgers adopted, their spools removed."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from batchrun.errors import BatchrunError
from batchrun.events import Watcher
from batchrun.job.places import Places
from batchrun.ledger.adopting import adopt
from batchrun.ledger.opening import open_store
from batchrun.ledger.store import Store

LOST = "the last run was killed; what it had in flight may be billed, at most"


def take_over_leftovers(store: Store, places: Places, watcher: Watcher) -> None:
    """Have the main ledger adopt those of worker processes that lie beside it; call it with the output's lock held.

    Raises OutputError or JobError where one can't be read: what it holds was paid for.
    """
    ledgers = places.worker_ledgers()
    lost = sum(adopt(store, path).lost for path in ledgers)
    if ledgers:
        watcher.noted("the ledgers of worker processes of a killed run were adopted", ledgers=len(ledgers))
    if lost:
        watcher.noted(LOST, attempts=lost)
    remove_spools(places.worker_spools())


def settle_standing(standing: Places, watcher: Watcher) -> None:
    """Take over what was left to an output that a fresh one is to replace, as far as that is to be had.

    What it used of limits a day would be forgotten else; a fresh start needs nothing more of it.
    """
    if standing.ledger.exists() and standing.worker_ledgers():
        with contextlib.suppress(BatchrunError), contextlib.closing(open_store(standing.ledger)) as store:
            take_over_leftovers(store, standing, watcher)


def remove_spools(spools: list[Path]) -> None:
    """Remove what worker processes had spooled."""
    for spool in spools:
        shutil.rmtree(spool, ignore_errors=True)
