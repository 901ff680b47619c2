"""Group commit: one writer thread takes all entries that wait, commits them together, tells the loop, takes the next.

Under load a commit carries dozens of rows, when idle it is immediate (DESIGN.md, section 3), but for a moment after a
large one, see below.

    loop ── put(entry) ──► held ──► writer thread: BEGIN … COMMIT ──► on_commit(entries, totals), on the loop

A commit by itself costs as much as a dozen rows in it. So the writer is woken once the loop has nothing more to put, or
was busy for `HOLD_S`. Were it woken for each entry, it would commit them by ones where the disk is fast: then slots
come back by ones, and so do the next replies (measured at 64 slots: 1.8 entries a commit, a third of the run's CPU).

Where slots come back together, so do replies, and the core is what bounds the run: with the threads and the wakings
around it a commit takes 0.4 ms of CPU then, as much as six rows. So after a commit for more than half of the slots a
quiet loop waits a moment for the others, as long as that brings some (patience.py). Replies of a server that takes its
time come one by one, and so are committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal, TypeVar

from batchrun.events import Totals
from batchrun.ledger.patience import Patience
from batchrun.ledger.records import Entry
from batchrun.ledger.store import Store

HOLD_S = 0.01
"""The longest that an entry waits for more of them while the loop is busy."""
LINGER_S = 0.002
"""How long an entry waits for more of them while the loop is quiet, after a commit for more than half of the slots."""
_QUIET_ROUNDS = 2
"""Rounds of the loop that bring no entry before it has nothing more to put: one reads a reply, the next puts it."""
_Answer = TypeVar("_Answer")
_OnCommit = Callable[[Sequence[Entry], Totals], None]
_Question = Callable[[Exception | None], None]
_Sign = Literal["take", "end"] | _Question


class Ledger:
    """The writer thread of one store; between `start` and `stop` nobody else writes to it."""

    def __init__(
        self, store: Store, *, slots: Callable[[], int], hold_s: float = HOLD_S, linger_s: float = LINGER_S
    ) -> None:
        """Write to `store`; must be made inside the running loop.

        `slots` counts the attempts that may be in flight, those whose entries are not durable among them.
        """
        self._store = store
        self._slots = slots
        self._hold_s = hold_s
        self._linger_s = linger_s
        self._loop = asyncio.get_running_loop()
        self._held: deque[Entry] = deque()
        self._signs: queue.SimpleQueue[_Sign] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._put = 0
        self._put_before = 0
        self._quiet_rounds = 0
        self._due: float | None = None
        self._all = 0
        self._durable = 0
        self._patience = Patience()
        self._lingering: asyncio.TimerHandle | None = None
        self._before_lingering = 0

    def start(self, on_commit: _OnCommit, on_failure: Callable[[Exception], None]) -> None:
        """Start the writer thread; both callbacks are called on the loop, `on_commit` with the sums of its entries too.

        After `on_failure` nothing is committed any more and no slot comes back, so that nothing more is sent.
        """
        self._thread = threading.Thread(target=self._serve, args=(on_commit, on_failure), name="ledger", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Hand an entry over to be committed; never blocks and can't be cancelled."""
        self._held.append(entry)
        self._put += 1
        if self._due is None:
            self._due = self._loop.time() + self._hold_s
            self._all = self._slots()
            self._quiet_rounds = 0
            self._loop.call_soon(self._wake_if_due)
        elif self._lingering is not None and self._has_all():
            self._wake()

    def _wake_if_due(self) -> None:
        """Wake the writer, or look again in the loop's next round while that still brings entries."""
        quiet = self._put == self._put_before
        self._quiet_rounds = self._quiet_rounds + 1 if quiet else 0
        self._put_before = self._put
        if self._due is None or self._loop.time() >= self._due or self._has_all():
            self._wake()
        elif self._quiet_rounds < _QUIET_ROUNDS:
            self._loop.call_soon(self._wake_if_due)
        elif self._patience.spare(self._all):
            self._before_lingering = self._put
            self._lingering = self._loop.call_later(self._linger_s, self._wake)
        else:
            self._wake()

    def _has_all(self) -> bool:
        """Say whether each slot waits for a commit: no reply comes before one of them is back."""
        return self._put - self._durable >= self._all

    def _wake(self) -> None:
        """Wake the writer."""
        self._due = None
        if self._lingering is not None:
            self._patience.waited(self._put - self._before_lingering, self._all)
            self._lingering.cancel()
            self._lingering = None
        if self._signs.empty():  # else the writer takes all that is held at the sign that it has not heeded yet
            self._signs.put("take")

    async def ask(self, question: Callable[[Store], _Answer]) -> _Answer:
        """Run `question` on the writer thread in a transaction of its own, after what was put before."""
        loop = self._loop
        answer: asyncio.Future[_Answer] = loop.create_future()

        def answer_with(value: _Answer | None, error: Exception | None) -> None:
            if answer.cancelled():
                return
            if error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]  # None only with an error

        def run(failure: Exception | None) -> None:
            if failure is not None:
                self._tell(answer_with, None, failure)
                return
            try:
                with self._store.changing():
                    value = question(self._store)
            except Exception as error:  # noqa: BLE001 - raised again where it was asked
                self._tell(answer_with, None, error)
            else:
                self._tell(answer_with, value, None)

        self._signs.put(run)
        return await answer

    def stop(self) -> None:
        """Commit what was put, end the writer thread; blocks until both are done."""
        if self._thread is not None:
            self._signs.put("end")
            self._thread.join()
            self._thread = None

    def _serve(self, on_commit: _OnCommit, on_failure: Callable[[Exception], None]) -> None:
        """Serve until the end is put; after a failure nothing is committed, and every question fails with it."""
        failure: Exception | None = None
        sign: _Sign = "take"
        while sign != "end":
            sign = self._signs.get()
            entries = self._take()
            if entries and failure is None:
                try:
                    totals = self._store.commit(entries)
                except Exception as error:  # noqa: BLE001 - told to the loop, which ends the run with it
                    failure = error
                    self._tell(on_failure, error)
                else:
                    self._durable += len(entries)
                    self._patience.committed(len(entries))
                    self._tell(on_commit, entries, totals)
            if callable(sign):
                sign(failure)

    def _take(self) -> list[Entry]:
        """Take all that is held; the loop may add to it meanwhile."""
        return [self._held.popleft() for _ in range(len(self._held))]

    def _tell(self, callback: Callable[..., None], *values: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(callback, *values)
