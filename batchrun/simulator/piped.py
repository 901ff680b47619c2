"""One line of settings on stdin into a simulator that serves until stdin ends: the child of `child.py`."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from contextlib import suppress

import msgspec

from batchrun.errors import BatchrunError, JobError
from batchrun.job.settings import SimulatorSettings
from batchrun.loop import drive
from batchrun.simulator.child import Announcement
from batchrun.simulator.server import serve

_LINE_BYTES = 16 * 1024 * 1024
_OPEN_FILES = 65_536


def serve_piped() -> int:
    """Serve until stdin ends or a signal comes, and return the exit status."""
    _raise_open_files()
    try:
        drive(_serve_stdin())
    except BatchrunError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the parent reads it
        return int(error.status)
    return 0


async def _serve_stdin() -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            # A signal is one more end of input, so that there is one way out.
            loop.add_signal_handler(number, reader.feed_eof)
        line = await reader.readline()
        if not line.endswith(b"\n"):
            return
        async with serve(_settings(line)) as port:
            with suppress(BrokenPipeError):
                print(msgspec.json.encode(Announcement(port=port)).decode(), flush=True)  # noqa: T201
                await reader.read()
    finally:
        pipe.close()


def _settings(line: bytes) -> SimulatorSettings:
    try:
        return msgspec.json.decode(line, type=SimulatorSettings)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JobError(f"simulator: {error}") from None


def _raise_open_files() -> None:
    """Let in as many connections as the system allows: a job may have more in flight than 1024 open files."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
