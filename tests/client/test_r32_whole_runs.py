"""Whole runs in this process against raw sockets: what ends them, where the key goes, and what a reply costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_certificates import Certificate, certificate
from client_raw_server import Peer, RawServer, Script, raw_server_beside, whole
from client_replies import body
from e2e_tools import COMMAND, PATIENCE_S, job_file, prompts, table_of, write_rows

import batchrun
from batchrun.events import Progress, Summary

__all__ = ["certificate"]
KEY = "SENTINEL0key0of0no0known0form"
VARIABLE = {"A_KEY": KEY}
USAGE = {"prompt_tokens": 13, "completion_tokens": 536, "total_tokens": 549}


class Told:
    """A Watcher that keeps the events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def progressed(self, progress: Progress) -> None: ...

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append((event, facts))


@pytest.fixture(autouse=True)
def plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "NO_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def always(reply: bytes, *, to_get: bytes | None = None) -> Script:
    """Answer every request of a connection alike, a GET by `to_get`."""

    async def script(peer: Peer) -> None:
        while asked := await peer.request():
            await peer.send(to_get if to_get is not None and asked.startswith(b"GET ") else reply)

    return script


def run(folder: Path, base_url: str, told: Told | None = None, **tables: Any) -> Summary:
    """Run a job of four rows, over two connections at most."""
    write_rows(folder, prompts(4))
    endpoint = {"base_url": base_url, "api_key_env": "A_KEY", **tables.pop("endpoint", {})}
    endpoint = {name: value for name, value in endpoint.items() if value is not None}
    limits = {"concurrency": 2, **tables.pop("limits", {})}
    job = batchrun.load_job(job_file(folder, endpoint=endpoint, limits=limits, **tables))
    return batchrun.run(job, environ=VARIABLE, watcher=told or Told())


def heads(server: RawServer) -> Iterator[list[str]]:
    for request in server.requests:
        yield request.partition(b"\r\n\r\n")[0].decode().split("\r\n")


