"""A job's one or several endpoints as lanes: each with its name and with the limits that hold for it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import msgspec

from batchrun.job.settings import EndpointSettings, Job, LaneSettings


class LanePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One lane as the job describes it.

    `at` is its place in the job file, `model` what it is sent instead of the job's model, None for that one.
    """

    at: str
    name: str
    endpoint: EndpointSettings
    model: str | None
    concurrency: int
    requests_per_minute: float | None
    tokens_per_minute: float | None


def lanes_of(job: Job) -> tuple[LanePlan, ...]:
    """Return the lanes of a job in the order of the file, their limits filled in from [limits].

    A lane without a name has its host and port for one; of those that would be alike all but the first get a number.
    """
    limits = job.limits
    if not isinstance(job.endpoint, tuple):
        return (
            LanePlan(
                at="endpoint",
                name=_host_and_port(job.endpoint.base_url),
                endpoint=job.endpoint,
                model=None,
                concurrency=limits.concurrency,
                requests_per_minute=limits.requests_per_minute,
                tokens_per_minute=limits.tokens_per_minute,
            ),
        )
    return tuple(
        LanePlan(
            at=f"endpoint[{index}]",
            name=name,
            endpoint=lane,
            model=lane.model,
            concurrency=lane.concurrency or limits.concurrency,
            requests_per_minute=lane.requests_per_minute or limits.requests_per_minute,
            tokens_per_minute=lane.tokens_per_minute or limits.tokens_per_minute,
        )
        for index, (lane, name) in enumerate(zip(job.endpoint, _names(job.endpoint), strict=True))
    )


def most_in_flight(job: Job) -> int:
    """Return how many attempts all lanes of a job may have in flight together."""
    return sum(lane.concurrency for lane in lanes_of(job))


def _names(lanes: Sequence[LaneSettings]) -> list[str]:
    taken = {lane.name for lane in lanes}
    names: list[str] = []
    for lane in lanes:
        first = name = lane.name or _host_and_port(lane.base_url)
        number = 2
        while lane.name is None and name in taken:
            name, number = f"{first}-{number}", number + 1
        taken.add(name)
        names.append(name)
    return names


def _host_and_port(base_url: str) -> str:
    try:
        return urlsplit(base_url).netloc.rpartition("@")[2].lower() or base_url
    except ValueError:  # no URL at all: `check_job` says so
        return base_url
