"""When failures end a run early: 100 rows settled, more failed than may of all rows (SPEC.md, section 2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import ExitStatus
from batchrun.execution.closing import status_of_rows
from batchrun.execution.tolerance import early_ending
from batchrun.job.settings import LimitSettings
from batchrun.ledger.records import Tallies


@pytest.mark.parametrize(
    ("most", "settled", "failed", "ends"),
    [
        (5, 99, 99, False),
        (5, 100, 6, True),
        (5, 100, 5, False),
        (5, 999, 6, True),
        (5, 1000, 1000, False),  # nothing is left to be stopped
        ("1%", 100, 10, False),  # a share is one of all 1,000 rows
        ("1%", 100, 11, True),
        ("0.55%", 100, 5, False),
        ("0.55%", 100, 6, True),
        ("100%", 999, 999, False),
    ],
)
def test_of_1000_rows(most: int | str, settled: int, failed: int, ends: bool) -> None:  # noqa: FBT001
    limits = LimitSettings(max_failed=most, stop_early=True)
    ending = early_ending(limits, 1000, settled=settled, failed=failed)
    assert (ending is not None) is ends
    if ending is not None:
        assert ending.status is ExitStatus.FAILED
        assert f"{failed} of 1000 rows failed, more than max_failed = {most}" in ending.reason
        assert "--retry-failed" in ending.reason
    off = LimitSettings(max_failed=most)
    assert early_ending(off, 1000, settled=settled, failed=failed) is None


@given(
    rows=st.integers(101, 5000),
    settled=st.integers(100, 5000),
    failed=st.integers(0, 5000),
    most=st.integers(1, 3000) | st.integers(1, 99_999).map(lambda share: f"{share / 1000:.3f}%"),
)
def test_a_run_that_ends_early_could_not_have_ended_well(rows: int, settled: int, failed: int, most: int | str) -> None:
    """Even if every row that is left were answered, the exit status would be 1; and one that goes on may end well."""
    settled = min(settled, rows - 1)
    failed = min(failed, settled)
    limits = LimitSettings(max_failed=most, stop_early=True)
    best = Tallies(by_status={"failed": failed, "ok": rows - failed}, by_error_class={}, unpriced=0)
    ends = early_ending(limits, rows, settled=settled, failed=failed) is not None
    assert ends is (status_of_rows(best, limits, rows)[0] is ExitStatus.FAILED)
