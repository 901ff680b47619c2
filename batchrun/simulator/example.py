"""A JSON Schema into a value that is valid for it, for a useful subset of JSON Schema.

Understood: type (of a list of types the first), properties, required, enum, const, items, minItems, maxItems,
minimum and maximum with their exclusive forms, minLength, maxLength, and the first branch of anyOf and oneOf.
A schema whose type can't be told becomes null. Not understood: $ref, allOf, pattern, format, uniqueItems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar, cast

_T = TypeVar("_T")

Draw = Callable[[str], float]
"""A number from [0, 1) for the place in the value that it is drawn for."""

_WORDS = ("amber", "birch", "copper", "delta", "ember", "fjord", "garnet", "harbour")
_SPREAD = 100
_MORE_ITEMS = 2


def example(schema: Mapping[str, object], draw: Draw, place: str = "$") -> object:
    """Return a value valid for `schema`, the same for the same draws; `place` names it, as in $.a[0]."""
    if "const" in schema:
        return schema["const"]
    options = schema.get("enum")
    if isinstance(options, list) and options:
        return _one_of(cast("list[object]", options), draw(place))
    for name in ("anyOf", "oneOf"):
        branches = schema.get(name)
        if isinstance(branches, list) and branches:
            rest = {key: value for key, value in schema.items() if key != name}
            return example({**rest, **_schema(cast("list[object]", branches)[0])}, draw, place)
    make = _MAKERS.get(_kind(schema))
    return make(schema, draw, place) if make else None


def _kind(schema: Mapping[str, object]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list) and kind:
        kind = cast("list[object]", kind)[0]
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    return "array" if "items" in schema else ""


def _object(schema: Mapping[str, object], draw: Draw, place: str) -> object:
    parts = _schema(schema.get("properties"))
    required = schema.get("required")
    names = list(parts)
    if isinstance(required, list):
        names += [str(name) for name in cast("list[object]", required) if name not in parts]
    return {name: example(_schema(parts.get(name)), draw, f"{place}.{name}") for name in names}


def _array(schema: Mapping[str, object], draw: Draw, place: str) -> object:
    fewest = _count(schema, "minItems", 0)
    most = _count(schema, "maxItems", fewest + _MORE_ITEMS)
    fewest = max(fewest, min(1, most))
    most = min(most, fewest + _MORE_ITEMS)
    size = max(fewest, fewest + int(draw(f"{place}[]") * (most - fewest + 1)))
    items = _schema(schema.get("items"))
    return [example(items, draw, f"{place}[{at}]") for at in range(size)]


def _string(schema: Mapping[str, object], draw: Draw, place: str) -> object:
    word = _one_of(_WORDS, draw(place))
    shortest = _count(schema, "minLength", 0)
    text = word + f" {word}" * math.ceil(max(0, shortest - len(word)) / (len(word) + 1))
    return text[: _count(schema, "maxLength", max(shortest, len(word)))]


def _integer(schema: Mapping[str, object], draw: Draw, place: str) -> object:
    least, most = _number(schema, "minimum"), _number(schema, "maximum")
    above, below = _number(schema, "exclusiveMinimum"), _number(schema, "exclusiveMaximum")
    lows = [math.ceil(x) for x in (least,) if x is not None]
    lows += [math.floor(x) + 1 for x in (above,) if x is not None]
    highs = [math.floor(x) for x in (most,) if x is not None]
    highs += [math.ceil(x) - 1 for x in (below,) if x is not None]
    low = max(lows) if lows else min([0, *highs])
    high = min(highs) if highs else low + _SPREAD
    return min(high, low + int(draw(place) * (high - low + 1)))


def _float(schema: Mapping[str, object], draw: Draw, place: str) -> object:
    lows = [x for x in (_number(schema, "minimum"), _number(schema, "exclusiveMinimum")) if x is not None]
    highs = [x for x in (_number(schema, "maximum"), _number(schema, "exclusiveMaximum")) if x is not None]
    low = max(lows) if lows else min([0.0, *(high - 1 for high in highs)])
    high = min(highs) if highs else low + _SPREAD
    # The middle half of the range, so that exclusive bounds hold as well.
    value = low + (high - low) * (0.25 + 0.5 * draw(place))
    rounded = round(value, 3)
    return rounded if low < rounded < high else value


def _boolean(_schema: Mapping[str, object], draw: Draw, place: str) -> object:
    return draw(place) < 0.5  # noqa: PLR2004 - a fair coin


_MAKERS: dict[str, Callable[[Mapping[str, object], Draw, str], object]] = {
    "object": _object,
    "array": _array,
    "string": _string,
    "integer": _integer,
    "number": _float,
    "boolean": _boolean,
}


def _one_of(options: Sequence[_T], chance: float) -> _T:
    return options[int(chance * len(options))]


def _schema(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _number(schema: Mapping[str, object], name: str) -> float | None:
    value = schema.get(name)
    return None if isinstance(value, bool) or not isinstance(value, int | float) else value


def _count(schema: Mapping[str, object], name: str, default: int) -> int:
    value = schema.get(name)
    return default if isinstance(value, bool) or not isinstance(value, int) else max(0, value)
