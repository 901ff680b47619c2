"""Outcomes through the ledger's encoding and back, and what they say of their row."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.model.attempt import PASSING_ERRORS, CostSource, ErrorClass, FinishReason, Reply, Usage
from batchrun.model.outcome import STATUSES, Account, Completion, Failure, Outcome, Status, pack, unpack
from batchrun.model.record import Column, InputFile, Survey

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
COUNTS = st.none() | st.integers(0, 2**63 - 1)
WORDS = st.none() | TEXTS
FLAGS = st.lists(TEXTS, max_size=3).map(tuple)
USAGES = st.builds(
    Usage,
    prompt_tokens=COUNTS,
    completion_tokens=COUNTS,
    total_tokens=COUNTS,
    cached_tokens=COUNTS,
    reasoning_tokens=COUNTS,
    raw=WORDS,
)
ACCOUNTS = st.builds(
    Account,
    attempts=st.integers(0, 2**31 - 1),
    cost_nanousd=COUNTS,
    cost_source=st.none() | st.sampled_from(get_args(CostSource)),
    http_status=st.none() | st.integers(100, 599),
    latency_ms=st.none() | st.floats(0, 1e9),
    started_us=COUNTS,
    finished_us=COUNTS,
    request_sha256=WORDS,
    flags=FLAGS,
)
REPLIES = st.builds(
    Reply,
    status=st.sampled_from(["ok", "truncated", "refused", "empty"]),
    text=WORDS,
    reasoning=WORDS,
    tool_calls=WORDS,
    finish_reason=st.none() | st.sampled_from(get_args(FinishReason)),
    model=WORDS,
    response_id=WORDS,
    usage=USAGES,
    flags=FLAGS,
    raw=WORDS,
)
ROWS = st.integers(0, 2**63 - 1)
COMPLETIONS = st.builds(Completion, row=ROWS, reply=REPLIES, account=ACCOUNTS)
FAILURES = st.builds(
    Failure,
    row=ROWS,
    error_class=st.sampled_from(get_args(ErrorClass)),
    message=TEXTS,
    account=ACCOUNTS,
    usage=USAGES,
    raw=WORDS,
)


@given(COMPLETIONS | FAILURES)
def test_an_outcome_comes_back_as_it_was(outcome: Outcome) -> None:
    assert unpack(pack(outcome)) == outcome


def test_a_completion_has_its_replys_status() -> None:
    usage = Usage(prompt_tokens=1)
    for status in ("ok", "truncated", "refused", "empty"):
        completion = Completion(row=0, reply=Reply(status=status, text="t", usage=usage), account=Account())
        assert (completion.status, completion.error_class, completion.usage) == (status, None, usage)


def test_a_failure_failed() -> None:
    failure = Failure(row=0, error_class="server", message="HTTP 500", account=Account())
    assert (failure.status, failure.error_class) == ("failed", "server")


def test_statuses_are_all_there_are() -> None:
    assert get_args(Status) == STATUSES
    assert set(get_args(ErrorClass)) > PASSING_ERRORS


def test_a_survey_adds_up_its_files() -> None:
    files = tuple(InputFile(path=name, size=1, mtime_ns=0, sha256="", rows=3) for name in "ab")
    survey = Survey(format="jsonl", files=files, columns=(Column(name="x", kind="string"),))
    assert (survey.rows, survey.column_names()) == (6, ("x",))


def test_values_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Account().attempts = 3  # type: ignore[misc]
