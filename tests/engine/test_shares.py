"""Shares are whole units that sum to the limits, and the past goes with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_tools import job_file
from hypothesis import given
from hypothesis import strategies as st

from batchrun.engine.member import Member
from batchrun.engine.messages import Begin, Reshare
from batchrun.engine.shares import (
    Past,
    Pool,
    Share,
    least,
    minus,
    most_shares,
    past_of_a_death,
    plus,
    slots_in,
    split,
    whole_share,
)
from batchrun.engine.sharing import Sharing
from batchrun.job.load import load_job
from batchrun.ledger.records import SpentMinute

shares = st.dictionaries(st.sampled_from(["0 slots", "0 requests", "1 slots"]), st.integers(1, 1000), min_size=1)


def test_the_whole_share_is_that_of_each_lane_and_of_the_day(tmp_path: Path) -> None:
    limits = {"concurrency": 9, "requests_per_minute": 90.5, "tokens_per_day": 7000}
    assert whole_share(load_job(job_file(tmp_path, limits=limits))) == {
        "0 slots": 9,
        "0 requests": 90,
        "0 daily tokens": 7000,
    }


@given(shares, st.integers(1, 9))
def test_a_split_share_sums_to_itself_and_its_parts_differ_by_one(share: Share, count: int) -> None:
    parts = split(share, count)
    assert plus(parts) == share
    for name in share:
        units = [part[name] for part in parts]
        assert max(units) - min(units) <= 1
        assert min(units) >= 1 or count > most_shares(share)


def test_there_are_no_more_shares_than_units_and_none_of_tokens_is_smaller_than_a_request() -> None:
    assert most_shares({"0 slots": 9, "0 requests": 4}) == 4
    assert most_shares({"0 slots": 9, "0 tokens": 350_000}) == 3
    assert most_shares({"0 slots": 9, "0 daily tokens": 40_000}) == 1


@given(shares, shares)
def test_least_and_minus_complete_each_other(one: Share, other: Share) -> None:
    assert plus([least(one, other), minus(one, other)]) == one


def test_what_is_taken_from_the_pool_takes_its_part_of_the_past_along() -> None:
    pool = Pool()
    pool.put({"0 requests": 10}, {"0 requests": [(1.0, 6.0), (2.0, 3.0)]})
    assert pool.take({"0 requests": 4}) == {"0 requests": [(1.0, 2.0), (2.0, 1.0)]}
    assert pool.take({"0 requests": 6}) == {"0 requests": [(1.0, 4.0), (2.0, 2.0)]}
    assert pool.share == {"0 requests": 0}
    with pytest.raises(ValueError, match="1 of 0"):
        pool.take({"0 requests": 1})


def test_a_dead_holder_of_a_share_may_have_used_its_minute_up_and_of_the_day_what_its_ledger_says() -> None:
    share, whole = {"0 slots": 2, "0 requests": 30, "0 daily requests": 50}, {"0 daily requests": 100}
    before, own = [SpentMinute(0, 8, 0)], [SpentMinute(1, 5, 0)]
    past = past_of_a_death(share, whole, before, own, now=1000.0)
    assert past["0 requests"] == [(1000.0, 30.0)]
    assert [amount for _, amount in past["0 daily requests"]] == [4.0, 5.0]


class Wire:
    """The channel of a member, which keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Begin | Reshare] = []

    def send(self, message: Begin | Reshare) -> None:
        self.sent.append(message)


class Fake:
    """A member without a process."""

    def __init__(self) -> None:
        self.channel = Wire()
        self.has_begun = self.is_gone = False
        self.ended = None
        self.share: Share = {}
        self.narrowing: Share | None = None
        self.target: Share | None = None


def members(count: int) -> list[Member]:
    return [Fake() for _ in range(count)]  # type: ignore[misc]


def opening(share: Share, past: Past, is_first: bool) -> Begin:  # noqa: FBT001
    return Begin(urls=(), share=share, past=past, is_first=is_first)


def test_nobody_gets_wider_before_another_is_narrower() -> None:
    sharing = Sharing({"0 slots": 10, "0 requests": 7}, opening)
    one, two, three = members(3)
    sharing.begin_alone(one)
    sharing.reshare([one, two, three])
    assert one.channel.sent[-1] == Reshare(share={"0 slots": 4, "0 requests": 3})
    assert not two.channel.sent
    assert slots_in(plus([one.share, two.share, three.share])) == 10
    sharing.fits(one, {"0 slots": 4, "0 requests": 3}, {"0 requests": [(5.0, 4.0)]})
    assert two.channel.sent == [
        Begin(urls=(), share={"0 slots": 3, "0 requests": 2}, past={"0 requests": [(5.0, 2.0)]}, is_first=False)
    ]
    assert three.channel.sent[0].past == {"0 requests": [(5.0, 2.0)]}
    assert plus([one.share, two.share, three.share]) == {"0 slots": 10, "0 requests": 7}


def test_what_one_had_that_has_ended_goes_to_the_others() -> None:
    sharing = Sharing({"0 slots": 10}, opening)
    one, two = members(2)
    sharing.begin_alone(one)
    sharing.reshare([one, two])
    sharing.fits(one, one.narrowing or {}, {})
    one.is_gone = True
    sharing.ends(one, {})
    sharing.reshare([two])
    assert two.share == {"0 slots": 10}
    assert two.channel.sent[-1] == Reshare(share={"0 slots": 10}, past={})


def test_a_member_that_ends_before_it_fits_gives_back_all_it_had() -> None:
    sharing = Sharing({"0 slots": 10}, opening)
    one, two, three = members(3)
    sharing.begin_alone(one)
    sharing.reshare([one, two, three])
    one.is_gone = True
    sharing.ends(one, {})
    sharing.fits(one, one.narrowing or {}, {})
    sharing.reshare([two, three])
    assert (two.share, three.share) == ({"0 slots": 5}, {"0 slots": 5})


def test_a_provider_that_lets_fewer_in_flight_is_obeyed_by_all_together() -> None:
    sharing = Sharing({"0 slots": 100}, opening)
    one, two = members(2)
    sharing.begin_alone(one)
    sharing.take_told(one, [30])
    sharing.reshare([one, two])
    sharing.fits(one, one.narrowing or {}, {})
    assert (one.share, two.share) == ({"0 slots": 15}, {"0 slots": 15})


def test_slots_go_over_as_they_come_back() -> None:
    """With long replies others must not stand idle until the last slot that is too many is back."""
    sharing = Sharing({"0 slots": 10, "0 requests": 8}, opening)
    one, two = members(2)
    sharing.begin_alone(one)
    sharing.reshare([one, two])
    sharing.fits(one, {"0 slots": 10, "0 requests": 4}, {})
    assert not two.channel.sent  # it has no slot yet
    sharing.fits(one, {"0 slots": 8, "0 requests": 4}, {})
    assert two.share == {"0 slots": 2, "0 requests": 4}
    sharing.fits(one, {"0 slots": 5, "0 requests": 4}, {})
    assert two.share == {"0 slots": 5, "0 requests": 4}
    assert plus([one.share, two.share]) == {"0 slots": 10, "0 requests": 8}
    assert one.narrowing is None
