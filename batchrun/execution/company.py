"""Whom a flow works for: who hands out its parts, and who is told what becomes of them; here a flow on its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import msgspec

from batchrun.errors import OutputError
from batchrun.events import Progress
from batchrun.execution.ending import Ending
from batchrun.execution.parts import OpenPart
from batchrun.execution.resume import OpenRun
from batchrun.ledger.records import Entry
from batchrun.ledger.store import Store
from batchrun.writer.dataset import write_whole

_Answer = TypeVar("_Answer")


class Steered(Protocol):
    """A flow, as far as its company has a say in it."""

    def drain(self, ending: Ending, after_s: float = 0.0) -> None:
        """Send nothing new; after `after_s` seconds give what is in flight the grace time, then let go of it."""
        ...

    def take_back(self, lane: int, rows: tuple[int, ...]) -> None:
        """Make failures pending again that a lane's breaker may still take back."""
        ...

    def let_go(self) -> None:
        """Cancel what is in flight, and seal nothing more; what is in hand is committed."""
        ...

    async def ask(self, question: Callable[[Store], _Answer]) -> _Answer:
        """Run `question` on the ledger in a transaction of its own, after what was put before."""
        ...


class Company(Protocol):
    """Hands out parts to one flow and follows what becomes of them; all but `parts` is called on the flow's loop."""

    def parts(self) -> Iterator[OpenPart]:
        """Yield the parts to work, the next one when the one before was read; called off the loop, may block."""
        ...

    async def attend(self, flow: Steered) -> None:
        """Do what is asked for while the flow goes on; cancelled when it has ended."""
        ...

    def committed(self, entries: Sequence[Entry]) -> None:
        """Take note of what is durable, and that its slots came back."""
        ...

    def sealed(self, part: OpenPart) -> None:
        """Take note that a part is in place."""
        ...

    def draining(self, ending: Ending, after_s: float) -> None:
        """Take note that the flow drains for a reason, and that its grace time begins after `after_s` seconds."""
        ...

    async def progressed(self, progress: Progress) -> None:
        """Take note of how far the flow has come, about once a second."""
        ...


class Alone:
    """The company of a flow that works all open parts of its run; a Company."""

    def __init__(self, run: OpenRun) -> None:
        """Hand out the open parts of `run`, in order."""
        self._run = run

    def parts(self) -> Iterator[OpenPart]:
        """Yield all of them."""
        return iter(self._run.open_parts)

    async def attend(self, flow: Steered) -> None:
        """Ask for nothing."""

    def committed(self, entries: Sequence[Entry]) -> None:
        """Have nobody to tell."""

    def sealed(self, part: OpenPart) -> None:
        """Have nobody to tell."""

    def draining(self, ending: Ending, after_s: float) -> None:
        """Have nobody to tell."""

    async def progressed(self, progress: Progress) -> None:
        """Keep it where `batchrun status` reads it."""
        await keep_progress(self._run, progress)


async def keep_progress(run: OpenRun, progress: Progress) -> None:
    """Replace `progress.json`."""
    with contextlib.suppress(OutputError):  # the ledger finds a full disk and says so
        content = msgspec.json.encode(progress)
        await asyncio.to_thread(write_whole, run.places.progress, content, durable=False)
