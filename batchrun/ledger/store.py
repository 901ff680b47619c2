"""What the ledger keeps of rows, parts and spending, and what changes of it together."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from batchrun.events import TOTAL_NAMES, Totals
from batchrun.ledger.groups import grouped, in_order
from batchrun.ledger.records import Entry, PartRecord, SettledRow, SpentMinute, Tallies
from batchrun.ledger.tables import Tables
from batchrun.model.attempt import PASSING_ERRORS, Tries
from batchrun.model.outcome import Outcome, is_unpriced, pack, unpack_all

ASSEMBLED = "assembled"
"""The name under which the digest of the single output file is noted; any new part makes it void."""
_ADD_TOTALS = (
    f"UPDATE totals SET {', '.join(f'{name} = {name} + ?' for name in TOTAL_NAMES)}, "  # noqa: S608
    "dearest_nanousd = max(dearest_nanousd, ?)"
)
_ADD_SPENT = (
    "INSERT INTO spent VALUES (?, ?, ?) ON CONFLICT (minute) DO UPDATE "
    "SET requests = requests + excluded.requests, tokens = tokens + excluded.tokens"
)
_BY_ROW = """
SELECT first, packed, 1 FROM grouped WHERE first < ?2 AND last >= ?1
UNION ALL SELECT row, packed, 0 FROM outcome WHERE row >= ?1 AND row < ?2 ORDER BY 1
"""
_GROUPS_ACROSS = "SELECT first FROM grouped WHERE first < ?2 AND last >= ?1 AND NOT (first >= ?1 AND last < ?2)"
_EVERY_ROW = range(2**63 - 1)
_FOR_GOOD = frozenset(["held_nanousd", "uncosted"])
"""Totals that an untouched output keeps when it is begun anew: what was in flight when it was killed may be billed."""
SENDING = "sending"
"""The name under which the most attempts that may be in flight are noted while a run sends."""


class Store(Tables):
    """What the ledger keeps, over one connection; used by one thread at a time."""

    def commit(self, entries: Sequence[Entry]) -> Totals:
        """Add entries in one transaction, and take back what they revert; return what they add to the totals."""
        totals = Totals.sum_of([entry.totals for entry in entries])
        dearest_nanousd = max((entry.totals.cost_nanousd for entry in entries), default=0) if totals.cost_nanousd else 0
        group, outcomes = grouped([entry.outcome for entry in entries if entry.outcome is not None])
        tries = [(entry.row, entry.tries) for entry in entries if entry.tries is not None]
        reverted = [row for entry in entries if entry.reverts for row in entry.reverts]
        with self.changing():
            if group is not None:
                self._connection.execute("INSERT INTO grouped VALUES (?, ?, ?)", group)
            if outcomes:
                self._put_outcomes(outcomes)
            if tries:
                self._put_tries(tries)
            if reverted:
                self._forget([found for row in reverted for found in self.outcomes(range(row, row + 1))])
            self._connection.execute(_ADD_TOTALS, (*msgspec.structs.astuple(totals), dearest_nanousd))
            tokens = totals.prompt_tokens + totals.completion_tokens
            self._connection.execute(_ADD_SPENT, (int(time.time() // 60), totals.requests_sent, tokens))
        return totals

    def _put_outcomes(self, outcomes: Iterable[Outcome]) -> None:
        packed = [(outcome.row, pack(outcome)) for outcome in outcomes]
        self._connection.executemany("INSERT INTO outcome VALUES (?, ?)", packed)

    def has_groups(self) -> bool:
        """Say whether some outcomes are kept several in a row."""
        return any(True for _ in self._rows("SELECT 1 FROM grouped LIMIT 1"))

    def ungroup(self) -> None:
        """Keep each outcome in a row of its own, which can be taken out alone."""
        self._ungroup("SELECT first FROM grouped")

    def _ungroup(self, query: str, values: Sequence[object] = ()) -> None:
        for (first,) in list(self._rows(query, values)):
            ((packed,),) = self._rows("SELECT packed FROM grouped WHERE first = ?", (first,))
            outcomes = [(outcome.row, pack(outcome)) for outcome in unpack_all(packed)]
            # A row never comes twice; if it did, the ledger would still have to be opened.
            self._connection.executemany("INSERT OR IGNORE INTO outcome VALUES (?, ?)", outcomes)
            self._connection.execute("DELETE FROM grouped WHERE first = ?", (first,))

    def add_totals(self, totals: Totals, *, dearest_nanousd: int) -> None:
        """Add what another ledger counted."""
        self._connection.execute(_ADD_TOTALS, (*msgspec.structs.astuple(totals), dearest_nanousd))

    def begin_anew(self) -> None:
        """Forget the attempts of an untouched output."""
        self._connection.execute("DELETE FROM tries")
        self._connection.execute(
            f"UPDATE totals SET {', '.join(f'{name} = 0' for name in TOTAL_NAMES if name not in _FOR_GOOD)}"  # noqa: S608
        )

    def totals(self) -> Totals:
        """Return the running totals."""
        values = next(self._rows(f"SELECT {', '.join(TOTAL_NAMES)} FROM totals"))  # noqa: S608
        return Totals(**dict(zip(TOTAL_NAMES, values, strict=True)))

    def spent(self, since_minute: int) -> list[SpentMinute]:
        """Return what the attempts of the minutes since then used, in order."""
        query = "SELECT minute, requests, tokens FROM spent WHERE minute >= ? ORDER BY minute"
        return [SpentMinute(*values) for values in self._rows(query, (since_minute,))]

    def add_spent(self, minutes: Iterable[SpentMinute]) -> None:
        """Add what another ledger's attempts used."""
        self._connection.executemany(_ADD_SPENT, minutes)

    def dearest_nanousd(self) -> int:
        """Return the highest cost of one attempt so far."""
        return int(next(self._rows("SELECT dearest_nanousd FROM totals"))[0])

    def begin_sending(self, most_in_flight: int, *, unseen_nanousd: int = 0) -> int:
        """Note that a run sends; return how many attempts a run that was killed may have had in flight, now counted.

        As long as nothing was seen to cost anything, all that are counted keep `unseen_nanousd` each.
        """
        lost = int(self.noted(SENDING) or 0)
        self._connection.execute("UPDATE totals SET uncosted = uncosted + ?", (lost,))
        if unseen_nanousd:
            self._connection.execute(
                "UPDATE totals SET held_nanousd = held_nanousd + uncosted * ?, uncosted = 0 WHERE dearest_nanousd = 0",
                (unseen_nanousd,),
            )
        self.note(**{SENDING: str(most_in_flight)})
        return lost

    def end_sending(self) -> None:
        """Note that the run which sends has recorded all that it had in flight."""
        self._connection.execute("DELETE FROM meta WHERE name = ?", (SENDING,))

    def is_untouched(self) -> bool:
        """Say whether nothing was settled or paid here yet, so that nothing would be lost by beginning anew."""
        totals = self.totals()
        if totals.cost_nanousd or totals.maybe_billed:
            return False
        tables = ("outcome", "grouped", "part", "replacing", "reopened")
        return not any(True for table in tables for _ in self._rows(f"SELECT 1 FROM {table} LIMIT 1"))  # noqa: S608

    def tallies(self) -> Tallies:
        """Count the settled rows: those of written parts, less the reopened ones, and those whose part is open."""
        by_status: Counter[str] = Counter()
        by_error_class: Counter[str] = Counter()
        unpriced = 0
        for part in self.parts():
            by_status.update(part.tallies.by_status)
            by_error_class.update(part.tallies.by_error_class)
            unpriced += part.tallies.unpriced
        for outcome in self._open_outcomes():
            by_status[outcome.status] += 1
            if outcome.error_class is not None:
                by_error_class[outcome.error_class] += 1
            unpriced += is_unpriced(outcome)
        for status, error_class, without_price in self._rows("SELECT status, error_class, unpriced FROM reopened"):
            by_status[status] -= 1
            if error_class is not None:
                by_error_class[error_class] -= 1
            unpriced -= without_price
        return Tallies(by_status=dict(+by_status), by_error_class=dict(+by_error_class), unpriced=unpriced)

    def parts(self) -> list[PartRecord]:
        """Return all written parts, in order."""
        return self._records("SELECT record FROM part ORDER BY part")

    def replacing(self) -> list[PartRecord]:
        """Return the parts whose file was about to be put in place when the last run ended."""
        return self._records("SELECT record FROM replacing ORDER BY part")

    def _records(self, query: str) -> list[PartRecord]:
        return [msgspec.json.decode(record, type=PartRecord) for (record,) in self._rows(query)]

    def replace_part(self, record: PartRecord) -> None:
        """First step of publishing a part: the file under its name is being replaced by the one with this digest."""
        self._connection.execute(
            "INSERT OR REPLACE INTO replacing VALUES (?, ?)",
            (record.part, msgspec.json.encode(record).decode()),
        )

    def confirm_part(self, record: PartRecord, rows: range) -> None:
        """Second step: the file is in place, so the outcomes of its rows are not needed here any more."""
        text = msgspec.json.encode(record).decode()
        self._connection.execute("INSERT OR REPLACE INTO part VALUES (?, ?)", (record.part, text))
        self._connection.execute("DELETE FROM replacing WHERE part = ?", (record.part,))
        self._ungroup(_GROUPS_ACROSS, (rows.start, rows.stop))
        self._connection.execute("DELETE FROM grouped WHERE first >= ? AND last < ?", (rows.start, rows.stop))
        self._connection.execute("DELETE FROM outcome WHERE row >= ? AND row < ?", (rows.start, rows.stop))
        self._connection.execute("DELETE FROM reopened WHERE row >= ? AND row < ?", (rows.start, rows.stop))
        self._connection.execute("DELETE FROM tries WHERE row >= ? AND row < ?", (rows.start, rows.stop))
        self._connection.execute("DELETE FROM meta WHERE name = ?", (ASSEMBLED,))

    def abandon_replacing(self, part: int) -> None:
        """Take the first step back: the file was not put in place, what the ledger holds is still right."""
        self._connection.execute("DELETE FROM replacing WHERE part = ?", (part,))

    def forget_part(self, part: int, rows: range) -> None:
        """Drop a part whose file is gone or is not the one that was written: its rows are pending again."""
        self._connection.execute("DELETE FROM part WHERE part = ?", (part,))
        self._connection.execute("DELETE FROM reopened WHERE row >= ? AND row < ?", (rows.start, rows.stop))

    def reopen(self, rows: Iterable[SettledRow]) -> None:
        """Make rows of written parts pending again; their parts are rewritten once they are settled anew."""
        some = [row for row in rows if not self.count_reopened(range(row.row, row.row + 1))]
        self._connection.executemany(
            "INSERT INTO reopened VALUES (?, ?, ?, ?)",
            ((row.row, row.status, row.error_class, row.unpriced) for row in some),
        )
        self._take_along((row.row, row.tries) for row in some)

    def forget_passing_failures(self) -> int:
        """Make open rows pending again whose failure may pass (SPEC.md, section 4); return how many."""
        return self._forget(found for found in self._open_outcomes() if found.error_class in PASSING_ERRORS)

    def forget_outcomes(self, statuses: Sequence[str]) -> int:
        """Make open rows with one of these statuses pending again; return how many."""
        return self._forget(found for found in self._open_outcomes() if found.status in statuses)

    def _open_outcomes(self) -> Iterator[Outcome]:
        """Yield all outcomes that are here: those of parts which are not written yet."""
        return self.outcomes(_EVERY_ROW)

    def _forget(self, outcomes: Iterable[Outcome]) -> int:
        """Make rows pending again, with the tries that their outcomes tell of; return how many."""
        tries = [(outcome.row, outcome.account.tries()) for outcome in outcomes]
        self._take_along(tries)
        if tries:
            self.ungroup()
        self._connection.executemany("DELETE FROM outcome WHERE row = ?", [(row,) for row, _ in tries])
        return len(tries)

    def _take_along(self, tries: Iterable[tuple[int, Tries]]) -> None:
        self._put_tries((row, one) for row, one in tries if one.attempts)

    def _put_tries(self, tries: Iterable[tuple[int, Tries]]) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO tries VALUES (?, ?)", [(row, msgspec.msgpack.encode(one)) for row, one in tries]
        )

    def count_settled(self, rows: range) -> int:
        """Return how many of `rows` have an outcome here."""
        return len(self.settled(rows))

    def count_reopened(self, rows: range) -> int:
        """Return how many of `rows` were reopened."""
        return self.count("reopened", rows)

    def reopened(self, rows: range) -> set[int]:
        """Return those of `rows` that were reopened."""
        found = self._rows("SELECT row FROM reopened WHERE row >= ? AND row < ?", (rows.start, rows.stop))
        return {row for (row,) in found}

    def settled(self, rows: range) -> set[int]:
        """Return those of `rows` that have an outcome here."""
        query = "SELECT packed FROM grouped WHERE first < ? AND last >= ?"
        groups = (unpack_all(packed) for (packed,) in self._rows(query, (rows.stop, rows.start)))
        found = self._rows("SELECT row FROM outcome WHERE row >= ? AND row < ?", (rows.start, rows.stop))
        return {row for (row,) in found} | {one.row for group in groups for one in group if one.row in rows}

    def tries(self, rows: range) -> dict[int, Tries]:
        """Return what earlier attempts of `rows` came to, budgets afresh: money and ambiguity are not forgotten."""
        found = self._rows("SELECT row, packed FROM tries WHERE row >= ? AND row < ?", (rows.start, rows.stop))
        return {row: _tries(packed).afresh() for row, packed in found}

    def outcomes(self, rows: range) -> Iterator[Outcome]:
        """Yield the outcomes of `rows` that are here, in row order."""
        return in_order(self._rows(_BY_ROW, (rows.start, rows.stop)), rows)


def _tries(packed: bytes) -> Tries:
    """Decode what a row's attempts came to; ledgers from before `Tries.lines` hold a number in its place."""
    values = msgspec.msgpack.decode(packed, type=list[object])
    if isinstance(values[_LINES], int):
        values[_LINES] = ()
    return msgspec.convert(values, Tries)


_LINES = Tries.__struct_fields__.index("lines")
