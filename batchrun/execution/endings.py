"""All the reasons for which one run ends before its rows are settled, as they come up; the first of them is told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Sequence

from batchrun.events import Watcher
from batchrun.execution.ending import Ending
from batchrun.execution.signals import ECHO_S, STATUSES


class Endings:
    """The reasons that have come up so far, in their order; used inside the running loop."""

    def __init__(self, watcher: Watcher, in_flight: Callable[[], int]) -> None:
        """Tell `watcher` of the first, with how many attempts are in flight then."""
        self._watcher = watcher
        self._in_flight = in_flight
        self._all: list[Ending] = []

    @property
    def all(self) -> Sequence[Ending]:
        """All of them."""
        return self._all

    @property
    def have_signal(self) -> bool:
        """Whether a signal is among them, so that the next one lets go of what is in flight."""
        return any(ending.status in STATUSES.values() for ending in self._all)

    def add(self, ending: Ending) -> None:
        """Add one; the first is told once a signal's echo is past, so that who sends a second one on it is heard."""
        if not self._all:
            asyncio.get_running_loop().call_later(ECHO_S, self._tell, ending)
        self._all.append(ending)

    def _tell(self, ending: Ending) -> None:
        in_flight, status = self._in_flight(), int(ending.status)
        self._watcher.noted("draining", exit_status=status, in_flight=in_flight, why=ending.reason)


def stopped_by(number: signal.Signals) -> Ending:
    """Return the reason that a signal is."""
    return Ending(status=STATUSES[number], reason=f"stopped by {number.name}")
