"""Works the parts of a run in this process, on one event loop, unless more are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from batchrun.events import Summary, Watcher
from batchrun.execution.around import Access, Around
from batchrun.execution.ending import Ending
from batchrun.execution.once import execute
from batchrun.execution.resume import OpenRun
from batchrun.execution.sending import send
from batchrun.job.options import RunOptions
from batchrun.job.settings import Job
from batchrun.loop import drive


def run_job(job: Job, options: RunOptions, *, access: Sequence[Access], watcher: Watcher) -> Summary:
    """Run a job, here or in the processes that `options` ask for; see `execute` for what it returns and raises."""
    if options.processes == 1:
        return execute(job, options, access=access, watcher=watcher, send=_send_here)
    from batchrun.engine.processes import send_by_processes  # noqa: PLC0415 - few runs need it

    return execute(job, options, access=access, watcher=watcher, send=send_by_processes)


def _send_here(run: OpenRun, around: Around) -> Sequence[Ending]:
    return drive(send(run, around))
