"""DEMAND.md R41 by whole runs: several endpoints, each with its own pause, breaker and key; rows say who answered."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_server import CRASHED
from e2e_tools import batchrun as command
from e2e_tools import digest_of_prompt, endpoint, job_file, prompts, summary_of, table_of, write_rows
from test_r04_r07_r09_endpoint import GOOD, Scripted, scripted

import batchrun
from batchrun.events import Progress, Summary
from batchrun.job.options import RunOptions

KEYS = {"KEY_A": "SENTINEL0a0of0no0known0form", "KEY_B": "SENTINEL0b0of0no0known0form"}
ERROR = {"error": {"message": "no"}}
CONCURRENCY = 4


class Told:
    """A Watcher that keeps the events and the last progress."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.last: Progress | None = None

    def progressed(self, progress: Progress) -> None:
        self.last = progress

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append((event, facts))

    def retired(self) -> dict[str, str]:
        return {facts["endpoint"]: facts["why"] for event, facts in self.events if event == "endpoint retired"}


def job_of(folder: Path, *served: Scripted | str, rows: int = 40, **tables: Any) -> Path:
    """A job over these endpoints, which are called a, b and so on."""
    write_rows(folder, prompts(rows))
    entries = [
        {"name": "abc"[place], "base_url": one if isinstance(one, str) else one.url} for place, one in enumerate(served)
    ]
    limits = {"concurrency": CONCURRENCY, **tables.pop("limits", {})}
    return job_file(folder, endpoint=entries, limits=limits, **tables)


def run(job: Path, *overrides: str, told: Told | None = None, **options: Any) -> Summary:
    loaded = batchrun.load_job(job, overrides=overrides)
    return batchrun.run(loaded, RunOptions(**options), environ=KEYS, watcher=told or Told())


def endpoints(folder: Path) -> list[str | None]:
    return table_of(folder / "out").column("endpoint").to_pylist()


def fine(handler: Any, prompt: str, nth: int) -> None:
    handler.answer()


def refusing(status: int) -> Callable[..., None]:
    def act(handler: Any, prompt: str, nth: int) -> None:
        handler.answer(status, ERROR)

    return act


def test_r41_a_401_retires_one_endpoint_and_the_column_says_who_answered(tmp_path: Path) -> None:
    """Every row is answered by B with no try spent; neither key is told, though A quotes both."""
    told = Told()

    def quoting(handler: Any, prompt: str, nth: int) -> None:
        handler.answer(401, {"error": {"message": f"no key {KEYS['KEY_A']} or {KEYS['KEY_B']}"}})

    with scripted(quoting) as a, scripted(fine) as b:
        job = job_of(tmp_path, a, b)
        keys = [f"endpoint.{place}.api_key_env={name}" for place, name in enumerate(KEYS)]
        summary = run(job, *keys, told=told)
    assert (summary.exit_status, summary.by_status) == (0, {"ok": 40})
    assert endpoints(tmp_path) == ["b"] * 40
    assert 1 <= sum(a.seen.values()) <= CONCURRENCY
    assert summary.requests_sent == 40 + sum(a.seen.values())
    assert "HTTP 401" in told.retired()["a"]
    assert "key from KEY_A" in told.retired()["a"]
    assert told.last is not None
    assert [(lane.name, lane.state) for lane in told.last.lanes] == [("a", "retired"), ("b", "open")]
    progress = json.loads((tmp_path / "out" / "_batchrun" / "progress.json").read_bytes())
    assert progress["lanes"][0] == {
        "name": "a",
        "state": "retired",
        "slots": 4,
        "in_flight": 0,
        "paused_s": 0.0,
        "used": {"slots": 0.0},
    }
    assert not any(key in repr(told.events) for key in KEYS.values())
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or not any(key.encode() in path.read_bytes() for key in KEYS.values()), path


def test_r41_when_the_last_endpoint_retires_the_run_ends_with_status_3_and_goes_on_mended(tmp_path: Path) -> None:
    def three_times(handler: Any, prompt: str, nth: int) -> None:
        handler.answer() if sum(b.seen.values()) <= 3 else handler.answer(402, ERROR)

    with scripted(refusing(401)) as a, scripted(three_times) as b:
        job = job_of(tmp_path, a, b)
        summary = run(job)
        assert (summary.exit_status, summary.state, summary.by_status) == (3, "partial", {"ok": 3})
        assert summary.reason.startswith("a: HTTP 401: no")
        assert "; b: HTTP 402: no" in summary.reason
        a.act = b.act = fine
        assert run(job).exit_status == 0
    assert sorted(table_of(tmp_path / "out").column("row").to_pylist()) == list(range(40))
    assert set(endpoints(tmp_path)) == {"a", "b"}


