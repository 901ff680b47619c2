"""The open parts of a run that no worker process has in hand, given out in order to those that wait for one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from batchrun.engine.member import Member
from batchrun.engine.messages import NoMoreParts, Part
from batchrun.execution.parts import OpenPart


class Handing:
    """Hands out parts, the first of those that are left each time."""

    def __init__(self, parts: Iterable[OpenPart]) -> None:
        """Start with these, in order."""
        self._left = list(parts)
        self._closed = False

    @property
    def left(self) -> Sequence[OpenPart]:
        """Those that nobody has, in order."""
        return self._left

    def put_back(self, parts: Iterable[OpenPart]) -> None:
        """Take parts back that were handed out and are not sealed."""
        self._left = sorted([*self._left, *parts], key=attrgetter("part"))

    def close(self) -> None:
        """Hand out nothing more; what is left stays."""
        self._closed = True

    def hand_to(self, member: Member, *, most_pending: int | None = None) -> None:
        """Hand the next part to a member that waits for one, or tell it that there is none.

        It goes on waiting while the parts in its hands need `most_pending` requests or more, where that is given.
        """
        if not member.is_waiting:
            return
        if self._closed or not self._left:
            member.channel.send(NoMoreParts())
        elif most_pending is None or sum(part.pending for part in member.assigned.values()) < most_pending:
            part = self._left.pop(0)
            member.assigned[part.part] = part
            member.channel.send(Part.of(part))
        else:
            return
        member.is_waiting = False
