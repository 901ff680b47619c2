"""What end-to-end tests share: a job on disk, the real command, an endpoint in a process of its own."""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

COMMAND = (sys.executable, "-m", "batchrun")
PATIENCE_S = 90


def toml(table: Mapping[str, Any]) -> str:
    """Write a two-level job as TOML; JSON's forms of strings, numbers, lists and bools are TOML's too."""
    lines = [f"{name} = {_inline(value)}" for name, value in table.items() if not isinstance(value, dict)]
    for name, below in table.items():
        if isinstance(below, dict):
            lines += [f"[{name}]", *(f"{key} = {_inline(value)}" for key, value in below.items())]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(below)}" for key, below in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(one) for one in value) + "]"
    return json.dumps(value)


def job_file(folder: Path, **tables: Any) -> Path:
    """Write a job over `rows.jsonl` and the simulator into `folder`, its tables merged with the given ones."""
    job: dict[str, Any] = {
        "name": "test",
        "input": {"path": "rows.jsonl"},
        "request": {"model": "test-model"},
        "endpoint": {"base_url": "simulator"},
        "limits": {"concurrency": 8},
        "output": {"path": "out"},
    }
    for name, value in tables.items():
        job[name] = {**job.get(name, {}), **value} if isinstance(value, dict) else value
    path = folder / "job.toml"
    path.write_text(toml(job), encoding="utf-8")
    return path


def write_rows(folder: Path, rows: Sequence[object], name: str = "rows.jsonl") -> Path:
    """Write JSONL; a str stands for a line as it is."""
    path = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def prompts(count: int) -> list[dict[str, object]]:
    return [{"id": number, "prompt": f"say {number}"} for number in range(count)]


class Forked:
    """A command in a process of its own, forked by the command server."""

    def __init__(self, connection: socket.socket) -> None:
        self._lines = connection.makefile("rb", buffering=0)
        self._connection = connection
        self.pid = int(self._lines.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float = PATIENCE_S) -> int:
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._lines.readline())
            self._lines.close()
            self._connection.close()
        return self.returncode

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended by itself; `wait` says how
                os.kill(self.pid, number)


class CommandServer:
    """`command_server.py` as this process's child; it ends when this process lets go of it."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "command_server.py"), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # a process with threads is not to be forked
            )

    def close(self) -> None:
        self._control.close()
        self._process.wait(timeout=PATIENCE_S)

    def fork(
        self,
        words: Sequence[str | Path],
        *,
        stdout: int,
        stderr: int,
        env: Mapping[str, str] | None = None,
        step: tuple[str, str, int] | None = None,
    ) -> Forked:
        """Start the command with these words."""
        request = {
            "words": [str(word) for word in words],
            "folder": str(Path.cwd()),
            "environment": {**os.environ, **(env or {})},
            "step": step,
        }
        ours, theirs = socket.socketpair()
        with theirs, Path(os.devnull).open("rb") as nothing:
            socket.send_fds(
                self._control, [json.dumps(request).encode()], [nothing.fileno(), stdout, stderr, theirs.fileno()]
            )
        return Forked(ours)


@functools.cache
def command_server() -> CommandServer:
    server = CommandServer()
    atexit.register(server.close)
    return server


def batchrun(
    *words: str | Path,
    env: Mapping[str, str] | None = None,
    step: tuple[str, str, int] | None = None,
    patience_s: float = PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, in a forked process; `step` says where it is disturbed."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        forked = command_server().fork(words, stdout=stdout.fileno(), stderr=stderr.fileno(), env=env, step=step)
        try:
            status = forked.wait(patience_s)
        except TimeoutError:
            forked.kill()
            raise
        told = [(file.seek(0), file.read().decode())[1] for file in (stdout, stderr)]
    return subprocess.CompletedProcess(words, status, *told)


def table_of(output: Path) -> pa.Table:
    """Read an output as any reader would: names that start with _ or . are no data."""
    return ds.dataset(output, format="parquet").to_table()


def rows_as_every_reader_sees_them(output: Path) -> list[dict[str, Any]]:
    """Read an output by pyarrow, DuckDB, Polars and pandas; return the rows that all four see."""
    import duckdb  # noqa: PLC0415 - they are slow to import
    import pandas as pd  # noqa: PLC0415
    import polars as pl  # noqa: PLC0415

    rows = table_of(output).to_pylist()
    duck = duckdb.sql(f"SELECT * FROM '{output}/*.parquet' ORDER BY row").to_arrow_table()
    assert duck.to_pylist() == rows
    assert pl.read_parquet(f"{output}/*.parquet").sort("row").to_dicts() == rows
    frame = pd.read_parquet(output)
    assert list(frame.columns) == list(rows[0])
    for name in frame.columns:
        lists = isinstance(rows[0][name], list)
        seen = [list(value) if lists else None if pd.isna(value) else value for value in frame[name]]
        assert seen == [row[name] for row in rows], name  # a nullable int is a float of the same value there
    return rows


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "_batchrun" / "summary.json").read_bytes())


def digest_of_prompt(text: str) -> str:
    """Compute, without batchrun, the digest that a text reply of the simulator begins with."""
    messages = [{"content": text, "role": "user"}]
    canonical = json.dumps(messages, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Endpoint:
    """A `batchrun simulate` of its own process, so that its counts outlive the run that is killed."""

    def __init__(self, base_url: str, process: Forked) -> None:
        self.base_url = base_url
        self.process = process

    @property
    def port(self) -> int:
        return int(self.base_url.split(":")[2].split("/")[0])

    def stats(self) -> dict[str, Any]:
        url = self.base_url.removesuffix("/v1/openai") + "/stats"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.loads(reply.read())


@contextlib.contextmanager
def endpoint(*settings: str, port: int = 0) -> Iterator[Endpoint]:
    words = ["simulate", "--port", str(port), *(word for setting in settings for word in ("--set", setting))]
    reading, writing = os.pipe()
    with open(reading, encoding="utf-8") as told:  # noqa: PTH123 - a descriptor
        try:
            process = command_server().fork(words, stdout=writing, stderr=2)
        finally:
            os.close(writing)
        try:
            words = told.readline().split()
            assert words, "the endpoint did not start"
            yield Endpoint(words[-1], process)
        finally:
            process.terminate()
            process.wait()


def start(job: Path, *words: str) -> subprocess.Popen[str]:
    """Start a run in the background."""
    return subprocess.Popen(
        [*COMMAND, "run", str(job), *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(condition: object, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until a callable is true, for at most PATIENCE_S."""
    assert callable(condition)
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        assert process is None or process.poll() is None, "the run ended first"
        time.sleep(0.01)  # the other process gives no signal
