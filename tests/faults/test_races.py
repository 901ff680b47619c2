"""Two starts at once, signals outside the flow, crashes between the last part and the summary."""

from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from e2e_tools import COMMAND, batchrun, endpoint, job_file, prompts, start, summary_of, wait_for, write_rows
from test_processes_killed import is_free
from test_r01_r02_r03_kills import check_end, crash, disturbed


def test_r39_of_two_first_runs_only_one_goes_on(tmp_path: Path) -> None:
    """Both survey an output that is not there yet; the lock decides, and nothing is paid twice."""
    write_rows(tmp_path, prompts(200))
    with endpoint("latency_ms=60") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url})
        runs = [start(job) for _ in range(4)]
        ended = sorted((run.wait(timeout=80), run.communicate()[1])[0] for run in runs)
        assert ended == [0, 6, 6, 6]
        assert served.stats()["requests"] == 200
    check_end(tmp_path / "out", 200)


@pytest.mark.parametrize(
    "target",
    ["batchrun.writer.dataset:Dataset.assemble", "batchrun.execution.once:_written", "batchrun.execution.sending:send"],
)
def test_r19_a_signal_before_or_after_the_flow_is_not_lost_and_costs_no_summary(tmp_path: Path, target: str) -> None:
    """After the last row a single signal changes nothing; before the first it stops the run before anything is sent."""
    write_rows(tmp_path, prompts(30))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"path": "all.parquet"})
        ended = disturbed(job, (target, "sigterm", 1))
        summary = tmp_path / ".all.parquet.batchrun" / "summary.json"
        assert summary.exists(), ended.stderr
        if target.endswith(":send"):
            assert ended.returncode == 143, ended.stderr
            assert served.stats()["requests"] == 0
            assert batchrun("run", job).returncode == 0
        else:
            assert ended.returncode == 0, ended.stderr
    assert pq.read_table(tmp_path / "all.parquet").num_rows == 30


def test_a_single_file_is_never_staler_than_its_parts(tmp_path: Path) -> None:
    """A crash between the last rewritten part and the file made of them: the next command makes the file anew."""
    rows = prompts(40)
    write_rows(tmp_path, rows)
    with endpoint("error_rate=0.5") as served:
        job = job_file(
            tmp_path, endpoint={"base_url": served.base_url}, output={"path": "all.parquet", "rows_per_part": 15}
        )
        lenient = ("--set", "limits.max_failed=100%")
        assert batchrun("run", job, *lenient, "--set", "limits.max_attempts=1").returncode == 0
        crash(job, ("batchrun.execution.once:_put_in_place", "before", 1), "--retry-failed", *lenient)
        sent = served.stats()["requests"]
        ended = batchrun("run", job, *lenient)
        assert ended.returncode == 0, ended.stderr
        assert "40 ok" in ended.stdout
        assert served.stats()["requests"] == sent
    assert pq.read_table(tmp_path / "all.parquet").column("status").to_pylist() == ["ok"] * 40


def test_an_input_that_changes_while_it_is_read_keeps_what_was_paid(tmp_path: Path) -> None:
    """The run drains: every reply that was paid for is in the ledger, and the cause is told."""
    path = write_rows(tmp_path, [{"id": n, "prompt": f"say {n} " + "x" * 2000} for n in range(6000)])
    with endpoint("latency_ms=30") as served:
        run = start(job_file(tmp_path, endpoint={"base_url": served.base_url}))
        wait_for(lambda: served.stats()["replies"] >= 50, run)
        with path.open("r+b") as file:
            file.truncate(3_000_000)
        _, told = run.communicate(timeout=80)
        assert run.returncode == 2, told
        assert "rows.jsonl" in told
        assert sum(summary_of(tmp_path / "out")["by_status"].values()) == served.stats()["replies"]


def test_r19_under_timeout_and_without_a_terminal(tmp_path: Path) -> None:
    """`timeout` hands SIGTERM on: the run drains and says so, as under cron with an empty environment."""
    write_rows(tmp_path, prompts(500))
    with endpoint("latency_ms=50") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url})
        run = subprocess.Popen(
            ["timeout", "--preserve-status", "80", *COMMAND, "run", str(job)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "LOGNAME": "root", "SHELL": "/bin/sh"},
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        wait_for(lambda: served.stats()["replies"] >= 20, run)
        run.terminate()
        _, told = run.communicate(timeout=60)
        assert run.returncode == 143, told
        settled = sum(summary_of(tmp_path / "out")["by_status"].values())
        assert settled == served.stats()["replies"] < 500


@pytest.mark.parametrize("processes", [1, 2])
def test_r19_templates_that_never_end_do_not_keep_the_run(tmp_path: Path, processes: int) -> None:
    """They are left to their threads: the signal drains, the grace time ends, the summary is written, all are gone."""
    endless = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    write_rows(tmp_path, prompts(80))
    with endpoint("latency_ms=5") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            prompt={"user": "{% if id >= 40 %}" + endless + "{% endif %}{{ prompt }}"},
            output={"rows_per_part": 10},
        )
        run = start(job, "--grace", "1", "--processes", str(processes))
        wait_for(lambda: served.stats()["replies"] == 40, run)
        run.terminate()
        _, told = run.communicate(timeout=60)
        assert run.returncode == 143, told
        assert ("share the work processes=2" in told) == (processes == 2)
        summary = summary_of(tmp_path / "out")
        assert (summary["exit_status"], summary["by_status"], summary["maybe_billed"]) == (143, {"ok": 40}, 0)
        assert summary["requests_sent"] == served.stats()["requests"] == 40
    assert not list((tmp_path / "out" / "_batchrun").glob("ledger-*"))
    assert is_free(tmp_path / "out" / "_batchrun" / "lock")


def test_r19_a_closed_terminal_drains_and_leaves_a_summary(tmp_path: Path) -> None:
    """The window is closed: the kernel sends SIGHUP and the terminal takes no more bytes; as with SIGTERM, exit 143."""
    write_rows(tmp_path, prompts(500))
    with endpoint("latency_ms=50") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 50})
        ours, terminal = pty.openpty()
        run = subprocess.Popen(
            [*COMMAND, "run", str(job)], stdin=terminal, stdout=terminal, stderr=terminal,
            start_new_session=True, env={name: value for name, value in os.environ.items() if name != "CI"},
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
        )  # fmt: skip
        os.close(terminal)
        try:
            wait_for(lambda: served.stats()["replies"] >= 30, run)
            drawn = os.read(ours, 1 << 16)
        finally:
            os.close(ours)
        assert run.wait(timeout=80) == 143
        summary = summary_of(tmp_path / "out")
        assert (summary["state"], summary["exit_status"]) == ("partial", 143)
        assert sum(summary["by_status"].values()) == served.stats()["replies"] < 500
        assert batchrun("run", job, "--set", "limits.concurrency=100").returncode == 0
        assert served.stats()["requests"] == 500
    assert b"\x1b[" in drawn  # it was a terminal to draw a bar on
    check_end(tmp_path / "out", 500)
