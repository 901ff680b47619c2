"""Tokens and prices into nano-USD: exact, each token once, the unknown unknown."""

from __future__ import annotations

from decimal import Decimal

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrun.model.attempt import Usage
from batchrun.pricing import Price, Rate, Rates, nanousd_from_usd, nanousd_of_double, usd


def rates(**prices: float) -> Rates:
    """What a [price] of the job file becomes."""
    made = msgspec.convert(prices, Price).rates()
    assert made is not None
    return made


DEEPINFRA = rates(input=0.12, output=0.30)
TOKENS = st.integers(0, 10_000_000)
USD = st.decimals(0, 1000, places=4).map(float)


@pytest.mark.parametrize(("prompt", "completion", "nanousd"), [(13, 536, 162_360), (13, 593, 179_460), (0, 0, 0)])
def test_r11_the_reference_rows_are_exact(prompt: int, completion: int, nanousd: int) -> None:
    assert DEEPINFRA.nanousd(Usage(prompt_tokens=prompt, completion_tokens=completion)) == nanousd


def test_r12_the_numbers_of_litellm_31714() -> None:
    """DEMAND.md R12: 1 fresh and 27,146 cached prompt tokens and 351 out, at 1.40, 0.26 and 4.40 USD."""
    price = rates(input=1.40, cached_input=0.26, output=4.40)
    nanousd = price.nanousd(Usage(prompt_tokens=27_147, completion_tokens=351, cached_tokens=27_146))
    assert nanousd == 8_603_760
    assert usd(nanousd) == 0.00860376


def test_r12_cached_tokens_are_counted_once() -> None:
    price = rates(input=1.0, output=0.0, cached_input=0.25)
    assert price.nanousd(Usage(prompt_tokens=100, completion_tokens=5, cached_tokens=40)) == 60 * 1000 + 40 * 250


def test_without_a_cached_price_cached_tokens_cost_as_others_do() -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=0, cached_tokens=40)
    assert rates(input=1.0, output=0.0).nanousd(usage) == 100_000


def test_r12_reasoning_tokens_are_part_of_the_completion() -> None:
    usage = Usage(prompt_tokens=0, completion_tokens=10, reasoning_tokens=9)
    assert rates(input=1.0, output=2.0).nanousd(usage) == 20_000


def test_r12_more_cached_than_prompt_tokens_are_no_negative_cost() -> None:
    usage = Usage(prompt_tokens=10, completion_tokens=0, cached_tokens=1000)
    assert rates(input=1.0, output=0.0, cached_input=0.5).nanousd(usage) == 5000


@pytest.mark.parametrize(
    "usage", [Usage(), Usage(prompt_tokens=1), Usage(completion_tokens=1), Usage(total_tokens=5, cached_tokens=1)]
)
def test_r11_unknown_tokens_have_no_cost(usage: Usage) -> None:
    assert DEEPINFRA.nanousd(usage) is None


def test_r12_tokens_written_to_a_cache_are_counted_once() -> None:
    """Of 100 prompt tokens 40 were read from a cache and 50 written to one; no more than 100 are ever billed."""
    price = Rates(input=Rate(Decimal(1)), output=Rate(Decimal(0)), cache_write=Rate(Decimal("1.25")))
    dear = msgspec.structs.replace(price, cached_input=Rate(Decimal("0.1")))
    usage = Usage(prompt_tokens=100, completion_tokens=0, cached_tokens=40, cache_write_tokens=50)
    assert dear.nanousd(usage) == 10 * 1000 + 40 * 100 + 50 * 1250
    assert price.nanousd(usage) == 50 * 1000 + 50 * 1250
    assert msgspec.structs.replace(price, cache_write=None).nanousd(usage) == 100 * 1000
    assert dear.nanousd(msgspec.structs.replace(usage, cache_write_tokens=10**9)) == 40 * 100 + 60 * 1250


@pytest.mark.parametrize(
    ("prompt", "input_usd", "output_usd"),
    [(0, 1, 10), (128_000, 1, 10), (128_001, 2, 20), (256_000, 2, 20), (256_001, 4, 40), (10**9, 4, 40)],
)
def test_a_tier_holds_for_all_tokens_of_the_request(prompt: int, input_usd: int, output_usd: int) -> None:
    price = Rates(
        input=Rate(Decimal(1), ((128_000, Decimal(2)), (256_000, Decimal(4)))),
        output=Rate(Decimal(10), ((128_000, Decimal(20)), (256_000, Decimal(40)))),
    )
    nanousd = price.nanousd(Usage(prompt_tokens=prompt, completion_tokens=7))
    assert nanousd == (prompt * input_usd + 7 * output_usd) * 1000


