"""Runs that meet an older ledger, an edited part, another day, or a signal before anything was sent."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import signal
import sqlite3
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from e2e_tools import batchrun, endpoint, job_file, prompts, start, summary_of, table_of, write_rows
from test_r01_r02_r03_kills import check_end, crash

from batchrun.ledger.opening import open_store
from batchrun.model.attempt import Tries


def test_tries_of_an_older_ledger_can_be_read(tmp_path: Path) -> None:
    """Before they held the lines of PROTOCOL.md 2.2, a number stood there."""
    with contextlib.closing(open_store(tmp_path / "ledger.sqlite")) as store:
        values = list(msgspec.to_builtins(Tries(attempts=3, errors=2, cost_nanousd=5)))
        values[Tries.__struct_fields__.index("lines")] = 2
        with store.changing():
            store._connection.execute("INSERT INTO tries VALUES (7, ?)", (msgspec.msgpack.encode(values),))
        assert store.tries(range(10)) == {7: Tries(attempts=3, cost_nanousd=5)}


@pytest.mark.parametrize("rows", [5, 15])
def test_a_part_that_was_edited_to_another_number_of_rows_is_refused(tmp_path: Path, rows: int) -> None:
    write_rows(tmp_path, prompts(20))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url})
        assert batchrun("run", job).returncode == 0
        part = tmp_path / "out" / "part-000000.parquet"
        pq.write_table(pq.read_table(part).slice(0, rows), part)
        ended = batchrun("run", job)
        assert ended.returncode == 2
        assert "was changed" in ended.stderr
        assert served.stats()["requests"] == 20


def test_keep_raw_stays_as_the_output_was_begun(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(60))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url, "keep_raw": True}, output={"rows_per_part": 10})
        crash(job, ("batchrun.writer.dataset:Dataset.publish", "after", 2))
        ended = batchrun("run", job, "--set", "endpoint.keep_raw=false")
        assert ended.returncode == 0, ended.stderr
    assert table_of(tmp_path / "out").column("response_json").null_count == 0


def test_a_dated_state_dir_belongs_to_the_output_of_its_day(tmp_path: Path) -> None:
    """Yesterday's unfinished run is refused today, wherever its state lies; and no minute counts twice."""
    yesterday = (dt.datetime.now(tz=dt.UTC).date() - dt.timedelta(days=1)).isoformat()
    write_rows(tmp_path, prompts(60))
    job = job_file(
        tmp_path,
        output={"path": "night-{date}", "state_dir": "state-{date}", "rows_per_part": 20},
        limits={"requests_per_day": 70},
    )
    crash(job, ("batchrun.writer.dataset:Dataset.publish", "after", 2), "--date", yesterday)
    refused = batchrun("run", job)
    assert refused.returncode == 2
    assert "--date" in refused.stderr
    assert batchrun("run", job, "--date", yesterday).returncode == 0
    check_end(tmp_path / f"night-{yesterday}", 60)


def test_what_was_used_of_a_day_outlives_the_output_that_used_it(tmp_path: Path) -> None:
    """Published, a fresh generation replaces the ledger that counted; what that had counted still counts."""
    write_rows(tmp_path, prompts(30))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, limits={"requests_per_day": 70})
        assert batchrun("run", job).returncode == 0
        assert batchrun("run", job, "--fresh").returncode == 0
        ended = batchrun("run", job, "--fresh", "--set", "limits.deadline=2s")
        assert ended.returncode == 5, ended.stderr
        assert served.stats()["requests"] == 70


def test_a_start_that_fails_counts_as_nothing_in_flight(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(10))
    job = job_file(tmp_path)
    for _ in range(2):
        crashed = batchrun("run", job, step=("batchrun.simulator.child:child", "before", 1))
        assert crashed.returncode == 99
    ledger = sqlite3.connect(tmp_path / "out" / "_batchrun" / "ledger.sqlite")
    assert ledger.execute("SELECT uncosted FROM totals").fetchone() == (0,)
    ledger.close()
    assert batchrun("run", job).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_json_says_how_it_ended_even_before_anything_was_sent(tmp_path: Path, number: signal.Signals) -> None:
    write_rows(tmp_path, [{"prompt": "x" * 2000}] * 60_000)
    run = start(job_file(tmp_path), "--json")
    while not (told := Path(f"/proc/{run.pid}/status").read_text()).count("SigCgt") or not _catches(told, number):
        assert run.poll() is None
    run.send_signal(number)
    out, _ = run.communicate(timeout=60)
    assert run.returncode in {130, 143}
    assert json.loads(out)["exit_status"] == run.returncode


def _catches(status: str, number: signal.Signals) -> bool:
    """Say whether a process has a handler of its own for a signal that would end it."""
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    wanted = {number, signal.SIGTERM}  # of all the command installs SIGINT's is Python's own, and there at once
    return all(int(caught.split()[1], 16) >> (one - 1) & 1 for one in wanted)


def test_json_logs_end_in_json(tmp_path: Path) -> None:
    """Every line on standard error can be read by a machine, the reason of a bad end included."""
    write_rows(tmp_path, prompts(30))
    ended = batchrun("run", job_file(tmp_path, simulator={"reject_containing": "say"}), "--log-format", "json")
    assert ended.returncode == 3
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert lines[-1]["event"] == "ended"
    assert lines[-1]["exit_status"] == 3
    wrong = batchrun("run", job_file(tmp_path, output={"compression": "none of these"}), "--log-format", "json")
    assert wrong.returncode == 2
    assert "output.compression" in json.loads(wrong.stderr)["reason"]


def test_choices_that_are_not_kept_are_flagged(tmp_path: Path) -> None:
    from test_r04_r07_r09_endpoint import GOOD, scripted  # noqa: PLC0415 - used here alone

    write_rows(tmp_path, prompts(1))
    choices = [{**GOOD["choices"][0], "index": index} for index in (0, 1)]
    with scripted(lambda handler, _prompt, _nth: handler.answer(body={**GOOD, "choices": choices})) as server:
        job = job_file(tmp_path, endpoint={"base_url": server.url}, request={"n": 2})
        assert batchrun("run", job).returncode == 0
        assert table_of(tmp_path / "out").column("flags").to_pylist() == [["choices_dropped"]]
        kept = batchrun("run", job, "--set", "output.path=kept", "--set", "endpoint.keep_raw=true")
        assert kept.returncode == 0
    row = table_of(tmp_path / "kept").to_pylist()[0]
    assert row["flags"] == []
    assert len(json.loads(row["response_json"])["choices"]) == 2
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 1}
