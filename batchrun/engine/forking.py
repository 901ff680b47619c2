"""Worker processes by fork: they inherit the open run and, with the descriptor of its lock, hold the output too.

An output stays held until the last of its processes has ended, whichever dies first: the kernel's lock belongs to the
open file. Fork only where no other thread lives and no event loop was made; what has been read of the input then is
shared by all.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import NamedTuple

from batchrun.errors import ExitStatus
from batchrun.execution.signals import STATUSES


class Seat(NamedTuple):
    """A worker process as its parent sees it: its number, its process id, and this end of the channel to it."""

    number: int
    pid: int
    end: socket.socket


def fork_workers(count: int, work: Callable[[int, socket.socket], None]) -> list[Seat]:
    """Fork `count` processes that call `work` with their number and their end of a channel, and then end.

    There are fewer where the machine gives no more. Where they are as many as this process may use cores, each keeps to
    one. A worker never returns from here: nothing of its parent's that waits further up, or is to be done at exit, is
    done by it.
    """
    seats: list[Seat] = []
    for number in range(1, count + 1):
        ours, theirs = socket.socketpair()
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            break
        if pid == 0:
            status = int(ExitStatus.FAULT)
            try:
                for end in (ours, *(seat.end for seat in seats)):  # else it would keep others from seeing their end
                    end.close()
                _settle_in()
                _keep_to_a_core(number, count)
                work(number, theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()
        seats.append(Seat(number, pid, ours))
    return seats


def _settle_in() -> None:
    """Leave signals and the terminal to the parent: what it hears it tells, and nobody writes in between."""
    signal.set_wakeup_fd(-1)
    for number in STATUSES:
        signal.signal(number, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _keep_to_a_core(number: int, count: int) -> None:
    """Have all threads of this process share a core where each process can have one; Linux only.

    Its threads mostly wait for one another. Left to themselves those of two processes were seen to queue on one core
    for milliseconds, with the other core idle: they were 5 % slower. Fewer processes than cores are better off free,
    or those of two runs would sit on the same cores.
    """
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if count == len(cores):
            with contextlib.suppress(OSError):  # a sandbox may forbid it: then they are as they were
                os.sched_setaffinity(0, {cores[number - 1]})


def reap(seat: Seat) -> int:
    """Wait for the end of a worker process; return its exit status, negative where a signal ended it."""
    _, status = os.waitpid(seat.pid, 0)
    return os.waitstatus_to_exitcode(status)
