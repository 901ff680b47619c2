"""Running again: nothing twice, nothing lost, whatever ended the run before."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from e2e_tools import (
    batchrun,
    digest_of_prompt,
    endpoint,
    job_file,
    prompts,
    rows_as_every_reader_sees_them,
    start,
    summary_of,
    table_of,
    wait_for,
    write_rows,
)


def assert_whole(output: Path, count: int) -> None:
    table = table_of(output)
    assert table.column("row").to_pylist() == list(range(count))
    for row in table.select(["prompt", "completion"]).to_pylist():
        assert row["completion"].startswith(digest_of_prompt(row["prompt"]))


def test_r03_a_finished_run_sends_nothing_and_changes_nothing(tmp_path: Path) -> None:
    """DEMAND.md R03: the same command again sends 0 requests, exits the same, leaves every file as it is."""
    write_rows(tmp_path, prompts(50))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 20})
        first = batchrun("run", job)
        before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}
        summary = (tmp_path / "out" / "_batchrun" / "summary.json").read_bytes()
        second = batchrun("run", job, "--json")
        assert served.stats()["requests"] == 50
    assert (first.returncode, second.returncode) == (0, 0)
    assert json.loads(second.stdout) == json.loads(summary)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")} == before
    assert (tmp_path / "out" / "_batchrun" / "summary.json").read_bytes() == summary


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_r01_r03_kill_9_costs_at_most_the_slots(tmp_path: Path, share: float) -> None:
    """SPEC.md, promise 1: no row lost or doubled; at most `concurrency` requests are paid twice."""
    count, concurrency = 600, 16
    write_rows(tmp_path, prompts(count))
    with endpoint("latency_ms=20", "latency_sigma=0.7") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"concurrency": concurrency, "max_ambiguous_attempts": 0},
            output={"rows_per_part": 50},
        )
        run = start(job)
        wait_for(lambda: served.stats()["replies"] >= share * count, run)
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        for part in (tmp_path / "out").glob("*.parquet"):
            assert pq.read_metadata(part).num_rows == 50
        ended = batchrun("run", job)
        assert ended.returncode == 0, ended.stderr
        stats = served.stats()
    assert_whole(tmp_path / "out", count)
    assert stats["paid_twice"] <= concurrency
    assert stats["prompts"] == count
    summary = summary_of(tmp_path / "out")
    assert count <= summary["requests_sent"] <= stats["requests"]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_r19_a_signal_drains_and_costs_nothing(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """DEMAND.md R19: what is in flight is kept, the exit status names the signal, the same command goes on."""
    write_rows(tmp_path, prompts(300))
    with endpoint("latency_ms=30") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 100})
        run = start(job)
        wait_for(lambda: served.stats()["replies"] >= 60, run)
        run.send_signal(number)
        _, told = run.communicate(timeout=60)
        assert run.returncode == status, told
        partial = summary_of(tmp_path / "out")
        assert (partial["state"], partial["exit_status"]) == ("partial", status)
        assert sum(partial["by_status"].values()) == served.stats()["replies"]
        assert batchrun("run", job).returncode == 0
        assert served.stats()["requests"] == 300
    assert_whole(tmp_path / "out", 300)


def test_r19_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(20))
    with endpoint("hang_rate=1") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url})
        run = start(job)
        wait_for(lambda: served.stats()["in_flight"] == 8, run)
        run.send_signal(signal.SIGTERM)
        assert "draining" in run.stderr.readline()
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=20)
    assert run.returncode == 143
    assert summary_of(tmp_path / "out")["by_status"] == {}


def test_r19_a_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    """As `timeout` sends it, to its child and to the group of both: the run drains, nothing in flight is cut."""
    write_rows(tmp_path, prompts(300))
    with endpoint("latency_ms=300") as served:
        run = start(job_file(tmp_path, endpoint={"base_url": served.base_url}))
        wait_for(lambda: served.stats()["in_flight"] == 8, run)
        run.send_signal(signal.SIGTERM)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
        assert run.returncode == 143
        settled = sum(summary_of(tmp_path / "out")["by_status"].values())
        assert settled == served.stats()["replies"] == served.stats()["requests"]


def test_r19_the_grace_time_bounds_the_drain(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(20))
    with endpoint("hang_rate=1") as served:
        run = start(job_file(tmp_path, endpoint={"base_url": served.base_url}), "--grace", "0.2")
        wait_for(lambda: served.stats()["in_flight"] == 8, run)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=20)
    assert run.returncode == 130


def test_r39_a_second_run_on_the_same_output_exits_6_and_names_the_holder(tmp_path: Path) -> None:
    """DEMAND.md R39: the lock is the kernel's, so a killed holder leaves none."""
    write_rows(tmp_path, prompts(20))
    with endpoint("hang_rate=1") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url})
        run = start(job)
        wait_for(lambda: served.stats()["in_flight"] == 8, run)
        second = batchrun("run", job)
        assert second.returncode == 6
        assert f"process {run.pid}" in second.stderr
        run.kill()
        run.communicate()
    assert batchrun("run", job, "--set", "endpoint.base_url=simulator").returncode == 0  # no lock is left


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("request.model=other", "request.model"),
        ("request.temperature=0.5", "request.temperature"),
        ("prompt.user=changed {{ prompt }}", "prompt.user"),
        ("endpoint.base_url=http://127.0.0.1:9", "endpoint.base_url"),
    ],
)
def test_r26_another_job_on_the_same_output_is_refused(tmp_path: Path, change: str, named: str) -> None:
    """DEMAND.md R26: the difference is named, nothing is sent, nothing is changed."""
    write_rows(tmp_path, prompts(5))
    job = job_file(tmp_path)
    assert batchrun("run", job).returncode == 0
    refused = batchrun("run", job, "--set", change)
    assert refused.returncode == 2
    assert named in refused.stderr


