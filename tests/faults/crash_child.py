"""Run the command, and at the nth call of one function end the process, or send it SIGTERM.

python crash_child.py MODULE:QUALNAME before|after|sigterm NTH WORD …
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
import sys
from typing import Any

CRASHED = 99


def main() -> None:
    target, when, nth, *words = sys.argv[1:]
    module_name, _, qualname = target.partition(":")
    *path, name = qualname.split(".")
    holder: Any = importlib.import_module(module_name)
    for step in path:
        holder = getattr(holder, step)
    wrapped = getattr(holder, name)
    calls = 0

    @functools.wraps(wrapped)
    def crashing(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if when == "before" and calls == int(nth):
            os._exit(CRASHED)
        if when == "sigterm" and calls == int(nth):
            os.kill(os.getpid(), signal.SIGTERM)
        result = wrapped(*args, **kwargs)
        if when == "after" and calls == int(nth):
            os._exit(CRASHED)
        return result

    setattr(holder, name, crashing)
    sys.argv = ["batchrun", *words]
    from batchrun.cli.main import main as command  # noqa: PLC0415

    command()


if __name__ == "__main__":
    main()
