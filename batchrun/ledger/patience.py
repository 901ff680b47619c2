"""Whether a moment's wait for the rest of the slots is worth it, judged by what earlier ones brought. Pure."""

from __future__ import annotations

WORTH = 8
"""A wait is worth it when it brings an eighth of the slots."""
SKIPS = 15
"""How many waits are left out after one that was not: a slot that stays out costs the others a wait in sixteen."""


class Patience:
    """Learns from the commits of one ledger."""

    def __init__(self) -> None:
        """Start without any."""
        self._in_last = 0
        self._skips = 0

    def committed(self, entries: int) -> None:
        """Take note of a commit."""
        self._in_last = entries

    def has_some(self, slots: int) -> bool:
        """Say whether to wait: the last commit carried more than half of the slots, and waiting was worth it."""
        if 2 * self._in_last <= slots:
            return False
        if self._skips:
            self._skips -= 1
            return False
        return True

    def waited(self, brought: int, slots: int) -> None:
        """Take note of a wait that brought so many entries."""
        self._skips = 0 if WORTH * brought >= slots else SKIPS
