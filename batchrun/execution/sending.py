"""One open run into its end on one event loop: lanes are opened, the worker is made, a flow drives the parts."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from batchrun.client.lane import Lane
from batchrun.client.lanes import Lanes
from batchrun.client.opening import open_lane
from batchrun.execution.affording import spending_of
from batchrun.execution.around import Around
from batchrun.execution.company import Alone, Company
from batchrun.execution.ending import Ending
from batchrun.execution.exposure import begin_sending
from batchrun.execution.flow import Flow
from batchrun.execution.quotas import quotas_of
from batchrun.execution.resume import OpenRun
from batchrun.job.catalogue import quote_of
from batchrun.job.lanes import lanes_of
from batchrun.job.settings import SIMULATOR, Job
from batchrun.spending import Spending
from batchrun.worker import Worker


async def send(run: OpenRun, around: Around, *, opened: Callable[[Lanes], None] = lambda _: None) -> Sequence[Ending]:
    """Send what the open parts of a run need, seal them, and return why that ended early, if it did.

    `opened` is given the lanes before anything is sent. Raises OutputError when the output can't be written.
    """
    tell_unpriced(run, around)
    async with base_urls(run.job) as urls, open_lanes(run, around, urls) as lanes:
        opened(lanes)
        begin_sending(run, around.watcher)
        return await flow_of(run, around, lanes, Alone(run), spending_of(run, around.watcher)).go()


def tell_unpriced(run: OpenRun, around: Around) -> None:
    """Tell why no price is known, where the job means to give one."""
    quote = run.examined.quote
    if run.job.price is not None and quote.unknown is not None:
        why = f"{quote.unknown}; a cost is unknown where the server reports none"
        around.watcher.noted("no price is known", why=why)


def flow_of(run: OpenRun, around: Around, lanes: Lanes, company: Company, spending: Spending | None) -> Flow:
    """Return the flow of a run over its lanes; must be called inside the running loop."""
    worker = Worker(
        lanes=lanes,
        clock=time.monotonic,
        wall_us=_wall_us,
        spending=spending,
    )
    return Flow(run, lanes=lanes, worker=worker, around=around, company=company)


@contextlib.asynccontextmanager
async def base_urls(job: Job) -> AsyncGenerator[tuple[str, ...], None]:
    """Yield the base URL of each lane; simulators that a job asks for live as long as the context."""
    async with contextlib.AsyncExitStack() as stack:
        urls: list[str] = []
        for plan in lanes_of(job):
            base_url = plan.endpoint.base_url
            if base_url == SIMULATOR:
                from batchrun.simulator.child import child  # noqa: PLC0415 - 1 ms of CPU; few jobs need it

                base_url = await stack.enter_async_context(child(job.simulator))
            urls.append(base_url)
        yield tuple(urls)


@contextlib.asynccontextmanager
async def open_lanes(
    run: OpenRun, around: Around, urls: Sequence[str], *, asks_providers: bool = True
) -> AsyncGenerator[Lanes, None]:
    """Yield the lanes to send by, each with its own session and limits, at these base URLs."""
    job = run.job
    keys = tuple(one.key for one in around.access if one.key is not None)
    quotas = quotas_of(run.before, job.limits, clock=asyncio.get_running_loop().time)
    async with contextlib.AsyncExitStack() as stack:
        lanes: list[Lane] = []
        for number, (plan, given) in enumerate(zip(lanes_of(job), around.access, strict=True)):
            opening = open_lane(
                job,
                base_url=urls[number],
                key=given.key,
                trust_env=given.trust_env,
                clock=time.monotonic,
                tariff=quote_of(job, lane=plan).tariff,
                watcher=around.watcher,
                learned_slots=run.before.slots[number],
                quotas=quotas,
                number=number,
                keys=keys,
                keep_raw=run.layout.keep_raw,
                asks_provider=asks_providers,
            )
            lanes.append(await stack.enter_async_context(opening))
        yield Lanes(lanes, strategy=job.limits.strategy, watcher=around.watcher)


def _wall_us() -> int:
    return time.time_ns() // 1000
