"""When a row tries again, by tenacity's stop and wait strategies; only rows in trouble come here.

A row that waits leaves its worker (DESIGN.md, section 4), so the strategies are asked here and nobody sleeps in
tenacity. This is the program's only retry layer; it decides by class, never by text.
"""

from __future__ import annotations

from tenacity import (
    RetryCallState,
    Retrying,
    stop_before_delay,
    wait_fixed,
    wait_random,
    wait_random_exponential,
)
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from batchrun.job.settings import LimitSettings
from batchrun.model.attempt import Spends, Tries, Trouble

BACKOFF_CAP_S = 60.0
ERROR_FLOOR_S = 0.25
THROTTLE_FLOOR_S = 1.0
HINT_JITTER = 0.2


class StopWhenSpent(stop_base):
    """Stops when the budget that the trouble spends is used up (SPEC.md, section 2, [limits])."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits

    def __call__(self, retry_state: RetryCallState) -> bool:
        """Say whether the row has no try left."""
        tries, trouble = _row_of(retry_state)
        if trouble.spends is Spends.THROTTLE:
            return False
        if trouble.most_tries is not None and tries.lines.count(trouble.line) > trouble.most_tries:
            return True
        return tries.errors >= self._limits.max_attempts or tries.ambiguous > self._limits.max_ambiguous_attempts


class WaitHintOrBackoff(wait_base):
    """Waits as long as the server asked, jittered upwards only; else a floor and full-jitter backoff.

    PROTOCOL.md 2.2, last paragraph, and 2.3; the floor keeps the first waits from landing in the same burst
    (TRAPS.md T6).
    """

    def __init__(self) -> None:
        backoff = wait_random_exponential(multiplier=1, max=BACKOFF_CAP_S)
        self._after_error = wait_fixed(ERROR_FLOOR_S) + backoff
        self._after_throttle = wait_fixed(THROTTLE_FLOOR_S) + backoff

    def __call__(self, retry_state: RetryCallState) -> float:
        """Return the wait in seconds."""
        _, trouble = _row_of(retry_state)
        if trouble.hint_s is not None:
            wait_s = max(trouble.hint_s, ERROR_FLOOR_S)
            return wait_s + wait_random(0, wait_s * HINT_JITTER)(retry_state)
        strategy = self._after_throttle if trouble.spends is Spends.THROTTLE else self._after_error
        return strategy(retry_state)


class RetryPolicy:
    """One lane's answer to trouble; holds no state of any row, so all rows share it."""

    def __init__(self, limits: LimitSettings) -> None:
        """Bound tries and time by `limits`."""
        self._most_ambiguous = limits.max_ambiguous_attempts
        self._retrying = Retrying()
        self._wait = WaitHintOrBackoff()
        self._stop = StopWhenSpent(limits) | stop_before_delay(limits.max_row_time_s)

    def may_be_sent(self, tries: Tries) -> bool:
        """Say whether a row without a try left may be sent again in spite of that, as far as it may be billed twice."""
        return tries.ambiguous <= self._most_ambiguous

    def wait_s(self, tries: Tries, trouble: Trouble, *, elapsed_s: float) -> float | None:
        """Return the seconds until the row's next try, or None when it has none left.

        `tries` includes the attempt that `trouble` came from; `elapsed_s` is the time since the row's first one.
        """
        state = RetryCallState(self._retrying, None, (tries, trouble), {})
        state.attempt_number = max(1, tries.throttled if trouble.spends is Spends.THROTTLE else tries.errors)
        state.start_time = 0.0
        state.outcome_timestamp = elapsed_s
        state.upcoming_sleep = self._wait(state)
        return None if self._stop(state) else state.upcoming_sleep


def _row_of(state: RetryCallState) -> tuple[Tries, Trouble]:
    tries, trouble = state.args
    return tries, trouble