def test_r41_a_429_on_a_leaves_b_working_and_its_row_waits_for_nobody(tmp_path: Path) -> None:
    """A asks to be left alone for 250 s, so only B can have answered within the patience of this test."""

    def throttled(handler: Any, prompt: str, nth: int) -> None:
        handler.answer(429, ERROR, Retry_After="250")

    with scripted(throttled) as a, scripted(fine) as b:
        summary = run(job_of(tmp_path, a, b))
    assert (summary.exit_status, summary.by_status) == (0, {"ok": 40})
    assert endpoints(tmp_path) == ["b"] * 40
    assert summary.throttled == sum(a.seen.values()) <= CONCURRENCY
    attempts = table_of(tmp_path / "out").column("attempts").to_pylist()
    assert sum(attempts) == 40 + summary.throttled


@pytest.mark.parametrize("rows_per_part", [5, 1000])
def test_rows_that_one_endpoint_rejects_alike_are_answered_by_the_other(tmp_path: Path, rows_per_part: int) -> None:
    """The breaker of A trips: what it had taken for failed rows goes to B, in this run, and no part holds a failure."""
    told = Told()
    slow = threading.Event()

    def held(handler: Any, prompt: str, nth: int) -> None:
        slow.wait(0.05)
        handler.answer()

    with scripted(refusing(400)) as a, scripted(held) as b:
        job = job_of(tmp_path, a, b, rows=60, output={"rows_per_part": rows_per_part})
        summary = run(job, told=told)
    assert (summary.exit_status, summary.by_status) == (0, {"ok": 60}), summary
    assert "limits.breaker" in told.retired()["a"]
    assert 20 <= sum(a.seen.values()) <= 20 + CONCURRENCY
    table = table_of(tmp_path / "out")
    assert table.column("row").to_pylist() == list(range(60))
    assert set(endpoints(tmp_path)) == {"b"}
    assert sum(table.column("attempts").to_pylist()) == summary.requests_sent == sum(a.seen.values()) + 60


def test_rows_that_both_endpoints_reject_end_the_run_and_stay_pending(tmp_path: Path) -> None:
    with scripted(refusing(400)) as a, scripted(refusing(400)) as b:
        job = job_of(tmp_path, a, b, rows=100, output={"rows_per_part": 5})
        summary = run(job)
        assert (summary.exit_status, summary.by_status) == (3, {})
        assert summary.reason.count("limits.breaker") == 2
        assert not list((tmp_path / "out").glob("*.parquet"))
        assert sum(a.seen.values()) + sum(b.seen.values()) <= 40 + 3 * CONCURRENCY
        b.act = fine
        assert run(job).by_status == {"ok": 100}


def test_r41_a_fallback_answers_while_the_first_is_out_and_then_no_more(tmp_path: Path) -> None:
    """A fails until B has answered 30 rows, with its own model; the last rows are A's again."""

    def first(handler: Any, prompt: str, nth: int) -> None:
        well = len(a.seen) < 40 or len(b.seen) >= 30
        handler.answer() if well else handler.answer(502, ERROR)

    def second(handler: Any, prompt: str, nth: int) -> None:
        time.sleep(0.05)
        handler.answer(body={**GOOD, "model": "small"})

    with scripted(first) as a, scripted(second) as b:
        limits = {"strategy": "fallback", "max_attempts": 50, "concurrency": 8}
        job = job_of(tmp_path, a, b, rows=500, limits=limits)
        told = Told()
        summary = run(job, "endpoint.1.model=small", told=told)
    assert (summary.exit_status, summary.by_status) == (0, {"ok": 500})
    rows = table_of(tmp_path / "out").to_pylist()
    names = [row["endpoint"] for row in rows]
    assert names[:5] == names[-5:] == ["a"] * 5
    assert 30 <= names.count("b") == sum(b.seen.values()) < 450
    assert {(row["endpoint"], row["model"]) for row in rows} == {("a", "test-model"), ("b", "small")}
    assert not any(row["flags"] for row in rows)
    weather = [(event, facts["endpoint"]) for event, facts in told.events if "outage" in event]
    assert weather == [("an outage begins", "a"), ("the outage ends", "a")]