def test_a_price_that_is_not_whole_gives_no_rates() -> None:
    for prices in ({}, {"input": 1.0}, {"output": 1.0}, {"cached_input": 1.0}):
        assert msgspec.convert(prices, Price).rates() is None


def test_tokens_that_no_one_used_have_no_cost() -> None:
    """A sum beyond int64 would not fit the ledger."""
    assert rates(input=1e6, output=1e6).nanousd(Usage(prompt_tokens=2**62, completion_tokens=1)) is None


@given(prompt=TOKENS, completion=TOKENS, cached=TOKENS, more=TOKENS, prices=st.tuples(USD, USD, USD))
def test_r12_cost_grows_with_tokens_and_falls_with_cached_ones(
    prompt: int, completion: int, cached: int, more: int, prices: tuple[float, float, float]
) -> None:
    price = rates(input=max(prices[:2]), cached_input=min(prices[:2]), output=prices[2])

    def cost(prompt: int, completion: int, cached: int) -> int:
        usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=min(cached, prompt))
        nanousd = price.nanousd(usage)
        assert nanousd is not None
        return nanousd

    before = cost(prompt, completion, cached)
    assert 0 <= before <= cost(prompt + more, completion, cached)
    assert before <= cost(prompt, completion + more, cached)
    assert before >= cost(prompt, completion, cached + more)


@pytest.mark.parametrize(
    ("value", "nanousd"),
    [
        (0, 0),
        (1, 10**9),
        (0.00016236, 162_360),
        ("0.00016236", 162_360),
        (" 0.5 ", 500_000_000),
        ("1e-5", 10_000),
        ("1E-5", 10_000),
        (".5", 500_000_000),
        ("5.", 5 * 10**9),
        ("-0", 0),
        (1e-5, 10_000),
        (Decimal("0.000000001"), 1),
        (0.1 + 0.2, 300_000_000),
        ("1e-999999", 0),
        (1e-320, 0),
    ],
)
def test_costs_that_a_server_reports(value: object, nanousd: int) -> None:
    assert nanousd_from_usd(value) == nanousd


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        -1,
        -0.0001,
        "-1",
        float("nan"),
        float("inf"),
        "nan",
        "inf",
        "Infinity",
        "sNaN",
        Decimal("sNaN"),
        "",
        " ",
        "free",
        "$0.10",
        "0,10",
        "1_000",
        "\u0661",
        "0x10",
        None,
        [1],
        {"usd": 1},
        b"1",
        1e300,
        10**5000,
        "1e999999",
        "1e99999999999999999999",
        "9" * 5000,
    ],
    ids=lambda value: f"{type(value).__name__} {str(value)[:20]}" if not isinstance(value, int) else "int",
)
def test_what_is_no_cost(value: object) -> None:
    assert nanousd_from_usd(value) is None


@given(st.integers(0, 10**15))
def test_nanousd_survive_usd(nanousd: int) -> None:
    assert nanousd_from_usd(usd(nanousd)) == nanousd


@given(st.decimals(0, 2_000_000, places=9) | st.decimals(0, 2, places=14) | st.floats(0, 2e6).map(Decimal))
@example(Decimal("5E-10"))
@example(Decimal("15E-10"))
@example(Decimal("0.1234567885"))
@example(Decimal("999999.9999999994999999999999999999"))
def test_the_nanousd_of_a_double_are_those_of_what_was_written(written: Decimal) -> None:
    """Half a nano-USD goes to the even one: a double that stands for a half says nothing of which side it came from."""
    found = nanousd_of_double(float(written))
    assert found is None or found == nanousd_from_usd(written)


@given(st.integers(0, 10**15 - 1))
def test_whole_nanousd_are_known_from_their_double(nanousd: int) -> None:
    assert nanousd_of_double(float(f"{nanousd}e-9")) == nanousd


@pytest.mark.parametrize("usd", [-1e-9, -1.0, 1e6, 1e300, float("inf"), float("-inf"), float("nan")])
def test_what_a_double_may_not_stand_for(usd: float) -> None:
    assert nanousd_of_double(usd) is None


@pytest.mark.parametrize("price", [{"input": -1, "output": 1}, {"input": 1_000_001, "output": 0}])
def test_r11_prices_out_of_range(price: dict[str, float]) -> None:
    """A price of more than 1 USD a token is a price for one token, not for a million (DEMAND.md R11)."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(price, Price)
