"""A job's [price], base URL and model into what its replies cost: its own rates, or those of genai-prices' table.

The table is the one that the installed package brings along: nothing is fetched. It is imported where a job asks for
it and nowhere else. A provider may change its price by the hour or on a given day, and may answer with another model
than was asked for, so the rates are those of the reply's model in the minute of the reply.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from batchrun.errors import JobError
from batchrun.job.lanes import LanePlan, lanes_of
from batchrun.job.settings import Job
from batchrun.pricing import MOST_USD_PER_MILLION, Price, Rate, Rates, Tariff, rate

if TYPE_CHECKING:
    from genai_prices.types import PriceCalculation

PACKAGE = "genai-prices"
SERIES = "0.2"
_INSTALL = f"pip install '{PACKAGE}=={SERIES}.*'"
_ANOTHER_NAME: Mapping[str, str] = {"api.together.ai": "api.together.xyz"}
"""Hosts that the table knows by an older name."""
_NOT_BY_TOKEN = ("requests_kcount", "output_reasoning_mtok", "output_citation_mtok")
"""Prices of what each reply may be billed for beside its prompt and completion: the sum would be too low."""
_MOST_MODELS, _MOST_NAME_CHARS = 100, 200


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """What a job's replies cost where the server does not say.

    `rates` are those of the asked model now and `source` says whose they are; where none are known, `unknown` says why.
    `tariff` may still know another model's.
    """

    tariff: Tariff | None = None
    rates: Rates | None = None
    source: str = ""
    unknown: str | None = None


def quote_of(job: Job, *, lane: LanePlan | None = None, now: Callable[[], float] = time.time) -> Quote:
    """Return what prices the replies of a lane, default: the job's first.

    `now` is the time of the prices, in seconds since 1970 UTC.
    Raises JobError where the job asks for the table and it is not installed.
    """
    price = job.price
    if price is None:
        return Quote(unknown="the job gives no [price]")
    if not price.auto:
        rates = price.rates()
        return Quote(tariff=lambda _answered, _asked: rates, rates=rates, source="[price]")
    lane = lane or lanes_of(job)[0]
    table = _Table(lane.endpoint.base_url, job.request.get("service_tier"), price, now)
    asked = lane.model or job.request.get("model")
    if not isinstance(asked, str):
        return Quote(tariff=table.rates, unknown="each row names a model of its own and is priced by that")
    rates = table.rates(None, asked)
    if rates is None:
        return Quote(tariff=table.rates, unknown=table.why_unknown(asked))
    return Quote(tariff=table.rates, rates=rates, source=table.source(asked))


class _Table:
    """The prices of one provider, overridden by those that the job gives."""

    def __init__(self, base_url: str, tier: object, price: Price, now: Callable[[], float]) -> None:
        """Import the table; raises JobError where it is not there."""
        try:
            import genai_prices  # noqa: PLC0415 - optional, and 0.2 s of CPU that only a job with price.auto needs
            from genai_prices.types import TieredPrices  # noqa: PLC0415
        except ImportError:
            raise JobError(f"price.auto: needs the package {PACKAGE}: {_INSTALL}") from None
        self._version = version(PACKAGE)
        if not f"{self._version}.".startswith(f"{SERIES}."):
            raise JobError(f"price.auto: {PACKAGE} {self._version} is installed, but {SERIES} is needed: {_INSTALL}")
        self._package, self._tiered = genai_prices, TieredPrices
        self._price = price
        self._now = now
        url = urlsplit(base_url)
        self._host = url.hostname or base_url
        self._url = f"https://{_ANOTHER_NAME.get(self._host, self._host)}{url.path}"
        self._context = {"service_tier": tier} if isinstance(tier, str) and tier != "auto" else None
        self._minute = 0.0
        self._known: dict[tuple[str | None, str | None], Rates | None] = {}

    def rates(self, answered: str | None, asked: str | None) -> Rates | None:
        """Return the rates of this minute for the model that answered, or where it is not listed for the asked one."""
        minute = self._now() // 60
        if minute != self._minute or len(self._known) > _MOST_MODELS:
            self._minute = minute
            self._known = {}
        models = (answered, asked)
        if models not in self._known:
            named = (model for model in models if model is not None and len(model) <= _MOST_NAME_CHARS)
            self._known[models] = self._overridden(next(filter(None, map(self._find, named)), None))
        return self._known[models]

    def source(self, model: str) -> str:
        """Say whose the rates of a model are."""
        if (found := self._find(model)) is None:
            return "[price]"
        given = sorted(self._given())
        but = f", but {', '.join(given)} of [price]" if given else ""
        return f"{PACKAGE} {self._version}: {found.provider.name}, {found.model.id}{but}"

    def why_unknown(self, model: str) -> str:
        """Say why a model has no rates."""
        if self._find(model) is None:
            return f"{PACKAGE} {self._version} knows no model {model} at {self._host}"
        return f"{PACKAGE} {self._version} has no price by prompt and completion token of {model}"

    def _given(self) -> dict[str, Rate]:
        """Return the rates that the job gives."""
        prices = {
            "input": self._price.input,
            "output": self._price.output,
            "cached_input": self._price.cached_input,
        }
        return {name: rate(usd) for name, usd in prices.items() if usd is not None}

    def _overridden(self, found: PriceCalculation | None) -> Rates | None:
        """Return the rates of what was found, if anything, under those that the job gives."""
        rates = (self._listed(found.model_price) if found else {}) | self._given()
        if "input" not in rates or "output" not in rates:
            return None
        return Rates(
            input=rates["input"],
            output=rates["output"],
            cached_input=rates.get("cached_input"),
            cache_write=rates.get("cache_write"),
        )

    def _find(self, model: str) -> PriceCalculation | None:
        try:
            return self._package.calc_price(
                self._package.Usage(),
                model,
                provider_api_url=self._url,
                genai_request_timestamp=datetime.fromtimestamp(self._now(), UTC),
                price_context=self._context,
            )
        except (LookupError, ValueError):
            return None

    def _listed(self, prices: object) -> dict[str, Rate]:
        """Return the rates of one entry; none where what it bills is not known by tokens alone."""
        if any(getattr(prices, name, None) for name in _NOT_BY_TOKEN):
            return {}
        names = {
            "input": "input_mtok",
            "output": "output_mtok",
            "cached_input": "cache_read_mtok",
            "cache_write": "cache_write_mtok",
        }
        found = {name: self._rate(getattr(prices, theirs, None)) for name, theirs in names.items()}
        return {name: listed for name, listed in found.items() if listed is not None}

    def _rate(self, listed: object) -> Rate | None:
        """Return a price of the table as a rate; None where it is none, or cannot be one for 1,000,000 tokens."""
        if isinstance(listed, self._tiered):
            base, tiers = listed.base, tuple((tier.start, tier.price) for tier in listed.tiers)
        elif isinstance(listed, Decimal):
            base, tiers = listed, ()
        else:
            return None
        prices = (base, *(price for _, price in tiers))
        return Rate(base, tiers) if all(0 <= price <= MOST_USD_PER_MILLION for price in prices) else None
