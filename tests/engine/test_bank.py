"""What is spent and what is lent never come to more than the budget, and it is used to its last attempt."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from batchrun.budget import Budget, Reservation, Spent
from batchrun.engine.bank import Bank


def test_a_worker_is_lent_a_piece_or_what_it_needs() -> None:
    bank = Bank(1600, Spent(known_nanousd=100), workers=2)
    bank.ask(1, 10, 0, Spent())
    bank.ask(2, 300, 0, Spent())
    assert bank.lend([1, 2]) == {1: 100, 2: 300}
    assert bank.pool_nanousd == 1600 - 100 - 400


def test_what_others_do_not_need_is_recalled_and_who_has_nothing_is_not_asked() -> None:
    bank = Bank(1000, Spent(), workers=1)
    bank.ask(1, 900, 0, Spent())
    assert bank.lend([1, 2]) == {1: 900}
    bank.ask(2, 200, 0, Spent())
    assert bank.lend([1, 2]) == {}
    assert bank.recall([1, 2]) == [1]
    assert bank.recall([1, 2]) == []
    bank.returned(1, 500, Spent(known_nanousd=400))
    assert bank.lend([1, 2]) == {2: 200}
    assert bank.recall([1, 2]) == []


def test_it_is_used_up_once_all_are_short_nothing_is_out_and_nothing_is_to_come_back() -> None:
    bank = Bank(1000, Spent(known_nanousd=900), workers=1)
    bank.ask(1, 60, 0, Spent())
    assert bank.lend([1, 2]) == {1: 100}
    bank.ask(2, 60, 0, Spent())
    assert not bank.is_used_up([1, 2])
    bank.ask(1, 20, 1, Spent(known_nanousd=60))
    assert not bank.is_used_up([1, 2])
    bank.ask(1, 20, 0, Spent(known_nanousd=60))
    assert not bank.is_used_up([1, 2])  # the rest of one may do for the other
    assert bank.recall([1, 2]) == [1]
    assert not bank.is_used_up([1, 2])
    bank.returned(1, 40, Spent(known_nanousd=60))
    assert bank.lend([1, 2]) == {}
    assert bank.is_used_up([1, 2])
    assert bank.shortest == 60
    bank.close(1, Spent(known_nanousd=960))
    assert bank.is_used_up([2])
    assert not bank.is_used_up([])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 90), st.integers(0, 100)), max_size=60))
def test_no_worker_that_keeps_to_its_loan_can_overspend_the_whole(steps: list[tuple[int, int, int]]) -> None:
    """Workers reserve, pay less than they reserved or keep the reservation, ask, and give back, in any order."""
    bank = Bank(1000, Spent(), workers=3)
    budgets = {number: Budget(0, Spent()) for number in range(3)}
    out: list[tuple[int, Reservation]] = []
    for worker, bound, share in steps:
        budget = budgets[worker]
        if (new := budget.reserve(bound)) is not None:
            out.append((worker, new))
        else:
            bank.ask(worker, budget.taken_nanousd + bound - budget.limit_nanousd, budget.out, budget.spent)
            for number, lent in bank.lend(budgets).items():
                budgets[number].limit_nanousd += lent
            for number in bank.recall(budgets):
                free = max(0, budgets[number].limit_nanousd - budgets[number].taken_nanousd)
                budgets[number].limit_nanousd -= free
                bank.returned(number, free, budgets[number].spent)
        if share > 50 and out:
            number, reserved = out.pop(0)
            budgets[number].pay(reserved, (reserved.bound_nanousd or 0) * share // 100)
        assert sum(one.limit_nanousd for one in budgets.values()) <= 1000
        assert sum(one.taken_nanousd for one in budgets.values()) <= 1000
