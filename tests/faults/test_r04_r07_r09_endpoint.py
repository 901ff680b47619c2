"""Cuts, hangs and outages of the endpoint: each attempt is counted, no row fails for what is not its fault."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import COMMAND, batchrun, endpoint, job_file, prompts, start, summary_of, table_of, wait_for, write_rows
from test_r01_r02_r03_kills import check_end

GOOD = {
    "id": "x",
    "model": "test-model",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "estimated_cost": 0.001},
}


class Scripted(ThreadingHTTPServer):
    """An endpoint that does what `act` says with each prompt, and counts how often it saw it."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, act: Any) -> None:
        self.seen: Counter[str] = Counter()
        self.act = act
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms
    server: Scripted

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        self.server.seen[prompt] += 1
        self.server.act(self, prompt, self.server.seen[prompt])

    def answer(self, status: int = 200, body: object = GOOD, **headers: str) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(content)

    def cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def scripted(act: Any) -> Iterator[Scripted]:
    server = Scripted(act)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("budget", [0, 1, 3])
def test_r04_sent_and_cut_is_sent_again_as_often_as_its_budget_says(tmp_path: Path, budget: int) -> None:
    """Hits per row are exactly 1 + max_ambiguous_attempts; the flag and the summary's count tell the truth."""
    write_rows(tmp_path, prompts(6))

    def act(handler: _Handler, prompt: str, nth: int) -> None:
        handler.cut() if prompt in {"say 1", "say 4"} else handler.answer()

    with scripted(act) as server:
        job = job_file(
            tmp_path, endpoint={"base_url": server.url}, limits={"max_ambiguous_attempts": budget, "max_attempts": 9}
        )
        assert batchrun("run", job).returncode == 1
        assert [server.seen[f"say {n}"] for n in range(6)] == [1, 1 + budget, 1, 1, 1 + budget, 1]
    rows = table_of(tmp_path / "out").to_pylist()
    for row in rows:
        cut = row["row"] in {1, 4}
        assert (row["error_class"], "maybe_billed" in row["flags"]) == (
            ("disconnected", True) if cut else (None, False)
        )
        assert row["attempts"] == (1 + budget if cut else 1)
    assert summary_of(tmp_path / "out")["maybe_billed"] == 2 * (1 + budget)


def test_r04_a_cut_that_passes_keeps_its_flag_beside_the_answer(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))

    def act(handler: _Handler, prompt: str, nth: int) -> None:
        handler.cut() if (prompt, nth) == ("say 1", 1) else handler.answer()

    with scripted(act) as server:
        assert batchrun("run", job_file(tmp_path, endpoint={"base_url": server.url})).returncode == 0
    rows = table_of(tmp_path / "out").to_pylist()
    assert [(row["status"], row["attempts"], row["flags"]) for row in rows] == [
        ("ok", 1, []),
        ("ok", 2, ["maybe_billed"]),
        ("ok", 1, []),
    ]


def test_r14_what_unusable_replies_cost_is_not_forgotten(tmp_path: Path) -> None:
    """Two billed replies without choices, then a good one: the row's cost and the run's are the sum of three."""
    write_rows(tmp_path, prompts(2))

    def act(handler: _Handler, prompt: str, nth: int) -> None:
        handler.answer(body={**GOOD, "choices": []} if prompt == "say 1" and nth < 3 else GOOD)

    with scripted(act) as server:
        assert batchrun("run", job_file(tmp_path, endpoint={"base_url": server.url})).returncode == 0
    rows = table_of(tmp_path / "out").to_pylist()
    assert [row["cost_usd"] for row in rows] == [0.001, 0.003]
    assert summary_of(tmp_path / "out")["cost_usd"] == pytest.approx(0.004)


def test_r07_r09_rows_that_are_never_answered_end_as_timeouts(tmp_path: Path) -> None:
    """DEMAND.md R07, R09: the timeout that is set is the one in force; waiting for a slot does not eat it."""
    write_rows(tmp_path, prompts(40))
    with endpoint("hang_rate=0.05", "latency_ms=300") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url, "timeout_s": 1.5},
            limits={"concurrency": 4, "max_ambiguous_attempts": 0},
        )
        ended = batchrun("run", job)
        hung = served.stats()["by_status"]["hang"]
    assert ended.returncode == 1
    rows = table_of(tmp_path / "out").to_pylist()
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["error_class"] for row in failed] == ["timeout"] * hung
    assert all("1.5 s" in row["error_message"] for row in failed)


