"""Budgets, backoff and hints of rows in trouble (SPEC.md [limits]; PROTOCOL.md 2.2; TRAPS.md T1 to T9)."""

from __future__ import annotations

import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.retry import BACKOFF_CAP_S, ERROR_FLOOR_S, THROTTLE_FLOOR_S, RetryPolicy
from batchrun.job.settings import LimitSettings
from batchrun.model.attempt import Spends, Then, Tries, Trouble


def trouble(spends: Spends = Spends.ERROR, *, hint_s: float | None = None, most_tries: int | None = None) -> Trouble:
    return Trouble(
        error_class="server", message="x", then=Then.RETRY, spends=spends, hint_s=hint_s, most_tries=most_tries
    )


def sends(policy: RetryPolicy, what: Trouble, *, at_most: int = 50) -> int:
    """Count the attempts of a row that meets the same trouble each time, as Worker counts them."""
    tries = Tries()
    for sent in range(1, at_most + 1):
        throttled = what.spends is Spends.THROTTLE
        tries = Tries(
            attempts=sent,
            errors=tries.errors + (not throttled),
            throttled=tries.throttled + throttled,
            ambiguous=tries.ambiguous + (what.spends is Spends.AMBIGUOUS),
            lines=(*tries.lines, what.line),
        )
        if policy.wait_s(tries, what, elapsed_s=0.0) is None:
            return sent
    return at_most


@pytest.mark.parametrize("most", [1, 2, 5])
def test_max_attempts_is_exact(most: int) -> None:
    assert sends(RetryPolicy(LimitSettings(max_attempts=most)), trouble()) == most


@pytest.mark.parametrize("most", [0, 1, 3])
def test_ambiguous_attempts_are_sent_once_and_their_budget_more(most: int) -> None:
    policy = RetryPolicy(LimitSettings(max_ambiguous_attempts=most, max_attempts=9))
    assert sends(policy, trouble(Spends.AMBIGUOUS)) == 1 + most


def test_ambiguous_attempts_are_bounded_by_max_attempts_too() -> None:
    policy = RetryPolicy(LimitSettings(max_ambiguous_attempts=9, max_attempts=3))
    assert sends(policy, trouble(Spends.AMBIGUOUS)) == 3


@pytest.mark.parametrize(("most_tries", "sent"), [(0, 1), (1, 2), (2, 3), (40, 5)])
def test_a_verdict_may_ask_for_fewer_tries_but_not_for_more(most_tries: int, sent: int) -> None:
    assert sends(RetryPolicy(LimitSettings(max_attempts=5)), trouble(most_tries=most_tries)) == sent


def test_throttles_spend_time_only() -> None:
    policy = RetryPolicy(LimitSettings(max_attempts=1, max_row_time_s=1800))
    assert sends(policy, trouble(Spends.THROTTLE), at_most=200) == 200
    used_up = Tries(attempts=9, errors=9, throttled=1)
    assert policy.wait_s(used_up, trouble(Spends.THROTTLE), elapsed_s=0.0) is not None
    assert policy.wait_s(used_up, trouble(Spends.THROTTLE), elapsed_s=1800.0) is None


def test_errors_are_counted_apart_from_throttles() -> None:
    policy = RetryPolicy(LimitSettings(max_attempts=2))
    assert policy.wait_s(Tries(attempts=100, errors=1, throttled=99), trouble(), elapsed_s=0.0) is not None


def test_a_row_stops_before_a_sleep_that_would_outlast_it() -> None:
    policy = RetryPolicy(LimitSettings(max_row_time_s=100))
    assert policy.wait_s(Tries(attempts=1, errors=1), trouble(hint_s=40), elapsed_s=40.0) is not None
    assert policy.wait_s(Tries(attempts=1, errors=1), trouble(hint_s=40), elapsed_s=60.0) is None
    assert policy.wait_s(Tries(attempts=1, errors=1), trouble(hint_s=101), elapsed_s=0.0) is None


@given(st.integers(1, 5000), st.sampled_from([Spends.ERROR, Spends.THROTTLE, Spends.AMBIGUOUS]))
def test_backoff_stays_between_its_floor_and_its_cap(count: int, spends: Spends) -> None:
    policy = RetryPolicy(LimitSettings(max_attempts=10_000))
    tries = Tries(attempts=count, errors=count, throttled=count)
    wait_s = policy.wait_s(tries, trouble(spends), elapsed_s=0.0)
    floor_s = THROTTLE_FLOOR_S if spends is Spends.THROTTLE else ERROR_FLOOR_S
    assert wait_s is not None
    assert floor_s <= wait_s <= floor_s + min(BACKOFF_CAP_S, 2.0 ** min(count - 1, 60))


@given(st.floats(1e-9, 1400), st.sampled_from([Spends.ERROR, Spends.THROTTLE]))
def test_a_hint_is_kept_and_jittered_upwards_only(hint_s: float, spends: Spends) -> None:
    wait_s = RetryPolicy(LimitSettings()).wait_s(
        Tries(attempts=1, errors=1, throttled=1), trouble(spends, hint_s=hint_s), elapsed_s=0.0
    )
    asked_s = max(hint_s, ERROR_FLOOR_S)
    assert wait_s is not None
    assert asked_s <= wait_s <= asked_s * 1.2 + 1e-9


def test_the_hint_of_the_last_trouble_counts_not_an_earlier_one() -> None:
    """T3: the wait follows the current outcome."""
    policy = RetryPolicy(LimitSettings())
    policy.wait_s(Tries(attempts=1, throttled=1), trouble(Spends.THROTTLE, hint_s=200), elapsed_s=0.0)
    wait_s = policy.wait_s(Tries(attempts=2, throttled=2), trouble(Spends.THROTTLE), elapsed_s=0.0)
    assert wait_s is not None
    assert wait_s < 10


def test_rows_share_the_policy_and_no_state() -> None:
    """T2: another row's tries change nothing."""
    policy = RetryPolicy(LimitSettings(max_attempts=3))
    for _ in range(20):
        policy.wait_s(Tries(attempts=3, errors=3), trouble(), elapsed_s=1e6)
    assert sends(policy, trouble()) == 3


def test_a_policy_keeps_no_trouble_alive() -> None:
    """T9: what a row brought is free once the answer is given."""
    policy, what = RetryPolicy(LimitSettings()), trouble()
    before = sys.getrefcount(what)
    policy.wait_s(Tries(attempts=1, errors=1), what, elapsed_s=0.0)
    assert sys.getrefcount(what) == before


def test_earlier_troubles_of_another_kind_leave_a_verdicts_own_tries() -> None:
    """Two 503s or a 404, then an unparsable 200: PROTOCOL.md 2.2, #20 still gives it two further tries."""
    policy = RetryPolicy(LimitSettings(max_attempts=9))
    unparsable = msgspec.structs.replace(trouble(most_tries=2), line="20")
    for lines, has_more in (
        (("16", "16", "20"), True),
        (("8", "20", "20"), True),
        (("16", "20", "16", "20", "20"), False),
    ):
        tries = Tries(attempts=len(lines), errors=len(lines), lines=lines)
        assert (policy.wait_s(tries, unparsable, elapsed_s=0.0) is not None) is has_more
