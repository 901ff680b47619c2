"""What one attempt adds: to what its row's attempts have come to, to the run's totals, to what a budget keeps. Pure."""

from __future__ import annotations

import msgspec

from batchrun.client.lane import Attempt
from batchrun.events import Totals
from batchrun.model.attempt import Cost, Reply, Spends, Tries, Trouble, Usage
from batchrun.spending import Owed


def counted(tries: Tries, attempt: Attempt, began_us: int) -> Tries:
    """Return a row's tries with one attempt more; a row settled at its first try pays for one small object."""
    came_to = attempt.came_to
    cost: Cost | None = came_to.cost
    if not tries.attempts and isinstance(came_to, Reply):
        if cost is None:
            return Tries(attempts=1, first_sent_us=began_us)
        return Tries(attempts=1, cost_nanousd=cost.nanousd, cost_source=cost.source, first_sent_us=began_us)
    spent, source = tries.cost_nanousd, tries.cost_source
    if cost is not None:
        spent = (spent or 0) + cost.nanousd
        source = "server" if source == "server" else cost.source
    first_sent_us = began_us if tries.first_sent_us is None else tries.first_sent_us
    if isinstance(came_to, Reply):
        return msgspec.structs.replace(
            tries,
            attempts=tries.attempts + 1,
            cost_nanousd=spent,
            cost_source=source,
            first_sent_us=first_sent_us,
        )
    throttled = came_to.spends is Spends.THROTTLE
    spends = not throttled and not attempt.excused
    return Tries(
        attempts=tries.attempts + 1,
        errors=tries.errors + spends,
        ambiguous=tries.ambiguous + (spends and came_to.spends is Spends.AMBIGUOUS),
        lines=(*tries.lines, came_to.line) if spends else tries.lines,
        throttled=tries.throttled + throttled,
        maybe_billed=tries.maybe_billed or came_to.maybe_billed,
        cost_nanousd=spent,
        cost_source=source,
        first_sent_us=first_sent_us,
    )


def is_owed(attempt: Attempt) -> bool:
    """Say whether an attempt may have been billed for an amount nobody told: it was cut, or answered without usage."""
    came_to, status = attempt.came_to, attempt.http_status
    if came_to.cost is not None:
        return False
    if isinstance(came_to, Trouble):
        return came_to.maybe_billed
    return status is not None and 200 <= status < 300  # noqa: PLR2004 - a refused prompt is settled by a 4xx


def totals_of(tries: Tries, came_to: Reply | Trouble, owed: Owed) -> Totals:
    """Return what one attempt adds to the run's totals."""
    usage: Usage = came_to.usage
    cost: Cost | None = came_to.cost
    totals = Totals(
        requests_sent=1,
        retries=0 if tries.attempts == 1 else 1,
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        cost_nanousd=0 if cost is None else cost.nanousd,
        held_nanousd=owed.held_nanousd,
        uncosted=owed.uncosted,
    )
    if isinstance(came_to, Reply):
        return totals
    return msgspec.structs.replace(
        totals,
        requests_sent=int(came_to.sent),
        throttled=int(came_to.error_class == "rate_limited"),
        maybe_billed=int(came_to.maybe_billed),
    )
