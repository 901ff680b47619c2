"""What a reply cost and who says so, over the usage bodies of the providers (DEMAND.md R11, R12; PROTOCOL.md 0.1)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from client_replies import MODEL
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.reply import ReplyReader
from batchrun.client.usage import read_usage
from batchrun.model.attempt import Reply
from batchrun.pricing import Price, Rate, Rates

DEEPINFRA = Price(input=0.12, output=0.30).rates()
GPT = Price(input=2.50, output=10.0, cached_input=1.25).rates()
GLM = Price(input=1.40, output=4.40, cached_input=0.26).rates()
WRITES = Rates(
    input=Rate(Decimal(4)), output=Rate(Decimal(20)), cached_input=Rate(Decimal("0.4")), cache_write=Rate(Decimal(5))
)


def reply_of(usage: object, rates: Rates | None, headers: dict[str, str]) -> Reply:
    """Read a whole reply with this usage; a str is JSON text as it is."""
    text = usage if isinstance(usage, str) else json.dumps(usage)
    choice = '{"index":0,"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}'
    body = f'{{"id":"1","model":"{MODEL}","choices":[{choice}],"usage":{text}}}'
    return ReplyReader(model=MODEL, tariff=lambda *_: rates, keep_raw=False).read(body.encode(), headers)


TABLE: list[tuple[str, object, Rates | None, dict[str, str], str | None, str | None]] = [
    (
        "DeepInfra, the transcript's first row",
        {"prompt_tokens": 13, "completion_tokens": 536, "total_tokens": 549, "estimated_cost": 0.00016236},
        None,
        {},
        "0.00016236",
        "server",
    ),
    (
        "DeepInfra, the transcript's second row",
        {"prompt_tokens": 13, "completion_tokens": 593, "total_tokens": 606, "estimated_cost": 0.00017946},
        None,
        {},
        "0.00017946",
        "server",
    ),
    ("the first row by price", {"prompt_tokens": 13, "completion_tokens": 536}, DEEPINFRA, {}, "0.00016236", "price"),
    ("the second row by price", {"prompt_tokens": 13, "completion_tokens": 593}, DEEPINFRA, {}, "0.00017946", "price"),
    (
        "DeepInfra's figure comes before the price",
        {"prompt_tokens": 13, "completion_tokens": 536, "estimated_cost": 0.00024354},
        DEEPINFRA,
        {},
        "0.00024354",
        "server",
    ),
    (
        "DeepInfra, a figure in exponent form",
        '{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2,"estimated_cost":4.2e-07}',
        DEEPINFRA,
        {},
        "0.00000042",
        "server",
    ),
    (
        "OpenRouter: its own cost, not that of upstream",
        {
            "prompt_tokens": 10,
            "completion_tokens": 4,
            "total_tokens": 14,
            "cost": 0.00135,
            "is_byok": False,
            "cost_details": {"upstream_inference_cost": 0.9},
            "prompt_tokens_details": {"cached_tokens": 2},
        },
        GPT,
        {},
        "0.00135",
        "server",
    ),
    (
        "LiteLLM: the cost in a header",
        {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        GPT,
        {"x-litellm-response-cost": "6.45e-05"},
        "0.0000645",
        "server",
    ),
    (
        "LiteLLM: it knows no cost, so the price counts",
        {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14},
        GPT,
        {"x-litellm-response-cost": "None"},
        "0.000065",
        "price",
    ),
    (
        "OpenAI: cached and reasoning tokens are counted once",
        {
            "prompt_tokens": 2006,
            "completion_tokens": 300,
            "total_tokens": 2306,
            "prompt_tokens_details": {"cached_tokens": 1920, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 256, "audio_tokens": 0},
        },
        GPT,
        {},
        "0.005615",
        "price",
    ),
    (
        "OpenAI: tokens written to a cache",
        {
            "prompt_tokens": 2000,
            "completion_tokens": 100,
            "total_tokens": 2100,
            "prompt_tokens_details": {"cached_tokens": 500, "cache_write_tokens": 1000},
        },
        WRITES,
        {},
        "0.0092",
        "price",
    ),
    (
        "the numbers of litellm#31714",
        {
            "prompt_tokens": 27_147,
            "completion_tokens": 351,
            "total_tokens": 27_498,
            "prompt_tokens_details": {"cached_tokens": 27_146},
        },
        GLM,
        {},
        "0.00860376",
        "price",
    ),
    (
        "SGLang: reasoning tokens beside the others",
        {"prompt_tokens": 10, "completion_tokens": 50, "total_tokens": 60, "reasoning_tokens": 40},
        GPT,
        {},
        "0.000525",
        "price",
    ),
    (
        "DeepSeek's form of cached tokens",
        {
            "prompt_tokens": 100,
            "completion_tokens": 0,
            "total_tokens": 100,
            "prompt_cache_hit_tokens": 60,
            "prompt_cache_miss_tokens": 40,
        },
        GPT,
        {},
        "0.000175",
        "price",
    ),
    (
        "Ollama: counts and no cost",
        {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12},
        None,
        {},
        None,
        None,
    ),
    ("vLLM: completion_tokens is null", {"prompt_tokens": 5, "completion_tokens": None}, GPT, {}, None, None),
    ("only a total", {"total_tokens": 12}, GPT, {}, None, None),
    ("no counts", {}, GPT, {}, None, None),
    ("no usage", "null", GPT, {}, None, None),
    ("a cost of null", {"prompt_tokens": 5, "estimated_cost": None}, GPT, {}, None, None),
    ("a cost that is none", {"prompt_tokens": 5, "estimated_cost": -0.1}, GPT, {}, None, None),
    (
        "a cost that is none, beside a price",
        {"prompt_tokens": 13, "completion_tokens": 536, "estimated_cost": "n/a"},
        DEEPINFRA,
        {},
        "0.00016236",
        "price",
    ),
    ("free of charge is a cost", {"prompt_tokens": 5, "estimated_cost": 0}, GPT, {}, "0", "server"),
]


@pytest.mark.parametrize(
    ("usage", "rates", "headers", "usd", "source"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_r11_r12_cost_and_its_source(
    usage: object, rates: Rates | None, headers: dict[str, str], usd: str | None, source: str | None
) -> None:
    cost = reply_of(usage, rates, headers).cost
    if usd is None:
        assert cost is None
    else:
        assert cost is not None
        assert (Decimal(cost.nanousd) / 10**9, cost.source) == (Decimal(usd), source)


COUNT = st.none() | st.integers(0, 10**6)


@given(prompt=COUNT, completion=COUNT, total=COUNT, cached=COUNT, reasoning=COUNT, whole=st.booleans())
def test_r11_an_unknown_count_is_never_0_and_never_priced(
    prompt: int | None,
    completion: int | None,
    total: int | None,
    cached: int | None,
    reasoning: int | None,
    *,
    whole: bool,
) -> None:
    """Fields missing or null, on the quick path and on the tolerant one."""
    fields: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
        **({} if whole else {"of_no_known_name": 1}),
    }
    usage, cost = read_usage(msgspec.Raw(json.dumps(fields).encode()), {}, DEEPINFRA, [])
    known = None if prompt is None or completion is None else prompt + completion
    assert (usage.prompt_tokens, usage.completion_tokens) == (prompt, completion)
    assert usage.total_tokens == (known if total is None else total)
    assert (usage.cached_tokens, usage.reasoning_tokens, usage.cache_write_tokens) == (cached, reasoning, None)
    assert (cost is None) is (known is None)


def test_r11_what_a_useless_reply_cost_by_price_is_kept() -> None:
    """A 200 without choices was billed all the same; the model that it names is the one that is priced."""
    named: list[tuple[str | None, str | None]] = []

    def tariff(answered: str | None, asked: str | None) -> Rates | None:
        named.append((answered, asked))
        return DEEPINFRA

    reader = ReplyReader(model=MODEL, tariff=tariff, keep_raw=False)
    body = {"model": "other", "choices": [], "usage": {"prompt_tokens": 13, "completion_tokens": 536}}
    for model in (None, "of the row"):
        _, cost = reader.salvage(json.dumps(body).encode(), {}, model=model)
        assert cost is not None
        assert (cost.nanousd, cost.source) == (162_360, "price")
    reader.read(json.dumps({**body, "choices": [{"message": {"content": "x"}}]}).encode(), {}, model="of the row")
    assert named == [("other", MODEL), ("other", "of the row"), ("other", "of the row")]
