"""Worker processes by fork: where each of them may compute."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no cores to keep to on this system")
TELL_CORES = """
import json, os, sys
from batchrun.engine.forking import fork_workers, reap
seats = fork_workers(int(sys.argv[1]), lambda _, end: end.sendall(json.dumps([*os.sched_getaffinity(0)]).encode()))
for seat in seats:
    print(seat.end.recv(1000).decode())
    assert reap(seat) == 0
"""


def cores_of_workers(count: int) -> list[list[int]]:
    told = subprocess.run(
        [sys.executable, "-c", TELL_CORES, str(count)], check=True, capture_output=True, text=True, timeout=60
    )
    return [sorted(map(int, line.strip("[]").split(", "))) for line in told.stdout.splitlines()]


def test_as_many_processes_as_cores_keep_to_one_each() -> None:
    cores = sorted(os.sched_getaffinity(0))
    assert cores_of_workers(len(cores)) == [[core] for core in cores]


@pytest.mark.parametrize("more", [-1, 1])
def test_more_processes_or_fewer_may_use_all_cores(more: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    count = len(cores) + more
    assert cores_of_workers(count) == [cores] * count
