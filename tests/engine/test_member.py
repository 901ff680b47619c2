"""A worker process as its holder knows it: busy, hanging, or at its end."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys

from batchrun.engine.forking import Seat
from batchrun.engine.member import BUSY_TICKS, SILENT_TICKS, Member
from batchrun.engine.messages import Report
from batchrun.events import LaneState
from batchrun.execution.pulse import Counted


def report(cpu_s: float, at_s: float) -> Report:
    lane = LaneState(slots=1, in_flight=0, paused_s=0.0, used={}, waited_s={})
    return Report(
        counted=Counted(),
        lane=lane,
        lanes=(),
        slots=(1,),
        learned=(1,),
        waiting=0,
        oldest=(),
        first_tokens_ms=(),
        suspected=0,
        cpu_s=cpu_s,
        at_s=at_s,
    )


def is_busy_after(shares: list[float], *, each_s: float = 1.0) -> bool:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(Seat(1, 1, ours), lambda member, word: None)
        cpu_s, at_s = 0.0, 1000.0
        member.take_report(report(cpu_s, at_s))
        for share in shares:
            cpu_s, at_s = cpu_s + share * each_s, at_s + each_s
            member.take_report(report(cpu_s, at_s))
        return member.is_busy


def test_only_a_row_of_busy_seconds_makes_a_process_busy() -> None:
    assert is_busy_after([0.9] * BUSY_TICKS)
    assert not is_busy_after([0.9] * (BUSY_TICKS - 1))
    assert not is_busy_after([0.9, 0.5, *[0.9] * (BUSY_TICKS - 1)])
    assert not is_busy_after([0.9] * BUSY_TICKS + [0.5])


def test_reports_that_come_late_make_no_process_busy() -> None:
    """On a machine that others use a second's tick takes longer: what counts is the time that went by."""
    assert not is_busy_after([0.7] * BUSY_TICKS, each_s=1.5)
    assert is_busy_after([0.9] * BUSY_TICKS, each_s=0.5)


def test_a_process_hangs_when_it_has_begun_and_says_nothing_for_long() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(Seat(1, 1, ours), lambda member, word: None)
        assert not any(member.tick() for _ in range(2 * SILENT_TICKS))
        member.has_begun = True
        for _ in range(3):
            assert not any(member.tick() for _ in range(SILENT_TICKS - 1))
            member.speaks()
        assert [member.tick() for _ in range(SILENT_TICKS)][-2:] == [False, True]
        member.is_gone = True
        assert not member.tick()


def test_a_process_that_does_not_end_by_itself_is_killed_and_then_left_alone() -> None:
    """Once it is gone its id may be another process's."""
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "import signal; signal.pause()"], os.environ)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(Seat(1, pid, ours), lambda member, word: None)
        member.kill()
        assert asyncio.run(asyncio.wait_for(member.end(), 60)) == -signal.SIGKILL
        assert member.is_gone
        member.seat = Seat(1, os.getpid(), ours)
        member.kill()
