"""Who sends the rows of a benchmark: the hand-written loop, batchrun's command in several ways, and wrk."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import pyarrow.parquet as pq
from rows import Rows
from server import digest_of
from timed import environment

COMMAND = (sys.executable, "-m", "batchrun")
LOOP = Path(__file__).with_name("reference.py")
WRK_S = 4
QUICK_S = 60


class Case(NamedTuple):
    """One sending of some rows to a running server.

    `template` is the job's prompt, None to send the column; `rows_per_part` is batchrun's own where it is None.
    """

    folder: Path
    source: Path
    rows: Rows
    base_url: str
    concurrency: int
    template: str | None
    rows_per_part: int | None = None


class Contender(NamedTuple):
    """A way to send them. `words` prepares it and returns its command; `wrong` says what came out wrong.

    `lacks` says why it can't be had here. `processes` is how many it is.
    """

    name: str
    words: Callable[[Case], list[str]]
    wrong: Callable[[Case], str]
    lacks: str = ""
    processes: int = 1


def _loop_words(case: Case) -> list[str]:
    return [sys.executable, str(LOOP), str(case.source), str(case.folder / "reference.parquet"), case.base_url,
            "--concurrency", str(case.concurrency)]  # fmt: skip


def _loop_wrong(case: Case) -> str:
    seen: set[int] = set()
    with pq.ParquetFile(case.folder / "reference.parquet") as file:
        for batch in file.iter_batches():
            for row, prompt, completion in zip(*(batch.column(at).to_pylist() for at in range(3)), strict=True):
                if prompt != case.rows.row(row)["prompt"] or not completion.startswith(digest_of(prompt) + " "):
                    return f"row {row} is not its own"
                seen.add(row)
    return "" if seen == set(range(case.rows.count)) else f"{len(seen)} rows came out"


def write_job(case: Case, *, all_on: bool, transport: str | None) -> Path:
    """Write a job with all kinds of limits that never bind, a key, a template and a budget; or one with none of it."""
    limits: dict[str, object] = {"concurrency": case.concurrency, "max_attempts": 50, "max_ambiguous_attempts": 50}
    tables: dict[str, dict[str, object]] = {
        "input": {"path": str(case.source)},
        "request": {"model": "benchmark", "temperature": 0, "max_tokens": 64},
        "endpoint": {"base_url": case.base_url},
        "output": {"path": str(case.folder / "out")},
        "limits": limits,
    }
    if all_on:
        tables["input"]["key"] = "key"
        tables["price"] = {"input": 0.12, "output": 0.3}
        limits |= {"requests_per_minute": 10**8, "tokens_per_minute": 10**11, "max_cost_usd": 10**6}
    if all_on or case.template:
        tables["prompt"] = {"user": case.template or "{{ prompt }}"}
    if case.rows_per_part is not None:
        tables["output"]["rows_per_part"] = case.rows_per_part
    if transport is not None:
        tables["endpoint"]["transport"] = transport
    lines = ['name = "speed"']
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    path = case.folder / "job.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def _run_words(case: Case, *, all_on: bool, transport: str | None, processes: int) -> list[str]:
    shutil.rmtree(case.folder / "out", ignore_errors=True)
    more = [] if processes == 1 else ["--processes", str(processes)]
    job = write_job(case, all_on=all_on, transport=transport)
    return [*COMMAND, "run", str(job), "--progress", "plain", *more]


def _run_wrong(case: Case) -> str:
    try:
        case.rows.check(case.folder / "out")
    except AssertionError as error:
        return str(error)
    return ""


def _wrk_words(case: Case) -> list[str]:
    message = {"role": "user", "content": case.rows.row(0)["prompt"]}
    body = msgspec.json.encode({"model": "benchmark", "temperature": 0, "max_tokens": 64, "messages": [message]})
    script = case.folder / "wrk.lua"
    script.write_text(f"wrk.method = 'POST'\nwrk.body = [==[{body.decode()}]==]\n")
    return [
        "wrk",
        "-t1",
        f"-c{case.concurrency}",
        f"-d{WRK_S}s",
        "-s",
        str(script),
        f"{case.base_url}/chat/completions",
    ]


@functools.cache
def _says(*words: str) -> str:
    command = [*COMMAND, *words]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=QUICK_S, env=environment()
    ).stdout


def _transports() -> list[str]:
    endpoint = json.loads(_says("schema"))["$defs"]["EndpointSettings"]
    return endpoint["properties"].get("transport", {}).get("enum", [])


def run(name: str, *, all_on: bool = True, transport: str | None = None, processes: int = 1) -> Contender:
    """Return batchrun's command; lacking what this version of it does not have."""
    lacks = ""
    if transport is not None and transport not in _transports():
        lacks = f'this version has no endpoint.transport = "{transport}"'
    elif processes > 1 and "--processes" not in _says("run", "--help"):
        lacks = "this version has no --processes"
    words = functools.partial(_run_words, all_on=all_on, transport=transport, processes=processes)
    return Contender(name, words, _run_wrong, lacks, processes)


def reference() -> Contender:
    """Return the hand-written loop."""
    return Contender("the hand-written loop", _loop_words, _loop_wrong)


def wrk() -> Contender:
    """Return wrk, which sends one request over and over."""
    lacks = "" if shutil.which("wrk") else "wrk is not installed"
    return Contender("wrk", _wrk_words, lambda _: "", lacks)
