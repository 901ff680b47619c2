"""Works the parts of a run in this process, on one event loop."""

from __future__ import annotations

from collections.abc import Sequence

from batchrun.execution.around import Around
from batchrun.execution.ending import Ending
from batchrun.execution.resume import OpenRun
from batchrun.execution.sending import send
from batchrun.loop import drive


def send_here(run: OpenRun, around: Around) -> Sequence[Ending]:
    """Have the open parts of a run worked; must be called where no event loop runs. Raises what `send` does."""
    return drive(send(run, around))
