"""A job and its options into one run and its summary: open, wire, drive, close."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from batchrun.client.lane import Lane, open_lane
from batchrun.client.lanes import Lanes
from batchrun.errors import BatchrunError, ExitStatus, OutputError
from batchrun.events import Bystander, Summary, Watcher
from batchrun.execution.affording import begin_sending, end_sending, spending_of
from batchrun.execution.closing import Counts, standing_summary, summary_of
from batchrun.execution.ending import Ending
from batchrun.execution.flow import Flow
from batchrun.execution.opening import open_run
from batchrun.execution.pulse import Pulse
from batchrun.execution.resume import OpenRun
from batchrun.execution.signals import SignalWatch
from batchrun.job.catalogue import quote_of
from batchrun.job.deadline import deadline_at
from batchrun.job.lanes import lanes_of
from batchrun.job.options import RunOptions
from batchrun.job.places import places_of
from batchrun.job.settings import SIMULATOR, Job
from batchrun.ledger.opening import open_store
from batchrun.ledger.store import ASSEMBLED, Store
from batchrun.simulator.child import child
from batchrun.worker import Worker
from batchrun.writer.dataset import Dataset, write_whole
from batchrun.writer.generation import publish_next

Driver = Callable[[Coroutine[Any, Any, Sequence[Ending]]], Sequence[Ending]]


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What the surroundings give one lane: the key, and whether proxy variables are to be followed."""

    key: str | None = None
    trust_env: bool = False


def execute(job: Job, options: RunOptions, *, access: Sequence[Access], watcher: Watcher, drive: Driver) -> Summary:
    """Run a job until every row is settled or a reason ends it; return its summary, which is then on disk too.

    `access` is that of each lane; `drive` runs one coroutine on an event loop. A `watcher` that raises is told nothing
    more. A complete output sends nothing and keeps its summary. Raises JobError (exit status 2) and OutputHeldError
    (6); every other end is told by the summary's exit_status, except a fault of batchrun itself, which is raised after
    the summary was written.
    """
    signals = SignalWatch(enabled=options.signals)
    watcher = Bystander(watcher)
    deadline = job.limits.deadline
    ends_at = None if deadline is None else deadline_at(deadline, datetime.now(tz=UTC))  # opening may take long
    with open_run(job, options, watcher) as opened:
        run = msgspec.structs.replace(opened, ends_at=ends_at)
        if not options.fresh and _is_whole(run) and (standing := standing_summary(run)) is not None:
            return standing
        with signals.noting():
            return _carried_out(run, access, watcher, drive, signals)


def _carried_out(
    run: OpenRun, access: Sequence[Access], watcher: Watcher, drive: Driver, signals: SignalWatch
) -> Summary:
    """Drive an open run, put its output in place, write its summary."""
    began, started_at = time.monotonic(), datetime.now(tz=UTC)
    pulse = Pulse(run, clock=time.monotonic)
    endings, fault = _driven(run, lambda: drive(_send(run, access, watcher, signals, pulse)))
    complete = not fault and _all_sealed(run)
    counts = Counts(
        tallies=run.store.tallies(),
        totals=run.store.totals(),
        first_token_ms=pulse.first_token_ms,
        waited_s=pulse.waited_s,
        used=pulse.mean_used,
    )
    if complete:
        try:
            _put_in_place(run)
        except OutputError as error:
            endings, complete = [*endings, Ending(status=error.status, reason=str(error))], False
    wall_s = time.monotonic() - began
    summary = summary_of(run, counts, endings, complete=complete, started_at=started_at, wall_s=wall_s)
    summary = _written(run, summary)
    if fault is not None:
        raise fault
    return summary


def _driven(run: OpenRun, drive: Callable[[], Sequence[Ending]]) -> tuple[Sequence[Ending], Exception | None]:
    """Drive the open parts; return why that ended early, and the error when it was a fault of batchrun's."""
    if not run.open_parts:
        return [], None
    try:
        endings = drive()
        end_sending(run)
    except BatchrunError as error:
        return [Ending(status=error.status, reason=str(error))], None
    except Exception as error:  # noqa: BLE001 - raised again once the summary says so
        return [Ending(status=ExitStatus.FAULT, reason=f"internal error: {type(error).__name__}")], error
    return endings, None


