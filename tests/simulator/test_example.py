"""Values for a JSON Schema: valid by construction, checked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from batchrun.simulator.draws import draw
from batchrun.simulator.example import example

SEEDS = range(50)


def values(schema: dict[str, Any]) -> list[Any]:
    return [example(schema, lambda place, seed=seed: draw(seed, "", 0, place)) for seed in SEEDS]


def test_object_has_all_its_properties_and_what_is_required() -> None:
    schema = {
        "type": "object",
        "properties": {
            "ok": {"type": "boolean"},
            "none": {"type": "null"},
            "tags": {"items": {"type": "string"}},
        },
        "required": ["ok", "unknown"],
    }
    for value in values(schema):
        assert list(value) == ["ok", "none", "tags", "unknown"]
        assert isinstance(value["ok"], bool)
        assert value["none"] is None
        assert value["tags"]
        assert all(isinstance(tag, str) for tag in value["tags"])
    assert {value["ok"] for value in values(schema)} == {True, False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 7}, {7}),
        ({"enum": ["a", 2]}, {"a", 2}),
        ({"anyOf": [{"const": 1}, {"const": 2}]}, {1}),
        ({"oneOf": [{"type": "integer"}], "minimum": 3, "maximum": 3}, {3}),
        ({"type": ["null", "string"]}, {None}),
        ({"type": "integer", "minimum": 1, "maximum": 3}, {1, 2, 3}),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 3}, {2}),
        ({"type": "integer", "minimum": 1.5, "maximum": 2.5}, {2}),
        ({"type": "what"}, {None}),
        ({}, {None}),
    ],
)
def test_scalars(schema: dict[str, Any], expected: set[Any]) -> None:
    assert set(values(schema)) == expected


@given(st.integers(0, 60), st.integers(0, 60))
def test_strings_keep_their_lengths(shortest: int, longest: int) -> None:
    assume(shortest <= longest)
    schema = {"type": "string", "minLength": shortest, "maxLength": longest}
    assert all(shortest <= len(value) <= longest for value in values(schema))
    assert all(len(value) >= shortest for value in values({"type": "string", "minLength": shortest}))


@given(st.integers(0, 9), st.integers(0, 9))
def test_arrays_keep_their_sizes(fewest: int, most: int) -> None:
    assume(fewest <= most)
    schema = {"type": "array", "items": {"type": "boolean"}, "minItems": fewest, "maxItems": most}
    assert all(fewest <= len(value) <= most for value in values(schema))


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from(["integer", "number"]))
def test_numbers_keep_their_bounds(low: float, high: float, kind: str) -> None:
    assume(math.ceil(low) <= math.floor(high))
    for bounds in ({"minimum": low}, {"maximum": high}, {"minimum": low, "maximum": high}):
        for value in values({"type": kind, **bounds}):
            assert bounds.get("minimum", value) <= value <= bounds.get("maximum", value)
            assert isinstance(value, int) or kind == "number"


def test_exclusive_bounds_of_a_number() -> None:
    assert all(
        0 < value < 0.001 for value in values({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.001})
    )
