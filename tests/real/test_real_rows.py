"""What a real model server answers and counts is what stands in the output."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import table_of, write_rows
from real_llama import MODEL, SLOTS, Counters, Llama, job_against, packages, run

from batchrun.events import Summary

pytestmark = pytest.mark.real

SECTIONS = ("devel", "games", "mail", "net", "web")
GRAMMAR = "root ::= " + " | ".join(f'"{section}"' for section in SECTIONS)
ROWS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Labeled:
    """A finished run over packages whose answers a grammar holds to section names."""

    rows: Sequence[Mapping[str, Any]]
    summary: Summary
    before: Counters
    after: Counters


@pytest.fixture(scope="module")
def labeled(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Labeled:
    folder = tmp_path_factory.mktemp("labeled")
    write_rows(folder, packages(ROWS))
    job = job_against(
        llama,
        folder,
        input={"key": "package"},
        request={"grammar": GRAMMAR},
        endpoint={"keep_raw": True},
        limits={"concurrency": 2 * SLOTS},
        output={"rows_per_part": 6},
    )
    before = llama.counters()
    summary = run(job)
    return Labeled(rows=table_of(folder / "out").to_pylist(), summary=summary, before=before, after=llama.counters())


def test_every_row_has_the_answer_to_its_own_prompt(labeled: Labeled) -> None:
    assert (labeled.summary.exit_status, labeled.summary.by_status) == (0, {"ok": ROWS})
    assert [row["package"] for row in labeled.rows] == [row["package"] for row in packages(ROWS)]
    for row in labeled.rows:
        assert row["completion"] in SECTIONS
        assert (row["status"], row["finish_reason"], row["model"]) == ("ok", "stop", MODEL)
        assert (row["http_status"], row["attempts"], row["flags"]) == (200, 1, [])
        reply = json.loads(row["response_json"])
        assert row["completion"] == reply["choices"][0]["message"]["content"]
        assert row["response_id"] == reply["id"]
    assert len({row["response_id"] for row in labeled.rows}) == ROWS


def test_the_token_counts_are_the_servers_own(labeled: Labeled, llama: Llama) -> None:
    """By row: its tokenizer's and its timings'. In sum: its counters'. No cost is reported, so none is made up."""
    for row, sent in zip(labeled.rows, packages(ROWS), strict=True):
        timings = json.loads(row["response_json"])["timings"]
        assert row["prompt_tokens"] == llama.prompt_tokens(sent["prompt"])
        assert row["cached_tokens"] == timings["cache_n"]
        assert row["completion_tokens"] == timings["predicted_n"]
        assert row["total_tokens"] == row["prompt_tokens"] + row["completion_tokens"]
        assert (row["cost_usd"], row["cost_source"]) == (None, None)
    prompt_tokens = sum(row["prompt_tokens"] for row in labeled.rows)
    completion_tokens = sum(row["completion_tokens"] for row in labeled.rows)
    assert labeled.after.prompt_tokens - labeled.before.prompt_tokens == prompt_tokens
    assert labeled.after.completion_tokens - labeled.before.completion_tokens == completion_tokens
    summary = labeled.summary
    assert (summary.prompt_tokens, summary.completion_tokens) == (prompt_tokens, completion_tokens)
    assert (summary.cost_usd, summary.unpriced_rows) == (None, ROWS)


def test_more_rows_are_in_flight_than_the_server_has_slots(labeled: Labeled) -> None:
    """The server queues what its slots can't take; nothing is refused for it, nothing is sent twice."""
    spans = [(row["started_at"], row["finished_at"]) for row in labeled.rows]
    at_once = max(sum(began <= start < ended for began, ended in spans) for start, _ in spans)
    assert SLOTS < at_once <= 2 * SLOTS
    assert labeled.summary.requests_sent == ROWS


def test_a_rows_own_limit_and_stop_word_end_its_text(llama: Llama, tmp_path: Path) -> None:
    """finish_reason `length` makes a row truncated, `stop` makes it ok; neither fails the run."""
    write_rows(tmp_path, [
        {"prompt": "One, two, three,", "own": {"max_tokens": 5}},
        {"prompt": "One, two, three,", "own": {"max_tokens": 40, "stop": [","]}},
    ])  # fmt: skip
    summary = run(job_against(llama, tmp_path, prompt={"user": "{{ prompt }}", "params": "own"}))
    cut, stopped = table_of(tmp_path / "out").to_pylist()
    assert (cut["status"], cut["finish_reason"], cut["completion_tokens"]) == ("truncated", "length", 5)
    assert (stopped["status"], stopped["finish_reason"]) == ("ok", "stop")
    assert "," not in stopped["completion"]
    assert (summary.exit_status, summary.by_status) == (0, {"ok": 1, "truncated": 1})


def test_a_json_schema_reaches_the_server_and_holds(llama: Llama, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"section": {"enum": list(SECTIONS)}, "new": {"type": "boolean"}},
        "required": ["section", "new"],
        "additionalProperties": False,
    }
    write_rows(tmp_path, packages(2))
    job = job_against(
        llama,
        tmp_path,
        # With an example: a base model without one fills the line with spaces, which the schema allows.
        prompt={"user": 'a mail reader\n{"section":"mail","new":true}\n{{ prompt }}'},
        request={
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "label", "strict": True, "schema": schema},
            },
            "max_tokens": 60,
        },
    )
    assert run(job).by_status == {"ok": 2}
    for completion in table_of(tmp_path / "out").column("completion").to_pylist():
        label = json.loads(completion)
        assert set(label) == {"section", "new"}
        assert label["section"] in SECTIONS
        assert isinstance(label["new"], bool)
