"""SIGINT, SIGTERM and SIGHUP from the start of a run until its summary is written: noted, then handled, never lost."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Generator, Mapping
from types import FrameType

from batchrun.errors import ExitStatus

STATUSES: Mapping[signal.Signals, ExitStatus] = {
    signal.SIGINT: ExitStatus.SIGINT,
    signal.SIGTERM: ExitStatus.SIGTERM,
    signal.SIGHUP: ExitStatus.SIGTERM,
}
ECHO_S = 0.02
"""A signal so soon after another is the same one: `timeout` sends it to its child and to the group of both."""


class SignalWatch:
    """Holds the three signals of this process; only the main thread can make one that is `enabled`.

    While a loop handles them, each goes to its handler. Before and after, the first is noted and the second ends the
    process by SystemExit, so that neither opening nor assembling can be cut in the middle by a single signal.
    """

    def __init__(self, *, enabled: bool) -> None:
        """Do nothing at all unless `enabled`."""
        self._enabled = enabled
        self._noted: list[signal.Signals] = []
        self._last_s: float | None = None

    @contextlib.contextmanager
    def noting(self) -> Generator[None, None, None]:
        """Note signals; what handled them before is put back at the end."""
        if not self._enabled:
            yield
            return
        before = {number: signal.signal(number, self._note) for number in STATUSES}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _is_echo(self) -> bool:
        now, before = time.monotonic(), self._last_s
        self._last_s = now
        return before is not None and now - before < ECHO_S

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._is_echo():
            return
        if self._noted:
            raise SystemExit(STATUSES[signal.Signals(number)])
        self._noted.append(signal.Signals(number))

    @contextlib.contextmanager
    def handled(self, handler: Callable[[signal.Signals], None]) -> Generator[None, None, None]:
        """Hand each signal to `handler` on the running loop, those noted before first."""
        if not self._enabled:
            yield
            return

        def unless_echo(number: signal.Signals) -> None:
            if not self._is_echo():
                handler(number)

        import asyncio  # noqa: PLC0415 - not for a run that sends nothing

        loop = asyncio.get_running_loop()
        for number in STATUSES:
            loop.add_signal_handler(number, unless_echo, number)
        for number in self._noted:
            handler(number)
        self._noted.clear()
        try:
            yield
        finally:
            for number in STATUSES:
                loop.remove_signal_handler(number)
                signal.signal(number, self._note)
