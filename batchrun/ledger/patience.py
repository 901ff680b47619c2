"""Whether a moment's wait for the rest of the slots is worth it, judged by what earlier ones brought. Pure."""

from __future__ import annotations

WORTH = 16
"""A wait is worth it when it brings a sixteenth of the slots."""
SKIPS = 7
"""How many waits are left out after one that was not: a slot that stays out costs the others one wait in eight."""


class Patience:
    """Learns from the commits of one ledger."""

    def __init__(self) -> None:
        """Start without any."""
        self._in_last = 0
        self._skips = 0

    def committed(self, entries: int) -> None:
        """Take note of a commit."""
        self._in_last = entries

    def spare(self, slots: int) -> bool:
        """Say whether to wait now: after a commit for more than half of the slots, if that was worth it before."""
        if 2 * self._in_last <= slots:
            return False
        if self._skips:
            self._skips -= 1
            return False
        return True

    def waited(self, brought: int, slots: int) -> None:
        """Take note of a wait that brought so many entries."""
        self._skips = 0 if WORTH * brought >= slots else SKIPS
