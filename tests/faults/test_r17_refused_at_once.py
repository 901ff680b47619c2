"""DEMAND.md R17, R23: what will hit every row ends the run at once; the concurrency asked for is the one obtained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from e2e_tools import endpoint, job_file, prompts, write_rows
from test_r04_r07_r09_endpoint import scripted

import batchrun

CONCURRENCY = 8
REFUSALS: dict[str, tuple[int, Any, dict[str, str], str]] = {
    "a wrong key": (401, {"error": {"message": "Not authenticated"}}, {}, "SOME_KEY"),
    "no credit": (402, {"detail": {"error": "inference prohibited, no balance"}}, {}, "402"),
    "no credit inside a 429": (
        429,
        {"error": {"message": "x", "code": "insufficient_quota"}},
        {},
        "insufficient_quota",
    ),
    "a forbidden region": (403, {"error": {"message": "region"}}, {}, "403"),
    "an unknown model": (404, {"error": {"message": "unknown model"}}, {}, "unknown model"),
    "a wrong path": (405, {}, {}, "405"),
    "a redirect": (302, {}, {"Location": "http://elsewhere.invalid/v1"}, "elsewhere.invalid"),
    "a quota of nothing": (429, {"error": {"message": "Quota exceeded, limit: 0"}}, {}, "limit: 0"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_r17_what_refuses_every_row_ends_the_run_and_fails_none(tmp_path: Path, case: str) -> None:
    """Status 3 after at most concurrency + 5 requests, the cause named; mended, the same command sends every row."""
    status, body, headers, named = REFUSALS[case]
    write_rows(tmp_path, prompts(60))
    mended = False

    def act(handler: Any, _prompt: str, _nth: int) -> None:
        handler.answer() if mended else handler.answer(status, body, **headers)

    with scripted(act) as server:
        path = job_file(
            tmp_path,
            endpoint={"base_url": server.url, "api_key_env": "SOME_KEY"},
            limits={"concurrency": CONCURRENCY},
        )
        job, environ = batchrun.load_job(path), {"SOME_KEY": "sentinel-0123456789"}
        summary = batchrun.run(job, environ=environ)
        assert (summary.exit_status, summary.by_status) == (3, {})
        assert named in summary.reason
        assert sum(server.seen.values()) <= CONCURRENCY + 5
        mended = True
        assert batchrun.run(job, environ=environ).by_status == {"ok": 60}


def test_r17_a_page_instead_of_an_answer_is_a_wrong_url(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(60))

    def act(handler: Any, _prompt: str, _nth: int) -> None:
        handler.answer(body="<html>")

    with scripted(act) as server:
        path = job_file(tmp_path, endpoint={"base_url": server.url}, limits={"concurrency": CONCURRENCY})
        summary = batchrun.run(batchrun.load_job(path))
        assert (summary.exit_status, summary.by_status) == (3, {})
        assert "base_url" in summary.reason
        assert sum(server.seen.values()) <= CONCURRENCY + 5


def test_r23_the_concurrency_asked_for_is_the_one_obtained(tmp_path: Path) -> None:
    """400 at once by the endpoint's own count, although the slots start at 32."""
    write_rows(tmp_path, prompts(400))
    with endpoint("latency_ms=3000") as served:
        path = job_file(tmp_path, endpoint={"base_url": served.base_url}, limits={"concurrency": 400})
        assert batchrun.run(batchrun.load_job(path)).by_status == {"ok": 400}
        assert served.stats()["max_in_flight"] == 400
