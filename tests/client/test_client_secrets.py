"""Real runs over every failure of the dialect's tables, with servers that quote the key and the prompt in each.

Afterwards the key is nowhere, and the prompt nowhere but where it belongs: carried columns, completions, the spool
(SPEC.md, section 5, promise 6; DEMAND.md R32).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import client_dialect_hints as hints
import client_dialect_verdicts as verdicts
import client_dialect_wire as wire
import pyarrow.parquet as pq
import pytest
from client_dialect import FINE, Case, Wire
from client_raw_server import Peer, RawServer, raw_server
from client_replies import MODEL
from e2e_tools import batchrun, job_file, summary_of, table_of, write_rows

from batchrun.cli.run import Wishes, run_job_file

KEY = "SENTINEL/key+of+no+known+form/0123456789"
PROMPT = 'SENTINEL prompt of a patient called "Quux",\n\twhose cough is worse than it was'
SECRETIVE = {"completion", "reasoning", "tool_calls", "response_json", "id", "prompt"}
SLASHES = ("/", "\\/", "\\u002f")
LIMITS = {"concurrency": 3, "max_attempts": 1, "max_ambiguous_attempts": 0, "max_row_time_s": 0.3, "max_failed": "100%"}
ENV = {"SENTINEL_VARIABLE": KEY, "PYTHONASYNCIODEBUG": "1"}
SHORT_PAUSE_S = 0.3

CASES = [*verdicts.CASES, *hints.CASES, *wire.CASES]
ROWS = [
    case
    for case in CASES
    if case.at == "server"
    and case.ends != "stop"
    and case.pause_s <= SHORT_PAUSE_S
    and not case.wires[0].status.startswith("401")  # with one attempt a row it ends the run
]
STOPS = {  # one for each line, status and server, for each is a run of its own
    (case.id.split()[1], case.at, case.wires[0].status[:2] if case.wires else ""): case
    for case in reversed(CASES)
    if case.ends == "stop" and case.at != "no host" and len(case.wires) < 2
}.values()


def prompt_of(number: int) -> str:
    return f"{PROMPT}; case {number:04}"


class Quoting:
    """Answers the case named in a prompt with its replies, the last again and again; each quotes key and prompt."""

    def __init__(self, cases: Sequence[tuple[Wire, ...]], *, plain: bool = False) -> None:
        self._cases = cases
        self._plain = plain
        self._seen: Counter[int] = Counter()
        self._ready = threading.Event()
        self.quoted = 0

    async def script(self, peer: Peer) -> None:
        if self._plain:
            await peer.reader.read(1)
            await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        while True:
            head, _, sent = (await peer.request()).partition(b"\r\n\r\n")
            assert f"Authorization: Bearer {KEY}".encode() in head
            prompt = json.loads(sent)["messages"][0]["content"]
            number = int(prompt[-4:])
            wires = self._cases[number]
            reply = wires[min(self._seen[number], len(wires) - 1)]
            self._seen[number] += 1
            data = reply.data(f"{KEY} wrote {prompt}", SLASHES[number % 3])
            self.quoted += KEY.encode() in data or b"SENTINEL prompt" in data
            await peer.send(data)
            if reply.then == "reset":
                await peer.reset()
            elif reply.then == "hang":
                await peer.gone()
            if reply.then != "go on":
                return

    def serve(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with raw_server(self.script) as server:
            self.server: RawServer = server
            self._ready.set()
            await self._over.wait()

    def __enter__(self) -> str:
        self._thread = threading.Thread(target=self.serve)
        self._thread.start()
        assert self._ready.wait(10)
        url = self.server.base_url
        return url.replace("http:", "https:") if self._plain else url

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)


def job_of(folder: Path, base_url: str, rows: Sequence[object], *, timeout_s: float = 60.0) -> Path:
    write_rows(folder, rows)
    return job_file(
        folder,
        request={"model": MODEL},
        endpoint={"base_url": base_url, "api_key_env": "SENTINEL_VARIABLE", "timeout_s": timeout_s},
        limits=LIMITS,
    )


def look_for_secrets(folder: Path, **outputs: str) -> None:
    """Fail where the key, or 20 characters of the prompt, stand in what a run wrote."""
    texts = {name: text.encode() for name, text in outputs.items()}
    for path in (folder / "out").rglob("*"):
        inside = path.relative_to(folder / "out").parts
        if path.is_file() and not any(part.startswith("spool") for part in inside):
            if path.suffix == ".parquet":
                for batch in pq.ParquetFile(path).iter_batches():
                    for name, column in zip(batch.schema.names, batch.columns, strict=True):
                        if name not in SECRETIVE:
                            texts[f"column {name}"] = json.dumps(column.to_pylist(), default=str).encode()
            else:
                texts[path.name] = path.read_bytes()
    assert {"summary.json", "progress.json", "ledger.sqlite"} <= set(texts)
    for where, text in texts.items():
        assert KEY.encode() not in text, where
        assert b"known+form" not in text, where
        for first in range(len(PROMPT) - 20):
            for form in (PROMPT[first : first + 20], json.dumps(PROMPT[first : first + 20])[1:-1]):
                assert form.encode() not in text, (where, form)


def test_rows_that_fail_in_every_way(tmp_path: Path) -> None:
    """One run; after each bad row a good one, so that no outage begins."""
    cases = [wires for case in ROWS for wires in (case.wires, (FINE,))]
    rows = [{"id": number, "prompt": prompt_of(number)} for number in range(len(cases))]
    quoting = Quoting([*cases, (FINE,)])
    with quoting as base_url:
        job = job_of(
            tmp_path, base_url, [*rows, json.dumps({"id": 0, "prompt": prompt_of(len(cases))})[:-4]], timeout_s=2.0
        )
        ended = batchrun("run", job, "-v", "--log-format", "json", "--json", env=ENV)
    assert ended.returncode == 0, ended.stderr
    assert quoting.quoted > len(ROWS) / 4
    by_class = summary_of(tmp_path / "out")["by_error_class"]
    assert set(by_class) == {
        "bad_reply", "context_overflow", "disconnected", "input", "rate_limited", "rejected", "server", "timeout",
    }  # fmt: skip
    messages = [text for text in table_of(tmp_path / "out").column("error_message").to_pylist() if text]
    assert sum("***" in text and "[…]" in text for text in messages) > 10
    look_for_secrets(tmp_path, stdout=ended.stdout, stderr=ended.stderr)


@pytest.mark.parametrize("case_id", ["2.2 #5 401", "2.2 #18 TLS that is none"])
def test_a_run_that_ends_at_once(tmp_path: Path, case_id: str) -> None:
    case = next(case for case in STOPS if case.id.startswith(case_id))
    with Quoting([case.wires], plain=case.at == "plain http") as base_url:
        job = job_of(tmp_path, base_url, [{"id": 0, "prompt": prompt_of(0)}])
        ended = batchrun("run", job, "-v", "--log-format", "json", "--json", env=ENV)
    assert ended.returncode == 3, ended.stderr
    assert case.says[0].replace("NO_SUCH_KEY", "SENTINEL_VARIABLE") in ended.stderr
    look_for_secrets(tmp_path, stdout=ended.stdout, stderr=ended.stderr)


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("case", STOPS, ids=lambda case: case.id)
def test_whatever_ends_a_run(
    tmp_path: Path,
    case: Case,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The command in this process: exit 3, no row failed, and nothing told that is not to be told."""
    caplog.set_level(logging.DEBUG)
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    rows = [{"id": number, "prompt": prompt_of(number)} for number in range(1 + case.after)]
    wires = [(FINE,), case.wires] if case.after else [case.wires]
    with Quoting(wires, plain=case.at == "plain http") as base_url, signals_kept():
        job = job_of(tmp_path, base_url, rows)
        status = run_job_file(str(job), [], None, WISHES)
    out, err = capfd.readouterr()
    assert (status, summary_of(tmp_path / "out")["by_error_class"]) == (3, {}), err
    look_for_secrets(tmp_path, stdout=out, stderr=err, logged=caplog.text)


WISHES = Wishes(
    limit=None,
    retry_failed=False,
    fresh=False,
    processes=1,
    grace_s=30.0,
    progress="plain",
    quiet=False,
    as_json=True,
    log_format="json",
    verbose=True,
)
