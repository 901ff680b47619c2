"""The limits a day, by the command: counted over runs, kept by waiting, and never an error of a row."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_tools import batchrun, endpoint, job_file, prompts, summary_of, write_rows


@pytest.mark.parametrize("words", [(), ("--fresh",)])
def test_a_day_is_counted_over_all_runs_of_the_output(tmp_path: Path, words: tuple[str, ...]) -> None:
    """50 requests a day: 50 are sent, then the run waits; the same command, or a fresh start, sends none today."""
    write_rows(tmp_path, prompts(80))
    with endpoint() as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"requests_per_day": 50, "deadline": "3s"},
            output={"rows_per_part": 10},
        )
        ended = batchrun("run", job)
        assert ended.returncode == 5, ended.stderr
        assert served.stats()["requests"] == 50
        summary = summary_of(tmp_path / "out")
        assert summary["by_status"] == {"ok": 50}
        assert summary["waited_s"]["daily requests"] > 0
        assert summary["bound_by"] == "daily requests"
        assert 0 < summary["used"]["daily requests"] <= 1
        ended = batchrun("run", job, *words, "--set", "limits.deadline=1s")
        assert ended.returncode == 5, ended.stderr
        assert served.stats()["requests"] == 50
        assert batchrun("run", job, "--set", "limits.requests_per_day=1000").returncode == 0
        assert served.stats()["requests"] == 80
