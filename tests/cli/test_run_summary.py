"""The summary of a run in lines for a person."""

from __future__ import annotations

import msgspec
import pytest

from batchrun.cli.run import summary_lines
from batchrun.events import Summary, SummaryInput

NOTHING_SENT = Summary(
    run_id="r",
    job="label",
    state="partial",
    exit_status=3,
    reason="no connection could be opened",
    rows=3_000,
    by_status={},
    by_error_class={},
    requests_sent=0,
    retries=0,
    throttled=0,
    maybe_billed=0,
    prompt_tokens=0,
    completion_tokens=0,
    cost_usd=None,
    unpriced_rows=0,
    started_at="2026-11-25T00:00:00+00:00",
    finished_at="2026-11-25T00:00:06+00:00",
    wall_s=6.0,
    input=SummaryInput(path="rows.jsonl", fingerprint="f"),
    output="out",
    versions={},
)


def cost_line(**facts: float | None) -> str:
    (line,) = (line for line in summary_lines(msgspec.structs.replace(NOTHING_SENT, **facts)) if "  cost" in line)
    return line


def test_where_nothing_was_sent_nothing_is_unknown_about_the_cost() -> None:
    assert cost_line() == "  cost      none: nothing was sent"


@pytest.mark.parametrize("facts", [{"requests_sent": 1}, {"lost_attempts": 32}])
def test_r11_what_may_be_billed_has_a_cost_that_is_not_known(facts: dict[str, int]) -> None:
    assert cost_line(**facts) == "  cost      unknown"


def test_the_cost_and_what_the_budget_holds_beside_it() -> None:
    held = " 0.015230 USD; the budget holds 0.000255 USD more for attempts of unknown cost"
    assert cost_line(requests_sent=9, cost_usd=0.01523, held_usd=0.000255).endswith(held)
