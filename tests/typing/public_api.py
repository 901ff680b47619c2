"""The public surface as a caller types it; checked by `mypy --strict tests/typing` and pyright, never run."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import assert_type

import batchrun
from batchrun.errors import ExitStatus
from batchrun.events import Progress, Summary, Unwatched, Watcher
from batchrun.job.options import RunOptions
from batchrun.job.settings import Job


class Counting:
    """A watcher of the caller's own."""

    def progressed(self, progress: Progress) -> None:
        """Take the state of the run."""
        assert_type(progress.settled, int)
        assert_type(progress.eta_s, float | None)

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Take one event."""


def nightly() -> int:
    """Load, change and run a job."""
    job = batchrun.load_job("job.toml")
    assert_type(job, Job)
    assert_type(batchrun.load_job(Path("job.toml"), overrides=["name=x"], date=dt.date(2026, 1, 2)), Job)
    assert_type(batchrun.run(job), Summary)
    watcher: Watcher = Counting()
    summary = batchrun.run(job, RunOptions(limit=10), environ={"A_KEY": "x"}, watcher=watcher)
    assert_type(summary.exit_status, int)
    assert_type(summary.cost_usd, float | None)
    batchrun.run(job, watcher=Unwatched())
    return summary.by_status.get("ok", 0)


def guarded(job: Job) -> ExitStatus:
    """Tell the ends apart that raise."""
    try:
        batchrun.run(job)
    except batchrun.OutputHeldError as error:
        return error.status
    except batchrun.JobError as error:
        assert_type(error.status, ExitStatus)
        return error.status
    except batchrun.BatchrunError as error:
        return error.status
    return batchrun.ExitStatus.OK
