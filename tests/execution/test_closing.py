"""Rows and endings into exit statuses (SPEC.md, section 4)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import ExitStatus
from batchrun.execution.closing import first_ending, status_of_rows
from batchrun.execution.ending import Ending
from batchrun.job.settings import LimitSettings
from batchrun.ledger.records import Tallies
from batchrun.model.outcome import STATUSES

FATAL_FIRST = [
    ExitStatus.FAULT,
    ExitStatus.OUTPUT,
    ExitStatus.USAGE,
    ExitStatus.SIGINT,
    ExitStatus.SIGTERM,
    ExitStatus.ENDPOINT,
    ExitStatus.BUDGET,
    ExitStatus.DEADLINE,
    ExitStatus.FAILED,
]


def status(rows: int, limits: LimitSettings, **by_status: int) -> ExitStatus:
    return status_of_rows(Tallies(by_status=by_status, by_error_class={}, unpriced=0), limits, rows)[0]


@pytest.mark.parametrize(
    ("failed", "rows", "most", "wanted"),
    [
        (0, 100, 0, ExitStatus.OK),
        (1, 100, 0, ExitStatus.FAILED),
        (3, 100, 3, ExitStatus.OK),
        (4, 100, 3, ExitStatus.FAILED),
        (1, 100, "1%", ExitStatus.OK),
        (2, 199, "1%", ExitStatus.FAILED),
        (2, 200, "1%", ExitStatus.OK),
        (1, 99, "1%", ExitStatus.FAILED),
        (1, 200, "0.5%", ExitStatus.OK),
        (1, 199, "0.5%", ExitStatus.FAILED),
        (3, 1000, "0.3%", ExitStatus.OK),
        (29, 100, "28.999999999999999999%", ExitStatus.FAILED),
        (29, 100, "29%", ExitStatus.OK),
        (1, 1, "0%", ExitStatus.FAILED),
        (100, 100, "100%", ExitStatus.OK),
        (0, 0, 0, ExitStatus.OK),
        (0, 0, "0%", ExitStatus.OK),
        (0, 0, "1%", ExitStatus.OK),
    ],
)
def test_share_and_count_of_failed_rows(failed: int, rows: int, most: int | str, wanted: ExitStatus) -> None:
    limits = LimitSettings(max_failed=most)
    assert status(rows, limits, ok=rows - failed, failed=failed) is wanted


def test_which_statuses_count() -> None:
    usual = LimitSettings()
    for name in STATUSES:
        wanted = ExitStatus.FAILED if name in {"failed", "invalid", "empty"} else ExitStatus.OK
        assert status(1, usual, **{name: 1}) is wanted
    assert status(1, LimitSettings(fail_on=("refused",)), refused=1) is ExitStatus.FAILED
    assert status(1, LimitSettings(fail_on=("refused",)), failed=1) is ExitStatus.OK
    assert status(1, LimitSettings(fail_on=()), failed=1) is ExitStatus.OK
    assert status(6, LimitSettings(max_failed=2), failed=1, invalid=1, empty=1) is ExitStatus.FAILED


def test_a_status_named_twice_counts_once() -> None:
    assert status(10, LimitSettings(fail_on=("failed", "failed"), max_failed=1), failed=1) is ExitStatus.OK


@given(failed=st.integers(0, 10_000), more=st.integers(0, 10_000), thousandths=st.integers(0, 100_000))
def test_a_share_is_not_rounded(failed: int, more: int, thousandths: int) -> None:
    rows, whole, part = failed + more, *divmod(thousandths, 1000)
    wanted = ExitStatus.FAILED if failed * 100_000 > thousandths * rows else ExitStatus.OK
    assert status(rows, LimitSettings(max_failed=f"{whole}.{part:03}%"), failed=failed) is wanted


def test_the_reason_gives_the_numbers() -> None:
    def reason(limits: LimitSettings, **by_status: int) -> str:
        return status_of_rows(Tallies(by_status=by_status, by_error_class={}, unpriced=0), limits, 10)[1]

    assert reason(LimitSettings(), ok=10) == "every row is settled"
    assert reason(LimitSettings(), ok=9, failed=1) == "1 of 10 rows failed, more than max_failed = 0"
    assert reason(LimitSettings(max_failed="10%"), ok=9, failed=1) == "1 of 10 rows failed, within max_failed"


def test_the_gravest_ending_decides() -> None:
    for graver, lighter in itertools.combinations(FATAL_FIRST, 2):
        endings = [Ending(status=lighter, reason="l"), Ending(status=graver, reason="g")]
        for order in (endings, endings[::-1]):
            chosen = first_ending(order)
            assert chosen is not None
            assert chosen.status is graver


def test_of_equal_endings_the_first_decides() -> None:
    endings = [Ending(status=ExitStatus.ENDPOINT, reason=reason) for reason in ("first", "second")]
    assert first_ending(endings) is endings[0]
    assert first_ending([]) is None
