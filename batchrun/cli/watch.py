"""Progress and events onto standard error: a bar on a terminal, one plain line an interval elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self, TextIO

import msgspec

from batchrun.cli.wording import event_text, progress_text
from batchrun.events import Progress

PLAIN_EVERY_S = 30.0


class Teller(Protocol):
    """A Watcher that is entered before a run and left after it."""

    def progressed(self, progress: Progress) -> None:
        """Show the state of the run."""
        ...

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Show one event."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


def teller(*, progress: str, log_format: str, verbose: bool, quiet: bool) -> Teller:
    """Return what tells a run on standard error; `progress` auto draws a bar on a terminal that is not a CI's."""
    if progress == "auto":
        progress = "bar" if sys.stderr.isatty() and not os.environ.get("CI") and log_format == "text" else "plain"
    if progress == "bar":
        from batchrun.cli.bar import BarTeller  # noqa: PLC0415 - rich is heavy, and only a terminal needs it

        return BarTeller()
    every_s = 5.0 if verbose else PLAIN_EVERY_S
    return LineTeller(
        sys.stderr,
        every_s=None if progress == "none" else every_s,
        as_json=log_format == "json",
        silent=quiet,
    )


class LineTeller:
    """Writes one line an event, and one line of progress each `every_s` seconds."""

    def __init__(
        self,
        stream: TextIO,
        *,
        every_s: float | None,
        as_json: bool,
        silent: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Write to `stream`; `every_s` None writes no progress, `silent` no events either."""
        self._stream = stream
        self._every_s = every_s
        self._as_json = as_json
        self._silent = silent
        self._clock = clock
        self._next = clock() + (every_s or 0.0)

    def progressed(self, progress: Progress) -> None:
        """Write a line when one is due."""
        if self._every_s is None or self._clock() < self._next:
            return
        self._next = self._clock() + self._every_s
        if self._as_json:
            self._write(msgspec.json.encode({"event": "progress", **msgspec.structs.asdict(progress)}).decode())
        else:
            self._write(f"batchrun: {progress_text(progress)}")

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Write the event."""
        if self._silent:
            return
        if self._as_json:
            self._write(msgspec.json.encode({"event": event, **facts}).decode())
        else:
            self._write(event_text(event, facts))

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):  # whoever read along has gone; the run goes on
            print(line, file=self._stream, flush=True)

    def __enter__(self) -> Self:
        """Nothing to prepare."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Nothing to put away."""
