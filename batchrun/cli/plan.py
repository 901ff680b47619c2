"""`batchrun plan`: what a run would do, shown without sending anything."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator, Sequence

import click
import msgspec

from batchrun.cli.pace import pace_of
from batchrun.cli.wording import duration
from batchrun.engine.access import access_of
from batchrun.errors import JobError
from batchrun.execution.affording import LOOKED_AT_ROWS, CostRange, cost_range
from batchrun.execution.deadline import local_text
from batchrun.execution.examine import Examined, examine
from batchrun.execution.requesting import Requests
from batchrun.job.deadline import deadline_at
from batchrun.job.load import load_job
from batchrun.job.places import places_of
from batchrun.job.settings import Job
from batchrun.pricing import Rate, nanousd_from_usd, usd_text
from batchrun.worker import OpenRow


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run would do: rows, files, what is still missing for it, and its first requests as they would be sent.

    `shortest_time_s` and `days` are what one request for each row takes at least by the limits in `paced_by`, `days`
    only where a day has one. Where no `price` is known, `unpriced` says why. `deadline` is that of a run started now,
    `rows_by_deadline` how many rows the limits of pace let it send until then, None where one of the two is not set.
    `budget` says what limits.max_cost_usd means for the job. Of the first `looked_at` rows `unsendable` ones would fail
    before they are sent, the first of them because of `problem`.
    """

    job: str
    input: str
    output: str
    rows: int
    parts: int
    columns: Sequence[str]
    files: Sequence[str]
    paced_by: Sequence[str]
    shortest_time_s: float | None
    days: int | None
    deadline: str | None
    deadline_s: float | None
    rows_by_deadline: int | None
    price: ShownPrice | None
    unpriced: str | None
    cost: CostRange | None
    budget: str | None
    missing: str | None
    looked_at: int
    unsendable: int
    problem: str | None
    requests: Sequence[ShownRequest]


class ShownPrice(msgspec.Struct, frozen=True, kw_only=True):
    """USD for 1,000,000 tokens, each rate as `1.25 (2.5 above 200,000 prompt tokens)`, and whose price it is."""

    source: str
    input: str
    output: str
    cached_input: str | None
    cache_write: str | None


class ShownRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A rendered request, or why its row would fail."""

    row: int
    body: msgspec.Raw | None = None
    problem: str | None = None


def plan_job_file(
    path: str,
    overrides: Sequence[str],
    date: dt.date | None,
    *,
    limit: int | None,
    shown: int,
    as_json: bool,
) -> None:
    """Check a job file against its input and print the plan; raises JobError when anything is wrong.

    That is so too, once the plan is printed, where it could look at all rows and none can be sent.
    """
    job = load_job(path, overrides=overrides, date=date)
    examined = examine(job, places_of(job))
    rows = examined.survey.rows if limit is None else min(limit, examined.survey.rows)
    pace = pace_of(job)
    deadline, deadline_s = _deadline(job)
    cost = cost_range(examined, rows)
    first = _first_rows(examined, rows, shown)
    plan = Plan(
        job=job.name,
        input=job.input.path,
        output=job.output.path,
        rows=rows,
        parts=max(1, -(-rows // job.output.rows_per_part)),
        columns=[
            column.name if column.kind == "arrow" else f"{column.name}: {column.kind}"
            for column in examined.survey.columns
        ],
        files=[f"{file.path}: {file.rows:,} rows, {file.size:,} bytes" for file in examined.survey.files],
        paced_by=pace.keys,
        shortest_time_s=pace.shortest_s(rows),
        days=pace.days(rows),
        deadline=deadline,
        deadline_s=deadline_s,
        rows_by_deadline=pace.rows_by(deadline_s, rows),
        price=_price(examined),
        unpriced=examined.quote.unknown,
        cost=cost,
        budget=_budget(job.limits.max_cost_usd, cost),
        missing=_missing(job),
        looked_at=first.looked_at,
        unsendable=first.unsendable,
        problem=first.problem,
        requests=first.shown,
    )
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(plan), indent=2).decode())
    else:
        click.echo("\n".join(_lines(plan)))
    if 0 < rows == first.unsendable:
        raise JobError(f"input: none of the {rows:,} rows can be sent; {first.problem}")


class _FirstRows(msgspec.Struct, frozen=True, kw_only=True):
    """What the first `looked_at` rows come to; `problem` is that of the first that is `unsendable`."""

    looked_at: int
    unsendable: int
    problem: str | None
    shown: Sequence[ShownRequest]


def _first_rows(examined: Examined, rows: int, shown: int) -> _FirstRows:
    """Make the requests of the first of `rows`, as a run does, and keep the first `shown` of them."""
    requests = Requests(examined.prompter, examined.envelope())
    looked_at = unsendable = 0
    problem: str | None = None
    kept: list[ShownRequest] = []
    for record in examined.first_records(min(rows, max(shown, LOOKED_AT_ROWS))):
        looked_at += 1
        row = requests.row(record)
        if row.request is None:
            unsendable += 1
            problem = problem or f"row {row.row}: {row.unsendable}"
        if len(kept) < shown:
            kept.append(_shown(row))
    return _FirstRows(looked_at=looked_at, unsendable=unsendable, problem=problem, shown=kept)


def _shown(row: OpenRow) -> ShownRequest:
    if row.request is None:
        return ShownRequest(row=row.row, problem=row.unsendable)
    return ShownRequest(row=row.row, body=msgspec.Raw(row.request.body))


def _price(examined: Examined) -> ShownPrice | None:
    if (rates := examined.quote.rates) is None:
        return None
    return ShownPrice(
        source=examined.quote.source,
        input=_rate(rates.input),
        output=_rate(rates.output),
        cached_input=None if rates.cached_input is None else _rate(rates.cached_input),
        cache_write=None if rates.cache_write is None else _rate(rates.cache_write),
    )


def _budget(limit_usd: float | None, cost: CostRange | None) -> str | None:
    """Say whether a budget will do, as far as can be told before the first reply."""
    if limit_usd is None:
        return None
    if cost is None:
        will = "is kept by the costs that the server reports: no price is known"
    elif cost.least_usd > limit_usd:
        will = "will not cover all rows"
    elif cost.most_usd is None or cost.unpriced or cost.most_usd > limit_usd:
        will = "may not cover all rows"
    else:
        will = "covers one attempt for each row"
    return f"max_cost_usd = {usd_text(nanousd_from_usd(limit_usd) or 0)} {will}"


def _rate(rate: Rate) -> str:
    tiers = "; ".join(f"{price.normalize():f} above {more_than:,} prompt tokens" for more_than, price in rate.tiers)
    return f"{rate.base.normalize():f}" + (f" ({tiers})" if tiers else "")


def _missing(job: Job) -> str | None:
    """Return what keeps this shell from running the job: a plan needs no key, a run does."""
    try:
        access_of(job, os.environ)
    except JobError as error:
        return str(error)
    return None


def _deadline(job: Job) -> tuple[str | None, float | None]:
    """Return the deadline of a run that starts now, as it is read on this machine, and the seconds until then."""
    if job.limits.deadline is None:
        return None, None
    now = dt.datetime.now(tz=dt.UTC)
    at = deadline_at(job.limits.deadline, now)
    return local_text(at), (at - now).total_seconds()


def _lines(plan: Plan) -> Iterator[str]:
    yield f"{plan.job}: {plan.rows:,} rows into {plan.parts:,} parts; nothing is sent"
    yield f"  input    {plan.input}"
    for file in plan.files[:5]:
        yield f"           {file}"
    if len(plan.files) > 5:  # noqa: PLR2004 - as many as are shown
        yield f"           and {len(plan.files) - 5:,} more files"
    yield f"  columns  {', '.join(plan.columns) or 'none'}"
    yield f"  output   {plan.output}"
    facts = {
        "time": _time_line(plan),
        "days": _days_line(plan.days),
        "deadline": _deadline_line(plan),
        "price": _price_line(plan),
        "cost": _cost_line(plan.cost, plan.rows),
        "budget": plan.budget,
        "missing": plan.missing,
        "failing": _failing_line(plan),
    }
    for name, fact in facts.items():
        if fact is not None:
            yield f"  {name:8} {fact}"
    for request in plan.requests:
        if request.body is None:
            yield f"  row {request.row} would fail: {request.problem}"
        else:
            body = msgspec.json.format(bytes(request.body), indent=2).decode().replace("\n", "\n    ")
            yield f"  row {request.row} would send:\n    {body}"


def _time_line(plan: Plan) -> str | None:
    if plan.shortest_time_s is None:
        return None
    return f"at least {plan.shortest_time_s:.0f} s at {' and '.join(plan.paced_by)}"


def _days_line(days: int | None) -> str | None:
    if days is None:
        return None
    if days > 1:
        return f"at least {days:,}: requests_per_day does not let all rows be sent in one"
    return "one is enough: requests_per_day lets all rows be sent in it"


def _deadline_line(plan: Plan) -> str | None:
    if plan.deadline_s is None:
        return None
    deadline = f"{plan.deadline}, in {duration(plan.deadline_s)}"
    if plan.rows_by_deadline is None:
        return deadline
    lets = f"{' and '.join(plan.paced_by)} {'let' if len(plan.paced_by) > 1 else 'lets'}"
    if plan.rows_by_deadline == plan.rows:
        return f"{deadline}; {lets} all rows be sent until then"
    return f"{deadline}; too soon: {lets} {plan.rows_by_deadline:,} of {plan.rows:,} rows be sent until then"


def _failing_line(plan: Plan) -> str | None:
    if not plan.unsendable:
        return None
    of = f"all {plan.rows:,}" if plan.looked_at == plan.rows else f"the first {plan.looked_at:,}"
    return f"{plan.unsendable:,} of {of} rows would fail before they are sent, first {plan.problem}"


def _cost_line(cost: CostRange | None, rows: int) -> str | None:
    if cost is None:
        return None
    most = "unbounded without max_tokens" if cost.most_usd is None else f"at most {cost.most_usd:.6f}"
    by = f", by the first {cost.looked_at:,} rows" if cost.looked_at < rows else ""
    without = f"; {cost.unpriced:,} rows have no price" if cost.unpriced else ""
    return f"about {cost.least_usd:.6f} with no output, {most} USD, for one attempt a row{by}{without}"


def _price_line(plan: Plan) -> str:
    if plan.price is None:
        return f"none known: {plan.unpriced}; a cost is unknown where the server reports none"
    rates = {
        "in": plan.price.input,
        "out": plan.price.output,
        "cached": plan.price.cached_input,
        "cache write": plan.price.cache_write,
    }
    shown = ", ".join(f"{rate} {name}" for name, rate in rates.items() if rate is not None)
    return f"{shown} USD per million tokens ({plan.price.source})"
