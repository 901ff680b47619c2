"""Progress and events in words, the same for a bar and for plain lines."""

from __future__ import annotations

from collections.abc import Mapping

from batchrun.events import Progress

WORTH_NAMING_S = 10.0


def progress_text(progress: Progress) -> str:
    """Return the counts of a running job as one line."""
    parts = [
        f"{progress.settled:,}/{progress.rows:,} rows",
        f"{progress.failed:,} failed",
        f"{progress.in_flight} in flight",
        f"{progress.waiting} waiting to retry",
        f"{progress.rows_per_s:.1f} rows/s",
        f"{progress.prompt_tokens + progress.completion_tokens:,} tokens",
        f"{progress.cost_usd:.4f} USD",
    ]
    if progress.paused_s > 0:
        parts.append(f"paused for {progress.paused_s:.0f} s")
    if old := [f"row {one.row} for {one.age_s:.0f} s" for one in progress.oldest if one.age_s >= WORTH_NAMING_S]:
        parts.append(f"longest in flight: {' and '.join(old)}")
    if progress.draining:
        parts.append("draining")
    elif progress.eta_s is not None:
        parts.append(f"{duration(progress.eta_s)} left")
    return ", ".join(parts)


def event_text(event: str, facts: Mapping[str, str | float | None]) -> str:
    """Return an event with its keys and counts as one line."""
    return f"batchrun: {event}" + "".join(f" {name}={value}" for name, value in facts.items())


def duration(seconds: float) -> str:
    """Return a time as h:mm:ss."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
