"""What the process that holds an output and its worker processes tell each other, as values.

holder → worker:  Begin, Part, NoMoreParts, Reshare, Lend, Recall, Drain, LetGo
worker → holder:  Wanting, Sealed, Answered, Fitting, Report, Note, Short, Returned, Draining, Ended
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from batchrun.budget import Spent
from batchrun.client.breaker import Cause
from batchrun.engine.shares import Past, Share
from batchrun.events import LaneProgress, LaneState, RowInFlight
from batchrun.execution.ending import Ending
from batchrun.execution.parts import OpenPart
from batchrun.execution.pulse import Counted


class _Message(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One message; its tag is the name of its type."""


class Begin(_Message, frozen=True, kw_only=True):
    """Take up work with this share of the limits and the past that goes with it, at these base URLs.

    The first worker has the whole share, and the past that the ledger knows. `slots` is where the slots of each lane
    start, None where nothing is known. `dearest_nanousd` is the highest cost of one attempt so far.
    """

    urls: tuple[str, ...]
    share: Share
    past: Past = {}
    slots: tuple[int | None, ...] = ()
    is_first: bool
    dearest_nanousd: int = 0


class Part(_Message, frozen=True, kw_only=True):
    """A part to be worked; see OpenPart, whose ranges are these numbers."""

    part: int
    first: int
    stop: int
    kept_stop: int
    pending: int

    @classmethod
    def of(cls, part: OpenPart) -> Part:
        """Return the message that hands a part out."""
        rows, kept = part.rows, part.kept
        return cls(part=part.part, first=rows.start, stop=rows.stop, kept_stop=kept.stop, pending=part.pending)

    def open_part(self) -> OpenPart:
        """Return the part."""
        rows, kept = range(self.first, self.stop), range(self.first, self.kept_stop)
        return OpenPart(part=self.part, rows=rows, kept=kept, pending=self.pending)


class NoMoreParts(_Message, frozen=True):
    """No part is left: end when those in hand are sealed."""


class Reshare(_Message, frozen=True, kw_only=True):
    """Hold to this share from now on, and to the past that goes with what is new in it."""

    share: Share
    past: Past = {}


class Lend(_Message, frozen=True, kw_only=True):
    """So much more of the budget may be spent."""

    nanousd: int


class Recall(_Message, frozen=True):
    """Give back what is lent and neither spent nor reserved."""


class Drain(_Message, frozen=True, kw_only=True):
    """Send nothing new, for this reason; the grace time begins after `after_s` seconds.

    `tripped` says what tripped the breakers of which lanes: rows that failed alike are to be pending again.
    """

    ending: Ending
    after_s: float = 0.0
    tripped: Mapping[int, Cause] = {}


class LetGo(_Message, frozen=True):
    """Wait for nothing that is in flight."""


class Wanting(_Message, frozen=True):
    """The parts in hand are read to their end."""


class Sealed(_Message, frozen=True, kw_only=True):
    """A part is in place."""

    part: int


class Answered(_Message, frozen=True, kw_only=True):
    """The first completed row is durable.

    Each lane has `slots` now and may have `most`, which is less than its share where its provider told so.
    """

    most: tuple[int, ...]
    slots: tuple[int, ...]


class Fitting(_Message, frozen=True, kw_only=True):
    """What is in flight fits into this share, on the way to the narrower one; this past goes with what was given up."""

    share: Share
    past: Past = {}


class Report(_Message, frozen=True, kw_only=True):
    """How far a worker has come, about once a second.

    `counted` is what stands in its ledger of its own. `slots` are those of each lane now. `cpu_s` is the time its
    process has computed until `at_s` by the machine's monotonic clock, `taken_nanousd` what it has spent and reserved.
    `suspected` failures may still be taken back.
    """

    counted: Counted
    lane: LaneState
    lanes: Sequence[LaneProgress]
    slots: tuple[int, ...]
    learned: tuple[int | None, ...]
    waiting: int
    oldest: Sequence[RowInFlight]
    first_tokens_ms: Sequence[float]
    suspected: int
    cpu_s: float
    at_s: float
    taken_nanousd: int = 0


class Note(_Message, frozen=True, kw_only=True):
    """What a watcher is to be told."""

    event: str
    facts: Mapping[str, str | int | float | None]


class Short(_Message, frozen=True, kw_only=True):
    """The next attempt needs so much more of the budget; `out` attempts hold reservations."""

    nanousd: int
    out: int
    spent: Spent


class Returned(_Message, frozen=True, kw_only=True):
    """So much of what was lent is given back."""

    nanousd: int
    spent: Spent


class Draining(_Message, frozen=True, kw_only=True):
    """The worker sends nothing new, for this reason; as in Drain."""

    ending: Ending
    after_s: float
    tripped: Mapping[int, Cause] = {}


class Ended(_Message, frozen=True, kw_only=True):
    """The worker has ended; `past` is all it had let in of late.

    `fault` says where in the code it failed, if it did.
    """

    endings: Sequence[Ending]
    past: Past = {}
    fault: str | None = None


Order = Begin | Part | NoMoreParts | Reshare | Lend | Recall | Drain | LetGo
Word = Wanting | Sealed | Answered | Fitting | Report | Note | Short | Returned | Draining | Ended
