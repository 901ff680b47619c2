"""DEMAND.md R01, R02, R03: a run killed at any moment loses nothing that was paid and publishes nothing half.

The endpoint is a process of its own, so what it counts survives the crashes. Ambiguous retries are 0 in the drills.
"""

from __future__ import annotations

import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest
from command_server import CRASHED
from e2e_tools import (
    Endpoint,
    batchrun,
    digest_of_prompt,
    endpoint,
    job_file,
    prompts,
    start,
    summary_of,
    table_of,
    write_rows,
)

CONCURRENCY = 16
ROWS_PER_PART = 50


def drill_job(folder: Path, served: Endpoint, rows: int, **output: object) -> Path:
    write_rows(folder, prompts(rows))
    return job_file(
        folder,
        endpoint={"base_url": served.base_url},
        limits={"concurrency": CONCURRENCY, "max_ambiguous_attempts": 0},
        output={"rows_per_part": ROWS_PER_PART, **output},
    )


def recorded_digests(state: Path) -> dict[int, set[str]]:
    """Read, without batchrun, which digests the ledger allows for each part: the written and the replacing one."""
    if not (state / "ledger.sqlite").exists():
        return {}
    connection = sqlite3.connect(state / "ledger.sqlite")
    try:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'part'").fetchall():
            return {}
        found: dict[int, set[str]] = {}
        for table in ("part", "replacing"):
            for (record,) in connection.execute(f"SELECT record FROM {table}"):
                part = msgspec.json.decode(record)
                found.setdefault(part["part"], set()).add(part["sha256"])
        return found
    finally:
        connection.close()


def check_published(output: Path, read: set[str] | None = None) -> int:
    """Check every published part against the ledger; return how many there are.

    `read` holds the digests of files whose rows were looked at before: the same bytes hold the same rows.
    """
    read = set() if read is None else read
    recorded = recorded_digests(output / "_batchrun")
    parts = sorted(output.glob("*.parquet"))
    for path in parts:
        number = int(path.stem.removeprefix("part-"))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert digest in recorded[number], path
        if digest not in read:
            first = number * ROWS_PER_PART
            assert pq.read_table(path).column("row").to_pylist() == list(range(first, first + ROWS_PER_PART))
            read.add(digest)
    return len(parts)


def check_end(output: Path, rows: int) -> None:
    table = table_of(output)
    assert table.column("row").to_pylist() == list(range(rows))
    for row in table.select(["prompt", "completion"]).to_pylist():
        assert row["completion"].startswith(digest_of_prompt(row["prompt"]))


def drill(folder: Path, *, kills: int, rows: int, seed: int, longest_s: float) -> dict[str, float]:
    """Kill a run `kills` times at random moments, then let it end; return the figures."""
    moments = random.Random(seed)
    most_parts = 0
    read: set[str] = set()
    with endpoint("latency_ms=60", "latency_sigma=0.8") as served:
        job = drill_job(folder, served, rows)
        for kill in range(kills):
            run = start(job, "--progress", "none")
            try:
                run.communicate(timeout=moments.uniform(0.05, longest_s))
            except subprocess.TimeoutExpired:
                run.send_signal(signal.SIGKILL)
                run.communicate()
            assert run.returncode == -signal.SIGKILL, f"kill {kill}: the run ended first, with {run.returncode}"
            parts = check_published(folder / "out", read)
            assert parts >= most_parts, "a published part went away"
            most_parts = parts
        ended = batchrun("run", job, patience_s=1200)
        assert ended.returncode == 0, ended.stderr
        stats = served.stats()
    check_published(folder / "out")
    check_end(folder / "out", rows)
    summary = summary_of(folder / "out")
    assert stats["prompts"] == rows
    assert stats["paid_twice"] <= kills * CONCURRENCY
    assert rows <= summary["requests_sent"] <= stats["requests"]
    return {"kills": kills, "rows": rows, "requests": stats["requests"], "paid_twice": stats["paid_twice"]}


@pytest.mark.timeout(300)
def test_r01_r02_r03_25_kills_at_random_moments(tmp_path: Path) -> None:
    drill(tmp_path, kills=25, rows=4000, seed=25, longest_s=1.4)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_r01_r02_r03_500_kills_at_random_moments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    figures = drill(tmp_path, kills=500, rows=80_000, seed=500, longest_s=1.6)
    with capsys.disabled():
        sys.stdout.write(f"\nkill drill: {figures}, {time.monotonic() - began:.0f} s\n")


