"""`server.py` as a process that ends with whoever started it, and what it counts."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("server.py")
PATIENCE_S = 60


class Endpoint:
    """A running server."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    @property
    def port(self) -> int:
        return int(self.base_url.split(":")[2].partition("/")[0])

    def stats(self) -> dict[str, Any]:
        """Return its counts since its start."""
        with urllib.request.urlopen(self.base_url.removesuffix("/v1/openai") + "/stats", timeout=PATIENCE_S) as reply:
            return json.loads(reply.read())


@contextlib.contextmanager
def serving(*words: str, core: int | None = None) -> Iterator[Endpoint]:
    """Start a server with these options, on a core of its own where one is given."""
    process = subprocess.Popen(
        [sys.executable, str(SERVER), "--while-stdin", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        yield Endpoint(process.stdout.readline().split()[-1])
    finally:
        process.stdin.close()
        process.wait(timeout=PATIENCE_S)
        process.stdout.close()