def test_r26_a_changed_input_is_refused_and_harmless_changes_are_not(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(5))
    job = job_file(tmp_path)
    assert batchrun("run", job).returncode == 0
    for harmless in ("limits.concurrency=3", "price.input=1", "output.compression=snappy", "output.rows_per_part=2"):
        extra = ["--set", "price.output=1"] if harmless.startswith("price") else []
        assert batchrun("run", job, "--set", harmless, *extra).returncode == 0, harmless
    write_rows(tmp_path, prompts(6))
    refused = batchrun("run", job)
    assert refused.returncode == 2
    assert "input." in refused.stderr


def test_limit_then_more_then_all_costs_one_pass(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(50))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 20})
        for limit, rows in (("7", 7), ("7", 7), ("30", 30), (None, 50)):
            ended = batchrun("run", job, *([] if limit is None else ["--limit", limit]))
            assert ended.returncode == 0, ended.stderr
            assert_whole(tmp_path / "out", rows)
            assert served.stats()["requests"] == rows
        assert batchrun("run", job, "--limit", "49").returncode == 2
    assert sorted(path.name for path in (tmp_path / "out").glob("*.parquet")) == [
        "part-000000.parquet",
        "part-000001.parquet",
        "part-000002.parquet",
    ]


def test_r27_retry_failed_sends_exactly_the_failed_rows(tmp_path: Path) -> None:
    """DEMAND.md R27: k failed rows, k requests; their parts are rewritten, the others keep their bytes."""
    rows = prompts(60)
    for number in (3, 4, 25):
        rows[number]["prompt"] = f"forbidden {number}"
    write_rows(tmp_path, rows)
    with endpoint("reject_containing=forbidden") as refusing, endpoint() as serving:
        job = job_file(tmp_path, endpoint={"base_url": refusing.base_url}, output={"rows_per_part": 20})
        assert batchrun("run", job).returncode == 1
        assert batchrun("run", job).returncode == 1
        assert refusing.stats()["requests"] == 60
        last = (tmp_path / "out" / "part-000002.parquet").read_bytes()
        assert batchrun("run", job, "--retry-failed").returncode == 1
        assert refusing.stats()["requests"] == 63
        assert serving.stats()["requests"] == 0
    assert (tmp_path / "out" / "part-000002.parquet").read_bytes() == last
    table = table_of(tmp_path / "out")
    assert table.column("row").to_pylist() == list(range(60))
    assert Counter(table.column("status").to_pylist()) == {"ok": 57, "failed": 3}
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 57, "failed": 3}


