"""When who waits looks again: at a time, or as soon as something has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Rings once, at the soonest of the times that it was set to; must be made inside the running loop."""

    def __init__(self, ring: Callable[[], None]) -> None:
        """Ring by calling `ring`, which may set it anew."""
        self._loop = asyncio.get_running_loop()
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def set(self, after_s: float) -> None:
        """Ring in `after_s` seconds, unless it is to ring before that."""
        at = self._loop.time() + after_s
        if self._timer is not None:
            if self._at <= at:
                return
            self._timer.cancel()
        self._timer, self._at = self._loop.call_later(after_s, self._due), at

    def _due(self) -> None:
        self._timer = None
        self._ring()


class Nap:
    """A wait that anybody can end; for one who waits at a time. Must be made inside the running loop."""

    def __init__(self) -> None:
        """Start with nobody waiting."""
        self._loop = asyncio.get_running_loop()
        self._woken: asyncio.Future[None] | None = None

    async def take(self, at_most_s: float | None) -> None:
        """Wait until `end` is called, or `at_most_s` seconds have gone by."""
        self._woken = self._loop.create_future()
        timer = None if at_most_s is None else self._loop.call_later(at_most_s, self.end)
        try:
            await self._woken
        finally:
            if timer is not None:
                timer.cancel()

    def end(self) -> None:
        """Wake who waits, if anybody does."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)
