"""Memory of one run over a million rows: flat, whatever the input's size and however long one row hangs.

The real command runs over JSONL of more than 1 GiB and over Parquet of the same rows, against `server.py`, while one
row of the first part hangs for a minute. Twice a second the resident set of its process is read from /proc (Linux)
beside `settled` from progress.json. The output is checked row by row. Exit status 1 when the peak reaches 500 MB,
when more is resident at 90 % of the rows than 1.1 times what was at 20 %, or when anything came out wrong.

    python tests/benchmarks/memory.py [--rows 1000000] [--form jsonl|parquet|both] [--samples FILE.csv]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from endpoint import Endpoint, serving
from rows import HANG, Rows
from timed import environment

MOST_MB = 500
MOST_GROWTH = 1.1
CHARS = 1_060
HANG_S = 60
HANGING_ROW_SHARE = 0.005
GROUPS = 8
CONCURRENCY = 200
SAMPLE_S = 0.5
EARLY, LATE, AROUND = 0.20, 0.90, 0.01
COLUMNS = ("input", "rows", "MB", "peak MB, survey", "peak MB", "MB at 20 %", "MB at 90 %", "ratio", "wall s", "CPU s",
           "rows right")  # fmt: skip


class Sample(NamedTuple):
    """One look at the run: seconds since its start, rows settled, resident MB, of these private ones, and the peak."""

    at_s: float
    settled: int
    rss_mb: float
    anon_mb: float
    peak_mb: float


class Measured(NamedTuple):
    """One run that has ended; RSS in MB at the shares of settled rows."""

    form: str
    rows: int
    input_mb: float
    peak_mb: float
    survey_mb: float
    early_mb: float
    late_mb: float
    wall_s: float
    cpu_s: float
    wrong: str

    @property
    def growth(self) -> float:
        return self.late_mb / self.early_mb

    @property
    def is_good(self) -> bool:
        return not self.wrong and self.peak_mb < MOST_MB and self.growth <= MOST_GROWTH


def write_job(folder: Path, source: Path, served: Endpoint) -> Path:
    job = folder / "job.toml"
    job.write_text(f"""
        name = "memory"
        input = {{ path = "{source.name}", key = "key" }}
        request = {{ model = "benchmark", temperature = 0, max_tokens = 64 }}
        endpoint = {{ base_url = "{served.base_url}" }}
        limits = {{ concurrency = {CONCURRENCY} }}
        output = {{ path = "out" }}
    """)
    return job


def resident(pid: int) -> tuple[float, float, float] | None:
    """Return RSS, its private part and its peak so far, in MB; None when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    kb = {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.endswith("kB")}
    return None if "VmHWM" not in kb else tuple(int(kb[name]) * 1024 / 1e6 for name in ("VmRSS", "RssAnon", "VmHWM"))


def settled_in(output: Path) -> int:
    try:
        return int(json.loads((output / "_batchrun" / "progress.json").read_bytes())["settled"])
    except FileNotFoundError:
        return 0


def watch(job: Path, output: Path) -> tuple[int, list[Sample], float, float]:
    """Run the job to its end; return exit status, samples, and seconds by the clock and of CPU."""
    began = time.monotonic()
    words = [sys.executable, "-m", "batchrun", "run", str(job), "--quiet", "--progress", "none"]
    run = subprocess.Popen(words, env=environment())
    samples: list[Sample] = []
    try:
        ended, status, used = os.wait4(run.pid, os.WNOHANG)
        while not ended:
            if (sizes := resident(run.pid)) is not None:
                samples.append(Sample(time.monotonic() - began, settled_in(output), *sizes))
            time.sleep(SAMPLE_S)
            ended, status, used = os.wait4(run.pid, os.WNOHANG)
    except BaseException:
        run.kill()
        raise
    run.returncode = os.waitstatus_to_exitcode(status)
    return run.returncode, samples, time.monotonic() - began, used.ru_utime + used.ru_stime


def rss_at(samples: list[Sample], rows: int, share: float) -> float:
    """Return the median of the samples taken around a share of the rows."""
    near = [sample.rss_mb for sample in samples if abs(sample.settled / rows - share) <= AROUND]
    return median(near) if near else min(samples, key=lambda sample: abs(sample.settled / rows - share)).rss_mb


def wrong_with(output: Path, rows: Rows, exit_status: int, stats: dict[str, Any]) -> str:
    """Say what came out wrong, nothing when nothing did."""
    try:
        assert exit_status == 0, f"exit status {exit_status}"
        assert stats["prompts"] == stats["requests"] == rows.count, f"the server counted {stats}"
        assert stats["latency_s"] >= HANG_S, "no row hung"
        rows.check(output)
    except AssertionError as error:
        return str(error)
    return ""


def measure(form: str, count: int, folder: Path, samples_file: Path | None) -> Measured:
    rows = Rows(count, chars=CHARS, hangs=int(count * HANGING_ROW_SHARE))
    source, output = folder / f"rows.{form}", folder / "out"
    if form == "jsonl":
        rows.write_jsonl(source)
    else:
        rows.write_parquet(source, groups=GROUPS)
    with serving("--hang", HANG, "--hang-s", str(HANG_S)) as served:
        exit_status, samples, wall_s, cpu_s = watch(write_job(folder, source, served), output)
        stats = served.stats()
    if samples_file is not None:
        with samples_file.open("a") as file:
            file.writelines(f"{form},{','.join(f'{value:g}' for value in sample)}\n" for sample in samples)
    return Measured(
        form=form,
        rows=count,
        input_mb=source.stat().st_size / 1e6,
        peak_mb=max(sample.peak_mb for sample in samples),
        survey_mb=max((sample.peak_mb for sample in samples if not sample.settled), default=0.0),
        early_mb=rss_at(samples, count, EARLY),
        late_mb=rss_at(samples, count, LATE),
        wall_s=wall_s,
        cpu_s=cpu_s,
        wrong=wrong_with(output, rows, exit_status, stats),
    )


def line_of(measured: Measured) -> str:
    """Return a line of the README's table."""
    return (
        f"| {measured.form} | {measured.rows:,} | {measured.input_mb:,.0f} | {measured.survey_mb:.0f} "
        f"| {measured.peak_mb:.0f} | {measured.early_mb:.0f} | {measured.late_mb:.0f} | {measured.growth:.2f} "
        f"| {measured.wall_s:.0f} | {measured.cpu_s:.0f} | {measured.wrong or 'all'} |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--form", choices=("jsonl", "parquet", "both"), default="both")
    parser.add_argument("--samples", type=Path, help="add all samples to this file")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |")
    print("| --- " * len(COLUMNS) + "|", flush=True)
    good = True
    for form in ("jsonl", "parquet") if options.form == "both" else (options.form,):
        with tempfile.TemporaryDirectory(prefix="batchrun-memory-") as folder:
            measured = measure(form, options.rows, Path(folder), options.samples)
        print(line_of(measured), flush=True)
        good = good and measured.is_good
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
