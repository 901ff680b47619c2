"""The bytes of a stream over its events into one body. Pure."""

from __future__ import annotations

from batchrun.client.folding import Folding
from batchrun.client.sse import EventReader


class Stream:
    """A stream on its way from bytes over events to one body."""

    def __init__(self) -> None:
        """Expect the first byte."""
        self.folding = Folding()
        self._events = EventReader()

    @property
    def kept_bytes(self) -> int:
        """About how much is kept of what came."""
        return self._events.held_bytes + self.folding.size

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        for event in self._events.feed(chunk):
            self.folding.add(event)

    def end(self) -> Folding:
        """Return what the events came to."""
        if (pending := self._events.end()) is not None:
            self.folding.add_last(pending)
        return self.folding
