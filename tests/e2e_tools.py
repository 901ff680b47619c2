"""What end-to-end tests share: a job on disk, the real command, an endpoint in a process of its own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
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
    lines = [f"{name} = {json.dumps(value)}" for name, value in table.items() if not isinstance(value, dict)]
    for name, below in table.items():
        if isinstance(below, dict):
            lines += [f"[{name}]", *(f"{key} = {_inline(value)}" for key, value in below.items())]
    text = "\n".join(lines) + "\n"
    tomllib.loads(text)
    return text


def _inline(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_inline(below)}" for key, below in value.items()) + "}"
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


def batchrun(
    *words: str | Path, env: Mapping[str, str] | None = None, patience_s: float = PATIENCE_S
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=patience_s,
        env={**os.environ, **(env or {})},
        check=False,
    )


def table_of(output: Path) -> pa.Table:
    """Read an output as any reader would: names that start with _ or . are no data."""
    return ds.dataset(output, format="parquet").to_table()


def summary_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "_batchrun" / "summary.json").read_bytes())


def digest_of_prompt(text: str) -> str:
    """Compute, without batchrun, the digest that a text reply of the simulator begins with."""
    messages = [{"content": text, "role": "user"}]
    canonical = json.dumps(messages, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class Endpoint:
    """A `batchrun simulate` of its own process, so that its counts outlive the run that is killed."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def stats(self) -> dict[str, Any]:
        url = self.base_url.removesuffix("/v1/openai") + "/stats"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.loads(reply.read())


@contextlib.contextmanager
def endpoint(*settings: str) -> Iterator[Endpoint]:
    process = subprocess.Popen(
        [*COMMAND, "simulate", *(word for setting in settings for word in ("--set", setting))],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield Endpoint(process.stdout.readline().strip().split()[-1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()


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
