"""An outage begins with 20 failures in a row, is probed ever more rarely, and ends with any answer."""

from __future__ import annotations

import pytest

from batchrun.client.outage import IN_A_ROW, LONGEST_PROBE_S, Outage, Weather


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_twenty_in_a_row_and_not_one_less(clock: Clock) -> None:
    outage = Outage(max_outage_s=900, clock=clock)
    for _ in range(3):
        assert [outage.failed() for _ in range(IN_A_ROW - 1)] == [Weather.FAIR] * (IN_A_ROW - 1)
        assert not outage.is_on
        assert outage.answered() is Weather.FAIR
    assert [outage.failed() for _ in range(IN_A_ROW)][-1] is Weather.BEGINS
    assert outage.is_on
    assert outage.failed() is Weather.GOES_ON
    assert outage.answered() is Weather.ENDS
    assert not outage.is_on


def test_it_is_too_long_from_its_first_failure(clock: Clock) -> None:
    outage = Outage(max_outage_s=60, clock=clock)
    for _ in range(IN_A_ROW):
        outage.failed()
    clock.now += 59.9
    assert outage.failed() is Weather.GOES_ON
    clock.now += 0.1
    assert outage.failed() is Weather.TOO_LONG


def test_probes_get_rarer_up_to_a_minute_and_never_pass_the_end(clock: Clock) -> None:
    outage = Outage(max_outage_s=200, clock=clock)
    for _ in range(IN_A_ROW):
        outage.failed()
    waits: list[float] = []
    while outage.failed() is Weather.GOES_ON:
        waits.append(outage.probe_wait_s())
        clock.now += waits[-1]
    assert waits[:7] == [1, 2, 4, 8, 16, 32, LONGEST_PROBE_S]
    assert sum(waits) == 200


def test_a_new_outage_is_probed_at_once_again(clock: Clock) -> None:
    outage = Outage(max_outage_s=900, clock=clock)
    for _ in range(IN_A_ROW + 5):
        outage.failed()
        outage.probe_wait_s()
    outage.answered()
    for _ in range(IN_A_ROW):
        outage.failed()
    assert outage.probe_wait_s() == 1