def test_r27_retry_failed_puts_new_outcomes_into_their_places(tmp_path: Path) -> None:
    """Rows that failed while half of all requests broke are whole after the retries, with all attempts paid for."""
    write_rows(tmp_path, prompts(80))
    with endpoint("error_rate=0.5") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"max_attempts": 1},
            output={"rows_per_part": 30},
        )
        assert batchrun("run", job).returncode == 1
        assert batchrun("run", job, "--retry-failed").returncode == 1
        assert batchrun("run", job, "--retry-failed", "--set", "limits.max_attempts=30").returncode == 0
        requests = served.stats()["requests"]
    assert_whole(tmp_path / "out", 80)
    summary = summary_of(tmp_path / "out")
    assert (summary["exit_status"], summary["by_status"]) == (0, {"ok": 80})
    assert sum(table_of(tmp_path / "out").column("attempts").to_pylist()) == requests == summary["requests_sent"]


@pytest.mark.parametrize(
    ("target", "words"),
    [("batchrun.execution.sending:send", ()), ("batchrun.engine.team:Team.go", ("--processes", "2"))],
)
def test_r27_retry_failed_that_is_stopped_is_not_complete(tmp_path: Path, target: str, words: tuple[str, ...]) -> None:
    """All parts are in place by then, but hold rows that are pending again."""
    write_rows(tmp_path, prompts(40))
    with endpoint("error_rate=0.5") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"max_failed": "100%"},
            output={"rows_per_part": 10},
        )
        assert batchrun("run", job, "--set", "limits.max_attempts=1").returncode == 0
        settled = summary_of(tmp_path / "out")["by_status"]
        stopped = batchrun("run", job, "--retry-failed", *words, step=(target, "sigterm", 1))
        assert stopped.returncode == 143, stopped.stderr
        summary = summary_of(tmp_path / "out")
        assert (summary["state"], summary["exit_status"], summary["by_status"]) == (
            "partial",
            143,
            {"ok": settled["ok"]},
        )
        assert batchrun("run", job, "--set", "limits.max_attempts=30").returncode == 0
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 40}
    assert_whole(tmp_path / "out", 40)


def test_passing_failures_of_open_parts_are_sent_again(tmp_path: Path) -> None:
    """SPEC.md, section 4: on a partial output the plain command tries again what may have passed."""
    write_rows(tmp_path, prompts(40))
    with endpoint("error_rate=0.3", "latency_ms=20") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, limits={"max_attempts": 1, "concurrency": 4})
        run = start(job)
        wait_for(lambda: served.stats()["requests"] >= 25, run)
        run.send_signal(signal.SIGTERM)
        run.communicate()
        assert run.returncode == 143
        failed = summary_of(tmp_path / "out")["by_error_class"]["server"]
        sent = served.stats()["requests"]
        assert failed > 0
        batchrun("run", job)
        assert served.stats()["requests"] == 40 + failed
        assert sent < 40


def test_a_part_that_was_removed_or_changed_is_sent_again(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(60))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 20})
        assert batchrun("run", job).returncode == 0
        (tmp_path / "out" / "part-000000.parquet").unlink()
        part = tmp_path / "out" / "part-000001.parquet"
        part.write_bytes(part.read_bytes()[:-9])
        ended = batchrun("run", job)
        assert ended.returncode == 0, ended.stderr
        assert "part-000000.parquet" in ended.stderr
        assert "part-000001.parquet" in ended.stderr
        assert served.stats()["requests"] == 100
    assert_whole(tmp_path / "out", 60)


