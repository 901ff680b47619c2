"""An event loop whose clock jumps to the next timer when nothing else is to do, so that hours pass in no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Never sleeps: the time that asyncio asks it to wait is added to the clock instead.

    Each turn of the loop takes a microsecond, because a timer that rounding lets fire a hair early is set again by
    aiolimiter, and on a clock that stands still that would go on for ever.
    """

    now_s = 0.0
    turn_s = 1e-6

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing will ever happen: every task waits, and no timer is set")
            self.now_s += timeout
        self.now_s += self.turn_s
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop without real time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a virtual clock that starts at 0."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
