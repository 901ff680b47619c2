"""Treatment and latency: shares that come out, and a retry that may succeed."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest
from simulator_wire import ask

from batchrun.job.settings import SimulatorSettings
from batchrun.simulator.admission import Admission
from batchrun.simulator.asked import Asked, read_request
from batchrun.simulator.behaviour import Treatment, latency_s, treatment
from batchrun.simulator.replies import Replies
from batchrun.simulator.tally import Tally

DIGESTS = [f"{at:016x}" for at in range(4000)]


def shares(settings: SimulatorSettings) -> dict[Treatment, float]:
    counts = Counter(treatment(settings, digest, 0) for digest in DIGESTS)
    return {named: count / len(DIGESTS) for named, count in counts.items()}


def test_shares_are_of_all_requests() -> None:
    """Hang, reset and error do not eat into each other's shares; truncation cuts its share of the replies."""
    seen = shares(SimulatorSettings(error_rate=0.3, reset_rate=0.2, hang_rate=0.1, truncate_rate=0.5))
    expected = {
        Treatment.ERROR: 0.3,
        Treatment.RESET: 0.2,
        Treatment.HANG: 0.1,
        Treatment.TRUNCATE: 0.2,
        Treatment.ANSWER: 0.2,
    }
    assert seen == pytest.approx(expected, abs=0.03)


def test_all_or_nothing() -> None:
    assert shares(SimulatorSettings()) == {Treatment.ANSWER: 1}
    assert shares(SimulatorSettings(error_rate=1)) == {Treatment.ERROR: 1}
    assert shares(SimulatorSettings(truncate_rate=1)) == {Treatment.TRUNCATE: 1}


def test_a_retry_has_a_draw_of_its_own() -> None:
    settings = SimulatorSettings(error_rate=0.5)
    failed = [digest for digest in DIGESTS if treatment(settings, digest, 0) is Treatment.ERROR]
    again = [digest for digest in failed if treatment(settings, digest, 1) is Treatment.ERROR]
    assert len(again) / len(failed) == pytest.approx(0.5, abs=0.05)
    assert failed == [digest for digest in DIGESTS if treatment(settings, digest, 0) is Treatment.ERROR]


def test_latency_is_fixed_or_lognormal_around_its_median() -> None:
    assert latency_s(SimulatorSettings(), DIGESTS[0], 0) == 0
    assert latency_s(SimulatorSettings(latency_ms=250), DIGESTS[0], 0) == 0.25
    spread = SimulatorSettings(latency_ms=250, latency_sigma=0.5)
    drawn = [latency_s(spread, digest, 0) for digest in DIGESTS]
    assert median(drawn) == pytest.approx(0.25, rel=0.05)
    assert sum(value < 0.25 * 2.718281828**0.5 for value in drawn) / len(drawn) == pytest.approx(0.841, abs=0.02)
    assert all(value > 0 for value in drawn)


def test_rate_limit_is_a_rolling_minute() -> None:
    """A refused request takes no capacity; a place is free again 60 s after it was taken."""
    admission = Admission(SimulatorSettings(requests_per_minute=2))
    admitted = [now for now in (0.0, 30.0, 30.0, 59.9, 60.0, 60.0, 89.9, 90.0) if not admission.enter(now)]
    assert admitted == [0.0, 30.0, 60.0, 90.0]


def test_in_flight_limit_frees_with_leave() -> None:
    admission = Admission(SimulatorSettings(max_in_flight=1))
    assert admission.enter(0) is None
    refusal = admission.enter(0)
    assert refusal is not None
    assert refusal.code == "engine_overloaded"
    admission.leave()
    assert admission.enter(0) is None
    assert (admission.in_flight, admission.max_in_flight) == (1, 1)


def test_tries_of_one_prompt_are_numbered_also_at_the_same_time() -> None:
    asked = read_request(ask(), reject_containing=None)
    assert isinstance(asked, Asked)
    reply = Replies(SimulatorSettings()).reply(asked, 0, created=0)
    tally = Tally()
    assert [tally.begin(asked.digest), tally.begin(asked.digest)] == [0, 1]
    tally.pay(asked.digest, reply)
    assert tally.begin(asked.digest) == 2
    tally.pay(asked.digest, reply)
    tally.pay(asked.digest, reply)
    assert tally.begin(asked.digest) == 3
    assert tally._unpaid == {int(asked.digest, 16): 1}
