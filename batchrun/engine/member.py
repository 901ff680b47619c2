"""A worker process as the one that holds the output knows it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

import msgspec

from batchrun.engine.channel import Channel
from batchrun.engine.forking import Seat, reap
from batchrun.engine.messages import Ended, Report, Word
from batchrun.engine.shares import Share
from batchrun.execution.parts import OpenPart

BUSY_SHARE = 0.85
"""A process that computes for more of the time than this is bound by its core."""
BUSY_TICKS = 3
SILENT_TICKS = 60
"""A process that says nothing for so many of its holder's ticks, of which it tells each one, hangs."""
HURRY_S = 2.0
"""How long a worker process may take to end that is to let go of what is in flight, or has closed its channel."""


class Member:
    """One worker process: its channel, what it is given, what it last told.

    `share` is what it may use; `narrowing`, where it is not None, what it was told to keep to and does not yet;
    `target` what it is to have. `assigned` are the parts in its hands.
    """

    def __init__(self, seat: Seat, heard: Callable[[Member, Word | None], None]) -> None:
        """Have what it says handed to `heard`, None once it is gone."""
        self.seat = seat
        self.channel = Channel(msgspec.msgpack.Decoder(Word), lambda word: heard(self, word), lambda: heard(self, None))
        self.has_begun = self.is_gone = self.is_waiting = False
        self.share: Share = {}
        self.narrowing: Share | None = None
        self.target: Share | None = None
        self.assigned: dict[int, OpenPart] = {}
        self.report: Report | None = None
        self.ended: Ended | None = None
        self._busy_ticks = 0
        self._silent_ticks = 0

    @property
    def number(self) -> int:
        """Its number, which its ledger has too."""
        return self.seat.number

    @property
    def is_working(self) -> bool:
        """Whether it works parts now."""
        return self.has_begun and self.ended is None and not self.is_gone

    @property
    def is_idle(self) -> bool:
        """Whether it waits to be told to begin."""
        return not self.has_begun and not self.is_gone and self.ended is None

    @property
    def is_busy(self) -> bool:
        """Whether its core has been what bounds it for a while."""
        return self._busy_ticks >= BUSY_TICKS

    def tick(self) -> bool:
        """Count a tick; say whether it has been silent for so many that it must be hanging."""
        self._silent_ticks += self.has_begun
        return self._silent_ticks >= SILENT_TICKS and not self.is_gone

    def speaks(self) -> None:
        """Take note that it has said something."""
        self._silent_ticks = 0

    def take_report(self, report: Report) -> None:
        """Take note of a report; how busy the process is shows from the second one on."""
        before = report if self.report is None else self.report
        is_busy = report.cpu_s - before.cpu_s > BUSY_SHARE * (report.at_s - before.at_s)
        self._busy_ticks = self._busy_ticks + 1 if is_busy else 0
        self.report = report

    def kill(self) -> None:
        """End its process at once, where it has not ended; what it was doing stands in its ledger."""
        if not self.is_gone:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.seat.pid, signal.SIGKILL)

    async def end(self) -> int:
        """Wait for the end of its process, which has closed its channel, and return its exit status as `reap` does."""
        killing = asyncio.get_running_loop().call_later(HURRY_S, self.kill)
        status = await asyncio.to_thread(reap, self.seat)
        killing.cancel()
        self.is_gone = True
        return status
