"""A job's limits among its worker processes: each has its share, and none is wider before another is narrower."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchrun.engine.member import Member
from batchrun.engine.messages import Begin, Reshare
from batchrun.engine.shares import Past, Pool, Share, least, minus, name_of, plus, split

Opening = Callable[[Share, Past, bool], Begin]
"""Makes the message by which a member begins with a share and the past that goes with it, as the first or not."""


class Sharing:
    """Keeps what members and the pool have at the whole, which is never more than the limits."""

    def __init__(self, whole: Share, opening: Opening) -> None:
        """Share `whole`; `opening` makes the first message to a member."""
        self.whole = whole
        self._opening = opening
        self._pool = Pool()
        self._members: Sequence[Member] = ()

    @property
    def left(self) -> Past:
        """The past of all that nobody has."""
        return self._pool.past

    def begin_alone(self, member: Member) -> None:
        """Give a first member all, and all of the past that its ledger knows."""
        member.share = member.target = self.whole
        self._begin(member, {}, is_first=True)

    def take_told(self, member: Member, most: Sequence[int]) -> None:
        """Take note that the lanes of the first member, which has all, may have no more than so many slots."""
        told = {name_of(lane, "slots"): slots for lane, slots in enumerate(most)}
        self.whole = {name: min(units, told.get(name, units)) for name, units in self.whole.items()}
        member.share = member.target = self.whole

    def reshare(self, members: Sequence[Member]) -> None:
        """Share the whole evenly among `members`, which work or are to begin."""
        self._members = members
        for member, target in zip(members, split(self.whole, len(members)), strict=True):
            member.target = target
            if member.has_begun and member.narrowing is None and minus(member.share, target):
                member.narrowing = least(member.share, target)
                member.channel.send(Reshare(share=member.narrowing))
        self._hand_out()

    def fits(self, member: Member, share: Share, past: Past) -> None:
        """Take note that a member keeps to this share now, on its way to what it was narrowed to."""
        if member.narrowing is not None:
            self._pool.put(minus(member.share, share), past)
            member.share = share
            if share == member.narrowing:
                member.narrowing = None
            self.reshare([one for one in self._members if not one.is_gone and one.ended is None])

    def ends(self, member: Member, past: Past) -> None:
        """Take back all that a member had, with the past that goes with it."""
        self._pool.put(member.share, past)
        member.share, member.narrowing, member.target = {}, None, None

    def _hand_out(self) -> None:
        for member in self._members:
            wanted = minus(member.target or {}, member.share)
            there = {name: units for name, units in least(wanted, self._pool.share).items() if units}
            if not there or member.narrowing is not None:
                continue
            if member.has_begun:
                past = self._pool.take(there)
                member.share = plus((member.share, there))
                member.channel.send(Reshare(share=member.share, past=past))
            elif there.keys() == wanted.keys():  # of each limit something
                past = self._pool.take(there)
                member.share = there
                self._begin(member, past)

    def _begin(self, member: Member, past: Past, *, is_first: bool = False) -> None:
        member.has_begun = True
        member.channel.send(self._opening(member.share, past, is_first))
