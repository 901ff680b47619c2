"""The bytes of an event stream, in any split, into its events, by the WHATWG grammar (PROTOCOL.md 2.5). Pure."""

from __future__ import annotations

from typing import NamedTuple

_BOM = b"\xef\xbb\xbf"
_COLON = 0x3A
_PIECE_BYTES = 8
"""What holding a piece costs beside its bytes; so a flood of empty lines is not held for nothing."""


class Event(NamedTuple):
    """One event: its `event` field, empty where it has none, and its data lines joined by LF."""

    name: bytes
    data: bytes


class EventReader:
    """Reads one stream."""

    def __init__(self) -> None:
        """Expect the stream's first byte."""
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name = b""
        self._after_cr = False
        self._begun = False

    @property
    def held_bytes(self) -> int:
        """How much is held of an event that has not ended."""
        return self._tail_bytes + self._data_bytes

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events that they end; an event without data is none."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
            self._after_cr = False
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        lines = chunk.splitlines()
        cut = b"" if chunk.endswith((b"\n", b"\r")) else lines.pop()
        events = self._read(lines) if lines else []
        if cut:
            self._tail.append(cut)
            self._tail_bytes += len(cut) + _PIECE_BYTES
        return events

    def end(self) -> Event | None:
        """Return the event that the stream's end has cut off before its blank line, if any."""
        events = self._read([b"", b""])
        return events[0] if events else None

    def _read(self, lines: list[bytes]) -> list[Event]:
        if self._tail:
            lines[0] = b"".join((*self._tail, lines[0]))
            self._tail.clear()
            self._tail_bytes = 0
        if not self._begun:
            self._begun = True
            lines[0] = lines[0].removeprefix(_BOM)
        events: list[Event] = []
        for line in lines:
            if not line:
                self._dispatch(events)
            elif line.startswith(b"data:"):
                self._take(line[6:] if line.startswith(b" ", 5) else line[5:])
            elif line[0] != _COLON:
                name, _, value = line.partition(b":")
                if name == b"data":
                    self._take(value)
                elif name == b"event":
                    self._name = value.removeprefix(b" ")
        return events

    def _take(self, data: bytes) -> None:
        self._data.append(data)
        self._data_bytes += len(data) + _PIECE_BYTES

    def _dispatch(self, events: list[Event]) -> None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        if data:
            events.append(Event(self._name, data))
        self._data.clear()
        self._data_bytes = 0
        self._name = b""
