"""Tokens and prices into money, in integer nano-USD by decimal arithmetic; what is unknown stays unknown."""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Annotated

import msgspec
from msgspec import Meta

from batchrun.model.attempt import Usage

MOST_USD_PER_MILLION = 1_000_000

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")  # Decimal also takes "1_000"
_NANO = Decimal(10) ** 9
_MOST_NANOUSD = 2**63 - 1
_MOST_USD = _MOST_NANOUSD / _NANO
_MOST_USD_OF_DOUBLE = 1e6
_UNITS = 10**9
"""Of these is a nano-USD made where tokens are multiplied by prices, so prices are exact to 12 decimals."""
_HALF = _UNITS // 2

UsdPerMillion = Annotated[
    float,
    Meta(
        ge=0,
        le=MOST_USD_PER_MILLION,
        description="USD for 1,000,000 tokens; more than 1 USD a token is refused",
    ),
]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[price]: USD for 1,000,000 tokens, used when the server reports no cost."""

    input: UsdPerMillion | None = None
    output: UsdPerMillion | None = None
    cached_input: UsdPerMillion | None = None
    auto: Annotated[bool, Meta(description="look up what is not given; needs the extra `price`")] = False

    def rates(self) -> Rates | None:
        """Return the rates that the job file gives; None where it gives no price of input or of output."""
        if self.input is None or self.output is None:
            return None
        return Rates(
            input=rate(self.input),
            output=rate(self.output),
            cached_input=None if self.cached_input is None else rate(self.cached_input),
        )


class Rate(msgspec.Struct, frozen=True, gc=False):
    """USD for 1,000,000 tokens: `base`, or for a request of more than so many prompt tokens that tier's price.

    A tier holds for all tokens of the request, not only for those beyond its bound; tiers stand in rising order.
    `units` is `base` as whole units for a token.
    """

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()
    units: int = 0
    _tiers: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Count the prices in whole units for a token, once."""
        msgspec.structs.force_setattr(self, "units", _units(self.base))
        msgspec.structs.force_setattr(
            self, "_tiers", tuple((more_than, _units(price)) for more_than, price in self.tiers)
        )

    def of(self, prompt_tokens: int) -> int:
        """Return the units for a token that hold for a request of so many prompt tokens."""
        units = self.units
        for more_than, dearer in self._tiers:
            if prompt_tokens > more_than:
                units = dearer
        return units

    def dearest(self, most_prompt_tokens: int) -> int:
        """Return the most units for a token that may hold for a request of up to so many prompt tokens."""
        units = self.units
        for more_than, price in self._tiers:
            if more_than < most_prompt_tokens and price > units:
                units = price
        return units


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What the tokens of one model cost; where a rate of cached tokens is None, they cost what others do."""

    input: Rate
    output: Rate
    cached_input: Rate | None = None
    cache_write: Rate | None = None
    _flat: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Keep the dearest units for a token of input and of output where no tier has others."""
        has_tiers = any(one.tiers for one in (*self._inputs(), self.output))
        msgspec.structs.force_setattr(self, "_flat", None if has_tiers else self._dearest(0))

    def nanousd(self, usage: Usage) -> int | None:
        """Return the cost of `usage`, or None where its token counts are not known or no one can have used as many.

        Prompt tokens include cached ones and completion tokens include reasoning ones (PROTOCOL.md 2.1), so
        each is counted once; more cached tokens than prompt tokens count as all of them.
        """
        prompt, completion = usage.prompt_tokens, usage.completion_tokens
        if prompt is None or completion is None:
            return None
        units = self.input.of(prompt) if self.input.tiers else self.input.units
        total = prompt * units + completion * (self.output.of(prompt) if self.output.tiers else self.output.units)
        if usage.cached_tokens or usage.cache_write_tokens:
            cached = min(usage.cached_tokens or 0, prompt)
            written = min(usage.cache_write_tokens or 0, prompt - cached)
            total += cached * ((self.cached_input or self.input).of(prompt) - units)
            total += written * ((self.cache_write or self.input).of(prompt) - units)
        nanousd, rest = divmod(total, _UNITS)
        if rest >= _HALF and (rest > _HALF or nanousd % 2):  # half to even
            nanousd += 1
        return nanousd if nanousd <= _MOST_NANOUSD else None

    def most_nanousd(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return what no request of up to so many tokens can cost more than, at the dearest tier within its reach."""
        of_input, of_output = self._flat or self._dearest(prompt_tokens)
        return -(-(prompt_tokens * of_input + completion_tokens * of_output) // _UNITS)

    def _inputs(self) -> list[Rate]:
        """Return all that a token of input may cost."""
        return [one for one in (self.input, self.cached_input, self.cache_write) if one is not None]

    def _dearest(self, prompt_tokens: int) -> tuple[int, int]:
        """Return the most units for a token of input, and of output, of a request of up to so many prompt tokens."""
        return max(one.dearest(prompt_tokens) for one in self._inputs()), self.output.dearest(prompt_tokens)


Tariff = Callable[[str | None, str | None], Rates | None]
"""Tells what a reply costs at this moment, by the model that answered and the one that was asked for, where known."""


def _units(usd_per_million: Decimal) -> int:
    """Return a price as units for a token."""
    return _whole(usd_per_million * 1000 * _UNITS)


def rate(usd_per_million: float) -> Rate:
    """Return a rate without tiers, the double as it is written."""
    return Rate(Decimal(str(usd_per_million)))


def nanousd_of_double(usd: float) -> int | None:
    """Return the nano-USD, the nearest, of any decimal number that becomes this double; None where they may differ.

    A whole number of them that becomes the same double differs from what was written by no more than 2⁻⁵² of it: below
    a million USD that is less than a quarter of a nano-USD.
    """
    if not 0 <= usd < _MOST_USD_OF_DOUBLE:
        return None
    nanousd = round(usd * 1e9)
    return nanousd if nanousd / 1e9 == usd else None


def nanousd_from_usd(value: object) -> int | None:
    """Return the cost that a server reports in USD, a number or numeric string ≥ 0; None for anything else."""
    if isinstance(value, Decimal):
        usd = value
    elif not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            usd = _decimal(value)
        except InvalidOperation:
            return None
    else:
        return None
    if not usd.is_finite() or usd < 0 or usd > _MOST_USD:
        return None
    return _whole(usd * _NANO)


def _decimal(value: object) -> Decimal:
    """Return a number exactly, a double as it is written; raises InvalidOperation for text that is none."""
    if isinstance(value, int):
        return Decimal(value)
    text = str(value)
    if not _NUMBER.fullmatch(text.strip()):
        raise InvalidOperation
    return Decimal(text)


def usd(nanousd: int) -> float:
    """Return nano-USD as USD, the nearest double."""
    return nanousd / 1_000_000_000


def usd_text(nanousd: int) -> str:
    """Return nano-USD as USD for a message, exact and without an exponent."""
    whole, rest = divmod(nanousd, 10**9)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


def _whole(nanousd: Decimal) -> int:
    return int(nanousd.to_integral_value(rounding=ROUND_HALF_EVEN))
