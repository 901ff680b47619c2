"""A worker process is bound by its core when it computes nearly all of the time, for a while."""

from __future__ import annotations

import socket

from batchrun.engine.forking import Seat
from batchrun.engine.member import BUSY_TICKS, Member
from batchrun.engine.messages import Report
from batchrun.events import LaneState
from batchrun.execution.pulse import Counted


def report(cpu_s: float) -> Report:
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
    )


def test_only_a_row_of_busy_seconds_makes_a_process_busy() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        member = Member(Seat(1, 1, ours), lambda member, word: None)
        cpu_s = 0.0
        for share in (0.9, 0.9, 0.5, *[0.9] * (BUSY_TICKS - 1)):
            cpu_s += share
            member.take_report(report(cpu_s), 1.0)
            assert not member.is_busy
        member.take_report(report(cpu_s + 0.9), 1.0)
        assert member.is_busy
