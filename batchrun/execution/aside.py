"""Calls made one after the other in a thread that nobody has to wait for: a template may never end, but a run does.

The threads of `asyncio.to_thread` are waited for when the loop closes and again when the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

_Value = TypeVar("_Value")


class Aside:
    """One such thread; built inside the running loop, ended by `close`, or with the process."""

    def __init__(self, name: str) -> None:
        """Start the thread."""
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name=name, daemon=True).start()

    async def call(self, what: Callable[[], _Value]) -> _Value:
        """Return what `what` does, or raise what it raises; cancelled, it is left to itself."""
        answer: asyncio.Future[_Value] = self._loop.create_future()
        self._calls.put((what, answer))
        return await answer

    def close(self) -> None:
        """Make no call any more once the present one has ended."""
        self._calls.put(None)

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            what, answer = call
            try:
                value = what()
            except BaseException as error:  # noqa: BLE001 - raised again where the call was made
                self._tell(answer, None, error)
            else:
                self._tell(answer, value, None)

    def _tell(self, answer: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(_settle, answer, value, error)


def _settle(answer: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if answer.done():  # cancelled
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)
