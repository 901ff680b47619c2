"""What one attempt adds: to what its row's attempts have come to, to the run's totals, to what a budget keeps. Pure."""

from __future__ import annotations

from batchrun.client.lane import Attempt
from batchrun.events import Totals
from batchrun.model.attempt import Cost, Reply, Spends, Tries, Trouble, Usage
from batchrun.spending import Owed


def counted(tries: Tries, attempt: Attempt, began_us: int) -> Tries:
    """Return a row's tries with one attempt more; a row settled at its first try pays for one small object."""
    came_to = attempt.came_to
    cost: Cost | None = came_to.cost
    spent, source = tries.cost_nanousd, tries.cost_source
    if cost is not None:
        spent = (spent or 0) + cost.nanousd
        source = "server" if "server" in {source, cost.source} else "price"
    trouble = came_to if isinstance(came_to, Trouble) else None
    throttled = trouble is not None and trouble.spends is Spends.THROTTLE
    spends = trouble is not None and not throttled and not attempt.excused
    return Tries(
        attempts=tries.attempts + 1,
        errors=tries.errors + spends,
        ambiguous=tries.ambiguous + (spends and trouble is not None and trouble.spends is Spends.AMBIGUOUS),
        lines=(*tries.lines, trouble.line) if spends and trouble is not None else tries.lines,
        throttled=tries.throttled + throttled,
        maybe_billed=tries.maybe_billed or (trouble is not None and trouble.maybe_billed),
        cost_nanousd=spent,
        cost_source=source,
        first_sent_us=began_us if tries.first_sent_us is None else tries.first_sent_us,
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
    trouble = came_to if isinstance(came_to, Trouble) else None
    return Totals(
        requests_sent=1 if trouble is None else int(trouble.sent),
        retries=int(tries.attempts > 1),
        throttled=int(trouble is not None and trouble.error_class == "rate_limited"),
        maybe_billed=int(trouble is not None and trouble.maybe_billed),
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
        cost_nanousd=came_to.cost.nanousd if came_to.cost else 0,
        held_nanousd=owed.held_nanousd,
        uncosted=owed.uncosted,
    )
