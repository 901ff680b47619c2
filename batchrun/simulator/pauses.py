"""Latency and hanging: waits that end in time, with their client, or with the server."""

from __future__ import annotations

import asyncio


class Pauses:
    """The waits of one server; aiohttp leaves a handler alone when its client has gone, so `stop` ends it."""

    def __init__(self) -> None:
        """Bind to the running loop."""
        self._loop = asyncio.get_running_loop()
        self._sleeping: set[asyncio.Future[bool]] = set()
        self._hanging: dict[object, asyncio.Future[None]] = {}
        self._stopped = False

    async def sleep(self, delay_s: float) -> bool:
        """Wait for `delay_s`, also when the client goes away; False when the server stopped before."""
        if self._stopped:
            return False
        done: asyncio.Future[bool] = self._loop.create_future()
        timer = self._loop.call_later(delay_s, _finish, done)
        self._sleeping.add(done)
        try:
            return await done
        finally:
            timer.cancel()
            self._sleeping.discard(done)

    async def hang(self, connection: object) -> None:
        """Wait until `connection` is gone or the server stops."""
        if self._stopped:
            return
        done: asyncio.Future[None] = self._loop.create_future()
        self._hanging[connection] = done
        try:
            await done
        finally:
            del self._hanging[connection]

    def gone(self, connection: object) -> None:
        """Note that a connection was lost."""
        done = self._hanging.get(connection)
        if done is not None and not done.done():
            done.set_result(None)

    def stop(self) -> None:
        """End all waits, now and from now on."""
        self._stopped = True
        for sleeping in self._sleeping:
            if not sleeping.done():
                sleeping.set_result(False)
        for connection in self._hanging:
            self.gone(connection)


def _finish(done: asyncio.Future[bool]) -> None:
    if not done.done():
        done.set_result(True)
