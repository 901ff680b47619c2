"""The simulator as a child process: it answers, and ends with its context, its parent or a signal."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import uvloop
from simulator_wire import ask, exchange, stats

from batchrun.errors import BatchrunError, JobError
from batchrun.job.settings import SimulatorSettings
from batchrun.simulator import child as child_module
from batchrun.simulator.child import child

if TYPE_CHECKING:
    from collections.abc import Coroutine

ROOT = str(Path(child_module.__file__).parents[2])
PARENT = """
import asyncio
from batchrun.job.settings import SimulatorSettings
from batchrun.simulator.child import child

async def main():
    async with child(SimulatorSettings()) as url:
        print(url, flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    """Run a coroutine on either loop, 60 s at most."""
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    async def bounded(main: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(60):
            await main

    def on_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded(main))

    return on_loop


def port_of(url: str) -> int:
    return int(url.split(":")[2].split("/", maxsplit=1)[0])


async def refused(port: int) -> None:
    """Return once nobody listens any more; the test's bound is the bound."""
    while True:
        try:
            await exchange(port, method="GET", path="/stats")
        except (ConnectionError, IndexError):
            return


def assert_no_children() -> None:
    """Neither a running child nor a zombie is left, but for the servers that other tests of this worker share."""
    command = ["ps", "-A", "-ww", "-o", "ppid=,stat=,command="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    shared = ("command_server.py", "llama_child.py", " ".join(command))
    mine = [line for line in listed.splitlines() if line.split(None, 1)[0] == str(os.getpid())]
    assert [line for line in mine if not any(name in line for name in shared)] == []


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a shell script in the interpreter's place."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_child_answers_and_ends_with_its_context(run: Any) -> None:
    async def main() -> None:
        schema = {"type": "object", "properties": {"note": {"const": "ä\n" * 50_000}}}
        async with child(SimulatorSettings(reply="json", schema=schema)) as url:
            assert url.startswith("http://127.0.0.1:")
            port = port_of(url)
            text = (await exchange(port, ask())).json["choices"][0]["message"]["content"]
            assert json.loads(text)["note"] == "ä\n" * 50_000
            assert (await stats(port))["replies"] == 1
        with pytest.raises(ConnectionRefusedError):
            await exchange(port, ask())
        assert_no_children()

    run(main())


def test_an_error_in_the_context_passes_and_ends_the_child(run: Any) -> None:
    async def main() -> None:
        with pytest.raises(LookupError):
            async with child(SimulatorSettings(hang_rate=1)) as url:
                raise LookupError(url)

    run(main())


def test_a_cancelled_context_ends_the_child(run: Any) -> None:
    ports: list[int] = []

    async def held(bound: asyncio.Timeout) -> None:
        async with bound, child(SimulatorSettings()) as url:
            ports.append(port_of(url))
            bound.reschedule(0)
            await asyncio.get_running_loop().create_future()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await held(asyncio.timeout(None))
        with pytest.raises(ConnectionRefusedError):
            await exchange(ports[0], ask())
        assert_no_children()

    run(main())


def test_modules_of_the_users_folder_do_not_get_in_the_way(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder with a json.py or a batchrun of its own is a fine place to start a job from."""
    (tmp_path / "json.py").write_text("raise RuntimeError\n")
    (tmp_path / "batchrun").mkdir()
    (tmp_path / "batchrun" / "__init__.py").write_text("raise RuntimeError\n")
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async with child(SimulatorSettings()) as url:
            assert (await exchange(port_of(url), ask())).status == 200

    run(main())


def test_contradicting_settings_start_nothing(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")

    async def main() -> None:
        with pytest.raises(JobError, match="choices"):
            async with child(SimulatorSettings(reply="choices")):
                pass

    run(main())


def test_a_child_that_dies_tells_why(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "echo first >&2; echo last words >&2; exit 3")

    async def main() -> None:
        with pytest.raises(BatchrunError, match="last words"):
            async with child(SimulatorSettings()):
                pass

    run(main())


def test_no_interpreter_no_child(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent")

    async def main() -> None:
        with pytest.raises(BatchrunError, match="did not start"):
            async with child(SimulatorSettings()):
                pass

    run(main())


def test_a_child_that_neither_starts_nor_ends_is_killed(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exec sleep 1000")
    monkeypatch.setattr(child_module, "START_WITHIN_S", 0.1)
    monkeypatch.setattr(child_module, "END_WITHIN_S", 0.1)

    async def main() -> None:
        with pytest.raises(BatchrunError, match="did not start within"):
            async with child(SimulatorSettings()):
                pass
        assert_no_children()

    run(main())


def test_a_child_ends_when_its_parent_is_killed(run: Any) -> None:
    async def main() -> None:
        parent = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PARENT),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        assert parent.stdout is not None
        port = port_of((await parent.stdout.readline()).decode())
        assert (await exchange(port, ask())).status == 200
        parent.kill()
        await parent.wait()
        async with asyncio.timeout(10):
            await refused(port)

    run(main())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(run: Any, number: signal.Signals) -> None:
    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "batchrun.simulator"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(SimulatorSettings(latency_ms=60_000)) + b"\n")
        port = json.loads(await process.stdout.readline())["port"]
        assert (await stats(port))["requests"] == 0
        process.send_signal(number)
        _, errors = await process.communicate()
        assert (process.returncode, errors) == (0, b"")

    run(main())


@pytest.mark.parametrize(
    ("line", "status"), [(b"", 0), (b'{"reply":"choices"}\n', 2), (b'{"latency":1}\n', 2), (b"{\n", 2)]
)
def test_settings_that_do_not_come_or_do_not_hold(run: Any, line: bytes, status: int) -> None:
    """No line is an end before the start; a bad line is told in one line, without a traceback."""

    async def main() -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "batchrun.simulator"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": ROOT},
        )
        said, errors = await process.communicate(line)
        assert (process.returncode, said) == (status, b"")
        assert len(errors.splitlines()) == (status != 0)

    run(main())
