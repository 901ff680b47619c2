"""The same job streamed or not: the same rows, and the same promises."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import endpoint, job_file, prompts, start, summary_of, table_of, wait_for, write_rows

import batchrun as library
from batchrun.job.options import RunOptions

ITS_OWN = ("latency_ms", "started_at", "finished_at", "response_json")


def ran(job: Path, *overrides: str, limit: int | None = None) -> Any:
    """Run a job in this process."""
    return library.run(library.load_job(job, overrides=overrides), RunOptions(limit=limit))


def test_a_streamed_job_gives_the_same_rows(tmp_path: Path) -> None:
    """Every column but the times, with replies, errors and cuts; and the time to the first text is told."""
    write_rows(tmp_path, prompts(200))
    job = job_file(
        tmp_path,
        request={"max_tokens": 40},
        endpoint={"keep_raw": True},
        limits={"concurrency": 16, "max_attempts": 1, "breaker": False},
        simulator={"latency_ms": 20, "completion_tokens": 60, "error_rate": 0.1, "truncate_rate": 0.1, "seed": 3},
    )
    plain = ran(job, "output.path=plain")
    streamed = ran(job, "output.path=streamed", "endpoint.stream=true")
    assert (streamed.by_status, streamed.by_error_class) == (plain.by_status, plain.by_error_class)
    assert set(plain.by_status) == {"truncated", "failed"}
    assert (streamed.requests_sent, streamed.retries, streamed.maybe_billed, streamed.cost_usd) == (
        plain.requests_sent,
        plain.retries,
        plain.maybe_billed,
        plain.cost_usd,
    )
    one, other = (table_of(tmp_path / name).drop_columns(ITS_OWN) for name in ("plain", "streamed"))
    assert one.equals(other)
    for row in table_of(tmp_path / "streamed").to_pylist():
        if row["status"] == "truncated":
            message = json.loads(row["response_json"])["choices"][0]["message"]
            assert message == {"role": "assistant", "content": row["completion"]}
    assert plain.first_token_ms is None
    assert streamed.first_token_ms is not None
    assert 0 < streamed.first_token_ms < 5000
    told = json.loads((tmp_path / "streamed" / "_batchrun" / "progress.json").read_bytes())
    assert told["first_token_ms"] == summary_of(tmp_path / "streamed")["first_token_ms"] == streamed.first_token_ms
    assert library.run(library.load_job(job, overrides=["output.path=streamed"])) == streamed


def test_a_job_goes_on_streamed_as_it_began(tmp_path: Path) -> None:
    """endpoint.stream is no part of what makes a job the same, nor of request_sha256."""
    write_rows(tmp_path, prompts(40))
    job = job_file(tmp_path, output={"rows_per_part": 10})
    for limit, stream in ((10, "true"), (25, "false"), (40, "true")):
        summary = ran(job, f"endpoint.stream={stream}", limit=limit)
        assert (summary.exit_status, summary.requests_sent) == (0, limit)
        assert (summary.first_token_ms is None) == (stream == "false")
    ran(job, "output.path=again")
    mixed, plain = (table_of(tmp_path / name).drop_columns(ITS_OWN[:3]) for name in ("out", "again"))
    assert mixed.equals(plain)


def test_cut_streams_are_counted_one_by_one(tmp_path: Path) -> None:
    """Sent, then cut: each may have been billed, and no row but theirs says so."""
    write_rows(tmp_path, prompts(100))
    with endpoint("truncate_rate=0.08", "reset_rate=0.04", "latency_ms=5") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url, "stream": True},
            limits={"concurrency": 16, "max_ambiguous_attempts": 9, "max_attempts": 19},
        )
        summary = ran(job)
        stats = served.stats()
    assert summary.by_status == {"ok": 100}
    assert summary.requests_sent == stats["requests"]
    cut = stats["by_status"]["truncated"] + stats["by_status"]["reset"]
    assert summary.maybe_billed == cut
    assert stats["paid_twice"] == stats["by_status"]["truncated"]
    rows = table_of(tmp_path / "out").to_pylist()
    assert sum(row["attempts"] for row in rows) == stats["requests"]
    assert sum(row["attempts"] - 1 for row in rows if "maybe_billed" in row["flags"]) >= cut
    assert all(row["attempts"] > 1 for row in rows if row["flags"])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_streamed_run_that_is_stopped_costs_what_an_unstreamed_one_does(
    tmp_path: Path, number: signal.Signals
) -> None:
    """Killed in the middle of its streams: at most the slots are paid again. Drained: nothing is."""
    count, concurrency = 300, 16
    write_rows(tmp_path, prompts(count))
    with endpoint("latency_ms=60", "latency_sigma=0.7") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url, "stream": True},
            limits={"concurrency": concurrency, "max_ambiguous_attempts": 0},
            output={"rows_per_part": 50},
        )
        run = start(job)
        wait_for(lambda: served.stats()["replies"] >= count / 2, run)
        os.kill(run.pid, number)
        run.communicate(timeout=60)
        assert run.returncode == (-9 if number is signal.SIGKILL else 143)
        summary = ran(job)
        stats = served.stats()
    assert summary.by_status == {"ok": count}
    table = table_of(tmp_path / "out")
    assert table.column("row").to_pylist() == list(range(count))
    assert stats["prompts"] == count
    assert stats["paid_twice"] <= (concurrency if number is signal.SIGKILL else 0)
    assert count <= summary.requests_sent <= stats["requests"]
