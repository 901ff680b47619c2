"""Every row of the input comes out once, in order, with the right completion or a failure that says why."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from e2e_tools import batchrun, digest_of_prompt, job_file, prompts, summary_of, table_of, write_rows

ADDED = [
    ("row", pa.int64()),
    ("status", pa.string()),
    ("completion", pa.string()),
    ("reasoning", pa.string()),
    ("tool_calls", pa.string()),
    ("finish_reason", pa.string()),
    ("model", pa.string()),
    ("response_id", pa.string()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("total_tokens", pa.int64()),
    ("cached_tokens", pa.int64()),
    ("reasoning_tokens", pa.int64()),
    ("cost_usd", pa.float64()),
    ("cost_source", pa.string()),
    ("attempts", pa.int32()),
    ("http_status", pa.int32()),
    ("latency_ms", pa.float64()),
    ("started_at", pa.timestamp("us", tz="UTC")),
    ("finished_at", pa.timestamp("us", tz="UTC")),
    ("error_class", pa.string()),
    ("error_message", pa.string()),
    ("flags", pa.list_(pa.string())),
    ("usage_json", pa.string()),
    ("request_sha256", pa.string()),
]


def fields(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in schema]


@pytest.mark.parametrize("form", ["jsonl", "ndjson", "jsonl.gz", "jsonl.zst", "parquet", "directory", "glob"])
def test_r10_every_row_once_in_order_with_its_completion(tmp_path: Path, form: str) -> None:
    rows = prompts(300)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / path, row_group_size=70)
    elif form in {"directory", "glob"}:
        (tmp_path / "rows").mkdir()
        write_rows(tmp_path / "rows", rows[:111], "a.jsonl")
        write_rows(tmp_path / "rows", rows[111:], "b.jsonl")
        path = "rows" if form == "directory" else "rows/*.jsonl"
    else:
        packed = {"jsonl.gz": gzip.compress, "jsonl.zst": zstandard.ZstdCompressor().compress}
        (tmp_path / path).write_bytes(packed.get(form, bytes)(text))
    job = job_file(tmp_path, input={"path": path, "key": "id"}, output={"rows_per_part": 90})

    ended = batchrun("run", job)

    assert ended.returncode == 0, ended.stderr
    assert [part.name for part in sorted((tmp_path / "out").glob("*.parquet"))] == [
        f"part-{number:06d}.parquet" for number in range(4)
    ]
    table = table_of(tmp_path / "out")
    assert fields(table.schema) == [("id", pa.int64()), ("prompt", pa.string()), *ADDED]
    assert table.column("row").to_pylist() == list(range(300))
    assert table.column("id").to_pylist() == list(range(300))
    for row in table.to_pylist():
        assert row["completion"].startswith(digest_of_prompt(row["prompt"]))
        assert (row["status"], row["attempts"], row["http_status"], row["flags"]) == ("ok", 1, 200, [])
        assert row["cost_source"] == "server"
        assert row["started_at"] <= row["finished_at"]
    summary = summary_of(tmp_path / "out")
    assert summary["by_status"] == {"ok": 300}
    assert summary["requests_sent"] == 300
    assert summary["cost_usd"] == pytest.approx(sum(table.column("cost_usd").to_pylist()), abs=1e-9)


def mixed_rows() -> list[object]:
    """100 rows: 10 the endpoint rejects, 3 that are not JSON, 2 without a prompt, 1 without messages."""
    rows: list[object] = [{"id": number, "prompt": f"say {number}", "messages": None} for number in range(100)]
    for number in range(10):
        rows[number * 7] = {"id": number * 7, "prompt": f"forbidden {number}"}
    rows[50], rows[51], rows[97] = '{"id": 50, "prompt": "say', "not JSON at all", "[1, 2]"
    rows[20], rows[30] = {"id": 20, "prompt": None}, {"id": 30}
    rows[40] = {"id": 40, "messages": []}
    return rows


def test_r05_r29_failed_rows_stay_rows_and_say_why(tmp_path: Path) -> None:
    """DEMAND.md R05, R29: as many rows out as in; each failure has its class and a message; exit 1."""
    write_rows(tmp_path, mixed_rows())
    job = job_file(tmp_path, simulator={"reject_containing": "forbidden"}, output={"rows_per_part": 33})

    ended = batchrun("run", job)

    assert ended.returncode == 1, ended.stderr
    rows = table_of(tmp_path / "out").to_pylist()
    assert [row["row"] for row in rows] == list(range(100))
    failed = {row["row"]: row for row in rows if row["status"] == "failed"}
    assert sorted(row for row, one in failed.items() if one["error_class"] == "rejected") == [7 * n for n in range(10)]
    assert sorted(row for row, one in failed.items() if one["error_class"] == "input") == [20, 30, 40, 50, 51, 97]
    assert all(one["error_message"] for one in failed.values())
    for row in (50, 51, 97):
        assert f"rows.jsonl line {row + 1}" in failed[row]["error_message"]
        assert failed[row]["attempts"] == 0
    assert failed[7]["http_status"] == 400
    assert "HTTP 400" in failed[7]["error_message"]
    assert all(row["error_class"] is None for row in rows if row["status"] != "failed")
    summary = summary_of(tmp_path / "out")
    assert summary["exit_status"] == 1
    assert summary["by_status"] == {"ok": 84, "failed": 16}
    assert summary["by_error_class"] == {"input": 6, "rejected": 10}
    assert summary["requests_sent"] == 94


def test_r18_max_failed_is_what_divides_0_from_1(tmp_path: Path) -> None:
    write_rows(tmp_path, mixed_rows())
    job = job_file(tmp_path, simulator={"reject_containing": "forbidden"})
    assert batchrun("run", job, "--set", "limits.max_failed=16%").returncode == 0
    assert batchrun("run", job, "--set", "limits.max_failed=15.9%").returncode == 1
    assert batchrun("run", job, "--set", "limits.max_failed=16").returncode == 0
    assert summary_of(tmp_path / "out")["requests_sent"] == 94


def test_r33_one_schema_whatever_happened(tmp_path: Path) -> None:
    """DEMAND.md R33: all failed, none failed, a single row: the same columns and types in every part."""
    schemas: list[pa.Schema] = []
    for name, rows, simulator in (
        ("all", [{"id": n, "prompt": "forbidden"} for n in range(5)], {"reject_containing": "forbidden"}),
        ("none", prompts(5), {}),
        ("one", prompts(1), {}),
        ("input", [{"id": 1, "prompt": None}, {"id": 2, "prompt": ""}], {}),
    ):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, rows)
        batchrun("run", job_file(tmp_path / name, simulator=simulator, output={"rows_per_part": 2}))
        schemas += [pq.read_schema(part).remove_metadata() for part in (tmp_path / name / "out").glob("*.parquet")]
    assert len(schemas) == 3 + 3 + 1 + 1
    assert all(schema.equals(schemas[0]) for schema in schemas)


def test_r33_the_survey_fixes_column_types_for_all_parts(tmp_path: Path) -> None:
    """SPEC.md, Rows: types come from the whole input, so a part of nulls has the same schema as the others."""
    rows: list[object] = [{"prompt": "a", "n": None, "tags": None, "mixed": None, "x": 1} for _ in range(4)]
    rows += [{"prompt": "b", "n": 2, "tags": ["é", 1], "mixed": "s", "x": 1.5, "late": True}]
    rows += [{"prompt": "c", "n": 3, "mixed": 7, "big": 2**63}]
    write_rows(tmp_path, rows)
    assert batchrun("run", job_file(tmp_path, output={"rows_per_part": 2})).returncode == 0
    parts = [pq.read_table(part) for part in sorted((tmp_path / "out").glob("*.parquet"))]
    assert len({str(part.schema.remove_metadata()) for part in parts}) == 1
    table = table_of(tmp_path / "out")
    assert fields(table.schema)[:7] == [
        ("prompt", pa.string()),
        ("n", pa.int64()),
        ("tags", pa.string()),
        ("mixed", pa.string()),
        ("x", pa.float64()),
        ("late", pa.bool_()),
        ("big", pa.string()),
    ]
    last = table.to_pylist()[4:]
    assert (last[0]["tags"], last[0]["mixed"], last[0]["x"], last[0]["late"]) == ('["é",1]', '"s"', 1.5, True)
    assert (last[1]["mixed"], last[1]["big"], last[1]["late"]) == ("7", str(2**63), None)


def test_a_prompt_that_prints_a_null_fails_alone(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"a": "x", "b": "y"}, {"a": "x", "b": None}, {"a": "x"}, {"a": "x", "b": "z"}])
    job = job_file(tmp_path, prompt={"user": "{{ a }} {{ b }}"})
    assert batchrun("run", job).returncode == 1
    assert [row["error_class"] for row in table_of(tmp_path / "out").to_pylist()] == [None, "input", "input", None]


def test_an_empty_input_gives_one_part_without_rows(tmp_path: Path) -> None:
    write_rows(tmp_path, [])
    ended = batchrun("run", job_file(tmp_path, prompt={"user": "constant"}))
    assert ended.returncode == 0, ended.stderr
    parts = list((tmp_path / "out").glob("*.parquet"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [0]


def test_carried_columns_are_chosen_and_added_ones_prefixed(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"model": "mine", "prompt": "p", "skip": 1}])
    job = job_file(tmp_path, output={"columns": ["model"], "prefix": "llm_"}, endpoint={"keep_raw": True})
    assert batchrun("run", job).returncode == 0
    table = table_of(tmp_path / "out")
    assert table.schema.names == ["model", *(f"llm_{name}" for name, _ in ADDED), "llm_response_json"]
    row = table.to_pylist()[0]
    assert (row["model"], row["llm_model"]) == ("mine", "test-model")
    assert json.loads(row["llm_response_json"])["choices"][0]["message"]["content"] == row["llm_completion"]


def test_nothing_carried_gives_only_the_added_columns(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))
    assert batchrun("run", job_file(tmp_path, output={"columns": "none"})).returncode == 0
    assert fields(table_of(tmp_path / "out").schema) == ADDED


def test_nested_and_dictionary_columns_are_carried_unchanged(tmp_path: Path) -> None:
    table = pa.table(
        {
            "prompt": ["a", "b", "c"],
            "kind": pa.array(["x", None, "y"]).dictionary_encode(),
            "tags": pa.array([["a", "b"], [], None]),
            "place": pa.array([{"lat": 1.5, "name": "ü"}, None, {"lat": None, "name": ""}]),
            "when": pa.array([1, 2, None], pa.timestamp("ms", tz="Europe/Berlin")),
            "raw": pa.array([b"\x00\xff", None, b""]),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=1)
    job = job_file(tmp_path, input={"path": "rows.parquet"}, output={"rows_per_part": 2})
    ended = batchrun("run", job)
    assert ended.returncode == 0, ended.stderr
    assert table_of(tmp_path / "out").select(table.schema.names).to_pylist() == table.to_pylist()
    assert [table_of(tmp_path / "out").schema.field(name).type for name in table.schema.names] == table.schema.types


def test_messages_and_params_of_a_row_reach_the_wire(tmp_path: Path) -> None:
    """DEMAND.md R40: a row's own parameters override the job's; the reply is cut by its max_tokens."""
    write_rows(tmp_path, [
        {"messages": [{"role": "user", "content": "long"}], "own": {"max_tokens": 2}},
        {"messages": '[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]', "own": '{"top_p": 0.5}'},
        {"messages": [{"role": "user", "content": "plain"}]},
        {"messages": [{"role": "user", "content": "bad"}], "own": {"stream": True}},
    ])  # fmt: skip
    job = job_file(tmp_path, prompt={"messages": "messages", "params": "own"})
    assert batchrun("run", job).returncode == 1
    rows = table_of(tmp_path / "out").to_pylist()
    assert [row["status"] for row in rows] == ["truncated", "ok", "ok", "failed"]
    assert rows[0]["finish_reason"] == "length"
    assert rows[0]["completion_tokens"] == 2


def test_r34_odd_text_goes_through_whole(tmp_path: Path) -> None:
    """DEMAND.md R34: NUL, emoji, a lone surrogate and a BOM touch no neighbour; replaced text is flagged."""
    lines = [
        '\ufeff{"id": 0, "prompt": "bom"}',
        '{"id": 1, "prompt": "nul \\u0000 emoji \\ud83d\\ude00"}',
        '{"id": 2, "prompt": "lone \\ud800"}',
        '{"id": 3, "prompt": "ok"}',
    ]
    write_rows(tmp_path, lines)
    assert batchrun("run", job_file(tmp_path)).returncode == 0
    rows = table_of(tmp_path / "out").to_pylist()
    assert [row["prompt"] for row in rows] == ["bom", "nul \x00 emoji 😀", "lone \ufffd", "ok"]
    assert [row["flags"] for row in rows] == [[], [], ["text_replaced"], []]