def test_r07_no_timeout_can_be_switched_off(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(1))
    for value in ("0", "inf", "nan", "'none'"):
        assert batchrun("run", job_file(tmp_path), "--set", f"endpoint.timeout_s={value}").returncode == 2


def test_r07_a_straggler_holds_back_no_other_part_and_is_named(tmp_path: Path) -> None:
    """One row hangs: all other parts are written meanwhile, and plain progress names the row and its age."""
    write_rows(tmp_path, prompts(200))
    release = threading.Event()

    def act(handler: _Handler, prompt: str, nth: int) -> None:
        if prompt == "say 3":
            release.wait(60)
        handler.answer()

    with scripted(act) as server:
        job = job_file(tmp_path, endpoint={"base_url": server.url}, output={"rows_per_part": 20})
        run = start(job, "-v", "--log-format", "json")
        wait_for(lambda: len(list((tmp_path / "out").glob("*.parquet"))) == 9, run)
        for line in run.stderr:
            told = json.loads(line)
            if told["event"] == "progress" and told["in_flight"] == 1:
                break
        assert told["oldest"][0]["row"] == 3
        assert told["oldest"][0]["age_s"] >= 1
        release.set()
        run.communicate(timeout=60)
    assert run.returncode == 0
    assert table_of(tmp_path / "out").column("row").to_pylist() == list(range(200))


