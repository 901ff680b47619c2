"""A run over a real model server that is killed goes on, and the example job for such a server is right."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from e2e_tools import batchrun, start, summary_of, table_of, wait_for, write_rows
from real_llama import KEY, KEY_ENV, MODEL, ROOT, SLOTS, Llama, job_against, packages, run

pytestmark = pytest.mark.real


def test_kill_9_in_the_middle_costs_at_most_the_slots(
    llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row is lost or doubled; by the server's own count at most `concurrency` answers are computed twice."""
    count, tokens = 24, 4
    sent = packages(count)
    write_rows(tmp_path, sent)
    monkeypatch.setenv(KEY_ENV, KEY)
    job = job_against(
        llama,
        tmp_path,
        request={"max_tokens": tokens},
        limits={"concurrency": SLOTS, "max_ambiguous_attempts": 0},
        output={"rows_per_part": 6},
    )
    before = llama.counters()
    first_part = tmp_path / "out" / "part-000000.parquet"
    killed = start(job)
    wait_for(first_part.exists, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    sealed = first_part.read_bytes()
    assert len(list((tmp_path / "out").glob("*.parquet"))) < count // 6

    summary = run(job)

    assert (summary.exit_status, summary.by_status) == (0, {"truncated": count})
    assert first_part.read_bytes() == sealed
    rows = table_of(tmp_path / "out").to_pylist()
    assert [row["package"] for row in rows] == [row["package"] for row in sent]
    assert [row["completion_tokens"] for row in rows] == [tokens] * count
    paid = llama.counters().completion_tokens - before.completion_tokens
    assert count * tokens <= paid <= (count + SLOTS) * tokens


def test_the_job_for_a_local_server_runs(llama: Llama, tmp_path: Path) -> None:
    """As it stands in jobs/, but for the port, the key that this server asks for, and the output."""
    changes = (
        f"endpoint.base_url={llama.base_url}",
        f"endpoint.api_key_env={KEY_ENV}",
        "limits.concurrency=1",
        f"output.path={tmp_path / 'out'}",
    )
    ended = batchrun(
        *("run", ROOT / "jobs" / "local-server.toml", "--limit", "2"),
        *(word for change in changes for word in ("--set", change)),
        env={KEY_ENV: KEY},
    )
    assert ended.returncode == 0, ended.stderr
    table = table_of(tmp_path / "out")
    assert table.schema.names[:3] == ["package", "section", "row"]
    for row, sent in zip(table.to_pylist(), packages(2), strict=True):
        assert row["package"] == sent["package"]
        assert row["status"] in {"ok", "truncated"}
        assert 0 < row["completion_tokens"] <= 8
        assert row["prompt_tokens"] > 200
        assert (row["model"], row["flags"]) == (MODEL, ["model_mismatch"])  # this server goes by another name
    assert summary_of(tmp_path / "out")["state"] == "complete"
