"""batchrun's command with a look, every few milliseconds of its CPU, at where each of its threads is.

What a thread used since the look before counts for where it is seen now, so that all counts add up to what the process
used. Depends on nothing in the package but names of modules, and costs about 1 %.

    python tests/benchmarks/sampled.py REPORT.json run JOB.toml …
"""

from __future__ import annotations

import atexit
import json
import runpy
import signal
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import FrameType

EVERY_S = 0.003
DEEPEST = 60
OURS = "batchrun"


class Sampler:
    """Adds up CPU by thread and by place: the innermost frame of the package, and the innermost of all."""

    def __init__(self) -> None:
        self._main = threading.get_ident()
        self._used: dict[int, float] = {}
        self._names: dict[int, str] = {self._main: "main"}
        self.found: dict[tuple[str, str, str], float] = defaultdict(float)

    def start(self) -> None:
        """Count what was used so far as start, and look from now on."""
        self._used[self._main] = time.thread_time()
        self.found["main", "start", "python"] += self._used[self._main]
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def _look(self, _: int, interrupted: FrameType | None) -> None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, top in sys._current_frames().items():
            self._add(ident, names.get(ident), interrupted if ident == self._main else top)

    def _add(self, ident: int, name: str | None, frame: FrameType | None) -> None:
        try:
            now = time.clock_gettime(time.pthread_getcpuclockid(ident))
        except OSError:
            return
        spent = now - self._used.get(ident, 0.0)
        self._used[ident] = now
        if spent > 0:
            kind = "main" if ident == self._main else (name or "?")
            self.found[kind, *places(frame)] += spent

    def stop(self) -> dict[str, object]:
        """Return all counts, with what no look came to see."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._look(0, sys._getframe())
        seen = sum(self.found.values())
        self.found["others", "", "unseen"] += time.process_time() - seen
        return {"found": [[*place, spent] for place, spent in self.found.items()]}


def places(frame: FrameType | None) -> tuple[str, str]:
    """Return the innermost frame of the package, marked where it is inside the loop, and the innermost of all."""
    ours, innermost, is_in_loop = "", "", False
    for _ in range(DEEPEST):
        if frame is None:
            break
        module, function = str(frame.f_globals.get("__name__", "?")), frame.f_code.co_qualname
        innermost = innermost or f"{module}.{function}"
        if module.startswith("importlib."):
            return "import", innermost
        if not ours and module.startswith(OURS):
            ours = f"{module}.{function}"
        is_in_loop = is_in_loop or module == "asyncio.runners"
        frame = frame.f_back
    return (f"loop:{ours}" if is_in_loop else ours), innermost


def main() -> None:
    report = Path(sys.argv[1])
    sys.argv = [OURS, *sys.argv[2:]]
    sys.path.pop(0)  # the package runs as it does without this script beside it
    sampler = Sampler()
    atexit.register(lambda: report.write_text(json.dumps(sampler.stop())))
    sampler.start()
    runpy.run_module(OURS, run_name="__main__")


if __name__ == "__main__":
    main()
