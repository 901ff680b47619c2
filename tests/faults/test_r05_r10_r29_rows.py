"""Rows in, rows out: none vanishes, none is mixed up, and a failed one says what became of it."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import job_file, table_of, write_rows
from test_r04_r07_r09_endpoint import GOOD, scripted

import batchrun

KEY = "sentinel-key-7654321"


def test_r05_one_bad_row_never_ends_the_run_and_never_vanishes(tmp_path: Path) -> None:
    """1,000 rows, 17 of them bad in five ways: 1,000 rows out, each bad one with a class and a message."""
    rows: list[object] = [{"id": n, "prompt": f"say {n}"} for n in range(1000)]
    rejected = range(0, 1000, 100)
    for number in rejected:
        rows[number] = {"id": number, "prompt": f"forbidden {number}"}
    rows[7], rows[501], rows[999] = "{not JSON", '{"id": 501, "prompt": "cut', "[1, 2]"
    rows[8], rows[9] = {"id": 8, "prompt": None}, {"id": 9, "prompt": None}
    rows[10], rows[11] = {"id": 10, "messages": []}, {"id": 11, "messages": 42}
    unusable = [7, 8, 9, 10, 11, 501, 999]
    write_rows(tmp_path, rows)

    def act(handler: Any, prompt: str, nth: int) -> None:
        if prompt.startswith("forbidden"):
            handler.answer(400, {"error": {"message": "not that"}})
        else:
            handler.answer()

    with scripted(act) as server:
        job = job_file(tmp_path, endpoint={"base_url": server.url}, output={"rows_per_part": 300})
        summary = batchrun.run(batchrun.load_job(job))
        assert server.seen.total() == 1000 - len(unusable)
    assert (summary.exit_status, summary.by_status) == (1, {"ok": 983, "failed": 17})
    assert summary.by_error_class == {"input": 7, "rejected": 10}
    table = table_of(tmp_path / "out").to_pylist()
    assert [row["row"] for row in table] == list(range(1000))
    failed = {row["row"]: row for row in table if row["status"] != "ok"}
    assert sorted(failed) == sorted([*rejected, *unusable])
    for number, row in failed.items():
        assert row["error_class"] == ("input" if number in unusable else "rejected")
        assert row["error_message"]
        assert row["id"] == (None if number in {7, 501, 999} else number)
    for number in (7, 501, 999):
        assert f"rows.jsonl line {number + 1}" in failed[number]["error_message"]


def test_r10_every_answer_stands_beside_its_own_question(tmp_path: Path) -> None:
    """Replies come back in another order than they were asked for: order, key and nonce of each row are its own."""
    names = [hashlib.sha256(b"%d" % number).hexdigest()[:12] for number in range(300)]
    write_rows(tmp_path, [{"name": name, "prompt": f"nonce {name}"} for name in names])

    def act(handler: Any, prompt: str, nth: int) -> None:
        time.sleep(random.Random(prompt).uniform(0, 0.05))  # a delay is what is tried here
        message = {"role": "assistant", "content": f"answer to {prompt}"}
        handler.answer(body={**GOOD, "choices": [{"index": 0, "finish_reason": "stop", "message": message}]})

    with scripted(act) as server:
        job = job_file(
            tmp_path,
            input={"key": "name"},
            endpoint={"base_url": server.url},
            limits={"concurrency": 32},
            output={"rows_per_part": 70},
        )
        assert batchrun.run(batchrun.load_job(job)).by_status == {"ok": 300}
    table = table_of(tmp_path / "out").to_pylist()
    assert [row["row"] for row in table] == list(range(300))
    assert [row["name"] for row in table] == names
    assert [row["completion"] for row in table] == [f"answer to nonce {name}" for name in names]


def test_r10_keys_that_stand_twice_are_refused_before_anything_is_sent(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"name": name, "prompt": name} for name in ("a", "b", "a")])
    with scripted(lambda handler, _prompt, _nth: handler.answer()) as server:
        job = job_file(tmp_path, input={"key": "name"}, endpoint={"base_url": server.url})
        with pytest.raises(batchrun.JobError, match=r"same key at .*:1 and at .*:3"):
            batchrun.run(batchrun.load_job(job))
        assert not server.seen
    assert not (tmp_path / "out").exists()


FAILURES: dict[str, tuple[str, int | None, str]] = {
    "rejected": ("rejected", 400, "not that"),
    "overflow": ("context_overflow", 400, "maximum context length"),
    "limited": ("rate_limited", 429, "slow down"),
    "broken": ("server", 500, "it went up in smoke"),
    "silent": ("timeout", None, "0.4 s"),
    "cut": ("disconnected", None, "closed"),
    "void": ("bad_reply", 200, "no choices"),
}
"""Prompt: class, HTTP status and a piece of the message."""


def test_r29_every_failure_can_be_told_from_its_row(tmp_path: Path) -> None:
    """One failure of each class: a message, the status, what the server said, attempts and times."""
    write_rows(tmp_path, [{"prompt": prompt} for prompt in (*FAILURES, "good", None)])
    release = threading.Event()

    def act(handler: Any, prompt: str, nth: int) -> None:
        key = handler.headers["Authorization"]
        if prompt == "silent":
            release.wait(60)
        if prompt in {"silent", "cut"}:
            handler.cut()
        elif prompt == "overflow":
            text = "This model's maximum context length is 5 tokens"
            handler.answer(400, {"error": {"message": text, "code": "context_length_exceeded"}})
        elif prompt in FAILURES and prompt != "void":
            handler.answer(FAILURES[prompt][1], {"error": {"message": f"{FAILURES[prompt][2]} ({key})"}})
        else:
            handler.answer(body={**GOOD, "choices": []} if prompt == "void" else GOOD)

    limits = {"max_attempts": 1, "max_ambiguous_attempts": 0, "max_row_time_s": 0.9}
    with scripted(act) as server:
        job = job_file(
            tmp_path, endpoint={"base_url": server.url, "api_key_env": "A_KEY", "timeout_s": 0.4}, limits=limits
        )
        batchrun.run(batchrun.load_job(job), environ={"A_KEY": KEY})
        release.set()
    *rows, good, unusable = table_of(tmp_path / "out").to_pylist()
    for row, (error_class, status, message) in zip(rows, FAILURES.values(), strict=True):
        assert (row["status"], row["error_class"], row["http_status"]) == ("failed", error_class, status)
        assert message in row["error_message"]
        assert (row["attempts"], row["latency_ms"] > 0) == (1, True)
        assert row["started_at"] <= row["finished_at"]
        assert ("maybe_billed" in row["flags"]) == (error_class in {"timeout", "disconnected"})
    assert (good["status"], good["error_class"], good["error_message"]) == ("ok", None, None)
    assert (unusable["error_class"], unusable["attempts"], unusable["http_status"]) == ("input", 0, None)
    assert "null" in unusable["error_message"]
    assert KEY not in json.dumps(rows, default=str)


def test_r29_a_connection_that_is_refused_is_told_too(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "a"}, {"prompt": "b"}])
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{holder.getsockname()[1]}/v1"
    job = job_file(tmp_path, endpoint={"base_url": url}, limits={"max_attempts": 1})
    summary = batchrun.run(batchrun.load_job(job))
    assert (summary.exit_status, summary.requests_sent) == (1, 0)
    rows = table_of(tmp_path / "out").to_pylist()
    assert Counter(row["error_class"] for row in rows) == {"connect": 2}
    assert all("refused" in row["error_message"] and row["attempts"] == 1 for row in rows)
