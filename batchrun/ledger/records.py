"""What goes into the ledger and what it counts, as values."""

# Without `from __future__ import annotations`: the text of each field would be compiled again, in 40 µs (measured).

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from batchrun.events import Totals
from batchrun.model.attempt import Tries
from batchrun.model.outcome import Outcome


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one attempt adds to the ledger: its totals, and either the row's outcome or its tries so far.

    `holds_slot` says that a slot of the lane with this number is to be given back once the entry is durable. `reverts`
    are rows settled before, as failed, that are pending again in the same transaction. `first_token_ms` is not kept: it
    is for whoever watches.
    """

    row: int
    totals: Totals
    outcome: Outcome | None = None
    tries: Tries | None = None
    holds_slot: bool = True
    lane: int = 0
    reverts: tuple[int, ...] = ()
    first_token_ms: float | None = None


class SpentMinute(NamedTuple):
    """What the attempts that were recorded in one minute, counted from 1970, used of the limits a day."""

    minute: int
    requests: int
    tokens: int


class Tallies(msgspec.Struct, frozen=True, kw_only=True):
    """Settled rows counted by status and by error class, and completed rows whose cost is unknown."""

    by_status: Mapping[str, int]
    by_error_class: Mapping[str, int]
    unpriced: int


class PartRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of a written part: the digest of its file, in hex, and its rows, counted."""

    part: int
    rows: int
    sha256: str
    tallies: Tallies


class SettledRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of a written part as it stands in its file."""

    row: int
    status: str
    error_class: str | None
    unpriced: bool
    tries: Tries
