"""Full or read-only disks, damaged files: one clear message, no corrupt file, the same command goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from e2e_tools import (
    COMMAND,
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

CONCURRENCY = 16


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    folder.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def assert_told_once(ended: subprocess.CompletedProcess[str], status: int, *words: str) -> None:
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("batchrun: draining ")]
    told = [line for line in lines if any(word in line for word in words)]
    assert len(told) == 1, ended.stderr


def assert_parts_whole(output: Path) -> None:
    for path in output.glob("*.parquet"):
        pq.read_table(path)


@pytest.mark.parametrize("size", ["1m", "2m", "5m"])
def test_a_full_disk_stops_sending_and_goes_on_when_there_is_room(tmp_path: Path, size: str) -> None:
    """What could be committed is kept; what was in flight is at most the slots; more room, same command, complete."""
    rows = 6000
    write_rows(tmp_path, [{"id": n, "prompt": f"say {n}", "ballast": os.urandom(300).hex()} for n in range(rows)])
    with endpoint() as served, small_disk(tmp_path / "disk", size) as disk:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"concurrency": CONCURRENCY, "max_ambiguous_attempts": 0},
            output={"path": "disk/out", "rows_per_part": 400},
        )
        ended = batchrun("run", job)
        assert_told_once(ended, 7, "No space", "disk is full", "I/O error")
        assert_parts_whole(disk / "out")
        paid = served.stats()["replies"]
        assert paid < rows
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        ended = batchrun("run", job)
        assert ended.returncode == 0, ended.stderr
        assert served.stats()["paid_twice"] <= CONCURRENCY
        check_end(disk / "out", rows)
        assert summary_of(disk / "out")["exit_status"] == 0


@pytest.mark.parametrize("blocks", [100, 300, 1500])
def test_a_file_size_limit_is_a_full_disk(tmp_path: Path, blocks: int) -> None:
    write_rows(tmp_path, [{"id": n, "prompt": f"say {n}", "ballast": "x" * 500} for n in range(5000)])
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 2500})
        command = f"ulimit -f {blocks}; exec {' '.join(COMMAND)} run {job}"
        ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=90, check=False)
        assert ended.returncode == 7, ended.stderr
        assert_parts_whole(tmp_path / "out")
        assert batchrun("run", job).returncode == 0
        assert served.stats()["paid_twice"] <= 8
    check_end(tmp_path / "out", 5000)


def test_a_read_only_output_exits_7_before_anything_is_sent(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(10))
    with endpoint() as served, small_disk(tmp_path / "disk", "5m") as disk:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"path": "disk/out"})
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert_told_once(batchrun("run", job), 7, "Read-only")
        assert served.stats()["requests"] == 0
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert batchrun("run", job).returncode == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        again = batchrun("run", job)
        assert again.returncode in {0, 7}, again.stderr
        assert "Traceback" not in again.stderr
        assert served.stats()["requests"] == 10


def test_a_full_stdout_does_not_change_the_run(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(10))
    job = job_file(tmp_path)
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [*COMMAND, "run", str(job)], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False
        )
    assert "Traceback" not in ended.stderr
    assert summary_of(tmp_path / "out")["exit_status"] == 0
    assert ended.returncode == 0, ended.stderr


def damaged_run(folder: Path, served_url: str) -> Path:
    """Leave an unfinished run: two parts are written, other rows lie in the ledger."""
    write_rows(folder, prompts(120))
    job = job_file(
        folder,
        endpoint={"base_url": served_url},
        limits={"concurrency": CONCURRENCY, "max_ambiguous_attempts": 0},
        output={"rows_per_part": 20},
    )
    crash(job, ("batchrun.writer.dataset:Dataset.publish", "after", 3))
    return job


@pytest.mark.parametrize("where", ["header", "middle", "emptied", "text"])
def test_a_damaged_ledger_is_named_and_never_believed(tmp_path: Path, where: str) -> None:
    with endpoint() as served:
        job = damaged_run(tmp_path, served.base_url)
        ledger = tmp_path / "out" / "_batchrun" / "ledger.sqlite"
        sqlite3.connect(ledger).execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        content = bytearray(ledger.read_bytes())
        if where == "header":
            content[:100] = os.urandom(100)
        elif where == "middle":
            content[4096 : len(content) : 512] = os.urandom(len(range(4096, len(content), 512)))
        elif where == "text":
            content = bytearray(b"not a database at all\n" * 500)
        else:
            content = bytearray()
        for extra in ("-wal", "-shm"):
            ledger.with_name(ledger.name + extra).unlink(missing_ok=True)
        ledger.write_bytes(content)
        sent = served.stats()["requests"]
        ended = batchrun("run", job)
        assert "Traceback" not in ended.stderr
        assert ended.returncode in {2, 7}, ended.stderr
        assert "ledger" in ended.stderr or "no run recorded" in ended.stderr
        assert served.stats()["requests"] == sent
        assert_parts_whole(tmp_path / "out")
        fresh = batchrun("run", job, "--fresh")
        assert fresh.returncode == 0, fresh.stderr
    check_end(tmp_path / "out", 120)


def test_r25_a_torn_journal_loses_only_its_tail(tmp_path: Path) -> None:
    """DEMAND.md R25: the WAL cut at many places: it opens, drops what is torn, and the run completes."""
    with endpoint() as served:
        job = damaged_run(tmp_path, served.base_url)
        state = tmp_path / "out" / "_batchrun"
        kept = tmp_path / "kept"
        shutil.copytree(tmp_path / "out", kept)
        journal = (state / "ledger.sqlite-wal").read_bytes()
        sizes = [0, 17, 31, 32, 33, len(journal) // 3, len(journal) - 4097, len(journal) - 1]
        for size in sizes:
            shutil.rmtree(tmp_path / "out")
            shutil.copytree(kept, tmp_path / "out")
            (state / "ledger.sqlite-wal").write_bytes(journal[:size])
            (state / "ledger.sqlite-shm").unlink(missing_ok=True)
            ended = batchrun("run", job)
            if ended.returncode == 0:
                check_end(tmp_path / "out", 120)
            else:  # so much is gone that parts stand without a ledger: refused, never guessed
                assert ended.returncode == 2, (size, ended.stderr)


def test_a_leftover_temporary_file_is_no_part(tmp_path: Path) -> None:
    with endpoint() as served:
        job = damaged_run(tmp_path, served.base_url)
        left = tmp_path / "out" / ".part-000004.parquet.partial"
        left.write_bytes(b"half")
        assert batchrun("run", job).returncode == 0
        assert not left.exists()
        assert served.stats()["paid_twice"] <= CONCURRENCY
    check_end(tmp_path / "out", 120)


def test_a_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(5))
    job = job_file(tmp_path)
    assert batchrun("run", job).returncode == 0
    connection = sqlite3.connect(tmp_path / "out" / "_batchrun" / "ledger.sqlite")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    ended = batchrun("run", job)
    assert ended.returncode == 2
    assert "newer" in ended.stderr


def test_an_output_that_vanishes_under_the_run_exits_7(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(400))
    with endpoint("latency_ms=20") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 50})
        run = subprocess.Popen([*COMMAND, "run", str(job)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not list((tmp_path / "out").glob("*.parquet")):
            assert run.poll() is None
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        _, told = run.communicate(timeout=60)
    assert run.returncode == 7, told
    assert "Traceback" not in told


def test_two_outputs_side_by_side_do_not_disturb_each_other(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(100))
    job = job_file(tmp_path, simulator={"latency_ms": 10})
    runs = [
        subprocess.Popen([*COMMAND, "run", str(job), "--quiet", "--set", f"output.path={name}"]) for name in ("a", "b")
    ]
    assert [run.wait(timeout=60) for run in runs] == [0, 0]
    for name in ("a", "b"):
        check_end(tmp_path / name, 100)
        assert table_of(tmp_path / name).num_rows == 100


def test_r39_two_state_dirs_do_not_share_one_output(tmp_path: Path) -> None:
    """The folder of parts is held too: the second run exits 6 while the first goes on, and 2 once it has ended."""
    write_rows(tmp_path, prompts(500))
    with endpoint("latency_ms=60") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"state_dir": "one"})
        run = start(job)
        wait_for(lambda: served.stats()["requests"] > 0, run)
        other = ("--set", "output.state_dir=two")
        assert_told_once(batchrun("run", job, *other), 6, "another run")
        assert run.wait(timeout=60) == 0
        run.communicate()
        assert_told_once(batchrun("run", job, *other), 2, "no run recorded")
        assert served.stats()["requests"] == 500


def test_an_output_folder_that_was_taken_away_is_filled_again(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(20))
    job = job_file(tmp_path, output={"state_dir": "state"})
    assert batchrun("run", job).returncode == 0
    shutil.rmtree(tmp_path / "out")
    ended = batchrun("run", job)
    assert ended.returncode == 0, ended.stderr
    check_end(tmp_path / "out", 20)
