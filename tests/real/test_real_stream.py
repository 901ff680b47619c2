"""The same prompts, streamed and not, over a real model server: the same text and the same counts."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_tools import rows_as_every_reader_sees_them, write_rows
from real_llama import ONE_SLOT, Llama, job_against, packages, run

SAME = (
    *("package", "row", "status", "completion", "finish_reason", "model", "request_sha256", "flags"),
    *("prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens"),
)


@pytest.mark.real
@pytest.mark.parametrize(
    ("count", "max_tokens"),
    [(12, 6), pytest.param(200, 16, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_streamed_or_not_the_rows_are_the_same(llama: Llama, tmp_path: Path, count: int, max_tokens: int) -> None:
    """Temperature 0 and one slot: what differs is the time. pyarrow, DuckDB, Polars and pandas agree on both."""
    write_rows(tmp_path, packages(count))
    job = job_against(
        llama,
        tmp_path,
        input={"key": "package"},
        request={"max_tokens": max_tokens, **ONE_SLOT},
        limits={"concurrency": 1},
        output={"rows_per_part": 5},
    )
    before = llama.counters()
    plain = run(job, "output.path=plain")
    between = llama.counters()
    streamed = run(job, "output.path=streamed", "endpoint.stream=true")
    after = llama.counters()

    rows = rows_as_every_reader_sees_them(tmp_path / "plain")
    assert [row["package"] for row in rows] == [row["package"] for row in packages(count)]
    assert {row["status"] for row in rows} <= {"ok", "truncated"}
    assert all(row["completion"] for row in rows)
    streamed_rows = rows_as_every_reader_sees_them(tmp_path / "streamed")
    assert [{name: row[name] for name in SAME} for row in streamed_rows] == [
        {name: row[name] for name in SAME} for row in rows
    ]
    for summary, start, end in ((plain, before, between), (streamed, between, after)):
        assert (summary.exit_status, summary.requests_sent) == (0, count)
        assert summary.prompt_tokens == end.prompt_tokens - start.prompt_tokens
        assert summary.completion_tokens == end.completion_tokens - start.completion_tokens
    assert plain.first_token_ms is None
    assert streamed.first_token_ms is not None
