"""Rows that wait for a worker: new ones in input order, and those whose next try is due, which go first.

A row that waits for its next try holds no worker, no slot and no limiter capacity; it lies in a heap by due time. New
rows come in only while there is room, so memory is bounded whatever the input's size (DESIGN.md, section 4).
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable

from batchrun.worker import OpenRow

ROWS_AHEAD, ADDITIONS_AHEAD = 512, 8
"""New rows that may lie ready, and the additions they came in: those are bounded in bytes, rows are not."""


class Backlog:
    """The rows of one run that are read and not settled; must be made inside the running loop."""

    def __init__(self, *, most_waiting: int) -> None:
        """Take no new rows while more than `most_waiting` wait for their next try."""
        self._loop = asyncio.get_running_loop()
        self._most_waiting = most_waiting
        self._new: deque[OpenRow] = deque()
        self._additions: deque[int] = deque()
        self._waiting: list[tuple[float, int, OpenRow]] = []
        self._order = 0
        self._takers: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._open = 0
        self._all_read = False
        self._uncommitted = 0
        self.closed = False

    @property
    def waiting(self) -> int:
        """Rows that wait for their next try."""
        return len(self._waiting)

    async def add(self, rows: Iterable[OpenRow]) -> None:
        """Add new rows that were read together, once there is room for them."""
        await self._room.wait()
        before = len(self._new)
        self._new.extend(rows)
        if (added := len(self._new) - before) > 0:
            self._additions.append(added)
            self._open += added
            self._wake(added)
            self._note_room()

    def all_read(self) -> None:
        """Say that no new row will come; the backlog closes when the last row is settled."""
        self._all_read = True
        self._close_if_done()

    def take_now(self) -> OpenRow | None:
        """Return the next row, due ones before new ones; None where there is none now, or the backlog is closed."""
        if self.closed:
            return None
        if self._waiting and self._waiting[0][0] <= self._loop.time():
            row = heapq.heappop(self._waiting)[2]
            self._note_room()
        elif self._new:
            row = self._new.popleft()
            self._additions[0] -= 1
            if not self._additions[0]:
                self._additions.popleft()
                self._note_room()
            elif len(self._new) == ROWS_AHEAD - 1:  # any other new row that is taken makes no room
                self._note_room()
        else:
            return None
        return row

    async def take(self) -> OpenRow | None:
        """Wait for the next row; None once the backlog is closed."""
        while not self.closed:
            if (row := self.take_now()) is not None:
                return row
            taker: asyncio.Future[None] = self._loop.create_future()
            self._takers.append(taker)
            self._set_alarm()
            await taker
        return None

    def retry_in(self, row: OpenRow, wait_s: float) -> None:
        """Bring a row back after `wait_s` seconds."""
        self._order += 1
        heapq.heappush(self._waiting, (self._loop.time() + wait_s, self._order, row))
        self._set_alarm()
        self._note_room()

    def put_without_slot(self) -> None:
        """Say that an entry which no slot bounds waits for its commit; too many of them stop the reading too."""
        self._uncommitted += 1
        self._note_room()

    def committed_without_slot(self) -> None:
        """Say that such an entry is durable."""
        self._uncommitted -= 1
        self._note_room()

    def reopened(self, rows: int) -> None:
        """Say that rows which were settled will come back to be tried again."""
        self._open += rows

    def settled(self) -> None:
        """Say that a taken row needs no further try."""
        self._open -= 1
        if not self._open:
            self._close_if_done()

    def close(self) -> None:
        """Hand out nothing more; rows that are left stay pending."""
        self.closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._wake(len(self._takers))
        self._room.set()

    def _close_if_done(self) -> None:
        if self._all_read and self._open == 0:
            self.close()

    def _note_room(self) -> None:
        ahead = len(self._new) < ROWS_AHEAD and len(self._additions) < ADDITIONS_AHEAD
        ahead = ahead and self._uncommitted < ROWS_AHEAD
        if self.closed or (ahead and len(self._waiting) < self._most_waiting):
            self._room.set()
        else:
            self._room.clear()

    def _wake(self, count: int) -> None:
        while count > 0 and self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                count -= 1

    def _set_alarm(self) -> None:
        """Wake a taker when the first waiting row is due."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._waiting and self._takers and not self.closed:
            self._alarm = self._loop.call_at(self._waiting[0][0], self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._loop.time()
        self._wake(sum(1 for due, _, _ in self._waiting if due <= now))  # without takers: whoever takes next looks
        self._set_alarm()
