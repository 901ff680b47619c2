"""Odd rows from the file to the endpoint and back: each arrives as it is, or is named, and touches no neighbour."""

from __future__ import annotations

import datetime as dt
import gzip
import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from e2e_tools import job_file, table_of, write_rows
from test_r04_r07_r09_endpoint import scripted

import batchrun

PACKED: Mapping[str, Callable[[bytes], bytes]] = {
    "jsonl": bytes,
    "jsonl.gz": lambda text: gzip.compress(text, 1),
    "jsonl.zst": zstandard.ZstdCompressor(write_checksum=True).compress,
}
MB = 1 << 20


def run(folder: Path, source: str, base_url: str, **tables: Any) -> list[dict[str, Any]]:
    """Run a job over `source` in this process; return the output's rows."""
    job = job_file(folder, input={"path": source}, endpoint={"base_url": base_url}, **tables)
    batchrun.run(batchrun.load_job(job))
    return table_of(folder / "out").to_pylist()


ODD: list[tuple[bytes, str | None, list[str]]] = [
    (b'\xef\xbb\xbf{"id": 0, "prompt": "a BOM before it"}', "a BOM before it", []),
    (b'{"id": 1, "prompt": "nul \\u0000, escaped"}', "nul \x00, escaped", []),
    ('{"id": 2, "prompt": "four bytes \U0001f600, raw"}'.encode(), "four bytes \U0001f600, raw", []),
    (b'{"id": 3, "prompt": "four bytes \\ud83d\\ude00, escaped"}', "four bytes \U0001f600, escaped", []),
    (b'{"id": 4, "prompt": "half of one \\ud83d, alone"}', "half of one \ufffd, alone", ["text_replaced"]),
    (b'{"id": 5, "prompt": "halves \\ude00\\ud83d turned"}', "halves \ufffd\ufffd turned", ["text_replaced"]),
    (b'{"id": 6, "prompt": "no UTF-8: \xff\xfe \xc3"}', "no UTF-8: \ufffd\ufffd \ufffd", ["text_replaced"]),
    (b'{"id": 7, "prompt": "packed: \xed\xa0\x80"}', "packed: \ufffd\ufffd\ufffd", ["text_replaced"]),
    ('{"id": 8, "prompt": "\u202eleft\u202c \u05d0\u0301"}'.encode(), "\u202eleft\u202c \u05d0\u0301", []),
    ('{"id": 9, "prompt": "\ufeffa BOM \u2028 \u0085 within"}'.encode(), "\ufeffa BOM \u2028 \u0085 within", []),
    (b'{"id": 10, "prompt": "a carriage return ends it"}\r', "a carriage return ends it", []),
    (b'\xef\xbb\xbf{"id": 11, "prompt": "a BOM in the middle of the file"}', None, []),
    (b'{"id": 12, "prompt": "\x00 raw"}', None, []),
    (b'{"id": 13, "prompt": "plain", "tags": ["\xc3\xa9", null, {"deep": [1, [null]]}], "void": null}', "plain", []),
    (b'{"id": 14, "prompt": "replaced beside it", "tags": ["\\udfff"]}', "replaced beside it", ["text_replaced"]),
    (b'{"id": 15, "prompt": "plain to the end"}', "plain to the end", []),
]  # fmt: skip


@pytest.mark.parametrize("form", PACKED)
def test_r34_odd_text_arrives_whole_or_is_named(tmp_path: Path, form: str) -> None:
    """Surrogates, NUL, BOM, 4-byte emoji, bytes that are no UTF-8, plain and packed: replaced text is flagged."""
    (tmp_path / f"rows.{form}").write_bytes(PACKED[form](b"\n".join(line for line, _, _ in ODD) + b"\n"))
    with scripted(lambda handler, _prompt, _nth: handler.answer()) as server:
        rows = run(tmp_path, f"rows.{form}", server.url, output={"rows_per_part": 4})
        assert server.seen == {prompt: 1 for _, prompt, _ in ODD if prompt is not None}
    assert [row["row"] for row in rows] == list(range(len(ODD)))
    for row, (_, prompt, flags) in zip(rows, ODD, strict=True):
        assert (row["prompt"], row["flags"]) == (prompt, flags), row
        if prompt is None:
            assert (row["id"], row["error_class"], row["attempts"]) == (None, "input", 0)
            assert f"rows.{form} line {row['row'] + 1}" in row["error_message"]
        else:
            assert (row["id"], row["status"], row["completion"]) == (row["row"], "ok", "fine")
    assert rows[13]["tags"] == '["é",null,{"deep":[1,[null]]}]'
    assert rows[14]["tags"] == '["\ufffd"]'
    assert {row["void"] for row in rows} == {None}


REPLIES: dict[str, tuple[bytes, str, list[str]]] = {
    "nul": (rb'"\u0000 in \u0000"', "\x00 in \x00", []),
    "emoji": ('"\U0001f600 \\ud83d\\ude00"'.encode(), "\U0001f600 \U0001f600", []),
    "half": (rb'"cut \ud83d"', "cut \ufffd", ["text_replaced"]),
    "bytes": (b'"no \xff UTF-8"', "no \ufffd UTF-8", ["text_replaced"]),
    "bom": ('"\ufeffbom"'.encode(), "\ufeffbom", []),
    "plain": (b'"plain"', "plain", []),
}


