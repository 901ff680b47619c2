"""The attempts that killed processes may have had in flight, counted for good: they may be billed."""

from __future__ import annotations

from batchrun.ledger.store import Store

_LOST = "lost"
"""The name under which they are counted."""


def count_lost(store: Store, attempts: int) -> None:
    """Count so many more, in the transaction that counts them as spent."""
    if attempts:
        store.note(**{_LOST: str(lost_attempts(store) + attempts)})


def lost_attempts(store: Store) -> int:
    """Return how many there may have been, at most; an older batchrun did not count them."""
    return int(store.noted(_LOST) or 0)
