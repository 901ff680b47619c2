"""Outcomes as Arrow: each value in its column, of the column's type, whatever stands above and below it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from batchrun.model.attempt import CostSource, ErrorClass, FinishReason, Reply, Usage
from batchrun.model.outcome import Account, Completion, Failure, Outcome
from batchrun.writer.schema import Layout, joined_batch, output_schema, values_of

TEXTS = st.none() | st.sampled_from(["", "a", "b", "ä\0𝄞"])
COUNTS = st.none() | st.sampled_from([0, 1, 2**63 - 1])
TIMES = st.none() | st.sampled_from([0, 1_767_323_045_000_001, 1_767_323_045_999_999])
FLAGS = st.sampled_from([(), ("maybe_billed",), ("usage_missing", "model_mismatch")])
USAGES = st.builds(
    Usage,
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    total_tokens=COUNTS,
    cached_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    raw=TEXTS,
)
ACCOUNTS = st.builds(
    Account,
    attempts=st.sampled_from([1, 2, 2**31 - 1]),
    cost_nanousd=COUNTS,
    cost_source=st.none() | st.sampled_from(get_args(CostSource)),
    http_status=st.none() | st.sampled_from([200, 500]),
    latency_ms=st.none() | st.sampled_from([0.0, 0.1, 1e9]),
    started_us=TIMES,
    finished_us=TIMES,
    request_sha256=TEXTS,
    flags=FLAGS,
    endpoint=TEXTS,
)
REPLIES = st.builds(
    Reply,
    status=st.sampled_from(["ok", "truncated", "refused", "empty"]),
    text=TEXTS,
    reasoning=TEXTS,
    tool_calls=TEXTS,
    finish_reason=st.none() | st.sampled_from(get_args(FinishReason)),
    model=TEXTS,
    response_id=TEXTS,
    usage=USAGES,
    raw=TEXTS,
)
ROWS = st.sampled_from([0, 1, 2**63 - 1])
COMPLETIONS = st.builds(Completion, row=ROWS, reply=REPLIES, account=ACCOUNTS)
FAILURES = st.builds(
    Failure,
    row=ROWS,
    error_class=st.sampled_from(get_args(ErrorClass)),
    message=st.sampled_from(["m", "n"]),
    account=ACCOUNTS,
    usage=USAGES,
    raw=TEXTS,
)
LAYOUTS = st.builds(
    Layout,
    rows_per_part=st.just(10),
    carried=st.just(()),
    prefix=st.sampled_from(["", "llm_"]),
    keep_raw=st.booleans(),
    endpoint=st.booleans(),
)


def time_of(us: int | None) -> datetime | None:
    return None if us is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def row_of(outcome: Outcome, layout: Layout) -> dict[str, object]:
    """Say what SPEC.md, section 3, wants of an outcome's row."""
    account, usage = outcome.account, outcome.usage
    reply = outcome.reply if isinstance(outcome, Completion) else None
    failure = outcome if isinstance(outcome, Failure) else None
    row: dict[str, object] = {
        "row": outcome.row,
        "status": "failed" if reply is None else reply.status,
        "completion": reply and reply.text,
        "reasoning": reply and reply.reasoning,
        "tool_calls": reply and reply.tool_calls,
        "finish_reason": reply and reply.finish_reason,
        "model": reply and reply.model,
        "response_id": reply and reply.response_id,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "cached_tokens": usage.cached_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
        "cost_usd": None if account.cost_nanousd is None else account.cost_nanousd / 1e9,
        "cost_source": account.cost_source,
        "attempts": account.attempts,
        "http_status": account.http_status,
        "latency_ms": account.latency_ms,
        "started_at": time_of(account.started_us),
        "finished_at": time_of(account.finished_us),
        "error_class": failure and failure.error_class,
        "error_message": failure and failure.message,
        "flags": list(account.flags),
        "usage_json": usage.raw,
        "request_sha256": account.request_sha256,
    }
    if layout.endpoint:
        row["endpoint"] = account.endpoint
    if layout.keep_raw:
        row["response_json"] = failure.raw if failure else reply and reply.raw
    return {layout.prefix + name: value for name, value in row.items()}


@given(st.lists(COMPLETIONS | FAILURES, min_size=1, max_size=6), st.integers(1, 3), LAYOUTS)
def test_each_value_stands_in_its_column(some: list[Outcome], times: int, layout: Layout) -> None:
    """Columns of one value, of nothing, of numbers with gaps and of texts; each buffer is as Arrow wants it."""
    outcomes = [*some, *some[:1] * times]
    batch = joined_batch([], [values_of(one) for one in outcomes], layout, output_schema(layout, run_id="r"))
    batch.validate(full=True)
    assert batch.to_pylist() == [row_of(one, layout) for one in outcomes]
    plain = pa.Table.from_pylist([row_of(one, layout) for one in outcomes], schema=batch.schema)
    assert pa.Table.from_batches([batch]).equals(plain)
