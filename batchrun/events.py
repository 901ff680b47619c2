"""What is told about a run: running totals, the progress of each second, the summary at its end."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Mapping, Sequence
from typing import Literal, Protocol

import msgspec
from msgspec.structs import astuple


class Totals(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Sums over all attempts of all runs of one output; money in nano-USD.

    `throttled` counts replies 429 and their like, `maybe_billed` attempts that may have been paid for without a
    result. Of attempts that may have been billed for an amount nobody told, `held_nanousd` is what a budget reserved
    for them, and `uncosted` counts those for which it could not, replies among them.
    """

    requests_sent: int = 0
    retries: int = 0
    throttled: int = 0
    maybe_billed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_nanousd: int = 0
    held_nanousd: int = 0
    uncosted: int = 0

    @classmethod
    def sum_of(cls, several: Sequence[Totals]) -> Totals:
        """Return the sums of all."""
        columns = zip(*map(astuple, several), strict=True)
        return cls(**dict(zip(TOTAL_NAMES, map(sum, columns), strict=False)))  # of none there are no columns


TOTAL_NAMES: tuple[str, ...] = Totals.__struct_fields__


class RowInFlight(msgspec.Struct, frozen=True, kw_only=True):
    """A row whose attempt has been in flight for `age_s` seconds."""

    row: int
    age_s: float


Bound = Literal["slots", "requests", "tokens", "daily requests", "daily tokens", "pause", "budget"]
"""What can hold an attempt back: slots, limits a minute and a day, a pause that the server asked for, the budget."""


class LaneState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a lane's limits are used.

    `slots` are there now, of which `in_flight` are taken. `used` is the share of each limit that is used: of slots now,
    of requests and tokens in the last minute or day, of the budget by what is spent and reserved. `waited_s` is how
    long attempts had to wait for each, in seconds.
    """

    slots: int
    in_flight: int
    paused_s: float
    used: Mapping[Bound, float]
    waited_s: Mapping[Bound, float]


class LaneProgress(msgspec.Struct, frozen=True, kw_only=True):
    """One of several endpoints as it stands; see LaneState."""

    name: str
    state: Literal["open", "paused", "outage", "retired"]
    slots: int
    in_flight: int
    paused_s: float
    used: Mapping[Bound, float]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """A run as it stands: rows of its range, of which some are settled; times in seconds, money in USD.

    `cost_usd` is what is known, None when nothing is; `unpriced_rows` counts completed rows whose cost is not known.
    `oldest` are the rows that have been in flight longest, the oldest first. `first_token_ms` is the median time from a
    slot to the first text over the last 1,000 streamed replies of this run, None where none was streamed. `slots` and
    `used` are as in LaneState; `bound_by` is what attempts waited for most since the progress before, None where they
    hardly waited. `deadline_s` is the time left until the deadline, None where there is none. `lanes` are the endpoints
    where there are several: slots are then those of all that are left, uses their means, and `paused_s` is until the
    first of them goes on.
    """

    run_id: str
    job: str
    rows: int
    settled: int
    failed: int
    in_flight: int
    slots: int
    used: Mapping[Bound, float]
    bound_by: Bound | None
    waiting: int
    parts: int
    parts_sealed: int
    requests_sent: int
    retries: int
    throttled: int
    maybe_billed: int
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float | None
    unpriced_rows: int
    elapsed_s: float
    paused_s: float
    rows_per_s: float
    first_token_ms: float | None = None
    eta_s: float | None
    draining: bool
    oldest: Sequence[RowInFlight]
    lanes: Sequence[LaneProgress] = ()
    at: str
    deadline_s: float | None = None


class SummaryInput(msgspec.Struct, frozen=True, kw_only=True):
    """The input of a summary."""

    path: str
    fingerprint: str


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """`summary.json` (SPEC.md, section 3): counts and costs over all runs of the output, times of this run.

    `cost_usd` and the tokens are sums of what is known, None when nothing is; `unpriced_rows` counts completed rows
    whose cost is not known. Times are ISO 8601, UTC. `first_token_ms` is as in Progress, `waited_s` as in LaneState.
    `bound_by` is what attempts waited for most, None where they never waited; `used` is the mean share of each limit.
    `lost_attempts` are those that killed processes may have had in flight, at most: they may be billed, and no other
    count has them. `held_usd` is what the budget counts beside `cost_usd` for all attempts whose cost nobody told; None
    without a budget, and as long as one of them has no bound and nothing was seen to cost anything.
    """

    run_id: str
    job: str
    state: Literal["complete", "partial"]
    exit_status: int
    reason: str
    rows: int
    by_status: Mapping[str, int]
    by_error_class: Mapping[str, int]
    requests_sent: int
    retries: int
    throttled: int
    maybe_billed: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    unpriced_rows: int
    lost_attempts: int = 0
    held_usd: float | None = None
    started_at: str
    finished_at: str
    wall_s: float
    first_token_ms: float | None = None
    bound_by: Bound | None = None
    waited_s: Mapping[Bound, float] = {}
    used: Mapping[Bound, float] = {}
    input: SummaryInput
    output: str
    versions: Mapping[str, str]


class Watcher(Protocol):
    """Is told how a run goes; called on the run's event loop, so it must return at once."""

    def progressed(self, progress: Progress) -> None:
        """Take the state of the run, about once a second."""
        ...

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Take one event with its keys and counts; never a prompt or a completion."""
        ...


class Unwatched:
    """A Watcher that nobody looks at."""

    def progressed(self, progress: Progress) -> None:
        """Ignore it."""

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Ignore it."""


class Bystander:
    """Passes on to a Watcher until that raises for the first time: who looks on can't end a run."""

    def __init__(self, watcher: Watcher) -> None:
        """Pass on to `watcher`."""
        self._watcher = watcher

    def progressed(self, progress: Progress) -> None:
        """Pass it on."""
        with self._borne():
            self._watcher.progressed(progress)

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Pass it on."""
        with self._borne():
            self._watcher.noted(event, **facts)

    @contextlib.contextmanager
    def _borne(self) -> Generator[None, None, None]:
        try:
            yield
        except Exception:  # told once, with its traceback, which is the caller's own code
            self._watcher = Unwatched()
            logging.getLogger("batchrun").exception("the watcher raised; the run goes on and tells it nothing more")
