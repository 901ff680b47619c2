"""How many attempts of a lane may be in flight: doubled at first, cut by refusals, grown by use (DESIGN.md 4). Pure.

A server's capacity shows only by its refusals. Each refusal without a hint sets the slots to 0.92 of what is then still
in flight, so a burst of them lands just below what the server bore; a plain cut by a factor for each would overshoot.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_SLOTS = 32
DOUBLE_EACH_S = 0.1
CUT = 0.92
WINDOWS_A_SLOT = 12
"""Windows of successes, each as many as there are slots, for one slot more."""
QUIET_WINDOWS = 12
"""After so many windows without a refusal a slot more takes half as many, and so on: capacity has come back."""


class Slots:
    """The number of slots of one lane, between 1 and `most`."""

    def __init__(self, *, most: int, adaptive: bool, learned: int | None, clock: Callable[[], float]) -> None:
        """Start at `learned`, what an earlier run found, or at 32; not `adaptive`, at `most` and stay there."""
        self._most = most
        self._adaptive = adaptive
        self._clock = clock
        self._doubling = adaptive
        self.grows = False
        """Whether replies add slots: once something was refused."""
        self._doubled_at = clock()
        self._successes = 0
        self._quiet = 0.0
        self.now = min(most, learned or FIRST_SLOTS) if adaptive else most

    @property
    def learned(self) -> int | None:
        """What the next run may start at, None where slots are not adapted."""
        return self.now if self._adaptive else None

    def resize(self, most: int) -> None:
        """Move between 1 and `most` from now on, in the same proportion: what was learned is the server's, not ours."""
        self.now = max(1, min(most, round(self.now * most / self._most))) if self._adaptive else most
        self._most = most

    def filled(self) -> float | None:
        """Take note that all slots are in use: while nothing was refused yet, double them each 100 ms.

        Return the seconds until they may double again, None where they do not.
        """
        if not self._doubling or self.now >= self._most:
            return None
        now = self._clock()
        if now - self._doubled_at >= DOUBLE_EACH_S:
            self._doubled_at = now
            self.now = min(self._most, 2 * self.now)
        return self._doubled_at + DOUBLE_EACH_S - now

    def refused(self, still_in_flight: int) -> None:
        """Take note of a refusal without a hint, that came while so many other attempts were in flight."""
        if not self._adaptive:
            return
        self._doubling, self.grows = False, True
        self._successes, self._quiet = 0, 0.0
        self.now = max(1, min(self.now, int(CUT * still_in_flight)))

    def succeeded(self, *, all_used: bool) -> bool:
        """Take note of a reply; `all_used` says that every slot was taken while it came. Say whether there are more."""
        if not self.grows or not all_used:
            return False
        self._successes += 1
        self._quiet += 1 / self.now
        windows = WINDOWS_A_SLOT / 2 ** min(4, int(self._quiet / QUIET_WINDOWS))
        if self._successes < windows * self.now or self.now >= self._most:
            return False
        self._successes = 0
        self.now += 1
        return True


class Ceiling:
    """How many slots may be taken `now`, whatever the server bears: `most`, fewer while narrowed or fitted to fewer."""

    def __init__(self, most: int) -> None:
        """Start neither narrowed nor fitted."""
        self.most = self.now = most
        self._narrowed: int | None = None
        self._fitted: int | None = None

    def narrow(self, slots: int | None) -> None:
        """Let at most `slots` be taken, None to take that back."""
        self._narrowed = slots
        self._settle()

    def fit(self, slots: int | None) -> None:
        """Let at most `slots` be taken, narrowed or not; None to take that back."""
        self._fitted = slots
        self._settle()

    def resize(self, most: int) -> None:
        """Have another `most`; a narrowing or a fitting stays as it is."""
        self.most = most
        self._settle()

    def _settle(self) -> None:
        self.now = min(slots for slots in (self.most, self._narrowed, self._fitted) if slots is not None)
