"""Settings into a simulator in a child process, which ends with the context, and with its parent."""

from __future__ import annotations

import asyncio
import os
import sys
import sysconfig
import tempfile
from asyncio.subprocess import PIPE, Process
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from batchrun.errors import BatchrunError
from batchrun.simulator.address import base_url
from batchrun.simulator.replies import Replies

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from batchrun.job.settings import SimulatorSettings

START_WITHIN_S = 20.0
END_WITHIN_S = 5.0
_STDERR_TAIL_BYTES = 4096


class Announcement(msgspec.Struct, frozen=True, kw_only=True):
    """The line that the child prints once it listens."""

    port: int


@asynccontextmanager
async def child(settings: SimulatorSettings) -> AsyncGenerator[str]:
    """Run a simulator in a process of its own while the context is open and yield its base URL.

    The child lives as long as the pipe to its standard input is open, so it also ends when this process is
    killed. JobError where the settings contradict each other; BatchrunError with the child's last line on
    stderr when it does not start.
    """
    Replies(settings)
    # A file and not a pipe: nobody would read the pipe during the run, and a full one would stop the child.
    errors = await asyncio.to_thread(tempfile.TemporaryFile)
    try:
        process = await _spawned(errors)
        try:
            yield base_url("127.0.0.1", await _started(process, settings, errors))
        finally:
            await _end(process)
    finally:
        await asyncio.to_thread(errors.close)


async def _spawned(errors: IO[bytes]) -> Process:
    environment = await asyncio.to_thread(_environment)
    try:
        return await asyncio.create_subprocess_exec(
            # -P: a folder of the user's that is named like a module must not stand before the module.
            *(sys.executable, "-P", "-m", "batchrun.simulator"),
            stdin=PIPE,
            stdout=PIPE,
            stderr=errors,
            start_new_session=True,
            env=environment,
        )
    except OSError as error:
        raise BatchrunError(f"the simulator did not start: {error}") from None


async def _started(process: Process, settings: SimulatorSettings, errors: IO[bytes]) -> int:
    """Tell the child its settings and return the port it listens on."""
    assert process.stdin is not None  # noqa: S101 - both were asked for
    assert process.stdout is not None  # noqa: S101
    try:
        async with asyncio.timeout(START_WITHIN_S):
            # A child that is dead already is told by its silence; uvloop refuses to write to a closed pipe.
            if not process.stdin.is_closing():
                process.stdin.write(msgspec.json.encode(settings) + b"\n")
                with suppress(ConnectionError):
                    await process.stdin.drain()
            line = await process.stdout.readline()
    except TimeoutError:
        raise BatchrunError(f"the simulator did not start within {START_WITHIN_S:g} s") from None
    try:
        return msgspec.json.decode(line, type=Announcement).port
    except msgspec.DecodeError:
        last = await asyncio.to_thread(_last_line, errors)
        raise BatchrunError(f"the simulator did not start: {last}") from None


async def _end(process: Process) -> None:
    """Close the child's stdin and wait for its end; kill it when that takes too long, or when cancelled."""
    assert process.stdin is not None  # noqa: S101 - both were asked for
    assert process.stdout is not None  # noqa: S101
    process.stdin.close()
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(END_WITHIN_S):
                with suppress(ConnectionError):
                    await process.stdin.wait_closed()
                await process.stdout.read()
                await process.wait()
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
    await process.wait()


def _environment() -> dict[str, str]:
    """Return this process's environment, in which the child finds this very package.

    The folder of an installed package is left out: before the standard library it could hide parts of it.
    """
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    if root not in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        before = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = f"{root}{os.pathsep}{before}" if before else root
    return environment


def _last_line(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _STDERR_TAIL_BYTES))
    lines = errors.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
