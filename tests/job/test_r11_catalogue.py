"""`[price] auto = true`: the rates of genai-prices' table, agreeing with its own calculation (DEMAND.md R11, R12)."""

from __future__ import annotations

import sys
import tomllib
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from genai_prices import Usage as TheirUsage
from genai_prices import calc_price, data_snapshot
from genai_prices.types import ModelPrice, Tier, TieredPrices
from job_files import SMALL, loaded, refusal

from batchrun.errors import JobError
from batchrun.job import catalogue
from batchrun.job.catalogue import Quote, quote_of
from batchrun.job.settings import EndpointSettings, InputSettings, Job, OutputSettings
from batchrun.model.attempt import Usage
from batchrun.pricing import Price, Rate, Rates

OPENAI = "https://api.openai.com/v1"
GROQ = "https://api.groq.com/openai/v1"
DEEPSEEK = "https://api.deepseek.com/v1"
THEN = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MODEL = "gpt-4o"


def job(base_url: str = OPENAI, model: str = MODEL, *, price: Price | None = None, **request: Any) -> Job:
    return Job(
        name="j",
        input=InputSettings(path="/in.jsonl"),
        request={"model": model, **request},
        endpoint=EndpointSettings(base_url=base_url),
        output=OutputSettings(path="/out"),
        price=Price(auto=True) if price is None else price,
    )


def quote(*args: Any, at: datetime = THEN, **kwargs: Any) -> Quote:
    return quote_of(job(*args, **kwargs), now=at.timestamp)


def rates_of(*args: Any, **kwargs: Any) -> Rates:
    rates = quote(*args, **kwargs).rates
    assert rates is not None
    return rates


def listed(url: str, model: str, **context: str) -> ModelPrice:
    return calc_price(
        TheirUsage(), model, provider_api_url=url, genai_request_timestamp=THEN, price_context=context or None
    ).model_price


CHATS = [
    (provider, model)
    for provider in data_snapshot.get_snapshot().providers
    for model in provider.models
    if model.get_prices(THEN).output_mtok is not None and model.get_prices(THEN).input_mtok is not None
]
TIERED = [chat for chat in CHATS if isinstance(chat[1].get_prices(THEN).input_mtok, TieredPrices)]
USAGES = [(13, 536, 0, 0), (27_147, 351, 27_146, 0), (272_001, 99, 5_000, 60_000), (600_000, 1, 0, 600_000)]


def test_r12_the_rates_agree_with_the_tables_own_calculation() -> None:
    """Tiers, cached and written tokens, to the nano-USD; also a guard against a table that changes its shape."""
    for provider, model in [*CHATS[::7], *TIERED]:
        prices = model.get_prices(THEN)
        table = catalogue._Table(job().endpoint.base_url, None, Price(auto=True), THEN.timestamp)
        found = table._listed(prices)
        if any(getattr(prices, name) for name in catalogue._NOT_BY_TOKEN):
            assert found == {}, model.id
            continue
        rates = Rates(**found)
        for prompt, completion, cached, written in USAGES:
            theirs = model.calc_price(
                TheirUsage(
                    input_tokens=prompt,
                    output_tokens=completion,
                    cache_read_tokens=cached,
                    cache_write_tokens=written,
                ),
                provider,
                genai_request_timestamp=THEN,
            ).total_price
            usage = Usage(
                prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, cache_write_tokens=written
            )
            assert rates.nanousd(usage) == int((theirs * 10**9).to_integral_value()), (provider.id, model.id, usage)
    assert len(TIERED) > 20
    assert len(CHATS) > 1000


