"""One lane of a job opened for one run: its transport, and around that all that a lane is made of."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable

from batchrun.budget import most_completion_tokens
from batchrun.client.breaker import Breaker
from batchrun.client.estimate import Estimate
from batchrun.client.lane import Lane
from batchrun.client.limiter import Gate
from batchrun.client.limits import Quotas
from batchrun.client.outage import Outage
from batchrun.client.provider import most_in_flight
from batchrun.client.reply import ReplyReader
from batchrun.client.slots import Slots
from batchrun.client.transport import Inquirer, open_transport
from batchrun.events import Unwatched, Watcher
from batchrun.job.lanes import lanes_of
from batchrun.job.settings import EndpointSettings, Job
from batchrun.pricing import Tariff


@contextlib.asynccontextmanager
async def open_lane(  # noqa: PLR0913 - what a run knows of its endpoint
    job: Job,
    *,
    base_url: str,
    key: str | None,
    trust_env: bool,
    clock: Callable[[], float],
    tariff: Tariff | None = None,
    watcher: Watcher | None = None,
    learned_slots: int | None = None,
    quotas: Quotas | None = None,
    number: int = 0,
    keys: tuple[str, ...] = (),
    keep_raw: bool | None = None,
    asks_provider: bool = True,
) -> AsyncGenerator[Lane, None]:
    """Open one lane of a job for one run; `key` goes into its auth header and nowhere else.

    `tariff` prices what the server does not. A provider that tells how much it lets in flight is asked first, unless it
    was asked before.
    `learned_slots` is where an earlier run left off, `quotas` are the limits a day with what is left of them, which all
    lanes share. `keys` are those of other lanes, to be masked here too. `keep_raw` overrides that of the job.
    """
    plan, limits = lanes_of(job)[number], job.limits
    endpoint, model = plan.endpoint, plan.model
    watcher = watcher or Unwatched()
    async with open_transport(
        base_url=base_url,
        headers=_headers(endpoint, key),
        query=endpoint.query,
        timeout_s=endpoint.timeout_s,
        concurrency=plan.concurrency,
        trust_env=trust_env,
        stream=endpoint.stream,
        kind=endpoint.transport,
        watcher=watcher,
    ) as transport:
        slots = await _told_slots(transport, base_url, plan.concurrency, watcher) if asks_provider else plan.concurrency
        gate = Gate(
            slots=slots,
            requests_per_minute=plan.requests_per_minute,
            tokens_per_minute=plan.tokens_per_minute,
            quotas=quotas,
            adaptive=Slots(most=slots, adaptive=limits.adaptive, learned=learned_slots, clock=clock),
        )
        keep_raw = endpoint.keep_raw if keep_raw is None else keep_raw
        yield Lane(
            gate=gate,
            transport=transport,
            replies=ReplyReader(model=model or job.request.get("model"), tariff=tariff, keep_raw=keep_raw),
            limits=limits,
            clock=clock,
            outage=Outage(max_outage_s=limits.max_outage_s, clock=clock),
            breaker=Breaker(enabled=limits.breaker),
            estimate=Estimate(most_output_tokens=most_completion_tokens(job.request)),
            most_pause_s=limits.max_pause_s,
            secrets=tuple(dict.fromkeys(secret for secret in (key, *keys) if secret)),
            key_source=endpoint.api_key_env or endpoint.api_key_file,
            watcher=watcher,
            name=plan.name,
            number=number,
            model=model,
        )


def _headers(endpoint: EndpointSettings, key: str | None) -> dict[str, str]:
    """Return the headers that an endpoint asks for, with its key where there is one."""
    if key is None:
        return endpoint.headers
    is_standard = endpoint.auth_header.lower() == "authorization"
    return {**endpoint.headers, endpoint.auth_header: f"Bearer {key}" if is_standard else key}


async def _told_slots(inquirer: Inquirer, base_url: str, slots: int, watcher: Watcher) -> int:
    """Return how many of `slots` the provider bears: all of them where it does not tell."""
    if (told := await most_in_flight(inquirer, base_url)) is None:
        return slots
    slots = min(slots, told)
    watcher.noted("the provider told its limit", in_flight=told, slots=slots)
    return slots
