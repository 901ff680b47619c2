"""A job into its summary: works the parts of its run in this process, unless more are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from batchrun.events import Summary, Watcher
from batchrun.execution.around import Access, Around
from batchrun.execution.ending import Ending
from batchrun.execution.once import execute
from batchrun.execution.resume import OpenRun
from batchrun.job.options import RunOptions
from batchrun.job.settings import Job

Importing = Callable[[], AbstractContextManager[None]]
"""Is entered while what sends is imported."""


def run_job(
    job: Job, options: RunOptions, *, access: Sequence[Access], watcher: Watcher, importing: Importing = nullcontext
) -> Summary:
    """Run a job, here or in the processes that `options` ask for; see `execute` for what it returns and raises."""
    return execute(job, options, access=access, watcher=watcher, send=partial(_send, importing))


def _send(importing: Importing, run: OpenRun, around: Around) -> Sequence[Ending]:
    with importing():  # asyncio and aiohttp take 0.1 s of CPU, and a run that is complete needs neither
        if run.options.processes == 1:
            from batchrun.engine.here import send_here as send  # noqa: PLC0415
        else:
            from batchrun.engine.processes import send_by_processes as send  # noqa: PLC0415
    return send(run, around)
