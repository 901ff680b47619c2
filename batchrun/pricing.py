"""Tokens and prices into money, in integer nano-USD by decimal arithmetic; what is unknown stays unknown."""

from __future__ import annotations

import re
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Annotated

import msgspec
from msgspec import Meta

from batchrun.model.attempt import Usage

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")  # Decimal also takes "1_000"
_NANO = Decimal(10) ** 9
_MOST_NANOUSD = 2**63 - 1
_MOST_USD = _MOST_NANOUSD / _NANO

UsdPerMillion = Annotated[
    float,
    Meta(ge=0, le=1_000_000, description="USD for 1,000,000 tokens; more than 1 USD a token is refused"),
]


class Price(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[price]: USD for 1,000,000 tokens, used when the server reports no cost."""

    input: UsdPerMillion
    output: UsdPerMillion
    cached_input: UsdPerMillion | None = None

    def nanousd(self, usage: Usage) -> int | None:
        """Return the cost of `usage`, or None where its token counts are not known or no one can have used as many.

        Prompt tokens include cached ones and completion tokens include reasoning ones (PROTOCOL.md 2.1), so
        each is counted once; more cached tokens than prompt tokens count as all of them.
        """
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return None
        cached_price = self.input if self.cached_input is None else self.cached_input
        cached = min(usage.cached_tokens or 0, usage.prompt_tokens)
        total = (
            (usage.prompt_tokens - cached) * Decimal(str(self.input))
            + cached * Decimal(str(cached_price))
            + usage.completion_tokens * Decimal(str(self.output))
        )
        nanousd = _whole(total * 1000)
        return nanousd if nanousd <= _MOST_NANOUSD else None


def nanousd_from_usd(value: object) -> int | None:
    """Return the cost that a server reports in USD, a number or numeric string ≥ 0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        return None
    try:
        usd = _decimal(value)
    except InvalidOperation:
        return None
    if not usd.is_finite() or usd < 0 or usd > _MOST_USD:
        return None
    return _whole(usd * _NANO)


def _decimal(value: float | str | Decimal) -> Decimal:
    """Return a number exactly, a double as it is written; raises InvalidOperation for text that is none."""
    if isinstance(value, float):
        return Decimal(str(value))
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        raise InvalidOperation
    return Decimal(value)


def usd(nanousd: int) -> float:
    """Return nano-USD as USD, the nearest double."""
    return nanousd / 1_000_000_000


def _whole(nanousd: Decimal) -> int:
    return int(nanousd.to_integral_value(rounding=ROUND_HALF_EVEN))
