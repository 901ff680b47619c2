"""Tables of the benchmarks in README.md, each between two marks of its own, and what they were measured on."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

README = Path(__file__).with_name("README.md")
APPENDS, APPENDED_BYTES = 200, 200
PACKAGES = ("aiohttp", "uvloop", "msgspec", "pyarrow")


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, without the columns that hold nothing."""
    kept = [at for at in range(len(heads)) if any(line[at] for line in lines)]
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row[at] or '-' for at in kept)} |" for row in rows)


def rewrite(name: str, text: str) -> None:
    """Replace what stands in the README between the marks of `name`."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
    before, found, rest = README.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"README.md has no marks of {name}")
    README.write_text(before + begin + text.strip() + "\n" + end + after)


def fsync_ms(folder: Path) -> float:
    """Return the median time of a small append and its fsync there."""
    took: list[float] = []
    path = folder / "fsync"
    with path.open("ab", buffering=0) as file:
        for _ in range(APPENDS):
            began = time.perf_counter()
            file.write(b"x" * APPENDED_BYTES)
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    path.unlink()
    return median(took)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def commit() -> str:
    """Return the commit that is measured, and whether the package was changed since."""
    root = str(README.parents[2])
    head = _git(root, "rev-parse", "--short", "HEAD")
    return f"{head} with changes" if _git(root, "status", "--porcelain", "--", "batchrun") else head


def _git(*words: str) -> str:
    return subprocess.run(("git", "-C", *words), check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def measured_on(folder: Path) -> str:
    """Say what was measured, when and on what."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    today, count = dt.datetime.now(tz=dt.UTC).date(), len(os.sched_getaffinity(0))
    return (
        f"Commit {commit()}, {today}; {count} cores ({_processor()}), "
        f"Linux, Python {platform.python_version()}, {versions}; an append and its fsync in the output's folder: "
        f"{fsync_ms(folder):.2f} ms."
    )
