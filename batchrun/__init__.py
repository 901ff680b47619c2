"""batchrun: an asyncio job runner for bulk LLM work; one TOML file in, durable Parquet out.

    import batchrun

    job = batchrun.load_job("jobs/label-packages.toml")
    summary = batchrun.run(job)
    print(summary.exit_status, summary.by_status)

Importing this package opens nothing and imports no heavy library; the two functions do that when they are called.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from batchrun.errors import BatchrunError, ExitStatus, JobError, OutputError, OutputHeldError

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from batchrun.events import Summary, Watcher
    from batchrun.job.options import RunOptions
    from batchrun.job.settings import Job

__version__ = "0.1.0"
__all__ = [
    "BatchrunError",
    "ExitStatus",
    "JobError",
    "OutputError",
    "OutputHeldError",
    "load_job",
    "run",
]


def load_job(path: str | Path, *, overrides: Iterable[str] = (), date: dt.date | None = None) -> Job:
    """Read and check a job file; `-` is standard input.

    `overrides` are `KEY.PATH=VALUE` strings as the command's `--set` takes them. `date` fills `{date}` in
    output.path; default: today, UTC. All paths of the result are absolute. Raises JobError, whose message names the
    key's path, when the file can't be read or is not valid.
    """
    from batchrun.job.load import load_job as load  # noqa: PLC0415 - see the module docstring

    return load(path, overrides=overrides, date=date)


def run(
    job: Job,
    options: RunOptions | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    watcher: Watcher | None = None,
) -> Summary:
    """Run a job, or go on with it: only rows that are not settled are sent; blocks until the run has ended.

    `environ` is where the variable named by endpoint.api_key_env is looked up; default: the process environment.
    `watcher` is told how the run goes, until it raises. Must not be called from inside a running event loop.

    Returns the summary, which also stands in the output as `summary.json`; its `exit_status` tells how the run
    ended (SPEC.md, section 4). Raises JobError when job, input or options are wrong and nothing was sent, and
    OutputHeldError when another run holds the output.
    """
    import os  # noqa: PLC0415

    from batchrun.engine.access import access_of  # noqa: PLC0415
    from batchrun.engine.local import run_job  # noqa: PLC0415
    from batchrun.events import Unwatched  # noqa: PLC0415
    from batchrun.job.options import RunOptions as Options  # noqa: PLC0415

    access = access_of(job, os.environ if environ is None else environ)
    return run_job(job, options or Options(), access=access, watcher=watcher or Unwatched())