def assert_nothing_holds_the_key(folder: Path, summary: Summary, told: Told) -> None:
    assert KEY not in repr(summary) + repr(told.events)
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_a_certificate_that_nobody_signed_ends_the_run_until_its_ca_is_named(
    certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3 at the start, no request seen, no row failed; the same command goes on once SSL_CERT_FILE is set."""
    with raw_server_beside(always(whole(body())), tls=certificate.server_context()) as server:
        told = Told()
        summary = run(tmp_path, server.base_url, told)
        assert (summary.exit_status, summary.by_status, summary.requests_sent) == (3, {}, 0)
        assert summary.reason.startswith("TLS failed: self")
        assert "SSL_CERT_FILE" in summary.reason
        assert server.requests == []
        assert_nothing_holds_the_key(tmp_path, summary, told)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.path))
        summary = run(tmp_path, server.base_url)
        assert (summary.exit_status, summary.by_status, len(server.requests)) == (0, {"ok": 4}, 4)


@pytest.mark.parametrize("status", ["302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_a_redirect_ends_the_run_and_carries_the_key_nowhere(tmp_path: Path, status: str) -> None:
    with raw_server_beside(always(whole(body()))) as elsewhere:
        moved = whole(b"", status=status, headers=f"Location: {elsewhere.base_url}/chat/completions\r\n")
        with raw_server_beside(always(moved)) as server:
            told = Told()
            summary = run(tmp_path, server.base_url, told)
            assert (summary.exit_status, summary.by_status) == (3, {})
            assert 1 <= len(server.requests) <= 2 + 5
            assert elsewhere.connections == 0
            assert_nothing_holds_the_key(tmp_path, summary, told)


def test_a_key_from_a_file_is_sent_without_its_newline(tmp_path: Path) -> None:
    (tmp_path / "key.txt").write_text(f"{KEY}\n")
    with raw_server_beside(always(whole(body()))) as server:
        summary = run(tmp_path, server.base_url, endpoint={"api_key_env": None, "api_key_file": "key.txt"})
        assert summary.exit_status == 0
        for head in heads(server):
            assert f"Authorization: Bearer {KEY}" in head
            assert sum(KEY in line for line in head) == 1
    (tmp_path / "key.txt").unlink()
    assert_nothing_holds_the_key(tmp_path, summary, Told())


def test_azures_dialect_on_the_wire(tmp_path: Path) -> None:
    """PROTOCOL.md 1A: the deployment in the path, `api-version` in the query, the key bare in `api-key`."""
    with raw_server_beside(always(whole(body()))) as server:
        base_url = server.base_url.replace("/v1", "/openai/deployments/my-gpt")
        azure = {"auth_header": "api-key", "query": {"api-version": "2024-10-21"}}
        assert run(tmp_path, base_url, endpoint=azure).exit_status == 0
        for first, *lines in heads(server):
            assert first == "POST /openai/deployments/my-gpt/chat/completions?api-version=2024-10-21 HTTP/1.1"
            assert f"api-key: {KEY}" in lines
            assert not any(line.lower().startswith("authorization:") for line in lines)


@pytest.mark.parametrize("key", [f"{KEY}\x00", f"{KEY} x", f"Bearer {KEY}", f"{KEY}\r\nX-Evil: 1", ""])
def test_a_key_that_can_be_none_leaves_nothing_behind(tmp_path: Path, key: str) -> None:
    write_rows(tmp_path, prompts(1))
    job = batchrun.load_job(job_file(tmp_path, endpoint={"base_url": "http://127.0.0.1:9/v1", "api_key_env": "A_KEY"}))
    with pytest.raises(batchrun.JobError) as refused:
        batchrun.run(job, environ={"A_KEY": key})
    assert refused.value.status == 2
    assert "A_KEY" in str(refused.value)
    assert KEY not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_deepinfras_limit_is_told_once_and_no_status_depends_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, (limit, events) in enumerate(
        (
            (whole(b'{"rate_limit":1,"tpm_rate_limit":9}'), [{"in_flight": 1, "slots": 1}]),
            (whole(b"no", status="403 Forbidden"), []),
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with raw_server_beside(
            always(whole(body(usage={**USAGE, "estimated_cost": 0.00016236})), to_get=limit)
        ) as proxy:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            told = Told()
            write_rows(folder, prompts(4))
            endpoint = {"base_url": "http://api.deepinfra.com/v1/openai", "api_key_env": "A_KEY"}
            job = batchrun.load_job(job_file(folder, endpoint=endpoint))
            monkeypatch.setenv("A_KEY", KEY)
            summary = batchrun.run(job, watcher=told)
            assert (summary.exit_status, summary.cost_usd) == (0, pytest.approx(4 * 0.00016236))
            assert [facts for event, facts in told.events if event == "the provider told its limit"] == events
            lines = [head[0] for head in heads(proxy)]
            assert [line.split()[0] for line in lines] == ["GET", "POST", "POST", "POST", "POST"]
            assert lines[0] == "GET http://api.deepinfra.com/v1/me/rate_limit HTTP/1.1"


def test_r11_auto_prices_rows_by_the_table_and_says_once_where_it_can_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Known: 13 at 2.50 and 536 at 10 USD a million. Unknown: null, never 0, nor is the run told to have cost 0."""
    reply = whole(body(usage=USAGE, model="gpt-4o-2024-08-06"))
    with raw_server_beside(always(reply)) as proxy:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("A_KEY", KEY)
        for name, host, cost, source in (
            ("known", "api.openai.com", 0.0053925, "price"),
            ("unknown", "api.example.invalid", None, None),
        ):
            folder = tmp_path / name
            folder.mkdir()
            write_rows(folder, prompts(4))
            endpoint = {"base_url": f"http://{host}/v1", "api_key_env": "A_KEY"}
            path = job_file(folder, endpoint=endpoint, request={"model": "gpt-4o"}, price={"auto": True})
            told = Told()
            summary = batchrun.run(batchrun.load_job(path), watcher=told)
            rows = table_of(folder / "out").to_pylist()
            assert [(row["cost_usd"], row["cost_source"]) for row in rows] == [(cost, source)] * 4
            assert summary.cost_usd == (None if cost is None else pytest.approx(4 * cost))
            assert summary.unpriced_rows == (4 if cost is None else 0)
            progress = json.loads((folder / "out" / "_batchrun" / "progress.json").read_bytes())
            assert (progress["cost_usd"], progress["unpriced_rows"]) == (summary.cost_usd, summary.unpriced_rows)
            notes = [facts["why"] for event, facts in told.events if event == "no price is known"]
            assert len(notes) == (1 if cost is None else 0)
            assert all("knows no model gpt-4o at api.example.invalid" in note for note in notes)


def test_r11_all_billed_attempts_of_a_row_are_summed_by_price_too(tmp_path: Path) -> None:
    """A useless reply that was billed and is priced by the job, then an answer with the server's figure."""
    useless = [whole(json.dumps({"choices": [], "usage": USAGE}).encode())]
    paid = {**USAGE, "estimated_cost": 0.001}

    async def script(peer: Peer) -> None:
        while await peer.request():
            await peer.send(useless.pop(0) if useless else whole(body(usage=paid)))

    with raw_server_beside(script) as server:
        write_rows(tmp_path, prompts(1))
        endpoint = {"base_url": server.base_url}
        path = job_file(tmp_path, endpoint=endpoint, price={"input": 0.12, "output": 0.30})
        summary = batchrun.run(batchrun.load_job(path))
    (row,) = table_of(tmp_path / "out").to_pylist()
    assert (row["attempts"], row["cost_usd"], row["cost_source"]) == (2, 0.00116236, "server")
    assert (row["flags"].count("maybe_billed"), row["total_tokens"]) == (0, 549)
    assert summary.cost_usd == 0.00116236


def test_the_key_stands_on_no_command_line(tmp_path: Path) -> None:
    """A real command, looked at from the server's side while its request is in flight: the process list is public."""
    seen: list[bytes] = []

    def note_process_list() -> None:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                seen.append(process.read_bytes())

    async def look_around(peer: Peer) -> None:
        assert KEY.encode() in await peer.request()
        await asyncio.to_thread(note_process_list)
        await peer.send(whole(body()))

    if not Path("/proc/self/cmdline").exists():
        pytest.skip("no /proc")
    write_rows(tmp_path, prompts(1))
    with raw_server_beside(look_around) as server:
        path = job_file(tmp_path, endpoint={"base_url": server.base_url, "api_key_env": "A_KEY"})
        ended = subprocess.run(
            [*COMMAND, "run", str(path), "-v"],
            env={"A_KEY": KEY},
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    assert any(str(path).encode() in line for line in seen)
    assert not any(KEY.encode() in line for line in seen)
    assert KEY.encode() not in ended.stdout + ended.stderr
