"""Parts go out in order, one at a time, and come back where whoever had them is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from batchrun.engine.handing import Handing
from batchrun.engine.messages import NoMoreParts, Part
from batchrun.execution.parts import OpenPart

PARTS = [OpenPart(part=part, rows=range(part * 5, part * 5 + 5), kept=range(0), pending=5) for part in range(4)]


class Hands(SimpleNamespace):
    """A member, as far as parts go, that waits for one."""

    def __init__(self) -> None:
        super().__init__(is_waiting=True, assigned={}, channel=self)
        self.sent: list[int | None] = []

    def send(self, message: msgspec.Struct) -> None:
        assert isinstance(message, Part | NoMoreParts)
        self.sent.append(message.part if isinstance(message, Part) else None)


def test_each_part_goes_to_one_member_that_waits_and_then_there_is_none() -> None:
    handing, one, other = Handing(PARTS[:3]), Hands(), Hands()
    members: list[Any] = [one, one, other]
    for member in members:
        handing.hand_to(member)
    assert (one.sent, other.sent) == ([0], [1])
    one.is_waiting = other.is_waiting = True
    for member in members:
        handing.hand_to(member)
    assert (one.sent, other.sent) == ([0, 2], [1, None])
    assert (list(one.assigned), list(other.assigned)) == ([0, 2], [1])
    assert not other.is_waiting


def test_who_has_enough_in_hand_goes_on_waiting() -> None:
    handing, member = Handing(PARTS), Hands()
    waiting: Any = member
    for _ in range(3):
        member.is_waiting = True
        handing.hand_to(waiting, most_pending=6)
    assert (member.sent, member.is_waiting) == ([0, 1], True)
    handing.hand_to(waiting)
    assert member.sent == [0, 1, 2]


def test_what_comes_back_goes_out_first_again_and_nothing_does_once_closed() -> None:
    handing, member = Handing(PARTS), Hands()
    waiting: Any = member
    for _ in range(3):
        member.is_waiting = True
        handing.hand_to(waiting)
    handing.put_back([member.assigned[2], member.assigned[1]])
    member.is_waiting = True
    handing.hand_to(waiting)
    assert member.sent == [0, 1, 2, 1]
    handing.close()
    member.is_waiting = True
    handing.hand_to(waiting)
    assert member.sent[-1] is None
    assert [part.part for part in handing.left] == [2, 3]
