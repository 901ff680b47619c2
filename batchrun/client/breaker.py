"""When rows that fail alike are one systemic failure and not so many bad rows: PROTOCOL.md 2.2, #24; DESIGN.md 4. Pure.

The rows of the streak that may still trip the breaker are suspects: their failures are recorded like any other, so that
a crash loses none, but their parts wait, so that tripping can take them back in one transaction of the ledger. So are
rows that had no try left for what may turn out to be an outage of the endpoint: where it does, they are sent again.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

FIRST_ROWS = 20
ROWS_IN_A_ROW = 50


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What makes two rejections alike."""

    http_status: int | None
    code: str | None


class Trip(msgspec.Struct, frozen=True, kw_only=True):
    """The breaker has tripped: the row just finished stays pending, and so are `rows`, settled before it, again."""

    rows: tuple[int, ...]
    why: str


class Breaker:
    """Watches the finished rows of one lane: the first 20, or any 50 in a row, rejected alike are too many."""

    def __init__(self, *, enabled: bool = True) -> None:
        """Start with no row finished; never trip unless `enabled`."""
        self._enabled = enabled
        self._cause: Cause | None = None
        self._streak: list[int] = []
        self._only_this_cause = True
        self._tripped_by: Cause | None = None
        self._excusable: list[int] = []
        self._excused: list[int] = []

    @property
    def tripped_by(self) -> Cause | None:
        """What the run is to end for, None while it need not."""
        return self._tripped_by

    @property
    def has_tripped(self) -> bool:
        """Say whether the run is to end for it."""
        return self._tripped_by is not None

    def answered(self) -> None:
        """Take note of a finished row that is no rejection: the endpoint does answer this job."""
        if self._cause is None and not self._only_this_cause and not self._excusable:  # as after most rows
            return
        self.seen()
        if self._tripped_by is not None:  # what tripped it stays pending, and so do the parts of those rows
            return
        self._only_this_cause = False
        self._cause = None
        self._streak.clear()

    def seen(self) -> None:
        """Take note of an exchange after which the endpoint is there: what failed before it was no outage."""
        self._excusable.clear()

    def failed(self, row: int) -> None:
        """Take note of a row that failed for want of tries, for what may be an outage."""
        self._excusable.append(row)

    def excuse(self) -> tuple[int, ...]:
        """Return the rows that failed since the endpoint was last seen: it is an outage, they are to be sent again."""
        excused = tuple(self._excusable)
        self._excusable.clear()
        self._excused += excused
        return excused

    def returned(self, rows: Collection[int]) -> None:
        """Take note that rows which were taken back are pending again, and no suspects any more."""
        self._streak = [row for row in self._streak if row not in rows]
        self._excused = [row for row in self._excused if row not in rows]

    def first_alike(self, cause: Cause) -> int | None:
        """Return how many rows failed for this cause, None where any other thing ever became of one."""
        return len(self._streak) if self._only_this_cause and self._cause in {None, cause} else None

    def rejected(self, row: int, cause: Cause, *, beside: int = 0) -> Trip | None:
        """Take note of a row that failed as `rejected`; return what follows when that is one too many.

        `beside` are those that other lanes rejected alike, where no lane has answered anything else yet.
        """
        if not self._enabled:
            return None
        if self._tripped_by is not None:  # in flight when it tripped: they stay pending too
            return Trip(rows=(), why=self._why()) if cause == self._tripped_by else None
        if cause != self._cause:
            self._only_this_cause = self._only_this_cause and self._cause is None
            self._cause, self._streak = cause, []
        self._streak.append(row)
        first = len(self._streak) + beside if self._only_this_cause else 0
        if first < FIRST_ROWS and len(self._streak) < ROWS_IN_A_ROW:
            return None
        self._tripped_by = cause
        self._streak.pop()
        return Trip(rows=tuple(self._streak), why=self._why())

    def trip(self, cause: Cause) -> tuple[int, ...]:
        """Trip for what has tripped another process's breaker; return the rows that are to be pending again here."""
        if not self._enabled or self._tripped_by is not None:
            return ()
        self._tripped_by = cause
        if cause != self._cause:
            self._streak.clear()
        return tuple(self._streak)

    def suspects(self, rows: range) -> bool:
        """Say whether a failure among `rows` may still be taken back, or is on its way back."""
        return any(row in rows for row in (*self._streak, *self._excusable, *self._excused))

    @property
    def suspected(self) -> int:
        """How many failures may still be taken back."""
        return len(self._streak) + self.excusable

    @property
    def excusable(self) -> int:
        """How many of them for an outage."""
        return len(self._excusable) + len(self._excused)

    def let_go(self) -> None:
        """Suspect no rejected row any more: none will be taken back."""
        self._streak.clear()

    def _why(self) -> str:
        which = f"the first {FIRST_ROWS} rows" if self._only_this_cause else f"{ROWS_IN_A_ROW} rows in a row"
        return f"systemic failure: {which} failed alike and stay pending; see limits.breaker"
