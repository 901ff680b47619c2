"""A run's budget as all earlier runs of the output left it, and what a job may cost before any of it is sent."""

from __future__ import annotations

import msgspec

from batchrun.budget import Budget, Spent, most_tokens, with_messages
from batchrun.errors import RecordError
from batchrun.events import Watcher
from batchrun.execution.examine import Examined
from batchrun.execution.exposure import spent_of
from batchrun.execution.resume import OpenRun
from batchrun.job.catalogue import quote_of
from batchrun.job.lanes import lanes_of
from batchrun.model.attempt import Usage
from batchrun.pricing import nanousd_from_usd, usd
from batchrun.spending import LaneTariff, Lender, Spending

LOOKED_AT_ROWS = 1000
BYTES_PER_TOKEN = 4
"""Of English text, about; what a prompt takes at least is guessed by it."""


class CostRange(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt for each row would cost: about `least_usd` without any output, never more than `most_usd`.

    By the first `looked_at` rows, of which `unpriced` have no price and are left out; `most_usd` is None where a row's
    output has no bound.
    """

    least_usd: float
    most_usd: float | None
    looked_at: int
    unpriced: int


def spending_of(run: OpenRun, watcher: Watcher) -> Spending | None:
    """Return what holds a run to its budget, None where the job has none; called inside the running loop."""
    if (most_usd := run.job.limits.max_cost_usd) is None:
        return None
    return _spending(run, Budget(nanousd_from_usd(most_usd) or 0, spent_of(run)), watcher)


def borrowing_of(run: OpenRun, watcher: Watcher, *, dearest_nanousd: int, lender: Lender) -> Spending | None:
    """Return what holds a worker process to what it is lent of the job's budget, nothing at first; as `spending_of`."""
    if run.job.limits.max_cost_usd is None:
        return None
    return _spending(run, Budget(0, Spent(dearest_nanousd=dearest_nanousd)), watcher, lender)


def _spending(run: OpenRun, budget: Budget, watcher: Watcher, lender: Lender | None = None) -> Spending:
    quote = run.examined.quote
    if quote.rates is None:
        watcher.noted("the budget is kept by the costs that the server reports", why=quote.unknown)
    others = [LaneTariff(quote_of(run.job, lane=lane).tariff, lane.model) for lane in lanes_of(run.job)[1:]]
    return Spending(budget, fields=run.job.request, tariff=quote.tariff, watcher=watcher, others=others, lender=lender)


def cost_range(examined: Examined, rows: int) -> CostRange | None:
    """Return what the first `rows` rows would cost, judged by some of them; None where none of those has a price."""
    job, tariff = examined.job, examined.quote.tariff
    if tariff is None:
        return None
    looked_at = unpriced = least = most = 0
    bounded = True
    for record in examined.first_records(min(rows, LOOKED_AT_ROWS)):
        looked_at += 1
        try:
            messages = examined.prompter.messages(record)
            fields = {**job.request, **(examined.prompter.params(record) or {})}
        except RecordError:  # it costs nothing
            continue
        model = fields.get("model")
        if (rates := tariff(None, model if isinstance(model, str) else None)) is None:
            unpriced += 1
            continue
        tokens = with_messages(most_tokens(fields), messages)
        usage = Usage(prompt_tokens=len(messages.plain) // BYTES_PER_TOKEN, completion_tokens=0)
        least += rates.nanousd(usage) or 0
        bounded = bounded and tokens.completion is not None
        most += rates.most_nanousd(tokens.prompt, tokens.completion or 0)
    if looked_at == unpriced:
        return None
    share = rows / looked_at
    return CostRange(
        least_usd=usd(round(least * share)),
        most_usd=usd(round(most * share)) if bounded else None,
        looked_at=looked_at,
        unpriced=unpriced,
    )
