"""The end of a run: the exit status that its rows and its ending deserve, and the summary that says so."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import msgspec

from batchrun.budget import Spent
from batchrun.errors import ExitStatus
from batchrun.events import Bound, Summary, SummaryInput, Totals
from batchrun.execution.ending import Ending
from batchrun.execution.exposure import spent_of
from batchrun.execution.identity import input_fingerprint
from batchrun.execution.resume import OpenRun
from batchrun.execution.tolerance import most_failed
from batchrun.job.settings import LimitSettings
from batchrun.ledger.lost import lost_attempts
from batchrun.ledger.records import Tallies
from batchrun.model.outcome import STATUSES
from batchrun.pricing import usd

_RANK = (
    ExitStatus.FAULT,
    ExitStatus.OUTPUT,
    ExitStatus.USAGE,  # the input changed while it was read
    ExitStatus.SIGINT,
    ExitStatus.SIGTERM,
    ExitStatus.ENDPOINT,
    ExitStatus.BUDGET,
    ExitStatus.DEADLINE,
    ExitStatus.FAILED,  # stopped early
)


def status_of_rows(tallies: Tallies, limits: LimitSettings, rows: int) -> tuple[ExitStatus, str]:
    """Return 0 or 1 for a run whose rows are all settled, and why (SPEC.md, section 4)."""
    failed = sum(tallies.by_status.get(status, 0) for status in set(limits.fail_on))
    if failed > most_failed(limits, rows):
        return ExitStatus.FAILED, f"{failed} of {rows} rows failed, more than max_failed = {limits.max_failed}"
    return (
        ExitStatus.OK,
        "every row is settled" if not failed else f"{failed} of {rows} rows failed, within max_failed",
    )


def first_ending(endings: Sequence[Ending]) -> Ending | None:
    """Return the ending that decides the exit status; of several the gravest wins."""
    return min(endings, key=lambda ending: _RANK.index(ending.status), default=None)


def _all_reasons(first: Ending, endings: Sequence[Ending]) -> str:
    """Return the reason that decides, and the others: a signal must not hide that the key was refused before it."""
    others = dict.fromkeys(ending.reason for ending in endings if ending.reason != first.reason)
    return f"{first.reason}; also: {'; '.join(others)}" if others else first.reason


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger counts at the end of a run; `first_token_ms`, `waited_s` and `used` are of this run alone.

    `lost` are the attempts that killed processes may have had in flight.
    """

    tallies: Tallies
    totals: Totals
    spent: Spent
    lost: int
    first_token_ms: float | None = None
    waited_s: Mapping[Bound, float] = {}
    used: Mapping[Bound, float] = {}


def counts_of(run: OpenRun) -> Counts:
    """Return what the ledger of a run counts, of this run alone nothing."""
    store = run.store
    return Counts(tallies=store.tallies(), totals=store.totals(), spent=spent_of(run), lost=lost_attempts(store))


def summary_of(
    run: OpenRun,
    counts: Counts,
    endings: Sequence[Ending],
    *,
    complete: bool,
    started_at: datetime,
    wall_s: float,
) -> Summary:
    """Return the summary of a run that has ended.

    `complete` says that every row is settled and every file in place; endings then only count where they are graver
    than the outcome of rows.
    """
    tallies, totals = counts.tallies, counts.totals
    settled = sum(tallies.by_status.values())
    ending = first_ending([ending for ending in endings if not complete or ending.status in _RANK[:2]])
    if ending is None and complete:
        status, reason = status_of_rows(tallies, run.job.limits, run.rows)
    elif ending is None:
        status, reason = ExitStatus.FAULT, f"{run.rows - settled} rows are not settled, for no known reason"
    else:
        status, reason = ending.status, _all_reasons(ending, endings)
    answered = settled - tallies.by_status.get("failed", 0)
    priced = answered - tallies.unpriced
    return Summary(
        run_id=run.run_id,
        job=run.job.name,
        state="complete" if complete else "partial",
        exit_status=int(status),
        reason=reason,
        rows=run.rows,
        by_status={name: tallies.by_status[name] for name in STATUSES if tallies.by_status.get(name)},
        by_error_class=dict(sorted(tallies.by_error_class.items())),
        requests_sent=totals.requests_sent,
        retries=totals.retries,
        throttled=totals.throttled,
        maybe_billed=totals.maybe_billed,
        prompt_tokens=totals.prompt_tokens if totals.prompt_tokens or not answered else None,
        completion_tokens=totals.completion_tokens if totals.completion_tokens or not answered else None,
        cost_usd=usd(totals.cost_nanousd) if priced > 0 or totals.cost_nanousd else None,
        unpriced_rows=tallies.unpriced,
        lost_attempts=counts.lost,
        held_usd=_held_usd(counts.spent, run.job.limits),
        started_at=started_at.isoformat(),
        finished_at=datetime.now(tz=UTC).isoformat(),
        wall_s=round(wall_s, 3),
        first_token_ms=counts.first_token_ms,
        bound_by=_longest(counts.waited_s),
        waited_s=counts.waited_s,
        used=counts.used,
        input=SummaryInput(path=run.job.input.path, fingerprint=input_fingerprint(run.examined.survey)),
        output=str(run.places.output),
        versions=versions(),
    )


def _held_usd(spent: Spent, limits: LimitSettings) -> float | None:
    """Return what the budget counts beside the known costs; None without a budget.

    An attempt without a bound counts as the dearest so far: while nothing has cost anything, that is not known either.
    """
    if limits.max_cost_usd is None or (spent.uncosted and not spent.dearest_nanousd):
        return None
    return usd(spent.nanousd - spent.known_nanousd)


def _longest(waited_s: Mapping[Bound, float]) -> Bound | None:
    """Return what was waited for longest, None where nothing was."""
    longest_s = max(waited_s.values(), default=0.0)
    return next((bound for bound, waited in waited_s.items() if waited == longest_s), None) if longest_s else None


def standing_summary(run: OpenRun) -> Summary | None:
    """Return the summary of an output that was complete before, where it still says what the ledger counts."""
    try:
        standing = msgspec.json.decode(run.places.summary.read_bytes(), type=Summary)
    except (OSError, msgspec.DecodeError):
        return None
    now = datetime.now(tz=UTC)
    counted = summary_of(run, counts_of(run), [], complete=True, started_at=now, wall_s=0.0)
    same = msgspec.structs.replace(
        counted,
        reason=standing.reason,
        started_at=standing.started_at,
        finished_at=standing.finished_at,
        wall_s=standing.wall_s,
        first_token_ms=standing.first_token_ms,
        bound_by=standing.bound_by,
        waited_s=standing.waited_s,
        used=standing.used,
        held_usd=standing.held_usd,
        input=standing.input,
        output=standing.output,
        versions=standing.versions,
    )
    return standing if same == standing else None


def versions() -> Mapping[str, str]:
    """Return the versions of batchrun, Python and the libraries that a result depends on."""
    names = ("batchrun-llm", "aiohttp", "aiolimiter", "pyarrow", "tenacity", "msgspec")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
