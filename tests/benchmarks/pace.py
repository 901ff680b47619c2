"""How well a run uses a limit, finds a hidden capacity, and fills its slots: three trials in real time, by the command.

.venv/bin/python tests/benchmarks/pace.py [limit] [capacity] [slots]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pyarrow.dataset as ds

COMMAND = (sys.executable, "-m", "batchrun")
LIMIT_PER_MIN, LIMIT_ROWS = 6000, 8000
CAPACITY, LOW, DROP_S, RETURN_S, END_S = 37, 10, 60.0, 90.0, 190.0
SLOTS, SLOT_ROWS = 1000, 20_000


@contextlib.contextmanager
def simulator(*settings: str) -> Iterator[str]:
    """Serve the embedded endpoint and yield its base URL."""
    words = [word for setting in settings for word in ("--set", setting)]
    process = subprocess.Popen([*COMMAND, "simulate", *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(timeout=60)


def stats_of(base_url: str) -> dict[str, Any]:
    with urllib.request.urlopen(base_url.removesuffix("/v1/openai") + "/stats", timeout=60) as reply:
        return json.loads(reply.read())


def job(folder: Path, base_url: str, rows: int, **limits: object) -> Path:
    """Write a job and its rows."""
    (folder / "rows.jsonl").write_text("".join(json.dumps({"prompt": f"say {row}"}) + "\n" for row in range(rows)))
    lines = [
        'name = "pace"',
        '[input]\npath = "rows.jsonl"',
        '[request]\nmodel = "m"',
        f'[endpoint]\nbase_url = "{base_url}"',
        "[limits]",
        *(f"{name} = {json.dumps(value)}" for name, value in limits.items()),
        '[output]\npath = "out"',
    ]
    path = folder / "job.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def limit(folder: Path) -> dict[str, object]:
    """Server limit and job limit 6,000 requests a minute: how much of it is used, and how many 429."""
    with simulator(f"requests_per_minute={LIMIT_PER_MIN}", "latency_ms=200") as base_url:
        path = job(folder, base_url, LIMIT_ROWS, requests_per_minute=LIMIT_PER_MIN, concurrency=200)
        subprocess.run([*COMMAND, "run", str(path), "--quiet"], check=True)
        stats = stats_of(base_url)
    sends_a_min = 60 * (stats["requests"] - 1) / (stats["last_request_at"] - stats["first_request_at"])
    return {"of the limit": round(sends_a_min / LIMIT_PER_MIN, 4), "replies 429": stats["by_status"].get("429", 0)}


class Hidden:
    """A server that refuses above a capacity which it tells nobody: 37, then 10 for half a minute, then 37 again."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.in_flight = self.requests = self.refused = 0
        self.asked = asyncio.Event()

    def capacity(self) -> int:
        return LOW if DROP_S <= time.monotonic() - self.began < RETURN_S else CAPACITY

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = next(
                    int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
                )
                await reader.readexactly(size)
                self.requests += 1
                self.asked.set()
                if self.in_flight >= self.capacity():
                    self.refused += 1
                    writer.write(_reply("429 Busy", {"error": {"message": "Model busy", "code": "engine_overloaded"}}))
                    continue
                self.in_flight += 1
                await asyncio.sleep(0.3 + 0.4 * ((self.requests * 7919) % 1000) / 1000)
                self.in_flight -= 1
                message = {"role": "assistant", "content": "fine"}
                writer.write(_reply("200 OK", {"choices": [{"message": message, "finish_reason": "stop"}]}))
        writer.close()


def _reply(status: str, tree: object) -> bytes:
    body = json.dumps(tree).encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _sampled(folder: Path) -> tuple[list[tuple[float, int]], Hidden]:
    hidden = Hidden()
    server = await asyncio.start_server(hidden.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    path = job(folder, f"http://127.0.0.1:{port}/v1", 50_000, concurrency=200)
    run = await asyncio.create_subprocess_exec(*COMMAND, "run", str(path), "--quiet", "--progress", "none")
    await hidden.asked.wait()
    hidden.began = time.monotonic()
    samples: list[tuple[float, int]] = []
    while (now := time.monotonic() - hidden.began) < END_S:
        samples.append((now, hidden.in_flight))
        await asyncio.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    await run.wait()
    server.close()
    return samples, hidden


def capacity(folder: Path) -> dict[str, object]:
    """A hidden capacity of 37 in flight under concurrency 200: what is in flight by the server's own count."""
    samples, hidden = asyncio.run(_sampled(folder))

    def within(since_s: float, until_s: float) -> list[int]:
        return [count for at, count in samples if since_s <= at < until_s]

    def mean(counts: Sequence[int]) -> float:
        return round(sum(counts) / len(counts), 1)

    back = next((at for at in range(int(RETURN_S), int(END_S) - 10) if mean(within(at, at + 10)) >= 30), None)
    steady, low = within(30, DROP_S), within(DROP_S + 10, RETURN_S)
    return {
        "30-60 s": f"{min(steady)} to {max(steady)}, mean {mean(steady)}",
        "10 s after the drop": f"at most {max(low)}, mean {mean(low)}",
        "mean 30 again, s after the return": None if back is None else back - int(RETURN_S),
        "replies 429": f"{100 * hidden.refused / hidden.requests:.2f} % of {hidden.requests}",
    }


async def _plain_loop(base_url: str) -> float:
    """A plain loop of workers over aiohttp; returns the seconds from its first request to its last reply."""
    left = iter(range(SLOT_ROWS))
    connector = aiohttp.TCPConnector(limit=SLOTS)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:

        async def work() -> None:
            for row in left:
                body = {"model": "m", "messages": [{"role": "user", "content": f"say {row}"}], "stream": False}
                async with session.post(base_url + "/chat/completions", json=body) as reply:
                    await reply.read()

        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for _ in range(SLOTS):
                group.create_task(work())
        return time.monotonic() - began


def slots(folder: Path) -> dict[str, object]:
    """1 s lognormal latency, 1,000 slots, 20,000 rows: the time of a plain loop over that of the run."""
    settings = ("latency_ms=1000", "latency_sigma=0.5")
    with simulator(*settings) as base_url:
        plain_s = asyncio.run(_plain_loop(base_url))
    with simulator(*settings) as base_url:
        path = job(folder, base_url, SLOT_ROWS, concurrency=SLOTS)
        subprocess.run([*COMMAND, "run", str(path), "--quiet"], check=True)
    table = ds.dataset(folder / "out").to_table(columns=["started_at", "finished_at", "latency_ms"])
    began, ended = min(table["started_at"].to_pylist()), max(table["finished_at"].to_pylist())
    run_s = (ended - began).total_seconds()
    served_s = sum(table["latency_ms"].to_pylist()) / 1000
    return {
        "plain loop": f"{plain_s:.1f} s",
        "run": f"{run_s:.1f} s",
        "utilisation": round(served_s / SLOTS / run_s, 3),
        "ratio to the plain loop": round(plain_s / run_s, 3),
    }


def main() -> None:
    trials = {"limit": limit, "capacity": capacity, "slots": slots}
    for name in sys.argv[1:] or trials:
        with tempfile.TemporaryDirectory(prefix="batchrun-pace-") as folder:
            for what, figure in trials[name](Path(folder)).items():
                print(f"{name}: {what}: {figure}", flush=True)


if __name__ == "__main__":
    main()