def test_r34_odd_text_of_a_reply_is_kept(tmp_path: Path) -> None:
    """What the model says is stored whatever it is; a neighbour's reply is not touched."""
    write_rows(tmp_path, [{"prompt": name} for name in REPLIES])

    def act(handler: Any, prompt: str, nth: int) -> None:
        head = b'{"id":"x","model":"test-model","usage":{"prompt_tokens":1,"completion_tokens":1},"choices":'
        body = head + b'[{"index":0,"finish_reason":"stop","message":{"content":' + REPLIES[prompt][0] + b"}}]}"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with scripted(act) as server:
        rows = run(tmp_path, "rows.jsonl", server.url)
    assert [(row["status"], row["completion"], row["flags"]) for row in rows] == [
        ("ok", text, flags) for _, text, flags in REPLIES.values()
    ]


@pytest.mark.parametrize("form", ["jsonl.gz", "jsonl.zst"])
def test_r34_a_torn_packed_input_is_refused_and_nothing_is_made(tmp_path: Path, form: str) -> None:
    """Wherever it is torn, and where a byte of it was changed: exit 2 before anything is sent."""
    text = b"".join(line + b"\n" for line, _, _ in ODD) + b"".join(b'{"prompt": "%d"}\n' % n for n in range(100))
    whole = PACKED[form](text)
    middle = len(whole) // 2
    path = tmp_path / f"rows.{form}"
    with scripted(lambda handler, _prompt, _nth: handler.answer()) as server:
        job = batchrun.load_job(job_file(tmp_path, input={"path": path.name}, endpoint={"base_url": server.url}))
        for cut in (0, 1, 5, 11, middle, len(whole) - 9, len(whole) - 4, len(whole) - 1):
            path.write_bytes(whole[:cut])
            with pytest.raises(batchrun.JobError, match=path.name):
                batchrun.run(job)
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x5A]) + whole[middle + 1 :])
        with pytest.raises(batchrun.JobError, match=path.name):
            batchrun.run(job)
        assert not server.seen
        assert not (tmp_path / "out").exists()
        path.write_bytes(whole)
        assert batchrun.run(job).rows == len(ODD) + 100


def large_text() -> str:
    """20 MB that don't repeat soon and take two bytes in places."""
    return "".join(f"{number} é " for number in range(2 * MB))[: 20 * MB]


@pytest.mark.parametrize("form", [*PACKED, "parquet"])
def test_r35_a_row_of_20_mb_arrives_whole_between_its_neighbours(tmp_path: Path, form: str) -> None:
    large = large_text()
    rows = [{"id": 0, "prompt": "before"}, {"id": 1, "prompt": large}, {"id": 2, "prompt": "after"}]
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_bytes(PACKED[form](b"".join(json.dumps(row).encode() + b"\n" for row in rows)))
    with scripted(lambda handler, _prompt, _nth: handler.answer()) as server:
        written = run(tmp_path, path.name, server.url)
        assert server.seen == {row["prompt"]: 1 for row in rows}
    for row, made in zip(rows, written, strict=True):
        assert (made["id"], made["status"], made["completion"]) == (row["id"], "ok", "fine")
        assert made["prompt"] == row["prompt"]


def test_r34_nested_and_null_columns_are_carried_unchanged(tmp_path: Path) -> None:
    """Every type that Parquet keeps comes out as it went in, over the border of parts and of row groups."""
    table = pa.table(
        {
            "prompt": ["a", "b", "c"],
            "kind": pa.array(["x", None, "y"]).dictionary_encode(),
            "tags": pa.array([["a", None], [], None]),
            "place": pa.array([{"lat": 1.5, "name": "ü"}, None, {"lat": None, "name": ""}]),
            "deep": pa.array([[[{"a": [1, None]}], None], None, []]),
            "pairs": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
            "when": pa.array([1, 2, None], pa.timestamp("ms", tz="Europe/Berlin")),
            "day": pa.array([dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]),
            "exact": pa.array([Decimal("1.10"), None, Decimal("-9999999.99")], pa.decimal128(20, 2)),
            "raw": pa.array([b"\x00\xff", None, b""]),
            "fixed": pa.array([b"abcd", None, b"\x00" * 4], pa.binary(4)),
            "large": pa.array(["x", None, ""], pa.large_string()),
            "large_list": pa.array([["x"], None, [None]], pa.large_list(pa.string())),
            "small": pa.array([1, None, 255], pa.uint8()),
            "half": pa.array([1.5, None, float("inf")], pa.float32()),
            "void": pa.nulls(3),
            "only_null": pa.array([None, None, None], pa.struct([("x", pa.list_(pa.int8()))])),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=1)
    with scripted(lambda handler, _prompt, _nth: handler.answer()) as server:
        rows = run(tmp_path, "rows.parquet", server.url, output={"rows_per_part": 2})
        assert server.seen == {"a": 1, "b": 1, "c": 1}
    assert [{name: row[name] for name in table.schema.names} for row in rows] == table.to_pylist()
    for part in (tmp_path / "out").glob("*.parquet"):
        schema = pq.read_schema(part)
        assert [schema.field(name).type for name in table.schema.names] == table.schema.types