@pytest.mark.parametrize(
    ("url", "table_url", "model"),
    [
        (OPENAI, OPENAI, "gpt-4o"),
        ("https://API.OpenAI.com:443/v1", OPENAI, "gpt-4o-2024-08-06"),
        ("http://api.openai.com/v1", OPENAI, "gpt-4o"),
        (GROQ, GROQ, "llama-3.3-70b-versatile"),
        ("https://api.mistral.ai/v1", "https://api.mistral.ai", "mistral-small-latest"),
        ("https://api.together.xyz/v1", "https://api.together.xyz", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("https://api.together.ai/v1", "https://api.together.xyz", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("https://api.fireworks.ai/inference/v1", "https://api.fireworks.ai", "accounts/fireworks/models/glm-5p1"),
        (
            "https://generativelanguage.googleapis.com/v1beta/openai",
            "https://generativelanguage.googleapis.com",
            "gemini-2.5-flash",
        ),
        ("https://me.openai.azure.com/openai/deployments/mine", "https://me.openai.azure.com", "gpt-4o"),
        ("https://openrouter.ai/api/v1", "https://openrouter.ai/api/v1", "meta-llama/llama-3.3-70b-instruct"),
    ],
)
def test_r11_the_provider_is_found_by_its_host_and_the_model_by_its_name(url: str, table_url: str, model: str) -> None:
    theirs, found = listed(table_url, model), quote(url, model)
    assert found.unknown is None
    assert found.rates is not None
    assert found.rates.input.base == getattr(theirs.input_mtok, "base", theirs.input_mtok) > 0
    assert found.rates.output.base == getattr(theirs.output_mtok, "base", theirs.output_mtok) > 0
    assert found.source.startswith("genai-prices 0.2.")


@pytest.mark.parametrize(
    ("url", "model", "host"),
    [
        (OPENAI, "no-such-model", "api.openai.com"),
        ("https://api.deepinfra.com/v1/openai", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "api.deepinfra.com"),
        ("http://127.0.0.1:8000/v1", "gpt-4o", "127.0.0.1"),
        ("http://localhost:4000/v1", "openai/gpt-4o", "localhost"),
        ("simulator", "gpt-4o", "simulator"),
    ],
)
def test_r11_an_unknown_model_or_provider_has_no_price_and_never_that_of_another(
    url: str, model: str, host: str
) -> None:
    """A model of this name elsewhere may cost three times as much."""
    found = quote(url, model)
    assert (found.rates, found.source) == (None, "")
    assert found.unknown is not None
    assert found.unknown.startswith("genai-prices 0.2.")
    assert found.unknown.endswith(f" knows no model {model} at {host}")
    assert found.tariff is not None
    assert found.tariff(None, model) is None


def test_r11_what_is_billed_by_the_request_or_by_nothing_has_no_price_by_token() -> None:
    for url, model in (("https://api.perplexity.ai", "sonar"), (OPENAI, "text-embedding-3-small")):
        found = quote(url, model)
        assert found.rates is None
        assert (found.unknown or "").endswith(f"has no price by prompt and completion token of {model}")


def test_what_the_job_gives_overrides_what_the_table_finds() -> None:
    plain = rates_of()
    mine = quote(price=Price(auto=True, input=0.1, cached_input=0.05))
    assert mine.rates == Rates(
        input=Rate(Decimal("0.1")), output=plain.output, cached_input=Rate(Decimal("0.05")), cache_write=None
    )
    assert mine.source.endswith(", but cached_input, input of [price]")
    unlisted = quote("http://localhost:1/v1", price=Price(auto=True, input=0.12, output=0.30))
    assert unlisted.rates == Rates(input=Rate(Decimal("0.12")), output=Rate(Decimal("0.3")))
    assert (unlisted.source, unlisted.unknown) == ("[price]", None)
    assert quote("http://localhost:1/v1", price=Price(auto=True, input=0.12)).rates is None


def test_the_model_that_answered_is_priced_where_the_table_knows_it() -> None:
    """Azure answers with the model behind a deployment; a row's params may ask for another model."""
    mini = rates_of(model="gpt-4o-mini")
    found = quote()
    assert found.tariff is not None
    assert found.tariff("gpt-4o-mini-2024-07-18", MODEL) == mini != found.rates
    for unknown in (None, MODEL, "no-such-model", "x" * 1000, "\ud800"):
        assert found.tariff(unknown, MODEL) == found.rates
        assert found.tariff(unknown, "gpt-4o-mini") == (found.rates if unknown == MODEL else mini)
    assert found.tariff(None, "no-such-model") is None
    azure = quote("https://me.openai.azure.com/openai/deployments/mine", "mine")
    assert azure.rates is None
    assert azure.tariff is not None
    assert azure.tariff("gpt-4o-mini-2024-07-18", "mine") is not None
    assert azure.tariff("mine", "mine") is None


def test_many_models_are_not_all_kept() -> None:
    table = catalogue._Table(job().endpoint.base_url, None, Price(auto=True), THEN.timestamp)
    for number in range(3 * catalogue._MOST_MODELS):
        assert table.rates(f"no-such-model-{number}", MODEL) == table.rates(None, MODEL)
        assert len(table._known) <= catalogue._MOST_MODELS + 1


def test_a_job_without_a_model_has_a_price_for_each_row() -> None:
    """Rows of an OpenAI batch file name their models themselves."""
    table = quote_of(msgspec.structs.replace(job(), request={}), now=THEN.timestamp)
    assert (table.rates, table.unknown) == (None, "each row names a model of its own and is priced by that")
    assert table.tariff is not None
    assert table.tariff(None, MODEL) == rates_of()


def test_the_asked_service_tier_has_its_own_price() -> None:
    """A priority tier at the standard price would be reported too low (DEMAND.md R11)."""
    at = datetime(2026, 11, 20, tzinfo=UTC)
    standard, flex, priority = (
        rates_of(model="gpt-5.6", at=at, **request)
        for request in ({}, {"service_tier": "flex"}, {"service_tier": "priority"})
    )
    assert flex.input.base < standard.input.base < priority.input.base
    assert rates_of(model="gpt-5.6", at=at, service_tier="auto") == standard


def test_a_price_that_changes_by_the_hour_or_the_day_is_that_of_the_reply() -> None:
    hours = [datetime(2025, 8, 1, hour, 45, tzinfo=UTC) for hour in (12, 20)]
    day, night = (rates_of(DEEPSEEK, "deepseek-chat", at=at) for at in hours)
    assert day != night
    now = [hours[0].timestamp()]
    found = quote_of(job(DEEPSEEK, "deepseek-chat"), now=lambda: now[0])
    assert found.tariff is not None
    for at, rates in ((hours[0], day), (hours[1], night), (hours[0], day)):
        now[0] = at.timestamp()
        assert found.tariff(None, "deepseek-chat") == rates


def test_prices_that_are_none_are_no_rates() -> None:
    """What the table may never hold is not taken for a price when it does."""
    table = catalogue._Table(job().endpoint.base_url, None, Price(auto=True), THEN.timestamp)
    for wrong in (
        None,
        0.12,
        "0.12",
        Decimal(-1),
        Decimal(1_000_001),
        TieredPrices(Decimal(1), [Tier(1, Decimal(-1))]),
    ):
        assert table._rate(wrong) is None
    tiers = TieredPrices(Decimal(1), [Tier(200, Decimal(3)), Tier(100, Decimal(2))])
    assert table._rate(tiers) == Rate(Decimal(1), ((100, Decimal(2)), (200, Decimal(3))))


def test_without_the_extra_the_job_is_refused_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    with pytest.raises(JobError, match=r"^price\.auto: needs the package genai-prices: pip install 'genai-prices==0"):
        quote()
    assert quote(price=Price(input=1.0, output=2.0)).rates is not None


def test_another_series_of_the_extra_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "version", lambda _: "0.30.1")
    with pytest.raises(JobError, match=r"genai-prices 0\.30\.1 is installed, but 0\.2 is needed: pip install"):
        quote()


def test_the_series_is_the_one_that_the_project_pins() -> None:
    pinned = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert pinned["price"] == [f"{catalogue.PACKAGE}>={catalogue.SERIES},<0.3"]


def test_the_table_is_not_imported_where_nobody_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    assert quote_of(Job(**{name: getattr(job(), name) for name in ("name", "input", "request", "endpoint", "output")}))
    assert quote(price=Price(input=1.0, output=2.0)).source == "[price]"


@pytest.mark.parametrize(
    ("price", "message"),
    [
        ("{input=1}", "price.output: missing; it is required unless price.auto is true"),
        ("{output=1}", "price.input: missing; it is required unless price.auto is true"),
        ("{cached_input=1}", "price.input: missing; it is required unless price.auto is true"),
        ("{}", "price.input: missing; it is required unless price.auto is true"),
        ("{input=1, auto=false}", "price.output: missing"),
        ("{auto=1}", "price.auto: expected `bool`"),
    ],
)
def test_a_price_that_is_not_whole_is_refused_by_its_key(tmp_path: Path, price: str, message: str) -> None:
    assert refusal(tmp_path, f"price={price}").startswith(message)


def test_prices_that_are_whole(tmp_path: Path) -> None:
    for price in ("{input=1, output=2}", "{auto=true}", "{auto=true, output=2}"):
        assert loaded(tmp_path, f"price={price}", text=SMALL).price is not None
