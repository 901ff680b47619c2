"""Go durations into seconds: the sum of their parts, and what is none."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.job.duration import UNIT_S, go_duration_s


@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(["d", "h", "m", "s", "ms", "us", "µs", "ns"])), min_size=1
    )
)
def test_a_go_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    unit_s = {"d": 86400, "h": 3600, "m": 60, "s": 1, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
    whole = sum(number * unit_s[unit] for number, unit in parts)
    assert go_duration_s("".join(f"{number}{unit}" for number, unit in parts)) == pytest.approx(whole)


@given(st.text() | st.text("0123456789.dhmsnuµμ +-", max_size=30))
def test_whatever_is_read_is_a_finite_time_and_not_negative(text: str) -> None:
    value = go_duration_s(text)
    assert value is None or (value >= 0 and math.isfinite(value))


@given(
    st.from_regex(r"([0-9]{1,3}(\.[0-9])?(h|m|s))*", fullmatch=True),
    st.sampled_from(
        [" ", "+", "-", ".", "1", "1.", "1.h", ".5h", "1 h", "1x", "1H", "h", "\u0661h", "1e3s", "inf s", "\n"]
    ),
)
def test_text_with_anything_else_in_it_is_none(before: str, wrong: str) -> None:
    """Only a text that is whole parts from end to end is a duration."""
    assert go_duration_s(before + wrong) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("5h30m", 19800), ("1.5h", 5400), ("2d", 172800), ("90s", 90), ("0s", 0), ("1h1h", 7200)]
)
def test_durations_as_people_write_them(text: str, seconds: float) -> None:
    assert go_duration_s(text) == seconds


def test_the_micro_sign_and_the_greek_letter_are_the_same() -> None:
    assert UNIT_S["\u00b5s"] == UNIT_S["\u03bcs"] == UNIT_S["us"]
    assert go_duration_s("9" * 400 + "h") is None
