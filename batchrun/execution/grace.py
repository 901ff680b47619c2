"""The time that what is in flight is given once a run drains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Grace:
    """Calls `let_go` when a grace time is over; of several that are given, the one that is over first counts."""

    def __init__(self, grace_s: float, let_go: Callable[[], None]) -> None:
        """Give `grace_s` seconds each time; must be used inside the running loop."""
        self._grace_s = grace_s
        self._let_go = let_go
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, *, after_s: float) -> None:
        """Give the grace time, counted from `after_s` seconds on."""
        loop = asyncio.get_running_loop()
        over = loop.time() + after_s + self._grace_s
        if self._timer is None or over < self._timer.when():
            if self._timer is not None:
                self._timer.cancel()
            self._timer = loop.call_at(over, self._let_go)
