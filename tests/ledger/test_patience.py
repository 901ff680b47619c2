"""When a moment's wait for the rest of the slots is made."""

from __future__ import annotations

import pytest

from batchrun.ledger.patience import SKIPS, Patience

SLOTS = 64


@pytest.mark.parametrize(("entries", "waits"), [(0, False), (1, False), (32, False), (33, True), (64, True)])
def test_it_is_made_after_a_commit_for_more_than_half_of_them(entries: int, *, waits: bool) -> None:
    patience = Patience()
    patience.committed(entries)
    assert patience.spare(SLOTS) is waits


@pytest.mark.parametrize(("brought", "skips"), [(0, SKIPS), (3, SKIPS), (4, 0), (31, 0)])
def test_it_is_left_out_for_a_while_after_one_that_brought_little(brought: int, skips: int) -> None:
    patience = Patience()
    patience.committed(SLOTS - 1)
    for _ in range(3):
        assert patience.spare(SLOTS)
        patience.waited(brought, SLOTS)
        assert [patience.spare(SLOTS) for _ in range(skips)] == [False] * skips


def test_commits_for_few_slots_do_not_count_as_left_out() -> None:
    patience = Patience()
    patience.committed(SLOTS)
    patience.waited(0, SLOTS)
    patience.committed(1)
    assert not any(patience.spare(SLOTS) for _ in range(10 * SKIPS))
    patience.committed(SLOTS)
    assert [patience.spare(SLOTS) for _ in range(SKIPS + 1)] == [False] * SKIPS + [True]
