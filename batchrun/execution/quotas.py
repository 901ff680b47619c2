"""What the last day's minutes used into what is left of the limits a day."""

from __future__ import annotations

import time
from collections.abc import Callable

from batchrun.client.limits import Quotas
from batchrun.client.rate import Quota
from batchrun.client.window import Sent
from batchrun.execution.before import MINUTE_S, Before
from batchrun.job.settings import LimitSettings


def quotas_of(before: Before, limits: LimitSettings, *, clock: Callable[[], float]) -> Quotas:
    """Return the job's limits a day, less what was used; `clock` is the running loop's."""
    ago_s = clock() - time.time()
    ends_s = [(min((minute.minute + 1) * MINUTE_S + ago_s, clock()), minute) for minute in before.spent]
    requests, tokens = limits.requests_per_day, limits.tokens_per_day
    return Quotas(
        requests=Quota(requests, (Sent(at, minute.requests) for at, minute in ends_s)) if requests else None,
        tokens=Quota(tokens, (Sent(at, minute.tokens) for at, minute in ends_s)) if tokens else None,
    )
