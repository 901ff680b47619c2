"""One command in processes of its own, and what it took: CPU, time by the clock, memory."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

LAUNCH = Path(__file__).with_name("launch.py")
ROOT = Path(__file__).parents[2]
PATIENCE_S = 1800.0
SAMPLE_S = 0.25


class Used(NamedTuple):
    """What a command and all of its processes took, start included; `sum_mb` only where it was asked for."""

    exit_status: int
    wall_s: float
    cpu_s: float
    peak_mb: float
    sum_mb: float
    said: str


def cores() -> tuple[frozenset[int], frozenset[int]]:
    """Return the cores for clients and, disjoint if there are two, those for the server."""
    *others, last = sorted(os.sched_getaffinity(0))
    return frozenset(others[:1] or [last]), frozenset([last])


@contextlib.contextmanager
def pinned(to: frozenset[int]) -> Generator[None, None, None]:
    """Keep to some cores what is started meanwhile."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def environment() -> dict[str, str]:
    """Return variables by which commands take the package beside these scripts, whatever is installed."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def timed(words: Sequence[str], *, on: frozenset[int], folder: Path, whole: bool = False) -> Used:
    """Run a command to its end, on these cores; `whole` adds up the memory of its processes, four times a second.

    What it says lies in the folder, as `said`. Raises TimeoutError when it does not end.
    """
    report, log = folder / "used.json", folder / "said"
    launch = [sys.executable, "-I", "-S", str(LAUNCH), str(report), *words]
    with log.open("wb") as said, pinned(on):
        run = subprocess.Popen(
            launch, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True, env=environment()
        )
    try:
        sum_mb = _ended(run, whole=whole)
    except BaseException:
        os.killpg(run.pid, signal.SIGKILL)  # its session is its own
        run.wait()
        raise
    return Used(**json.loads(report.read_bytes()), sum_mb=sum_mb, said=log.read_text(errors="replace").strip())


def _ended(run: subprocess.Popen[bytes], *, whole: bool) -> float:
    """Wait for the end of a process; return the most that those which it started were seen to hold, in MB."""
    most_mb, until = 0.0, time.monotonic() + PATIENCE_S
    while True:
        try:
            run.wait(SAMPLE_S if whole else PATIENCE_S)
        except subprocess.TimeoutExpired:
            if time.monotonic() > until:
                raise TimeoutError(f"not done after {PATIENCE_S:.0f} s") from None
            most_mb = max(most_mb, sum(_resident_mb(pid) for pid in _below(run.pid)))
        else:
            return most_mb


def _below(pid: int) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield int(child)
                yield from _below(int(child))


def _resident_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
