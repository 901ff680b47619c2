"""Exchanges on their way, each with a deadline, under one timer: one that ends in time costs two turns of a dict.

`asyncio.timeout` costs 13 to 17 µs an exchange (measured), most of it for a timer of its own. All exchanges of a
transport may take equally long, so the oldest is always the first to be given up.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Protocol

import msgspec


class Failable(Protocol):
    """What an exchange waits for, such as the head of its reply, or its body."""

    def set_exception(self, exc: BaseException, /) -> None:
        """Let whoever waits for it get this exception."""
        ...


class Flight(msgspec.Struct, eq=False):
    """One exchange: its Deadline, and what it waits for by then; when it comes, both of these fail.

    It flies until `until`, on the clock of `loop`.
    """

    loop: asyncio.AbstractEventLoop
    until: float
    head: Failable | None = None
    body: Failable | None = None
    own: asyncio.TimerHandle | None = None
    is_given_up: bool = False

    def when(self) -> float:
        """Return when it is given up."""
        return self.until

    def expired(self) -> bool:
        """Say whether it has been given up."""
        return self.is_given_up

    def reschedule(self, when: float | None, /) -> None:
        """Give it up sooner, at `when`; only this needs a timer of its own."""
        if when is not None and when < self.until:
            if self.own is not None:
                self.own.cancel()
            self.until = when
            self.own = self.loop.call_at(when, self.give_up)

    def give_up(self) -> None:
        """Let what it waits for fail with a TimeoutError."""
        if self.is_given_up:
            return
        self.is_given_up = True
        error = TimeoutError()
        for awaited in (self.head, self.body):
            if awaited is not None:
                awaited.set_exception(error)


class Flights:
    """All exchanges of one transport that are on their way; built inside the running loop."""

    def __init__(self, *, timeout_s: float) -> None:
        """Give up each after `timeout_s` seconds."""
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._flying: dict[Flight, None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> Flight:
        """Return a new flight; whoever takes it must end it."""
        flight = Flight(self._loop, self._loop.time() + self._timeout_s)
        self._flying[flight] = None
        if self._timer is None:
            self._timer = self._loop.call_at(flight.when(), self._look)
        return flight

    def end(self, flight: Flight) -> None:
        """Forget a flight, however it ended."""
        self._flying.pop(flight, None)
        if flight.own is not None:
            flight.own.cancel()

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """Give up those whose time has come, the oldest first; come again for the first of the others."""
        self._timer = None
        while self._flying:
            flight = next(iter(self._flying))
            if flight.when() > self._loop.time():
                self._timer = self._loop.call_at(flight.when(), self._look)
                return
            del self._flying[flight]
            flight.give_up()


class Interrupting:
    """A flight of the running task, which is cancelled when it is given up; `with` turns that into a TimeoutError.

    For whoever can't say what it waits for. As with asyncio.timeout, anybody else's cancellation passes through.
    """

    __slots__ = ("_before", "_flight", "_flights", "_task")

    def __init__(self, flights: Flights) -> None:
        """Fly among these."""
        self._flights = flights

    def __enter__(self) -> Flight:
        """Begin the flight; raises RuntimeError outside a task."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("only a task can be interrupted")
        self._task = task
        self._before = task.cancelling()
        self._flight = self._flights.begin()
        self._flight.head = self
        return self._flight

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the flight; raises TimeoutError where nothing but its own end has cancelled the task."""
        flight = self._flight
        self._flights.end(flight)
        flight.head = None  # it knows this object, and this object knows it
        if flight.expired() and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from None

    def set_exception(self, exc: BaseException, /) -> None:  # noqa: ARG002 - a task can only be cancelled
        """Cancel the task."""
        self._task.cancel()
