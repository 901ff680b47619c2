"""Enough open files for the connections that a job asks for, or a refusal that says how many it takes."""

from __future__ import annotations

import resource

from batchrun.errors import JobError

BESIDE_CONNECTIONS = 64
"""Descriptors for everything but connections: ledger, spool, parts, input, libraries."""


def ensure_descriptors(connections: int) -> None:
    """Raise this process's soft limit of open files to what `connections` need (DEMAND.md R23).

    Raises JobError, naming the number to set, where the hard limit is lower.
    """
    needed = connections + BESIDE_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise JobError(
            f"limits.concurrency: {connections} connections need {needed} open files, this process may have {hard}; "
            f"lower limits.concurrency to {max(1, hard - BESIDE_CONNECTIONS)}, or allow more with `ulimit -n {needed}`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
