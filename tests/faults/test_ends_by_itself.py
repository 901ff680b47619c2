"""Runs that end by themselves before all rows are settled, by the deadline or early for their failures, and go on."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from e2e_tools import job_file, prompts, table_of, write_rows
from test_r04_r07_r09_endpoint import scripted

import batchrun
from batchrun.events import Progress, Summary
from batchrun.job.options import RunOptions

CONCURRENCY = 8


class Telling:
    """A Watcher that sets an event when the run drains."""

    def __init__(self, draining: threading.Event) -> None:
        self.draining = draining
        self.left_s: list[float | None] = []

    def progressed(self, progress: Progress) -> None:
        self.left_s.append(progress.deadline_s)

    def noted(self, event: str, **facts: str | float | None) -> None:
        if event == "draining":
            self.draining.set()


def run(job: Path, *overrides: str, watcher: Telling | None = None, **options: Any) -> Summary:
    return batchrun.run(batchrun.load_job(job, overrides=overrides), RunOptions(**options), watcher=watcher)


def test_a_run_that_can_not_finish_ends_with_status_5_and_the_same_command_completes_it(tmp_path: Path) -> None:
    """What is in flight at the deadline is answered within the grace time and kept: no row is ever sent twice."""
    write_rows(tmp_path, prompts(50))
    draining = threading.Event()
    watcher = Telling(draining)

    def act(handler: Any, prompt: str, nth: int) -> None:
        if int(prompt.split()[1]) >= 10:
            draining.wait(60)
        handler.answer()

    with scripted(act) as server:
        job = job_file(
            tmp_path,
            endpoint={"base_url": server.url},
            limits={"concurrency": CONCURRENCY, "deadline": "1s"},
            output={"rows_per_part": 10},
        )
        summary = run(job, watcher=watcher)
        assert (summary.exit_status, summary.state) == (5, "partial")
        assert 'the deadline "1s"' in summary.reason
        settled = sum(summary.by_status.values())
        assert settled == sum(server.seen.values()) <= 10 + CONCURRENCY
        assert all(left_s is not None and 0 <= left_s <= 1 for left_s in watcher.left_s)
        assert run(job, "limits.deadline=1h").exit_status == 0
        assert set(server.seen.values()) == {1}
    assert table_of(tmp_path / "out").column("row").to_pylist() == list(range(50))


def test_what_outlives_the_grace_time_is_let_go(tmp_path: Path) -> None:
    """An endpoint that never answers can't hold a run beyond its deadline; its rows stay pending."""
    write_rows(tmp_path, prompts(20))
    over = threading.Event()
    with scripted(lambda *_: over.wait(60)) as server:
        limits = {"concurrency": CONCURRENCY, "deadline": "500ms"}
        summary = run(job_file(tmp_path, endpoint={"base_url": server.url}, limits=limits), grace_s=0.0)
        over.set()
    assert (summary.exit_status, summary.state, summary.by_status) == (5, "partial", {})
    assert summary.maybe_billed <= CONCURRENCY


def test_a_drain_that_settles_every_row_is_no_end_by_the_deadline(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(CONCURRENCY))
    draining = threading.Event()

    def act(handler: Any, prompt: str, nth: int) -> None:
        draining.wait(60)
        handler.answer()

    with scripted(act) as server:
        limits = {"concurrency": CONCURRENCY, "deadline": "1s"}
        job = job_file(tmp_path, endpoint={"base_url": server.url}, limits=limits)
        summary = run(job, watcher=Telling(draining))
        if len(server.seen) == CONCURRENCY:  # all were on their way when it came
            assert (summary.exit_status, summary.state) == (0, "complete")
    assert sum(summary.by_status.values()) == len(server.seen)


def test_stop_early_ends_with_status_1_and_retry_failed_sends_the_failed_and_the_rest(tmp_path: Path) -> None:
    """Every other row fails: once 60 of 300 have, nothing new is sent, and the same command sends nothing at all."""
    write_rows(tmp_path, prompts(300))

    def act(handler: Any, prompt: str, nth: int) -> None:
        broken = int(prompt.split()[1]) % 2 and nth == 1
        handler.answer(400, {"error": {"message": "no"}}) if broken else handler.answer()

    with scripted(act) as server:
        job = job_file(
            tmp_path,
            endpoint={"base_url": server.url},
            limits={"concurrency": CONCURRENCY, "max_failed": "20%", "stop_early": True},
            output={"rows_per_part": 50},
        )
        summary = run(job)
        assert (summary.exit_status, summary.state) == (1, "partial")
        assert "stopped early" in summary.reason
        assert 60 < summary.by_status["failed"] <= 60 + 2 * CONCURRENCY
        settled = sum(summary.by_status.values())
        assert settled == sum(server.seen.values()) < 150
        again = run(job)
        assert (again.exit_status, again.by_status) == (1, summary.by_status)
        assert sum(server.seen.values()) == settled
        ends = [run(job, retry_failed=True) for _ in range(3)]  # the rows that are left have failures of their own
        assert [(end.exit_status, end.state) for end in ends] == [(1, "partial"), (0, "complete"), (0, "complete")]
        assert max(server.seen.values()) == 2
    assert table_of(tmp_path / "out").column("status").to_pylist() == ["ok"] * 300
