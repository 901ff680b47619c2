"""Group commit: one writer thread takes all entries that wait, commits them together, tells the loop, takes the next.

Under load a commit carries dozens of rows, when idle it is immediate (DESIGN.md, section 3).

    loop ── put(entry) ──► queue ──► writer thread: BEGIN … COMMIT ──► on_commit(entries), on the loop
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from batchrun.ledger.records import Entry
from batchrun.ledger.store import Store

_Answer = TypeVar("_Answer")
_Question = Callable[[Exception | None], None]


class Ledger:
    """The writer thread of one store; between `start` and `stop` nobody else writes to it."""

    def __init__(self, store: Store) -> None:
        """Write to `store`."""
        self._store = store
        self._queue: queue.SimpleQueue[Entry | _Question | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, on_commit: Callable[[Sequence[Entry]], None], on_failure: Callable[[Exception], None]) -> None:
        """Start the writer thread; both callbacks are called on the running loop.

        After `on_failure` nothing is committed any more and no slot comes back, so that nothing more is sent.
        """
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._serve, args=(loop, on_commit, on_failure), name="ledger", daemon=True
        )
        self._thread.start()

    def put(self, entry: Entry) -> None:
        """Hand an entry over to be committed; never blocks and can't be cancelled."""
        self._queue.put(entry)

    async def ask(self, question: Callable[[Store], _Answer]) -> _Answer:
        """Run `question` on the writer thread in a transaction of its own, after what was put before."""
        loop = asyncio.get_running_loop()
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
                _tell(loop, answer_with, None, failure)
                return
            try:
                with self._store.changing():
                    value = question(self._store)
            except Exception as error:  # noqa: BLE001 - raised again where it was asked
                _tell(loop, answer_with, None, error)
            else:
                _tell(loop, answer_with, value, None)

        self._queue.put(run)
        return await answer

    def stop(self) -> None:
        """Commit what was put, end the writer thread; blocks until both are done."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _serve(
        self,
        loop: asyncio.AbstractEventLoop,
        on_commit: Callable[[Sequence[Entry]], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        """Serve until the end is put; after a failure nothing is committed, and every question fails with it."""
        failure: Exception | None = None
        while (first := self._queue.get()) is not None:
            entries, questions, ended = self._drain(first)
            if entries and failure is None:
                try:
                    self._store.commit(entries)
                except Exception as error:  # noqa: BLE001 - told to the loop, which ends the run with it
                    failure = error
                    _tell(loop, on_failure, error)
                else:
                    _tell(loop, on_commit, entries)
            for question in questions:
                question(failure)
            if ended:
                return

    def _drain(self, first: Entry | _Question) -> tuple[list[Entry], list[_Question], bool]:
        """Take all that waits; a question ends the batch, so that it sees just what was put before it."""
        entries: list[Entry] = []
        waiting: Entry | _Question | None = first
        while waiting is not None:
            if not isinstance(waiting, Entry):
                return entries, [waiting], False
            entries.append(waiting)
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return entries, [], False
        return entries, [], True


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *values: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
        loop.call_soon_threadsafe(callback, *values)
