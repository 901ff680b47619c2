"""The connections of a run: kept alive, dropped in time, and as many as this machine can open."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import endpoint, job_file, prompts, table_of, wait_for, write_rows
from test_r04_r07_r09_endpoint import scripted

import batchrun
from batchrun.client.arriving import ExchangeError
from batchrun.client.transport import open_transport
from batchrun.events import Progress, Summary

SERVER_IDLE_S = 1.0
REPLY = b'{"id":"1","model":"test-model","choices":[{"index":0,"message":{"content":"fine"},"finish_reason":"stop"}]}'


class Listener:
    """Keeps the events of a run."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def progressed(self, progress: Progress) -> None:
        pass

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append(event)


def keepalive_of(descriptor: int, port: int) -> tuple[int, ...] | None:
    """Return a socket's keepalive options where it is connected to a port; None for any other descriptor."""
    with contextlib.suppress(OSError), socket.fromfd(descriptor, socket.AF_INET, socket.SOCK_STREAM) as copy:
        if copy.getpeername()[1:2] == (port,):
            return (
                copy.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
            )
    return None


def test_r08_every_socket_of_a_live_run_has_keepalive(tmp_path: Path) -> None:
    """Each connection in flight: idle for at most 60 s, probes each 15 s at most, at most 4 of them."""
    write_rows(tmp_path, prompts(12))
    release = threading.Event()
    summaries: list[Summary] = []

    def act(handler: Any, prompt: str, nth: int) -> None:
        release.wait(60)
        handler.answer()

    with scripted(act) as server:
        job = batchrun.load_job(
            job_file(
                tmp_path, endpoint={"base_url": server.url}, limits={"concurrency": 12, "max_ambiguous_attempts": 0}
            )
        )
        running = threading.Thread(target=lambda: summaries.append(batchrun.run(job)))
        running.start()
        try:
            wait_for(lambda: len(server.seen) == 12)
            descriptors = [int(path.name) for path in Path("/proc/self/fd").iterdir()]
            found = [keepalive_of(descriptor, server.server_port) for descriptor in descriptors]
        finally:
            release.set()
            running.join()
    options = [one for one in found if one is not None]
    assert len(options) == 12
    for on, idle_s, interval_s, probes in options:
        assert on == 1
        assert 0 < idle_s <= 60
        assert 0 < interval_s <= 15
        assert 0 < probes <= 4
    assert summaries[0].by_status == {"ok": 12}


async def _impatient(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, and close a connection that brings nothing for SERVER_IDLE_S."""
    with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SERVER_IDLE_S)
            length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(REPLY), REPLY))
            await writer.drain()
    writer.close()


def test_r28_gaps_as_long_as_the_servers_patience_cut_no_request() -> None:
    """A server that closes after 1 s of silence, 1,000 requests after gaps of about 1 s: none is cut."""
    clients, gaps_s = 200, (0.95, 0.98, 1.0, 1.02, 1.05)
    cut: list[ExchangeError] = []

    async def main() -> None:
        server = await asyncio.start_server(_impatient, "127.0.0.1", 0, backlog=clients)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        async with (
            server,
            open_transport(
                base_url=url, headers={}, query={}, timeout_s=30, concurrency=clients, trust_env=False
            ) as transport,
        ):

            async def ask() -> None:
                try:
                    assert (await transport.exchange(b"{}")).body == REPLY
                except ExchangeError as error:
                    cut.append(error)

            for gap_s in (0.0, *gaps_s):
                await asyncio.sleep(gap_s)  # the gap is what is tried here
                async with asyncio.TaskGroup() as group:
                    for _ in range(clients):
                        group.create_task(ask())

    asyncio.run(main())
    assert [str(error) for error in cut] == []


@pytest.mark.long
@pytest.mark.timeout(400)
def test_r28_a_slow_run_over_an_impatient_server_is_never_cut(tmp_path: Path) -> None:
    """Three minutes of one request a second, each over a connection that the server is about to close."""
    write_rows(tmp_path, prompts(180))
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(_impatient, "127.0.0.1", 0))
    serving = threading.Thread(target=loop.run_forever)
    serving.start()
    try:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        job = job_file(tmp_path, endpoint={"base_url": url}, limits={"requests_per_minute": 60})
        summary = batchrun.run(batchrun.load_job(job))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        serving.join()
        server.close()
        loop.close()
    assert (summary.by_status, summary.requests_sent, summary.retries) == ({"ok": 180}, 180, 0)


@contextlib.contextmanager
def files_left(count: int, most: int) -> Iterator[None]:
    """Let this process open `count` files more: it may have `most`, all others are taken."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    taken: list[int] = []
    try:
        while (number := os.open(os.devnull, os.O_RDONLY)) < most - count:
            taken.append(number)
        os.close(number)
        yield
    finally:
        for number in taken:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_files_for_the_connections_cost_no_row_a_try(tmp_path: Path) -> None:
    """Somebody else in the process holds most of its files: the run says so once and goes on with fewer connections."""
    write_rows(tmp_path, prompts(400))
    listener = Listener()
    with endpoint("latency_ms=20") as served, files_left(60, most=400):
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"concurrency": 100, "max_attempts": 1, "max_ambiguous_attempts": 0},
            output={"rows_per_part": 100},
        )
        summary = batchrun.run(batchrun.load_job(job), watcher=listener)
        most = served.stats()["max_in_flight"]
    assert (summary.exit_status, summary.by_status) == (0, {"ok": 400})
    assert summary.requests_sent == 400
    assert 10 <= most < 60
    assert [event for event in listener.events if "ulimit -n" in event] == listener.events
    assert len(listener.events) == 1
    assert table_of(tmp_path / "out").column("flags").to_pylist() == [[]] * 400


def test_no_file_for_any_connection_is_an_outage_that_says_so(tmp_path: Path) -> None:
    """Nothing can be sent, so no row fails: exit 3, the reason names what is short, the same command goes on."""
    write_rows(tmp_path, prompts(30))
    listener = Listener()
    with endpoint() as served:
        job = batchrun.load_job(
            job_file(
                tmp_path,
                endpoint={"base_url": served.base_url},
                limits={"max_attempts": 1, "max_outage_s": 0.5},
            )
        )
        with files_left(24, most=300):
            summary = batchrun.run(job, watcher=listener)
        assert (summary.exit_status, summary.by_status) == (3, {})
        assert "Too many open files" in summary.reason
        assert "ulimit -n" in listener.events[0]
        assert served.stats()["requests"] == 0
        assert batchrun.run(job).by_status == {"ok": 30}
