"""How many rows of a run may fail, and the end of a run that has more failures than that early on (`stop_early`)."""

from __future__ import annotations

from decimal import Decimal

from batchrun.errors import ExitStatus
from batchrun.execution.ending import Ending
from batchrun.job.settings import LimitSettings

LEAST_SETTLED = 100
"""Rows that have to be settled before failures can end a run early (SPEC.md, section 2)."""


def most_failed(limits: LimitSettings, rows: int) -> int:
    """Return how many of `rows` may fail: `max_failed`, or the whole rows of its share."""
    most = limits.max_failed
    return most if isinstance(most, int) else int(Decimal(most[:-1]) * rows) // 100


def early_ending(limits: LimitSettings, rows: int, *, settled: int, failed: int) -> Ending | None:
    """Return why a run of `rows` is to end early, None where it is not: no row to come makes up for what failed."""
    if not limits.stop_early or not LEAST_SETTLED <= settled < rows or failed <= most_failed(limits, rows):
        return None
    return Ending(
        status=ExitStatus.FAILED,
        reason=(
            f"stopped early: {failed} of {rows} rows failed, more than max_failed = {limits.max_failed}; "
            "--retry-failed sends them and the rows that are left"
        ),
    )
