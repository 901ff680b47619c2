"""Progress and events in words, the same for a bar and for plain lines."""

from __future__ import annotations

from collections.abc import Mapping

from batchrun.events import Progress

WORTH_NAMING_S = 10.0


def progress_text(progress: Progress) -> str:
    """Return the counts of a running job as one line."""
    cost = cost_text(progress.cost_usd, progress.unpriced_rows, digits=4)
    parts = [
        f"{progress.settled:,}/{progress.rows:,} rows",
        f"{progress.failed:,} failed",
        f"{progress.in_flight}/{progress.slots} in flight",
        f"{progress.waiting} waiting to retry",
        f"{progress.rows_per_s:.1f} rows/s",
        f"{progress.prompt_tokens + progress.completion_tokens:,} tokens",
        cost if progress.cost_usd is not None else f"cost {cost}",
    ]
    if progress.first_token_ms is not None:
        parts.append(f"first token after {progress.first_token_ms:.0f} ms")
    if progress.bound_by is not None:
        parts.append(f"waiting for {progress.bound_by}")
    if progress.paused_s > 0:
        parts.append(f"paused for {progress.paused_s:.0f} s")
    if retired := sum(lane.state == "retired" for lane in progress.lanes):
        parts.append(f"{retired} of {len(progress.lanes)} endpoints retired")
    if old := [f"row {one.row} for {one.age_s:.0f} s" for one in progress.oldest if one.age_s >= WORTH_NAMING_S]:
        parts.append(f"longest in flight: {' and '.join(old)}")
    if progress.deadline_s is not None:
        parts.append(f"{duration(progress.deadline_s)} to the deadline")
    if progress.draining:
        parts.append("draining")
    elif progress.eta_s is not None:
        parts.append(f"{duration(progress.eta_s)} left")
    return ", ".join(parts)


def cost_text(cost_usd: float | None, unpriced_rows: int, *, digits: int) -> str:
    """Return a cost as far as it is known, and how much of it is not."""
    if cost_usd is None:
        return "unknown"
    known = f"{cost_usd:.{digits}f} USD"
    return f"at least {known} ({unpriced_rows:,} rows unpriced)" if unpriced_rows else known


def event_text(event: str, facts: Mapping[str, str | float | None]) -> str:
    """Return an event with its keys and counts as one line."""
    return f"batchrun: {event}" + "".join(f" {name}={value}" for name, value in facts.items())


def duration(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
