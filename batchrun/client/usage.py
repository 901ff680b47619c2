"""A reply's `usage` and cost header into token counts and nano-USD (PROTOCOL.md 2.1)."""

# Without `from __future__ import annotations`: msgspec would compile each field's text again, in 40 µs (measured).

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta

from batchrun.client.body import ABSENT, as_object, json_text
from batchrun.model.attempt import Cost, Usage
from batchrun.pricing import Rates, nanousd_from_usd, nanousd_of_double

_MOST_TOKENS = 10**8
_MOST_DIGITS = 13
_COST_HEADER = "x-litellm-response-cost"


_Count = Annotated[int, Meta(ge=0, le=_MOST_TOKENS)]


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None


class _Reasoned(msgspec.Struct, gc=False):
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    """The usage of most servers; a field beyond these leads to the tolerant path, which knows the rare ones."""

    prompt_tokens: _Count | None = None
    completion_tokens: _Count | None = None
    total_tokens: _Count | None = None
    estimated_cost: float | None = None
    prompt_tokens_details: _Cached | None = None
    completion_tokens_details: _Reasoned | None = None


class _Costed(msgspec.Struct, gc=False):
    estimated_cost: Decimal


_USAGE = msgspec.json.Decoder(_Usage)
_COSTED = msgspec.json.Decoder(_Costed)


def read_usage(
    raw: msgspec.Raw,
    headers: Mapping[str, str],
    rates: Rates | None,
    flags: list[str],
    *,
    groq: msgspec.Raw = ABSENT,
    timings: msgspec.Raw = ABSENT,
) -> tuple[Usage, Cost | None]:
    """Return the tokens and the cost of one reply.

    Groq and llama.cpp may report cached tokens beside the usage, in `x_groq` and `timings` of the body. The cost is the
    server's (`usage.estimated_cost`, `usage.cost`, header `x-litellm-response-cost`), else the rates', else None. Adds
    `usage_missing`, `usage_inconsistent` and `cost_unparsable` to `flags` where they hold.
    """
    text = json_text(raw)
    if text is None:
        flags.append("usage_missing")
        return Usage(), _reported(None, headers, flags)
    given: Mapping[str, object] | None = None
    nanousd: int | None = None
    try:
        typed = _USAGE.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        usage, given = _tolerant(text, flags)
    else:
        cached, reasoned = typed.prompt_tokens_details, typed.completion_tokens_details
        usage = Usage(
            prompt_tokens=typed.prompt_tokens,
            completion_tokens=typed.completion_tokens,
            total_tokens=typed.total_tokens,
            cached_tokens=cached.cached_tokens if cached else None,
            cache_write_tokens=cached.cache_write_tokens if cached else None,
            reasoning_tokens=reasoned.reasoning_tokens if reasoned else None,
            raw=text,
        )
        if typed.estimated_cost is not None and (nanousd := nanousd_of_double(typed.estimated_cost)) is None:
            given = {"estimated_cost": _COSTED.decode(raw).estimated_cost}
    if not (groq is ABSENT and timings is ABSENT) and usage.cached_tokens is None:
        more = _count(flags, _cached_by_groq(groq, flags), _object(timings).get("cache_n"))
        usage = msgspec.structs.replace(usage, cached_tokens=more)
    prompt, completion = usage.prompt_tokens, usage.completion_tokens
    if prompt is not None and completion is not None and usage.total_tokens != prompt + completion:
        usage = _totalled(usage, prompt + completion, flags)
    if nanousd is not None:
        return usage, Cost(nanousd=nanousd, source="server")
    if (given is not None or _COST_HEADER in headers) and (cost := _reported(given, headers, flags)) is not None:
        return usage, cost
    nanousd = None if rates is None else rates.nanousd(usage)
    return usage, None if nanousd is None else Cost(nanousd=nanousd, source="price")


def _totalled(usage: Usage, total_tokens: int, flags: list[str]) -> Usage:
    """Return a usage whose total is not this one with it where it has none."""
    if usage.total_tokens is None:
        return msgspec.structs.replace(usage, total_tokens=total_tokens)
    _add(flags, "usage_inconsistent")
    return usage


def _tolerant(text: str, flags: list[str]) -> tuple[Usage, Mapping[str, object]]:
    given = _object_of(text)
    prompt_details = as_object(given.get("prompt_tokens_details"))
    completion_details = as_object(given.get("completion_tokens_details"))
    usage = Usage(
        prompt_tokens=_count(flags, given.get("prompt_tokens")),
        completion_tokens=_count(flags, given.get("completion_tokens")),
        total_tokens=_count(flags, given.get("total_tokens")),
        cached_tokens=_count(
            flags,
            prompt_details.get("cached_tokens"),
            as_object(given.get("prompt_token_details")).get("cached_tokens"),
            given.get("num_cached_tokens"),
            given.get("prompt_cache_hit_tokens"),
        ),
        cache_write_tokens=_count(flags, prompt_details.get("cache_write_tokens")),
        reasoning_tokens=_count(flags, completion_details.get("reasoning_tokens"), given.get("reasoning_tokens")),
        raw=text,
    )
    return usage, given


def _cached_by_groq(groq: msgspec.Raw, flags: list[str]) -> int | None:
    """Return the sum of what Groq's two kinds of memory held, None where neither is told."""
    told = as_object(_object(groq).get("usage"))
    counts = [_count(flags, told.get(name)) for name in ("dram_cached_tokens", "sram_cached_tokens")]
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def _object(raw: msgspec.Raw) -> Mapping[str, object]:
    text = json_text(raw)
    return as_object(None) if text is None else _object_of(text)


def _object_of(text: str) -> Mapping[str, object]:
    try:
        return as_object(json.loads(text, parse_float=Decimal))
    except (ValueError, ArithmeticError, RecursionError):
        return as_object(None)


def _count(flags: list[str], *values: object) -> int | None:
    """Return the first known value as a token count: an int, an integral number or a digit string, ≥ 0.

    Numbers beyond any reply are no counts: sums over a job must stay within int64, and `1e99999999` as an int would
    take the loop with it.
    """
    for value in values:
        if value is None:
            continue
        whole = value
        if (isinstance(value, str) and value.strip().isdecimal() and len(value) <= _MOST_DIGITS) or (
            isinstance(value, Decimal)
            and value.is_finite()
            and value.adjusted() < _MOST_DIGITS
            and value == value.to_integral_value()
        ):
            whole = int(value)
        if isinstance(whole, int) and not isinstance(whole, bool) and 0 <= whole <= _MOST_TOKENS:
            return whole
        _add(flags, "usage_inconsistent")
        return None
    return None


def _reported(given: Mapping[str, object] | None, headers: Mapping[str, str], flags: list[str]) -> Cost | None:
    """Return the cost that the server reports: in the usage, else in a header."""
    values = [given.get("estimated_cost"), given.get("cost")] if given is not None else []
    header = headers.get(_COST_HEADER)
    if header not in {"", "None"}:
        values.append(header)
    for value in values:
        if value is None:
            continue
        nanousd = nanousd_from_usd(value)
        if nanousd is not None:
            return Cost(nanousd=nanousd, source="server")
        _add(flags, "cost_unparsable")
    return None


def _add(flags: list[str], flag: str) -> None:
    if flag not in flags:
        flags.append(flag)