STORE = "batchrun.ledger.store:Store"
STEPS = [
    # making the output
    ("batchrun.execution.opening:_make_folders", "after", 1),
    ("batchrun.ledger.opening:open_store", "before", 1),
    ("batchrun.ledger.opening:open_store", "after", 1),
    (f"{STORE}.note", "after", 1),
    (f"{STORE}.note", "before", 2),
    ("batchrun.writer.spool:Spool.__init__", "after", 1),
    # group commits
    (f"{STORE}.commit", "before", 1),
    (f"{STORE}.commit", "after", 1),
    (f"{STORE}.commit", "after", 4),
    # the spool and a part's file
    ("batchrun.writer.spool:Spool.append", "after", 2),
    ("batchrun.writer.spool:Spool.end", "after", 1),
    ("batchrun.writer.part:PartWriter.write", "before", 1),
    ("batchrun.writer.part:_Tally.add", "after", 1),
    ("batchrun.writer.part:sync", "before", 1),
    ("batchrun.writer.part:sync", "after", 1),
    ("batchrun.writer.part:_check", "after", 1),
    ("batchrun.writer.part:PartWriter.write", "after", 2),
    # its two-step commit
    (f"{STORE}.replace_part", "before", 1),
    (f"{STORE}.replace_part", "after", 1),
    ("batchrun.writer.dataset:Dataset.publish", "before", 1),
    ("batchrun.writer.dataset:sync", "before", 1),
    ("batchrun.writer.dataset:Dataset.publish", "after", 2),
    (f"{STORE}.confirm_part", "before", 1),
    (f"{STORE}.confirm_part", "after", 1),
    ("batchrun.writer.spool:Spool.drop", "before", 2),
    ("batchrun.writer.spool:Spool.drop", "after", 2),
    # the end
    ("batchrun.writer.spool:Spool.remove", "before", 1),
    ("batchrun.execution.once:summary_of", "before", 1),
    ("batchrun.execution.once:write_whole", "before", 1),
    ("batchrun.execution.once:write_whole", "after", 1),
]


def disturbed(job: Path, step: tuple[str, str, int], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a job that is disturbed at one step."""
    return batchrun("run", job, *words, step=step)


def crash(job: Path, step: tuple[str, str, int], *words: str) -> None:
    crashed = disturbed(job, step, *words)
    assert crashed.returncode == CRASHED, (step, crashed.returncode, crashed.stderr)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[1]} {step[0].rpartition(':')[2]} {step[2]}")
def test_r02_r03_a_crash_at_each_step_costs_at_most_the_slots(tmp_path: Path, step: tuple[str, str, int]) -> None:
    rows = 120
    with endpoint("latency_ms=5") as served:
        job = drill_job(tmp_path, served, rows)
        crash(job, step)
        published = sorted((tmp_path / "out").glob("*.parquet"))
        for path in published:
            assert pq.read_metadata(path).num_rows in {50, 20}
        ended = batchrun("run", job)
        assert ended.returncode == 0, ended.stderr
        stats = served.stats()
    check_end(tmp_path / "out", rows)
    assert stats["paid_twice"] <= CONCURRENCY
    assert not list((tmp_path / "out").glob(".*"))
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": rows}


RETRY_STEPS = [
    (f"{STORE}.reopen", "before", 1),
    (f"{STORE}.reopen", "after", 1),
    (f"{STORE}.commit", "after", 1),
    ("batchrun.writer.part:PartWriter.write", "after", 1),
    (f"{STORE}.replace_part", "after", 1),
    ("batchrun.writer.dataset:Dataset.publish", "before", 1),
    ("batchrun.writer.dataset:sync", "before", 1),
    ("batchrun.writer.dataset:Dataset.publish", "after", 1),
    (f"{STORE}.confirm_part", "after", 1),
    ("batchrun.writer.spool:Spool.drop", "before", 1),
]


@pytest.mark.parametrize("step", RETRY_STEPS, ids=lambda step: f"{step[1]} {step[0].rpartition(':')[2]} {step[2]}")
def test_r02_a_crash_while_a_part_is_rewritten_keeps_either_file_whole(
    tmp_path: Path, step: tuple[str, str, int]
) -> None:
    """A quarter of the rows failed; --retry-failed crashes at each step; after it every row is there and right."""
    rows = 60
    failed = [number for number in range(rows) if "3" in str(number)]
    with endpoint("reject_containing='3'") as refusing:
        port = refusing.port
        job = drill_job(tmp_path, refusing, rows)
        assert batchrun("run", job).returncode == 1
    with endpoint(port=port) as served:
        crash(job, step, "--retry-failed")
        for path in (tmp_path / "out").glob("*.parquet"):
            assert pq.read_metadata(path).num_rows in {50, 10}
        ended = batchrun("run", job, "--retry-failed")
        assert ended.returncode == 0, ended.stderr
        stats = served.stats()
    check_end(tmp_path / "out", rows)
    assert stats["prompts"] == len(failed)
    assert stats["paid_twice"] <= CONCURRENCY
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": rows}