def _all_sealed(run: OpenRun) -> bool:
    parts = run.store.parts()
    return len(parts) == run.parts and sum(part.rows for part in parts) == run.rows


def _is_whole(run: OpenRun) -> bool:
    """Say whether the output is complete as it stands: every part, and the single file made of them."""
    if run.open_parts:
        return False
    return run.places.single is None or run.dataset.single_digest() == run.store.noted(ASSEMBLED)


def _put_in_place(run: OpenRun) -> None:
    """Publish a fresh generation, and make the single file where the output is one."""
    if not run.options.fresh:
        _assemble(run, run.store)
        return
    run.store.close_whole()
    standing = places_of(run.job)
    publish_next(standing, run.parts)
    with contextlib.closing(open_store(standing.ledger)) as store:
        _assemble(run, store)


def _assemble(run: OpenRun, store: Store) -> None:
    dataset = Dataset(places_of(run.job), compression=run.job.output.compression)
    if (digest := dataset.assemble(run.parts)) is not None:
        with store.changing():
            store.note(**{ASSEMBLED: digest})


def _written(run: OpenRun, summary: Summary) -> Summary:
    content = msgspec.json.format(msgspec.json.encode(summary), indent=2) + b"\n"
    try:
        write_whole(run.places.summary, content, durable=True)
    except OutputError as error:
        if summary.exit_status in {ExitStatus.OUTPUT, ExitStatus.FAULT}:
            return summary
        return msgspec.structs.replace(summary, exit_status=int(error.status), reason=str(error))
    return summary


async def _send(
    run: OpenRun, access: Sequence[Access], watcher: Watcher, signals: SignalWatch, pulse: Pulse
) -> Sequence[Ending]:
    quote = run.examined.quote
    if run.job.price is not None and quote.unknown is not None:
        watcher.noted("no price is known", why=f"{quote.unknown}; a cost is unknown where the server reports none")
    async with _open_lanes(run, access, watcher) as lanes:
        begin_sending(run, watcher)
        prompter, envelope = run.examined.prompter, run.examined.envelope()
        worker = Worker(
            prompter=prompter,
            envelope=envelope,
            lanes=lanes,
            clock=time.monotonic,
            wall_us=_wall_us,
            spending=spending_of(run, watcher),
        )
        return await Flow(run, lanes=lanes, worker=worker, pulse=pulse, watcher=watcher, signals=signals).go()


@contextlib.asynccontextmanager
async def _open_lanes(run: OpenRun, access: Sequence[Access], watcher: Watcher) -> AsyncGenerator[Lanes, None]:
    """Yield the lanes to send by, each with its own session and limits; the simulator lives as long as the run."""
    job = run.job
    keys = tuple(one.key for one in access if one.key is not None)
    quotas = run.before.quotas(job.limits, clock=asyncio.get_running_loop().time)
    async with contextlib.AsyncExitStack() as stack:
        lanes: list[Lane] = []
        for number, (plan, given) in enumerate(zip(lanes_of(job), access, strict=True)):
            base_url = plan.endpoint.base_url
            if base_url == SIMULATOR:
                base_url = await stack.enter_async_context(child(job.simulator))
            opening = open_lane(
                job,
                base_url=base_url,
                key=given.key,
                trust_env=given.trust_env,
                clock=time.monotonic,
                tariff=quote_of(job, lane=plan).tariff,
                watcher=watcher,
                learned_slots=run.before.slots[number],
                quotas=quotas,
                number=number,
                keys=keys,
                keep_raw=run.layout.keep_raw,
            )
            lanes.append(await stack.enter_async_context(opening))
        yield Lanes(lanes, strategy=job.limits.strategy, watcher=watcher)


def _wall_us() -> int:
    return time.time_ns() // 1000
