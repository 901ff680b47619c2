"""Works the parts of a run in several processes on one machine; in one where that is all the job has work for."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence

import msgspec

from batchrun.engine.forking import Seat, fork_workers
from batchrun.engine.keeping import take_on
from batchrun.engine.shares import most_shares, whole_share
from batchrun.engine.team import Team
from batchrun.engine.work import work
from batchrun.execution.around import Around
from batchrun.execution.before import Before
from batchrun.execution.ending import Ending
from batchrun.execution.resume import OpenRun
from batchrun.execution.sending import send
from batchrun.ledger.opening import reopen
from batchrun.loop import drive, loop_factory


class WorkerFaultError(Exception):
    """Raised when a worker process came upon a fault of batchrun itself; where that was has been told."""


def send_by_processes(run: OpenRun, around: Around) -> Sequence[Ending]:
    """Have the open parts of a run worked by as many processes as it asks for and has work for.

    Must be called where no event loop runs. Raises what `send` does, and WorkerFaultError.
    """
    count, asked, parts = _count(run), run.options.processes, len(run.open_parts)
    if asked != "auto" and parts < asked:
        around.watcher.noted(
            "fewer parts are left than processes are asked for; the others have no work",
            processes=asked,
            parts=parts,
            why="one process works a part; output.rows_per_part decides how many there are",
        )
    if count > 1 and threading.active_count() > 1:
        around.watcher.noted("one process works all parts", why="a process with threads can't be forked")
        count = 1
    seats: list[Seat] = []
    if count > 1:
        run.store.close()  # a connection must not be carried into another process
        loop_factory()  # imports it, once for all of them
        seats = fork_workers(count, lambda number, end: work(run, around.access, number, end))
        reopen(run.store)
    if not seats:
        return drive(send(run, around))
    try:
        team = drive(_led(run, around, seats))
    finally:
        _end(seats)
    if team.fault is not None:
        around.watcher.noted("a fault in a worker process; please report it", at=team.fault)
        raise WorkerFaultError(team.fault)
    if team.queue and not team.endings:
        around.watcher.noted("no worker process is left, the run goes on in this one", parts=len(team.queue))
        return drive(_send_rest(run, around, team))
    return team.endings


async def _send_rest(run: OpenRun, around: Around, team: Team) -> Sequence[Ending]:
    """Send what dead processes left, within what their limits have left: the past has that of the day before too."""
    rest = msgspec.structs.replace(run, open_parts=tuple(team.queue), before=Before(slots=run.before.slots))
    return await send(rest, around, opened=lambda lanes: take_on(lanes, team.past))


async def _led(run: OpenRun, around: Around, seats: Sequence[Seat]) -> Team:
    team = Team(run, around, seats, as_needed=run.options.processes == "auto")
    await team.go()
    return team


def _count(run: OpenRun) -> int:
    """Return how many processes there is work for: each has a part, and a whole unit of each limit."""
    asked = run.options.processes
    if asked == "auto":
        asked = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(asked, len(run.open_parts), most_shares(whole_share(run.job))))


def _end(seats: Sequence[Seat]) -> None:
    """End what a fault here has left; what it was doing stands in its ledger, for the next start."""
    for seat in seats:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(seat.pid, os.WNOHANG)[0] == 0:
                os.kill(seat.pid, signal.SIGKILL)
                os.waitpid(seat.pid, 0)
