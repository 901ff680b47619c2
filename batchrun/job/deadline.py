"""`limits.deadline` into its moment: the next such local time after a start, or so long after the start. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo

from batchrun.job.duration import go_duration_s

EXPECTED = 'expected a local time such as "06:00", or a duration such as "5h30m" of more than 0 and at most 365d'
MOST_S = 365 * 86400.0
_TIME = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"


def is_deadline(text: str) -> bool:
    """Say whether a text is a time of day or a duration that a run can be given."""
    return bool(re.fullmatch(_TIME, text)) or 0 < (go_duration_s(text) or 0) <= MOST_S


def deadline_at(text: str, start: datetime, *, zone: tzinfo | None = None) -> datetime:
    """Return the moment, in UTC, that a deadline stands for in a run that starts at `start`, an aware time.

    A time of day is the next one strictly after the start, on the clocks of `zone`, default those of this machine. A
    time that clocks skip as they are set forward is counted with the offset before that (as RFC 5545 has it), one that
    comes twice is taken each time. Raises ValueError for a text that is no deadline.
    """
    if not is_deadline(text):
        raise ValueError(EXPECTED)
    if not re.fullmatch(_TIME, text):
        return start.astimezone(UTC) + timedelta(seconds=go_duration_s(text) or 0)
    return min(moment for moment in _moments(time.fromisoformat(text), start, zone) if moment > start)


def _moments(clock: time, start: datetime, zone: tzinfo | None) -> Iterator[datetime]:
    """Yield, in UTC, when the clocks show this time on the days around the start."""
    today = start.astimezone(zone).date()
    for days in (-1, 0, 1, 2):  # yesterday's, if skipped, may still come
        shown = datetime.combine(today + timedelta(days=days), clock)
        for fold in (0, 1):
            # By way of the timestamp: astimezone() of a naive time that is skipped gives an hour less.
            moment = datetime.fromtimestamp(shown.replace(tzinfo=zone, fold=fold).timestamp(), tz=UTC)
            if not fold or moment.astimezone(zone).replace(tzinfo=None, fold=0) == shown:
                yield moment