def test_kill_9_and_resume_lose_nothing_and_keep_the_names(tmp_path: Path) -> None:
    with endpoint("latency_ms=5") as a, endpoint("latency_ms=5") as b:
        job = job_of(tmp_path, a.base_url, b.base_url, rows=200, output={"rows_per_part": 50})
        for nth in (3, 10):
            assert command("run", job, step=("batchrun.ledger.store:Store.commit", "after", nth)).returncode == CRASHED
        assert command("run", job).returncode == 0
        sent = a.stats()["requests"] + b.stats()["requests"]
    assert 200 <= sent <= 200 + 2 * 2 * CONCURRENCY
    table = table_of(tmp_path / "out")
    assert table.column("row").to_pylist() == list(range(200))
    for row in table.select(["prompt", "completion", "endpoint"]).to_pylist():
        assert row["completion"].startswith(digest_of_prompt(row["prompt"]))
        assert row["endpoint"] in {"a", "b"}
    assert set(endpoints(tmp_path)) == {"a", "b"}


def test_the_column_stays_as_the_output_was_begun(tmp_path: Path) -> None:
    """Endpoints may come and go while the first base_url stays; another first one is another job."""
    with endpoint() as a, endpoint() as b:
        job = job_of(tmp_path, a.base_url, b.base_url, output={"rows_per_part": 10})
        one = job_of(tmp_path, a.base_url, output={"rows_per_part": 10}).rename(tmp_path / "one.toml")
        job = job_of(tmp_path, a.base_url, b.base_url, output={"rows_per_part": 10})
        other = job_of(tmp_path, b.base_url, a.base_url, output={"rows_per_part": 10}).rename(tmp_path / "other.toml")
        job = job_of(tmp_path, a.base_url, b.base_url, output={"rows_per_part": 10})
        assert run(job, limit=20).exit_status == 0
        with pytest.raises(batchrun.JobError, match=r"endpoint\.base_url: "):
            run(other)
        assert run(one).exit_status == 0
        assert len(table_of(tmp_path / "out")) == 40
        assert endpoints(tmp_path)[20:] == ["a"] * 20
        assert run(one, "output.path=alone", limit=10).exit_status == 0
        told = Told()
        assert run(job, "output.path=alone", told=told).exit_status == 0
        assert "layout kept" in [event for event, _ in told.events]
        assert "endpoint" not in table_of(tmp_path / "alone").schema.names


def test_the_simulator_may_be_one_of_the_endpoints(tmp_path: Path) -> None:
    with scripted(refusing(401)) as broken:
        job = job_of(tmp_path, broken, "simulator")
        assert run(job).by_status == {"ok": 40}
    assert endpoints(tmp_path) == ["b"] * 40
    assert summary_of(tmp_path / "out")["exit_status"] == 0


def test_a_second_signal_or_a_drain_leaves_no_endpoint_waiting(tmp_path: Path) -> None:
    """Rows that wait at all gates are sent away when the run drains."""
    with endpoint("latency_ms=20") as a, endpoint("latency_ms=20") as b:
        job = job_of(tmp_path, a.base_url, b.base_url, rows=2000, limits={"requests_per_minute": 600})
        ended = command("run", job, step=("batchrun.ledger.store:Store.commit", "sigterm", 5))
        assert ended.returncode == 143, ended.stderr
        assert summary_of(tmp_path / "out")["state"] == "partial"
        assert command("run", job, "--limit", "40").returncode == 2


def test_r41_rows_that_every_endpoint_rejects_alike_end_the_run_as_with_one(tmp_path: Path) -> None:
    """19 rows of each of three endpoints: no lane alone sees 20, together they do; exit 3, none failed."""
    with scripted(refusing(400)) as a, scripted(refusing(400)) as b, scripted(refusing(400)) as c:
        job = job_of(tmp_path, a, b, c, rows=57)
        summary = run(job)
        assert (summary.exit_status, summary.by_status) == (3, {})
        a.act = b.act = c.act = fine
        assert run(job).by_status == {"ok": 57}


def test_r41_stop_early_does_not_count_what_a_breaker_may_take_back(tmp_path: Path) -> None:
    """B rejects all that it gets and is retired for it; its rows go to A, and the run is not ended for them."""

    def late(handler: Any, prompt: str, nth: int) -> None:
        done.wait(20)
        handler.answer(400, ERROR)

    def counted(handler: Any, prompt: str, nth: int) -> None:
        handler.answer()
        if len(a.seen) >= 110:
            done.set()

    done = threading.Event()
    with scripted(counted) as a, scripted(late) as b:
        job = job_of(tmp_path, a, b, rows=300, limits={"concurrency": 15, "max_failed": 10, "stop_early": True})
        told = Told()
        summary = run(job, told=told)
        assert (summary.exit_status, summary.by_status) == (0, {"ok": 300})
        assert set(told.retired()) == {"b"}
