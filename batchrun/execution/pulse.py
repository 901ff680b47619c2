"""Counts of a run as it goes, and the progress they make."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from batchrun.events import Bound, LaneProgress, LaneState, Progress, RowInFlight, Totals
from batchrun.execution.resume import OpenRun
from batchrun.ledger.records import Entry
from batchrun.ledger.store import Store
from batchrun.model.outcome import is_unpriced
from batchrun.pricing import usd

PACE_TICKS = 30
WORTH_TELLING_S = 0.1
FIRST_TOKENS = 1000
"""How many streamed replies the time to the first text is the median of."""


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What became durable: settled rows by status, completed ones of unknown cost, sums over all attempts."""

    by_status: Mapping[str, int] = {}
    unpriced: int = 0
    totals: Totals = Totals()


class Pulse:
    """Adds up what is durable, starting from what earlier runs of the output left."""

    def __init__(self, run: OpenRun, *, clock: Callable[[], float]) -> None:
        """Start from the run's ledger; `clock` is monotonic, in seconds."""
        self._run = run
        self._clock = clock
        self._fail_on = frozenset(run.job.limits.fail_on)
        self._began = clock()
        self.begin_from(run.store)
        self._paces: deque[tuple[float, int]] = deque(maxlen=PACE_TICKS)
        self._first_tokens_ms: deque[float] = deque(maxlen=FIRST_TOKENS)
        self._waited_s: dict[Bound, float] = {}
        self._ticks = 0
        self._used: dict[Bound, float] = {}
        self._sealed = run.parts - len(run.open_parts)

    def begin_from(self, store: Store) -> None:
        """Count anew from what the ledger holds."""
        tallies = store.tallies()
        self._by_status: Counter[str] = Counter(tallies.by_status)
        self._unpriced = tallies.unpriced
        self._totals = store.totals()
        self._elsewhere: Sequence[Counted] = ()

    def add_elsewhere(self, counted: Sequence[Counted]) -> None:
        """Add what is durable in other ledgers now, in the place of what was added so before."""
        for sign, some in ((-1, self._elsewhere), (1, counted)):
            for one in some:
                for status, count in one.by_status.items():
                    self._by_status[status] += sign * count
                self._unpriced += sign * one.unpriced
        self._elsewhere = counted

    def add_first_tokens(self, first_tokens_ms: Iterable[float]) -> None:
        """Count streamed replies of other processes."""
        self._first_tokens_ms.extend(first_tokens_ms)

    def take_first_tokens(self) -> list[float]:
        """Return the times to the first text since this was asked last, of the last replies; they count no more."""
        taken = list(self._first_tokens_ms)
        self._first_tokens_ms.clear()
        return taken

    def counted(self) -> Counted:
        """Return what is counted here."""
        return Counted(by_status=dict(self._by_status), unpriced=self._unpriced, totals=self._totals)

    def _all_totals(self) -> Totals:
        return Totals.sum_of([self._totals, *(one.totals for one in self._elsewhere)])

    def part_sealed(self) -> None:
        """Count one part more."""
        self._sealed += 1

    def add(self, entries: Sequence[Entry], totals: Totals) -> None:
        """Count entries that were committed, whose sums are `totals`."""
        self._totals = Totals.sum_of([self._totals, totals])
        by_status = self._by_status
        for entry in entries:
            if (outcome := entry.outcome) is not None:
                by_status[outcome.status] += 1
                if outcome.account.cost_nanousd is None:
                    self._unpriced += is_unpriced(outcome)
            if entry.reverts:
                by_status["failed"] -= len(entry.reverts)
            if entry.first_token_ms is not None:
                self._first_tokens_ms.append(entry.first_token_ms)

    @property
    def first_token_ms(self) -> float | None:
        """The median time to the first text of the last streamed replies of this run; None where there is none."""
        if not self._first_tokens_ms:
            return None
        from statistics import median  # noqa: PLC0415 - 1 ms of CPU that only streamed replies need

        return round(median(self._first_tokens_ms), 3)

    @property
    def waited_s(self) -> Mapping[Bound, float]:
        """How long attempts had waited for each thing when the last progress was made, in seconds."""
        return {bound: round(waited_s, 3) for bound, waited_s in self._waited_s.items()}

    @property
    def mean_used(self) -> Mapping[Bound, float]:
        """The share of each limit that was used, in the mean of all progress made."""
        return {bound: round(used / self._ticks, 4) for bound, used in self._used.items()}

    def _add_used(self, used: Mapping[Bound, float]) -> None:
        self._ticks += 1
        for bound, share in used.items():
            self._used[bound] = self._used.get(bound, 0.0) + share

    def _bound_by(self, waited_s: Mapping[Bound, float]) -> Bound | None:
        """Return what attempts waited for most since the last time, None where that was a tenth of a second or less."""
        more: dict[Bound, float] = {bound: after - self._waited_s.get(bound, 0.0) for bound, after in waited_s.items()}
        self._waited_s = dict(waited_s)
        longest_s = max(more.values(), default=0.0)
        return next(bound for bound in more if more[bound] == longest_s) if longest_s > WORTH_TELLING_S else None

    @property
    def settled(self) -> int:
        """Rows that are settled."""
        return sum(self._by_status.values())

    @property
    def failed(self) -> int:
        """Settled rows whose status is in `fail_on`."""
        return sum(self._by_status[status] for status in self._fail_on)

    def progress(
        self,
        lane: LaneState,
        *,
        waiting: int,
        draining: bool,
        oldest: Sequence[RowInFlight],
        deadline_s: float | None,
        lanes: Sequence[LaneProgress] = (),
    ) -> Progress:
        """Return the run as it stands; pace and forecast are those of the last half minute."""
        self._add_used(lane.used)
        now, totals = self._clock(), self._all_totals()
        settled = self.settled
        self._paces.append((now, settled))
        since, before = self._paces[0]
        rows_per_s = (settled - before) / (now - since) if now > since else 0.0
        left = self._run.rows - settled
        priced = settled - self._by_status["failed"] - self._unpriced
        return Progress(
            run_id=self._run.run_id,
            job=self._run.job.name,
            rows=self._run.rows,
            settled=settled,
            failed=self.failed,
            in_flight=lane.in_flight,
            slots=lane.slots,
            used=lane.used,
            bound_by=self._bound_by(lane.waited_s),
            waiting=waiting,
            parts=self._run.parts,
            parts_sealed=self._sealed,
            requests_sent=totals.requests_sent,
            retries=totals.retries,
            throttled=totals.throttled,
            maybe_billed=totals.maybe_billed,
            prompt_tokens=totals.prompt_tokens,
            completion_tokens=totals.completion_tokens,
            cost_usd=usd(totals.cost_nanousd) if priced > 0 or totals.cost_nanousd else None,
            unpriced_rows=self._unpriced,
            elapsed_s=now - self._began,
            paused_s=lane.paused_s,
            rows_per_s=rows_per_s,
            first_token_ms=self.first_token_ms,
            eta_s=left / rows_per_s if rows_per_s > 0 else None,
            draining=draining,
            oldest=oldest,
            lanes=lanes,
            at=datetime.now(tz=UTC).isoformat(),
            deadline_s=deadline_s,
        )
