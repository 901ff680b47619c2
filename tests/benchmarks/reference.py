"""The loop that an expert writes by hand instead of taking batchrun, tuned: what the benchmarks compare with.

Workers share one iterator over the input; headers, URL and the body's ends are made once; no cookies, no timeouts, no
automatic headers; bytes in and out by msgspec; uvloop; one plain Parquet file (zstd) of row, prompt, completion and
tokens, in the order of the replies. No ledger, no limits, no resume: a reply that is no 200, or a connection that
breaks, is asked again until it works.

    python tests/benchmarks/reference.py INPUT OUTPUT.parquet BASE_URL [--concurrency 64]
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import uvloop
from multidict import CIMultiDict
from yarl import URL

SCHEMA = pa.schema([("row", pa.int64()), ("prompt", pa.string()), ("completion", pa.string()), ("tokens", pa.int64())])
ROWS_PER_GROUP = 10_000
UNSENT = ("Accept", "Accept-Encoding", "User-Agent", "Content-Type")
OPENING, ENDING = b'{"model":"benchmark","temperature":0,"max_tokens":64,"messages":[{"role":"user","content":', b"}]}"


class Line(msgspec.Struct, gc=False):
    prompt: str


class Message(msgspec.Struct, gc=False):
    content: str


class Choice(msgspec.Struct, gc=False):
    message: Message


class Usage(msgspec.Struct, gc=False):
    total_tokens: int


class Reply(msgspec.Struct, gc=False):
    choices: list[Choice]
    usage: Usage


def prompts_of(path: Path) -> Iterator[str]:
    """Yield the column `prompt` of a JSONL or Parquet file."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_GROUP, columns=["prompt"]):
                yield from batch.column(0).to_pylist()
        return
    decode = msgspec.json.Decoder(Line).decode
    with path.open("rb") as lines:
        for line in lines:
            yield decode(line).prompt


class Sink:
    """One Parquet file, written a group of rows at a time."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._columns: tuple[list[int], list[str], list[str], list[int]] = ([], [], [], [])

    def add(self, row: int, prompt: str, completion: str, tokens: int) -> None:
        rows, prompts, completions, counts = self._columns
        rows.append(row)
        prompts.append(prompt)
        completions.append(completion)
        counts.append(tokens)
        if len(rows) == ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        columns, self._columns = self._columns, ([], [], [], [])
        self._writer.write_table(pa.table(list(columns), schema=SCHEMA))


async def ask(options: argparse.Namespace, sink: Sink) -> None:
    """Ask for every row of the input."""
    url = URL(options.base_url + "/chat/completions")
    headers = CIMultiDict({"Content-Type": "application/json", "Authorization": "Bearer none"})
    rows = enumerate(prompts_of(options.input))
    encode, decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Reply).decode
    connector = aiohttp.TCPConnector(limit=options.concurrency)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=UNSENT,
        auto_decompress=False,
    ) as session:

        async def work() -> None:
            for row, prompt in rows:
                body = OPENING + encode(prompt) + ENDING
                while True:
                    try:
                        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                            content = await response.read()
                        if response.status == 200:
                            break
                        await asyncio.sleep(float(response.headers.get("Retry-After", 0)))
                    except (aiohttp.ClientError, OSError):
                        continue
                reply = decode(content)
                sink.add(row, prompt, reply.choices[0].message.content, reply.usage.total_tokens)

        async with asyncio.TaskGroup() as group:
            for _ in range(options.concurrency):
                group.create_task(work())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("base_url")
    parser.add_argument("--concurrency", type=int, default=64)
    options = parser.parse_args()
    with pq.ParquetWriter(options.output, SCHEMA, compression="zstd") as writer:
        sink = Sink(writer)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(ask(options, sink))
        sink.flush()


if __name__ == "__main__":
    main()