def test_r02_one_file_output_appears_only_when_complete(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(300))
    with endpoint("latency_ms=20") as served:
        job = job_file(
            tmp_path, endpoint={"base_url": served.base_url}, output={"path": "all.parquet", "rows_per_part": 40}
        )
        run = start(job)
        wait_for(lambda: served.stats()["replies"] >= 100, run)
        run.send_signal(signal.SIGTERM)
        run.communicate()
        assert not (tmp_path / "all.parquet").exists()
        assert batchrun("run", job).returncode == 0
        assert batchrun("run", job).returncode == 0
        assert served.stats()["requests"] == 300
    assert pq.read_table(tmp_path / "all.parquet").column("row").to_pylist() == list(range(300))
    assert (tmp_path / ".all.parquet.batchrun" / "summary.json").exists()


def test_r17_r18_an_endpoint_that_refuses_the_key_ends_the_run_and_fails_no_row(tmp_path: Path) -> None:
    """DEMAND.md R17: exit 3, rows pending, the message names the variable; the right key completes the run."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # noqa: PLC0415
    from threading import Thread  # noqa: PLC0415

    class Refusing(BaseHTTPRequestHandler):
        seen = 0

        def do_POST(self) -> None:
            type(self).seen += 1
            self.rfile.read(int(self.headers["Content-Length"]))
            body = b'{"error": {"message": "Not authenticated: ' + self.headers["Authorization"].encode() + b'"}}'
            self.send_response(401)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    write_rows(tmp_path, prompts(200))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        job = job_file(
            tmp_path,
            endpoint={"base_url": f"http://127.0.0.1:{server.server_port}/v1", "api_key_env": "TEST_KEY"},
        )
        ended = batchrun("run", job, env={"TEST_KEY": "sentinel-key-1234567"})
    finally:
        server.shutdown()
        server.server_close()
    assert ended.returncode == 3
    assert "401" in ended.stderr
    assert "TEST_KEY" in ended.stderr
    assert Refusing.seen <= 8 + 5
    assert summary_of(tmp_path / "out")["by_status"] == {}
    state = b"".join(path.read_bytes() for path in (tmp_path / "out" / "_batchrun").rglob("*") if path.is_file())
    assert "sentinel-key" not in ended.stderr + ended.stdout
    assert b"sentinel-key" not in state


def test_readers_agree(tmp_path: Path) -> None:
    """pyarrow, DuckDB, Polars and pandas see the same rows in the output directory."""
    rows = prompts(45)
    rows[7]["prompt"] = None
    write_rows(tmp_path, rows)
    assert batchrun("run", job_file(tmp_path, output={"rows_per_part": 20})).returncode == 1
    seen = rows_as_every_reader_sees_them(tmp_path / "out")
    assert [row["prompt"] for row in seen] == [row["prompt"] for row in rows]
    assert [row["row"] for row in seen if row["status"] == "failed"] == [7]


def test_counts_hold_when_requests_break(tmp_path: Path) -> None:
    """With 500s, 429s, cut bodies and resets every row is whole, and the summary counts what the endpoint counted."""
    write_rows(tmp_path, prompts(300))
    with endpoint("error_rate=0.05", "reset_rate=0.03", "truncate_rate=0.03", "max_in_flight=12") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"concurrency": 16, "max_ambiguous_attempts": 5, "max_attempts": 9},
        )
        ended = batchrun("run", job)
        assert ended.returncode == 0, ended.stderr
        stats = served.stats()
    assert_whole(tmp_path / "out", 300)
    summary = summary_of(tmp_path / "out")
    _same(stats, summary)
    rows = table_of(tmp_path / "out").to_pylist()
    assert sum(row["attempts"] for row in rows) == stats["requests"]
    cut = stats["by_status"].get("truncated", 0) + stats["by_status"].get("reset", 0)
    assert summary["maybe_billed"] == cut
    assert 0 < sum("maybe_billed" in row["flags"] for row in rows) <= cut


def _same(stats: dict[str, object], summary: dict[str, object]) -> None:
    assert summary["requests_sent"] == stats["requests"]
    assert summary["throttled"] == stats["by_status"].get("429", 0)
