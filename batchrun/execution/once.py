"""A job and its options into one run and its summary: open, wire, drive, close."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from batchrun.client.lane import open_lane
from batchrun.errors import BatchrunError, ExitStatus, OutputError
from batchrun.events import Summary, Watcher
from batchrun.execution.closing import said_of, standing_summary, summary_of
from batchrun.execution.flow import Ending, Flow
from batchrun.execution.opening import OpenRun, open_run
from batchrun.execution.pulse import Pulse
from batchrun.job.options import RunOptions
from batchrun.job.settings import SIMULATOR, Job
from batchrun.simulator.child import child
from batchrun.worker import Worker
from batchrun.writer.dataset import write_whole

Driver = Callable[[Coroutine[Any, Any, Sequence[Ending]]], Sequence[Ending]]


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What the surroundings give a run: the key, and whether proxy variables are to be followed."""

    key: str | None = None
    trust_env: bool = False


def execute(job: Job, options: RunOptions, *, access: Access, watcher: Watcher, drive: Driver) -> Summary:
    """Run a job until every row is settled or a reason ends it; return its summary, which is then on disk too.

    `drive` runs one coroutine on an event loop. A complete output sends nothing and keeps its summary. Raises
    JobError (exit status 2) and OutputHeldError (6); every other end is told by the summary's exit_status, except a
    fault of batchrun itself, which is raised after the summary was written.
    """
    with open_run(job, options, watcher) as run:
        whole = not run.open_parts and (run.places.single is None or run.places.single.exists())
        if whole and (standing := standing_summary(run)) is not None:
            return standing
        began, started_at = time.monotonic(), datetime.now(tz=UTC)
        fault: Exception | None = None
        try:
            endings: Sequence[Ending] = drive(_send(run, access, watcher)) if run.open_parts else []
            complete = not endings or _all_sealed(run)
            if complete:
                run.dataset.assemble(run.parts)
        except BatchrunError as error:
            endings, complete = [Ending(status=error.status, reason=str(error))], False
        except Exception as error:  # noqa: BLE001 - raised again below, once the summary says so
            endings, complete = [Ending(status=ExitStatus.FAULT, reason=f"internal error: {error!r}")], False
            fault = error
        summary = summary_of(
            run,
            said_of(job, endings),
            complete=complete,
            started_at=started_at,
            wall_s=time.monotonic() - began,
        )
        summary = _written(run, summary)
        if fault is not None:
            raise fault
        return summary


def _all_sealed(run: OpenRun) -> bool:
    return sum(part.rows for part in run.store.parts()) == run.rows and len(run.store.parts()) == run.parts


def _written(run: OpenRun, summary: Summary) -> Summary:
    content = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
    try:
        write_whole(run.places.summary, content, durable=True)
    except OutputError as error:
        if summary.exit_status in {ExitStatus.OUTPUT, ExitStatus.FAULT}:
            return summary
        return msgspec.structs.replace(summary, exit_status=int(error.status), reason=str(error))
    return summary


async def _send(run: OpenRun, access: Access, watcher: Watcher) -> Sequence[Ending]:
    clock = time.monotonic
    async with (
        _endpoint(run.job) as base_url,
        open_lane(run.job, base_url=base_url, key=access.key, trust_env=access.trust_env, clock=clock) as lane,
    ):
        prompter, envelope = run.examined.prompter, run.examined.envelope()
        worker = Worker(prompter=prompter, envelope=envelope, lane=lane, clock=clock, wall_us=_wall_us)
        pulse = Pulse(run, clock=clock)
        return await Flow(run, lane=lane, worker=worker, pulse=pulse, watcher=watcher).go()


@contextlib.asynccontextmanager
async def _endpoint(job: Job) -> AsyncGenerator[str, None]:
    """Yield the base URL to send to; the simulator lives as long as the run."""
    if job.endpoint.base_url == SIMULATOR:
        async with child(job.simulator) as base_url:
            yield base_url
    else:
        yield job.endpoint.base_url


def _wall_us() -> int:
    return time.time_ns() // 1000
