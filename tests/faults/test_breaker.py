"""PROTOCOL.md 2.2, #24, by the command: rows that all fail alike end the run, and none of them is marked failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from e2e_tools import (
    PATIENCE_S,
    batchrun,
    endpoint,
    job_file,
    prompts,
    start,
    summary_of,
    table_of,
    wait_for,
    write_rows,
)
from test_r01_r02_r03_kills import check_end, crash
from test_r04_r07_r09_endpoint import scripted

from batchrun import load_job, run

CONCURRENCY = 8


@pytest.mark.parametrize("rows_per_part", [5, 1000])
def test_a_job_that_the_endpoint_rejects_row_by_row_ends_with_status_3(tmp_path: Path, rows_per_part: int) -> None:
    """At most concurrency + 20 requests, no row failed, no part written; the mended job sends every row."""
    write_rows(tmp_path, prompts(200))
    with endpoint("reject_containing=say") as broken, endpoint() as mended:
        job = job_file(
            tmp_path,
            endpoint={"base_url": broken.base_url},
            limits={"concurrency": CONCURRENCY},
            output={"rows_per_part": rows_per_part},
        )
        ended = batchrun("run", job)
        assert ended.returncode == 3, ended.stderr
        assert "HTTP 400" in ended.stderr
        assert "limits.breaker" in ended.stderr
        assert 20 <= broken.stats()["requests"] <= CONCURRENCY + 20
        summary = summary_of(tmp_path / "out")
        assert (summary["by_status"], summary["requests_sent"]) == ({}, broken.stats()["requests"])
        assert not list((tmp_path / "out").glob("*.parquet"))
        ended = batchrun("run", job, "--set", f"endpoint.base_url={mended.base_url}")
        assert ended.returncode == 0, ended.stderr
        assert mended.stats()["requests"] == 200
    check_end(tmp_path / "out", 200)


def test_50_in_a_row_after_a_good_start_end_the_run_too(tmp_path: Path) -> None:
    """Rows answered before stay; the 50 are pending again; switched off, all of them fail and the exit status is 1."""
    rows = [{"prompt": f"fine {number}"} for number in range(40)] + [{"prompt": f"bad {n}"} for n in range(100)]
    write_rows(tmp_path, rows)
    with endpoint("reject_containing=bad") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 30})
        ended = batchrun("run", job)
        assert ended.returncode == 3, ended.stderr
        assert "50 rows in a row" in ended.stderr
        assert summary_of(tmp_path / "out")["by_status"] == {"ok": 40}
        ended = batchrun("run", job, "--set", "limits.breaker=false")
        assert ended.returncode == 1, ended.stderr
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 40, "failed": 100}
    assert table_of(tmp_path / "out").column("attempts").to_pylist()[:40] == [1] * 40


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_crash_as_it_trips_loses_no_row(tmp_path: Path, when: str) -> None:
    """The rows go back in the transaction of the attempt that trips: before it they are failed, after it pending."""
    write_rows(tmp_path, prompts(60))
    with endpoint("reject_containing=say") as broken, endpoint() as mended:
        job = job_file(tmp_path, endpoint={"base_url": broken.base_url}, limits={"concurrency": 1})
        crash(job, ("batchrun.ledger.store:Store.commit", when, 20))
        ended = batchrun("run", job, "--set", f"endpoint.base_url={mended.base_url}", "--retry-failed")
        if when == "before":
            assert ended.returncode == 2  # 19 rows are settled: another base_url is another job
            ended = batchrun("run", job, "--set", "limits.breaker=false", "--retry-failed")
            assert ended.returncode == 1
            assert summary_of(tmp_path / "out")["by_status"] == {"failed": 60}
        else:
            assert ended.returncode == 0, ended.stderr
            check_end(tmp_path / "out", 60)


def test_an_input_sorted_by_length_still_finishes(tmp_path: Path) -> None:
    """A hundred prompts in a row that are too long are the rows' fault: they fail, the rest is answered."""
    write_rows(tmp_path, [{"prompt": f"long {n}"} for n in range(100)] + [{"prompt": f"fine {n}"} for n in range(10)])
    overflow = {"error": {"message": "maximum context length is 8192 tokens", "code": "context_length_exceeded"}}

    def act(handler: Any, prompt: str, _nth: int) -> None:
        handler.answer(400, overflow) if prompt.startswith("long") else handler.answer()

    with scripted(act) as server:
        summary = run(load_job(job_file(tmp_path, endpoint={"base_url": server.url})))
    assert summary.exit_status == 1
    assert summary.by_status == {"ok": 10, "failed": 100}
    assert summary.by_error_class == {"context_overflow": 100}


def test_rows_without_a_prompt_trip_no_breaker(tmp_path: Path) -> None:
    """A hundred in a row are the rows' fault: they fail, the rest is sent."""
    write_rows(tmp_path, [{"prompt": None}] * 100 + [{"prompt": "fine"}] * 10)
    ended = batchrun("run", job_file(tmp_path))
    assert ended.returncode == 1, ended.stderr
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 10, "failed": 100}


def test_what_trips_the_breaker_of_one_process_is_taken_back_by_all(tmp_path: Path) -> None:
    """From some moment on all rows are rejected alike: none of them fails, whoever sent it."""
    write_rows(tmp_path, prompts(1000))
    with endpoint("latency_ms=10") as served:
        port = served.port
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"concurrency": 9, "max_ambiguous_attempts": 3},
            output={"rows_per_part": 10},
        )
        run = start(job, "--processes", "3")
        wait_for(lambda: served.stats()["requests"] >= 200, run)
    with endpoint("latency_ms=10", "reject_containing='say'", port=port) as refusing:
        _, told = run.communicate(timeout=PATIENCE_S)
        assert run.returncode == 3, told
        assert "failed alike and stay pending" in told
        assert (
            50 <= refusing.stats()["requests"] <= 3 * 50 + 9
        )  # others may not have been back yet when the first trips
    assert summary_of(tmp_path / "out")["by_status"].keys() == {"ok"}
    with endpoint("latency_ms=3", port=port):
        assert batchrun("run", job, "--processes", "2").returncode == 0
    assert table_of(tmp_path / "out").column("row").to_pylist() == list(range(1000))
