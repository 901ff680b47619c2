"""batchrun's command with a timer on its event loop that says how late it is called, and who held the loop up.

Every loop that `asyncio.Runner` makes gets a timer of 5 ms. How long a thread of the process stood in line for a core
meanwhile is the kernel's count (`schedstat`); the longest is told beside, because on a busy machine it is not the
program's doing, and the loop waits too when the thread that holds the interpreter's lock stands there. Another thread
looks as often, and where the timer is more than 20 ms late notes where the threads are that use CPU. The package is
unchanged.

    python tests/benchmarks/lagged.py REPORT.json run JOB.toml …
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import runpy
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any

TICK_S = 0.005
LATE_S = 0.020
WORKED_S = 0.001
DEEPEST = 12
OURS = "batchrun"


class Probe:
    """How late the timers of a loop are, and the stacks at times when one was very late."""

    def __init__(self) -> None:
        self.late_s: list[tuple[float, float]] = []
        self.culprits: Counter[str] = Counter()
        self._due = 0.0
        self._stood_s: dict[int, float] = {}
        self._lines: dict[int, int] = {}
        self._used: dict[int, float] = {}
        self._over = threading.Event()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin; the loop is about to run."""
        self._next(loop)
        threading.Thread(target=self._watch, name="lag", daemon=True).start()

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        self._stood_s = self._standing_s()
        self._due = time.monotonic() + TICK_S
        loop.call_later(TICK_S, self._called, loop)

    def _called(self, loop: asyncio.AbstractEventLoop) -> None:
        late_s, before = max(0.0, time.monotonic() - self._due), self._stood_s
        self._next(loop)
        stood_s = max(stood_s - before.get(thread, stood_s) for thread, stood_s in self._stood_s.items())
        self.late_s.append((late_s, max(0.0, late_s - stood_s)))

    def _standing_s(self) -> dict[int, float]:
        """Return how long each thread has been ready to run without a core."""
        stood_s: dict[int, float] = {}
        for thread in threading.enumerate():
            number = thread.native_id or 0
            with contextlib.suppress(OSError):
                if number not in self._lines:
                    self._lines[number] = os.open(f"/proc/self/task/{number}/schedstat", os.O_RDONLY)
                stood_s[number] = int(os.pread(self._lines[number], 100, 0).split()[1]) / 1e9
        return stood_s

    def _watch(self) -> None:
        noted = 0.0
        while not self._over.wait(TICK_S):
            busy = {thread for thread in threading.enumerate() if self._has_worked(thread.ident or 0)}
            due = self._due
            if due == noted or time.monotonic() - due < LATE_S:
                continue
            noted = due
            frames = sys._current_frames()
            stacks = [f"{one.name}: {stack_of(frames.get(one.ident or 0))}" for one in busy if one.name != "lag"]
            self.culprits["\n    ".join(sorted(stacks)) or "nobody: the threads wait for cores, disk or time"] += 1

    def _has_worked(self, ident: int) -> bool:
        """Say whether a thread has used CPU since the last look."""
        try:
            now = time.clock_gettime(time.pthread_getcpuclockid(ident))
        except OSError:
            return False
        before, self._used[ident] = self._used.get(ident, now), now
        return now - before > WORKED_S

    def report(self) -> dict[str, object]:
        """Return all delays, as seen and without standing in line for a core, and who was seen where."""
        self._over.set()
        return {"late_s": self.late_s, "culprits": self.culprits.most_common()}


def stack_of(frame: FrameType | None) -> str:
    """Return the innermost frame, and the innermost ones of the package."""
    names: list[str] = []
    for _ in range(DEEPEST):
        if frame is None:
            break
        module = str(frame.f_globals.get("__name__", "?"))
        if not names or module.startswith(OURS):
            names.append(f"{module}.{frame.f_code.co_qualname}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(names[:4])


def main() -> None:
    report = Path(sys.argv[1])
    sys.argv = [OURS, *sys.argv[2:]]
    sys.path.pop(0)  # the package runs as it does without this script beside it
    probe = Probe()
    run: Callable[..., Any] = asyncio.Runner.run

    def run_watched(self: asyncio.Runner, work: Coroutine[Any, Any, Any], **more: Any) -> Any:
        probe.attach(self.get_loop())
        return run(self, work, **more)

    asyncio.Runner.run = run_watched  # type: ignore[method-assign]
    atexit.register(lambda: report.write_text(json.dumps(probe.report())))
    runpy.run_module(OURS, run_name="__main__")


if __name__ == "__main__":
    main()
