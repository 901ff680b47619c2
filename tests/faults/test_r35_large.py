"""3 GB of completions in one part: written, and rewritten with --retry-failed, in memory that does not grow with it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from e2e_tools import COMMAND, job_file, prompts, write_rows

from batchrun.writer.part import ROW_GROUP_BYTES, SLICE_BYTES

MB = 1 << 20
ROWS = 3000
LARGE = frozenset([5, 700, 701, 702, 703, 1500, 2990])
"""Rows whose completion is 30 MB."""
REJECTED = range(10, ROWS, 60)
MOST_RSS_MB = 1000
HEAD = b'{"id":"x","model":"test-model","choices":[{"index":0,"finish_reason":"stop","message":{"content":"'
TAIL = b'"}}],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}'
REFUSAL = b'{"error":{"message":"not this time"}}'


def text_of(row: int) -> str:
    return f"{row:07} " * ((30 if row in LARGE else 1) * MB // 8)


class Generous:
    """An endpoint that answers with megabytes, and with 400 for some rows as long as it is `picky`."""

    def __init__(self) -> None:
        self.picky = True
        self.requests = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                asked = re.search(rb"say (\d+)", await reader.readexactly(int(length[1]) if length else 0))
                assert asked is not None
                row = int(asked[1])
                self.requests += 1
                rejected = self.picky and row in REJECTED
                body = REFUSAL if rejected else HEAD + text_of(row).encode() + TAIL
                writer.write(b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n" % (400 if rejected else 200, len(body)))
                writer.write(body)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def generous() -> Iterator[Generous]:
    served = Generous()
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(served.serve, "127.0.0.1", 0))
    served.port = server.sockets[0].getsockname()[1]
    serving = threading.Thread(target=loop.run_forever)
    serving.start()
    try:
        yield served
    finally:
        loop.call_soon_threadsafe(loop.stop)
        serving.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def measured(job: Path, *words: str) -> tuple[int, str]:
    """Run the command; return its exit status and its figures."""
    began = time.monotonic()
    run = subprocess.Popen([*COMMAND, "run", str(job), "--quiet", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    peak_mb = used.ru_maxrss / 1024
    assert peak_mb < MOST_RSS_MB
    cpu_s = used.ru_utime + used.ru_stime
    return run.returncode, f"peak RSS {peak_mb:.0f} MB, {cpu_s:.0f} s CPU, {time.monotonic() - began:.0f} s"


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_r35_3_gb_of_completions_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Row groups are cut at 64 MB, the part never; a rewritten part is the same but for the rows sent again."""
    write_rows(tmp_path, prompts(ROWS))
    with generous() as served:
        job = job_file(tmp_path, endpoint={"base_url": f"http://127.0.0.1:{served.port}/v1"})
        status, figures = measured(job)
        assert status == 1
        check(tmp_path / "out" / "part-000000.parquet", failed=frozenset(REJECTED))
        served.picky = False
        status, again = measured(job, "--retry-failed")
        assert status == 0
        assert served.requests == ROWS + len(REJECTED)
    check(tmp_path / "out" / "part-000000.parquet", failed=frozenset())
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 1
    with capsys.disabled():
        print(f"\n3 GB of completions: {figures}; 50 rows sent again: {again}")  # noqa: T201


def check(part: Path, *, failed: frozenset[int]) -> None:
    """Compare every row, and the size of each row group but the last."""
    row = 0
    with pq.ParquetFile(part) as file:
        groups = [file.metadata.row_group(group).total_byte_size for group in range(file.num_row_groups)]
        assert all(ROW_GROUP_BYTES - MB < size < ROW_GROUP_BYTES + SLICE_BYTES + 32 * MB for size in groups[:-1])
        assert len(groups) > 40
        for group in range(file.num_row_groups):
            for text in file.read_row_group(group, columns=["completion"]).column(0):
                assert (text.as_py() is None) if row in failed else (text.as_py() == text_of(row)), row
                row += 1
    assert row == ROWS