@pytest.mark.parametrize(
    ("rows", "away_s", "max_attempts"),
    [
        *((300, 0.0, max_attempts) for max_attempts in (5, 2, 1)),
        pytest.param(3000, 180.0, 5, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
def test_an_outage_fails_no_row(
    tmp_path: Path, rows: int, away_s: float, max_attempts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """DESIGN.md 4: the endpoint goes away in the middle and comes back on the same port; the run finishes.

    Rows that had no try left before it was known for an outage are sent again.
    """
    write_rows(tmp_path, prompts(rows))
    with endpoint("latency_ms=20") as first:
        limits = {"max_attempts": max_attempts, "max_ambiguous_attempts": 1}
        job = job_file(tmp_path, endpoint={"base_url": first.base_url}, limits=limits, output={"rows_per_part": 20})
        run = start(job)
        wait_for(lambda: first.stats()["replies"] >= rows // 3, run)
        first.process.kill()
    assert "an outage begins" in _line_with(run, "outage")
    time.sleep(away_s)  # the outage itself
    assert run.poll() is None
    with endpoint("latency_ms=20", port=first.port) as second:
        _, told = run.communicate(timeout=120)
        assert run.returncode == 0, told
        assert "the outage ends" in told
        assert second.stats()["replies"] >= rows // 2
    check_end(tmp_path / "out", rows)
    summary = summary_of(tmp_path / "out")
    assert summary["by_status"] == {"ok": rows}
    if away_s:
        figures = {name: summary[name] for name in ("wall_s", "requests_sent", "retries", "maybe_billed")}
        with capsys.disabled():
            print(f"\nan endpoint away for {away_s:.0f} s: {figures}")  # noqa: T201


@pytest.mark.parametrize("max_attempts", [5, 1])
def test_an_outage_that_lasts_too_long_ends_the_run_with_rows_pending(tmp_path: Path, max_attempts: int) -> None:
    write_rows(tmp_path, prompts(100))
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
    limits = {"max_outage_s": 2, "max_attempts": max_attempts}
    job = job_file(tmp_path, endpoint={"base_url": f"http://127.0.0.1:{port}/v1/openai"}, limits=limits)
    ended = batchrun("run", job)
    assert ended.returncode == 3
    assert "max_outage_s" in ended.stderr
    assert "refused" in ended.stderr
    assert summary_of(tmp_path / "out")["by_status"] == {}
    with endpoint(port=port):
        assert batchrun("run", job).returncode == 0
    check_end(tmp_path / "out", 100)


def test_a_pause_longer_than_allowed_ends_the_run_and_says_so(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(5))
    for status in (429, 503):

        def act(handler: _Handler, prompt: str, nth: int, status: int = status) -> None:
            handler.answer(status, {"error": {"message": "later"}}, Retry_After="3600")

        with scripted(act) as server:
            ended = batchrun("run", job_file(tmp_path, endpoint={"base_url": server.url}))
        assert ended.returncode == 3, ended.stderr
        assert "3600 s" in ended.stderr
        assert summary_of(tmp_path / "out")["by_status"] == {}


def test_r06_a_pause_that_is_asked_for_is_kept_by_all(tmp_path: Path) -> None:
    """DEMAND.md R06: after a 429 with Retry-After nothing arrives until then, whoever wanted to send."""
    write_rows(tmp_path, prompts(60))
    arrivals: list[float] = []
    told = threading.Event()

    def act(handler: _Handler, prompt: str, nth: int) -> None:
        arrivals.append(time.monotonic())
        if len(arrivals) == 20:
            told.set()
            handler.answer(429, {"error": {"message": "slow down"}}, Retry_After="2")
        else:
            handler.answer()

    with scripted(act) as server:
        assert batchrun("run", job_file(tmp_path, endpoint={"base_url": server.url})).returncode == 0
    assert told.is_set()
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert max(gaps) >= 1.8
    summary = summary_of(tmp_path / "out")
    assert (summary["throttled"], summary["by_status"]) == (1, {"ok": 60})


def test_a_wrong_model_may_be_mended_while_nothing_is_settled(tmp_path: Path) -> None:
    """Exit status 3 says: mend it, same command."""
    write_rows(tmp_path, prompts(5))

    def act(handler: _Handler, prompt: str, nth: int) -> None:
        handler.answer(404, {"error": {"message": "unknown model", "code": "model_not_found"}})

    with scripted(act) as server:
        assert batchrun("run", job_file(tmp_path, endpoint={"base_url": server.url})).returncode == 3
    ended = batchrun("run", job_file(tmp_path, request={"model": "right"}))
    assert ended.returncode == 0, ended.stderr
    assert summary_of(tmp_path / "out")["requests_sent"] == 5


def test_attempts_that_outlive_the_grace_time_are_counted(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(20))
    with endpoint("hang_rate=1") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url})
        run = start(job, "--grace", "0.1")
        wait_for(lambda: served.stats()["in_flight"] == 8, run)
        run.terminate()
        run.communicate(timeout=30)
    assert run.returncode == 143
    summary = summary_of(tmp_path / "out")
    assert (summary["requests_sent"], summary["maybe_billed"], summary["by_status"]) == (8, 8, {})


def test_a_reply_nobody_foresaw_fails_its_row_alone(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(4))
    odd = json.dumps({**GOOD, "usage": {"prompt_tokens": 1}}).replace(
        '"prompt_tokens": 1', '"cost": 1e99999999999999999999'
    )

    def act(handler: _Handler, prompt: str, nth: int) -> None:
        if prompt != "say 2":
            return handler.answer()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(odd)))
        handler.end_headers()
        handler.wfile.write(odd.encode())
        return None

    with scripted(act) as server:
        assert batchrun("run", job_file(tmp_path, endpoint={"base_url": server.url})).returncode in {0, 1}
    assert table_of(tmp_path / "out").num_rows == 4


def test_r23_more_connections_than_open_files_is_refused_with_the_number(tmp_path: Path) -> None:
    """DEMAND.md R23: the soft limit is raised where the hard one allows it, else the message says what to set."""
    write_rows(tmp_path, prompts(300))
    job = job_file(tmp_path, limits={"concurrency": 250})
    refused = subprocess.run(
        ["bash", "-c", f"ulimit -n 256; exec {' '.join(COMMAND)} run {job}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert "314" in refused.stderr
    assert not (tmp_path / "out").exists()
    raised = subprocess.run(
        ["bash", "-c", f"ulimit -S -n 256; exec {' '.join(COMMAND)} run {job}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert raised.returncode == 0, raised.stderr


def _line_with(run: subprocess.Popen[str], word: str) -> str:
    assert run.stderr is not None
    return next(line for line in run.stderr if word in line)
