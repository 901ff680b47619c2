"""The budget by itself: what a request can cost, and that no order of attempts spends more than there is."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.budget import Budget, MostTokens, Reservation, Spent, most_tokens, with_messages
from batchrun.model.attempt import Usage
from batchrun.model.request import encode_texts
from batchrun.pricing import Rate, Rates, rate

COUNT = st.integers(0, 100_000)
RATE = st.builds(
    Rate,
    st.decimals(0, 100, places=3),
    st.lists(st.tuples(st.integers(0, 50_000), st.decimals(0, 100, places=3)), max_size=3).map(
        lambda tiers: tuple(sorted(tiers))
    ),
)
RATES = st.builds(Rates, input=RATE, output=RATE, cached_input=st.none() | RATE, cache_write=st.none() | RATE)
MOVES = st.lists(
    st.tuples(st.sampled_from(["send", "send", "pay", "refuse", "lose"]), st.integers(0, 40)), max_size=200
)


@given(RATES, COUNT, COUNT, COUNT, COUNT, st.integers(0, 1000))
def test_r13_no_reply_within_its_bounds_costs_more_than_the_bound(
    rates: Rates, prompt: int, completion: int, cached: int, written: int, less: int
) -> None:
    most = rates.most_nanousd(prompt, completion)
    usage = Usage(
        prompt_tokens=max(0, prompt - less),
        completion_tokens=max(0, completion - less),
        cached_tokens=cached,
        cache_write_tokens=written,
    )
    assert (rates.nanousd(usage) or 0) <= most


def test_r13_the_bound_is_that_of_the_design() -> None:
    """DESIGN.md, section 4: bytes of the messages and 16 a message as input, max_tokens times n as output."""
    messages = encode_texts("Größe", "say")
    assert messages.count == 2
    bytes_in = len('[{"role":"system","content":"Größe"},{"role":"user","content":"say"}]'.encode())
    assert with_messages(most_tokens({"max_tokens": 10, "n": 3}), messages) == MostTokens(
        prompt=bytes_in + 32, completion=30
    )
    rates = Rates(input=rate(0.12), output=rate(0.30))
    assert rates.most_nanousd(bytes_in + 32, 30) == (bytes_in + 32) * 120 + 30 * 300


def test_r13_the_bound_follows_the_rates_that_others_are_made_of() -> None:
    """A dearer write to the cache, or a tier that is reached, counts whether or not the rates had one before."""
    flat = Rates(input=rate(0.12), output=rate(0.30), cached_input=rate(0.02), cache_write=rate(0.15))
    assert flat.most_nanousd(1000, 10) == 1000 * 150 + 10 * 300
    tiered = msgspec.structs.replace(flat, output=Rate(Decimal("0.30"), ((500, Decimal(3)),)))
    assert [tiered.most_nanousd(prompt, 10) for prompt in (500, 501)] == [500 * 150 + 3000, 501 * 150 + 30_000]
    assert msgspec.structs.replace(tiered, output=flat.output).most_nanousd(501, 10) == 501 * 150 + 3000


@pytest.mark.parametrize(
    ("fields", "completion"),
    [
        ({}, None),
        ({"max_tokens": None}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 7}, 7),
        ({"max_tokens": 5, "max_completion_tokens": 7, "n": None}, 7),
        ({"max_tokens": 5, "max_completion_tokens": "7"}, None),
        ({"max_tokens": -1}, None),
        ({"max_tokens": 0}, None),
        ({"max_tokens": True}, None),
        ({"max_tokens": 5, "n": 2}, 10),
        ({"max_tokens": 5, "n": "2"}, None),
    ],
)
def test_what_bounds_the_output(fields: dict[str, object], completion: int | None) -> None:
    assert most_tokens(fields).completion == completion


def test_tools_are_part_of_the_prompt() -> None:
    more = most_tokens({"tools": [{"a": "ü"}], "stop": "abc"}).prompt - most_tokens({}).prompt
    assert more == len('[{"a":"ü"}]'.encode())


@given(st.integers(0, 200), MOVES, st.integers(0, 60))
def test_r13_honest_bounds_are_never_overspent_in_any_order(
    limit: int, moves: Sequence[tuple[str, int]], spent: int
) -> None:
    """Attempts begin and end in any order, at any cost up to their bound; what was lost counts as its bound."""
    budget = Budget(limit, Spent(known_nanousd=min(spent, limit)))
    out: list[Reservation] = []
    really = min(spent, limit)
    for move, number in moves:
        if move == "send":
            if (reservation := budget.reserve(number)) is not None:
                out.append(reservation)
            else:
                assert budget.taken_nanousd + number > limit
        elif out:
            reservation = out.pop(number % len(out))
            assert reservation.bound_nanousd is not None
            cost = min(number, reservation.bound_nanousd)
            if move == "pay":
                budget.pay(reservation, cost)
                really += cost
            elif move == "lose":
                budget.keep(reservation)
                really += cost
            else:
                budget.give_back(reservation)
        assert really <= budget.spent.nanousd <= budget.taken_nanousd <= limit
        assert budget.out == len(out)
    for reservation in out:
        budget.give_back(reservation)
    assert budget.taken_nanousd == budget.spent.nanousd


@given(st.integers(1, 200), MOVES)
def test_r13_without_bounds_no_more_is_overspent_than_was_in_flight(
    limit: int, moves: Sequence[tuple[str, int]]
) -> None:
    """Whatever attempts turn out to cost: beyond the limit comes only what was out when the last one was sent."""
    budget = Budget(limit, Spent())
    out: list[tuple[Reservation, int]] = []
    most = limit
    for move, cost in moves:
        if move == "send":
            taken = budget.taken_nanousd
            if (new := budget.reserve(None)) is not None:
                assert taken < limit
                out.append((new, cost))
                most = max(most, budget.spent.known_nanousd + sum(cost for _, cost in out))
        elif out:
            reservation, really = out.pop(0)
            if move == "pay":
                budget.pay(reservation, really)
            elif move == "lose":
                budget.keep(reservation)
            else:
                budget.give_back(reservation)
        assert budget.spent.known_nanousd <= most


def reserved(budget: Budget) -> Reservation:
    """A reservation without a bound."""
    reservation = budget.reserve(None)
    assert reservation is not None
    return reservation


def test_r13_without_bounds_equal_attempts_are_not_overspent_once_one_was_seen() -> None:
    budget = Budget(100, Spent())
    budget.pay(reserved(budget), 30)
    assert [budget.reserve(None) is not None for _ in range(4)] == [True, True, False, False]


def test_r13_attempts_of_unknown_cost_count_at_the_dearest_also_when_that_is_seen_later() -> None:
    budget = Budget(100, Spent())
    budget.keep(reserved(budget))
    budget.keep(reserved(budget))
    assert budget.spent.nanousd == 0
    budget.pay(reserved(budget), 30)
    assert budget.spent.nanousd == 90
    assert budget.reserve(None) is None
    assert budget.reserve(10) is not None
