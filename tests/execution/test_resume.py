"""What is looked at when a complete output is run again: neither the input nor the parts, unless they were touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_tools import job_file, write_rows

RUN = """
import json, sys
opened = []
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str):
        opened.append(arguments[0])
from batchrun.startup import start_light
start_light()
import batchrun
import batchrun.engine.local
import batchrun.writer.digests as digests
digests.SETTLED_NS = 0  # what was changed a moment ago counts as settled
sys.addaudithook(hook)
try:
    summary = batchrun.run(batchrun.load_job(sys.argv[1]))
    told = summary.reason
except batchrun.JobError as error:
    told = str(error)
names = [path.rpartition("/")[2] for path in opened]
print(json.dumps([told, sorted({name for name in names if name.endswith((".parquet", ".jsonl"))})]))
"""
SETTLED = "every row is settled"


def run(job: Path) -> tuple[str, list[str]]:
    """Run a job in a process of its own; return how it ended, and which files of input and output it opened."""
    ended = subprocess.run([sys.executable, "-c", RUN, str(job)], capture_output=True, check=True, timeout=60)
    told, opened = json.loads(ended.stdout)
    return told, opened


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """A job whose rows all failed when they were read, so that nobody had to be asked."""
    write_rows(tmp_path, ["no JSON", "none either"])
    return job_file(
        tmp_path,
        endpoint={"base_url": "http://127.0.0.1:9"},
        prompt={"user": "hi"},
        limits={"max_failed": 2},
        output={"path": "out", "rows_per_part": 1},
    )


def rewrite(path: Path) -> None:
    """Write other bytes of the same number into a file, and set its time back."""
    before, content = path.stat(), path.read_bytes()
    for _ in range(1000):
        path.write_bytes(content[:-5] + b"." + content[-4:])
        if path.stat().st_ctime_ns != before.st_ctime_ns:
            break
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_nobody_touched_is_opened_once(job: Path) -> None:
    run(job)
    told, opened = run(job)
    assert (told, opened) == ("2 of 2 rows failed, within max_failed", ["part-000000.parquet", "part-000001.parquet"])
    assert run(job) == (told, [])


def test_only_what_was_touched_is_opened_again(job: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run(job)
    os.utime(tmp_path / "rows.jsonl")
    (tmp_path / "out" / "part-000001.parquet").touch()
    assert run(job)[1] == ["part-000001.parquet", "rows.jsonl"]


def test_a_part_of_the_same_size_and_time_is_found_to_be_another_one(job: Path, tmp_path: Path) -> None:
    for _ in range(2):
        run(job)
    part = tmp_path / "out" / "part-000000.parquet"
    before = part.stat()
    rewrite(part)
    assert (part.stat().st_size, part.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    told, opened = run(job)
    assert "part-000000.parquet" in opened
    assert told == "2 of 2 rows failed, within max_failed"  # it can't be read: its row was sent again


def test_the_single_file_is_opened_once(tmp_path: Path, job: Path) -> None:
    job.write_text(job.read_text().replace('"out"', '"out.parquet"'))
    for _ in range(2):
        run(job)
    assert run(job)[1] == []
    (tmp_path / "out.parquet").touch()
    assert run(job)[1] == ["out.parquet"]
