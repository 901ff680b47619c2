"""What a run has around it, as values: access to its endpoints, who is told of it, its signals, its pulse."""

from __future__ import annotations

import msgspec

from batchrun.events import Watcher
from batchrun.execution.pulse import Pulse
from batchrun.execution.signals import SignalWatch


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What the surroundings give one lane: the key, and whether proxy variables are to be followed."""

    key: str | None = None
    trust_env: bool = False


class Around(msgspec.Struct, frozen=True, kw_only=True):
    """What a run has around it; `access` is that of each lane.

    `alone` says that this process works all parts of the run. Else it works some of them, and whoever hands them out
    judges what needs the sum of all: failures that are too many, and whether the pace makes the deadline.
    """

    access: tuple[Access, ...]
    watcher: Watcher
    signals: SignalWatch
    pulse: Pulse
    alone: bool = True
