"""Several processes killed at any moment, one or all: nothing that was paid is lost (DESIGN.md, sections 3 and 6)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from command_server import CRASHED
from e2e_tools import (
    COMMAND,
    PATIENCE_S,
    Endpoint,
    Forked,
    batchrun,
    command_server,
    endpoint,
    job_file,
    prompts,
    summary_of,
    table_of,
    write_rows,
)
from test_r01_r02_r03_kills import check_end, crash

CONCURRENCY = 12
SHARED = "share the work"


def drill_job(folder: Path, served: Endpoint, rows: int, **limits: object) -> Path:
    write_rows(folder, prompts(rows))
    return job_file(
        folder,
        endpoint={"base_url": served.base_url},
        limits={"concurrency": CONCURRENCY, "max_ambiguous_attempts": 0, **limits},
        output={"rows_per_part": 25},
    )


class Running:
    """A run in the background, its worker processes, and what it has said."""

    def __init__(self, forked: Forked, stderr: IO[bytes]) -> None:
        self.forked = forked
        self._stderr = stderr

    def said(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode()

    def workers(self) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            pid = self.forked.pid
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return []

    def wait_until_shared(self) -> None:
        wait_for(lambda: SHARED in self.said())


@contextlib.contextmanager
def running(job: Path, *words: str) -> Iterator[Running]:
    """Start a run that does not outlive the test, whatever becomes of it."""
    with tempfile.TemporaryFile() as stderr:
        forked = command_server().fork(
            ["run", job, "--progress", "none", *words], stdout=stderr.fileno(), stderr=stderr.fileno()
        )
        run = Running(forked, stderr)
        try:
            yield run
        finally:
            workers = run.workers()
            forked.kill()
            forked.wait()
            kill(workers)


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def wait_for(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.005)  # another process gives no signal


def is_free(lock: Path) -> bool:
    """Say whether nobody holds an output: who was killed may take a moment to be gone."""
    with contextlib.suppress(FileNotFoundError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def finish(job: Path, *words: str, patience_s: float = PATIENCE_S) -> None:
    """Run a job to its end, once nobody holds its output any more."""
    deadline = time.monotonic() + PATIENCE_S
    while (ended := batchrun("run", job, *words, patience_s=patience_s)).returncode == 6:
        assert time.monotonic() < deadline, ended.stderr
    assert ended.returncode == 0, ended.stderr


def test_a_killed_worker_process_loses_nothing_and_its_parts_are_taken_over(tmp_path: Path) -> None:
    with endpoint("latency_ms=10") as served:
        job = drill_job(tmp_path, served, 600)
        with running(job, "--processes", "2") as run:
            run.wait_until_shared()
            wait_for(lambda: len(list((tmp_path / "out" / "_batchrun").glob("ledger-*.sqlite"))) == 2)
            kill(run.workers()[1:])
            assert run.forked.wait() == 0, run.said()
            assert "a worker process died; its parts are taken over" in run.said()
        stats = served.stats()
    check_end(tmp_path / "out", 600)
    assert stats["prompts"] == 600
    assert stats["paid_twice"] <= CONCURRENCY // 2
    assert stats["max_in_flight"] <= CONCURRENCY
    summary = summary_of(tmp_path / "out")
    assert summary["by_status"] == {"ok": 600}
    assert stats["paid_twice"] <= summary["lost_attempts"] <= CONCURRENCY // 2
    assert not list((tmp_path / "out" / "_batchrun").glob("*-*"))


def test_what_a_killed_worker_process_had_in_flight_counts_against_the_budget(tmp_path: Path) -> None:
    """Nobody told what it cost, so as much as the dearest: all that was billed stays within the budget."""
    with endpoint("latency_ms=15", "output_usd_per_mtok=1000", "completion_tokens=8") as served:
        job = drill_job(tmp_path, served, 1000, max_cost_usd=3.0)
        priced = ("--set", "price.input=0.12", "--set", "price.output=1000", "--set", "request.max_tokens=20")
        with running(job, "--processes", "2", *priced) as run:
            wait_for(lambda: len(list((tmp_path / "out" / "_batchrun").glob("ledger-*.sqlite"))) == 2)
            kill(run.workers()[:1])
            assert run.forked.wait() == 4, run.said()
            assert "a worker process died" in run.said()
        assert 2.5 < served.stats()["cost_usd"] <= 3.0
        assert summary_of(tmp_path / "out")["cost_usd"] <= served.stats()["cost_usd"]


def test_when_all_worker_processes_die_the_run_goes_on_in_the_one_that_is_left(tmp_path: Path) -> None:
    with endpoint("latency_ms=10") as served:
        job = drill_job(tmp_path, served, 400)
        with running(job, "--processes", "3") as run:
            run.wait_until_shared()
            kill(run.workers())
            assert run.forked.wait() == 0, run.said()
            assert "no worker process is left, the run goes on in this one" in run.said()
        stats = served.stats()
    check_end(tmp_path / "out", 400)
    assert stats["paid_twice"] <= CONCURRENCY
    assert summary_of(tmp_path / "out")["requests_sent"] <= stats["requests"]


def test_worker_processes_whose_parent_was_killed_keep_what_they_paid_for(tmp_path: Path) -> None:
    """They drain, and hold the output until they have; the next run adopts their ledgers, with other numbers."""
    with endpoint("latency_ms=30") as served:
        job = drill_job(tmp_path, served, 400)
        with running(job, "--processes", "2") as run:
            run.wait_until_shared()
            wait_for(lambda: served.stats()["replies"] > 40)
            run.forked.kill()
            run.forked.wait()
            refused = batchrun("run", job)
            assert refused.returncode in {0, 6}
            assert refused.returncode == 0 or "worker processes of a run that was killed" in refused.stderr
            finish(job, "--processes", "3")
        stats = served.stats()
    check_end(tmp_path / "out", 400)
    assert stats["paid_twice"] == 0
    assert stats["prompts"] == 400


def drill(folder: Path, *, kills: int, rows: int, seed: int, longest_s: float) -> None:
    """Kill a run and all its workers at once, `kills` times at random moments, then let it end."""
    moments = random.Random(seed)
    with endpoint("latency_ms=40", "latency_sigma=0.8") as served:
        job = drill_job(folder, served, rows)
        for number in range(kills):
            wait_for(lambda: is_free(folder / "out" / "_batchrun" / "lock"))
            with running(job, "--processes", str(2 + number % 2)) as run:
                wait_for(lambda run=run: run.workers() or "batchrun:" in run.said())
                time.sleep(moments.uniform(0, longest_s))  # the moment is the point
                workers = run.workers()
                run.forked.kill()
                kill(workers)
                assert run.forked.wait() == -signal.SIGKILL, f"kill {number}: it ended first: {run.said()}"
        finish(job, "--processes", "2", patience_s=600)
        stats = served.stats()
    check_end(folder / "out", rows)
    assert stats["prompts"] == rows
    assert stats["paid_twice"] <= kills * CONCURRENCY
    assert rows <= summary_of(folder / "out")["requests_sent"] <= stats["requests"]
    assert not list((folder / "out" / "_batchrun").glob("*-*"))


def test_all_killed_at_once_at_10_random_moments(tmp_path: Path) -> None:
    drill(tmp_path, kills=10, rows=1500, seed=6, longest_s=0.5)


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_killed_at_once_at_150_random_moments(tmp_path: Path) -> None:
    drill(tmp_path, kills=150, rows=15_000, seed=150, longest_s=0.8)


def test_a_signal_drains_all_and_costs_nothing(tmp_path: Path) -> None:
    with endpoint("latency_ms=30") as served:
        job = drill_job(tmp_path, served, 600)
        with running(job, "--processes", "2") as run:
            run.wait_until_shared()
            for pid in run.workers():  # as a terminal does: to all of the group
                os.kill(pid, signal.SIGINT)
            run.forked.terminate()
            assert run.forked.wait() == 143, run.said()
            assert run.said().count("draining") == 1
        rows = sum(summary_of(tmp_path / "out")["by_status"].values())
        assert rows == served.stats()["replies"]
        finish(job, "--processes", "2")
        assert served.stats()["paid_twice"] == 0
    check_end(tmp_path / "out", 600)


@pytest.mark.parametrize(("grace_s", "signals"), [("60", 2), ("0.2", 1)])
def test_a_second_signal_lets_go_at_once_and_the_grace_time_holds_for_all(
    tmp_path: Path, grace_s: str, signals: int
) -> None:
    """Some replies never come: the first signal waits for them as long as --grace says, the second does not."""
    with endpoint("latency_ms=20", "hang_rate=0.02") as served:
        job = drill_job(tmp_path, served, 2000)
        with running(job, "--processes", "2", "--grace", grace_s) as run:
            run.wait_until_shared()
            wait_for(lambda: served.stats()["replies"] > 400)
            for number in range(signals):
                wait_for(lambda number=number: run.said().count("draining") == number)
                run.forked.terminate()
            assert run.forked.wait(30) == 143, run.said()
        assert summary_of(tmp_path / "out")["maybe_billed"] > 0


STORE = "batchrun.ledger.store:Store"
ADOPTING = "batchrun.ledger.adopting"
WORKER_STEPS = [
    (f"{ADOPTING}:make_worker_store", "before", 1),
    (f"{ADOPTING}:make_worker_store", "after", 1),
    (f"{ADOPTING}:lend", "after", 1),
    (f"{STORE}.commit", "after", 2),
    ("batchrun.writer.part:PartWriter.write", "after", 1),
    (f"{STORE}.replace_part", "after", 1),
    ("batchrun.writer.dataset:Dataset.publish", "before", 1),
    ("batchrun.writer.dataset:Dataset.publish", "after", 1),
    (f"{STORE}.confirm_part", "after", 1),
    ("batchrun.writer.spool:Spool.drop", "before", 1),
]


@pytest.mark.parametrize("step", WORKER_STEPS, ids=lambda step: f"{step[1]} {step[0].rpartition(':')[2]} {step[2]}")
def test_each_process_may_crash_at_each_step(tmp_path: Path, step: tuple[str, str, int]) -> None:
    """Every worker dies at this step, and then the process that goes on alone, where the step is one of its own."""
    rows = 150
    with endpoint("latency_ms=5") as served:
        job = drill_job(tmp_path, served, rows)
        crashed = batchrun("run", job, "--processes", "2", step=step)
        assert crashed.returncode in {0, CRASHED}, crashed.stderr
        finish(job, "--processes", "2")
        assert served.stats()["paid_twice"] <= 3 * CONCURRENCY  # each of the three kills costs at most that
    check_end(tmp_path / "out", rows)
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": rows}
    assert not list((tmp_path / "out").glob(".*"))
    assert not list((tmp_path / "out" / "_batchrun").glob("*-*"))


ADOPTING_STEPS = [
    (f"{ADOPTING}:adopt", "before", 1),
    (f"{ADOPTING}:_merge", "after", 1),
    (f"{ADOPTING}:adopt", "after", 1),
    (f"{ADOPTING}:_remove_journals", "before", 1),
    ("batchrun.execution.leftovers:remove_spools", "before", 1),
    ("batchrun.execution.resume:settle_replacing", "before", 1),
]


def leftovers(folder: Path, served: Endpoint, rows: int) -> Path:
    """Leave the ledgers of two worker processes that were killed with the one that led them."""
    job = drill_job(folder, served, rows)
    with running(job, "--processes", "2") as run:
        wait_for(lambda: len(list((folder / "out" / "_batchrun").glob("ledger-*.sqlite"))) == 2)
        wait_for(lambda: served.stats()["replies"] > rows // 5)
        kill([run.forked.pid, *run.workers()])
        run.forked.wait()
    wait_for(lambda: is_free(folder / "out" / "_batchrun" / "lock"))
    assert len(list((folder / "out" / "_batchrun").glob("ledger-*.sqlite"))) == 2
    return job


@pytest.mark.parametrize("step", ADOPTING_STEPS, ids=lambda step: f"{step[1]} {step[0].rpartition(':')[2]} {step[2]}")
def test_a_crash_at_each_step_of_adopting_is_set_right(tmp_path: Path, step: tuple[str, str, int]) -> None:
    with endpoint("latency_ms=10") as served:
        job = leftovers(tmp_path, served, 800)
        crash(job, step)
        crash(job, step)
        finish(job)
        stats = served.stats()
    check_end(tmp_path / "out", 800)
    assert stats["paid_twice"] <= CONCURRENCY
    assert summary_of(tmp_path / "out")["requests_sent"] >= 800
    assert not list((tmp_path / "out" / "_batchrun").glob("*-*"))


def test_a_damaged_ledger_of_a_worker_is_refused_and_a_fresh_start_needs_it_not(tmp_path: Path) -> None:
    with endpoint("latency_ms=10") as served:
        job = leftovers(tmp_path, served, 800)
        (damaged, *_) = sorted((tmp_path / "out" / "_batchrun").glob("ledger-*.sqlite"))
        with contextlib.closing(sqlite3.connect(damaged)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        whole = damaged.read_bytes()
        damaged.write_bytes(b"damaged" * 1000)
        refused = batchrun("run", job)
        assert refused.returncode == 7
        assert damaged.name in refused.stderr
        assert "damaged" in refused.stderr
        ended = batchrun("run", job, "--fresh", "--set", "request.model=new", "--limit", "30")
        assert ended.returncode == 0, ended.stderr
        assert not damaged.exists()
        assert set(table_of(tmp_path / "out").column("model").to_pylist()) == {"new"}
        damaged.write_bytes(whole)
        refused = batchrun("run", job, "--set", "request.model=new", "--limit", "30")
        assert refused.returncode == 7
        assert "another run" in refused.stderr


def test_when_all_worker_processes_die_the_day_s_limit_holds_for_who_is_left(tmp_path: Path) -> None:
    """Of what the dead had in flight the endpoint may have seen more than their ledgers."""
    with endpoint("latency_ms=5") as served:
        job = drill_job(tmp_path, served, 200, requests_per_day=60, deadline="6s")
        with running(job, "--processes", "2", "--grace", "1") as run:
            run.wait_until_shared()
            wait_for(lambda: served.stats()["requests"] >= 55)
            kill(run.workers())
            assert run.forked.wait() == 5, run.said()
            assert "the run goes on in this one" in run.said()
        assert served.stats()["requests"] <= 60 + CONCURRENCY


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_a_closed_standard_file_takes_nothing_else_along(tmp_path: Path, closed: str) -> None:
    """The lock would get its number, and a worker process would lose it with its standard files."""
    lock = (tmp_path / "out" / "_batchrun" / "lock").resolve()
    with endpoint("latency_ms=20") as served:
        job = drill_job(tmp_path, served, 300)
        words = ("sh", "-c", f'exec "$@" {closed}', "sh", *COMMAND, "run", str(job), "--processes", "2", "--quiet")
        with subprocess.Popen(words) as run:
            children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
            wait_for(lambda: run.poll() is not None or len(children.read_text().split()) == 2)
            workers = children.read_text().split()
            wait_for(lambda: served.stats()["requests"] >= 20)  # they have settled in
            holders = [worker for worker in workers if lock in map(Path.resolve, Path(f"/proc/{worker}/fd").iterdir())]
            assert run.wait(PATIENCE_S) == 0
        assert holders == workers
        assert len(workers) == 2


@pytest.mark.long
@pytest.mark.parametrize("is_drained", [False, True])
def test_a_worker_process_that_hangs_holds_nobody_up_for_ever(tmp_path: Path, *, is_drained: bool) -> None:
    """Stopped, it says nothing, hears no order, and holds its parts, its share and the output."""
    with endpoint("latency_ms=10") as served:
        job = drill_job(tmp_path, served, 600)
        with running(job, "--processes", "2", "--grace", "1") as run:
            run.wait_until_shared()
            os.kill(run.workers()[0], signal.SIGSTOP)
            if is_drained:
                run.forked.terminate()
            assert run.forked.wait(2 * PATIENCE_S) == (143 if is_drained else 0), run.said()
            assert "hangs, and is killed" in run.said()
        if not is_drained:
            assert table_of(tmp_path / "out").column("row").to_pylist() == list(range(600))
