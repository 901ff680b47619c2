"""Progress as a bar on the terminal of standard error."""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from batchrun.cli.wording import event_text, progress_text
from batchrun.events import Progress


class BarTeller:
    """Draws a bar on the terminal of standard error."""

    def __init__(self) -> None:
        """Draw nothing before it is entered."""
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,  # progress comes each second, and a thread would keep the process from being forked
        )
        self._row = self._bar.add_task("starting", total=None, told="")

    def progressed(self, progress: Progress) -> None:
        """Redraw the bar."""
        told = progress_text(progress).partition(" rows, ")[2]
        with contextlib.suppress(OSError):  # the terminal is gone; the run goes on
            self._bar.update(
                self._row,
                description=progress.job,
                total=progress.rows,
                completed=progress.settled,
                told=told,
                refresh=True,
            )

    def noted(self, event: str, **facts: str | float | None) -> None:
        """Print the event above the bar."""
        with contextlib.suppress(OSError):
            self._bar.console.print(event_text(event, facts), highlight=False, markup=False)

    def __enter__(self) -> Self:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Take the bar away."""
        with contextlib.suppress(OSError):
            self._bar.stop()
