"""`--fresh` starts over beside the old output, which stays whole until the new one is complete (DEMAND.md R26)."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from e2e_tools import batchrun, digest_of_prompt, endpoint, job_file, prompts, summary_of, table_of, write_rows
from test_r01_r02_r03_kills import CONCURRENCY, check_end, crash

GENERATION = "batchrun.writer.generation"
PUBLISHING = [
    ("batchrun.execution.opening:_begin_or_refuse", "after", 1),
    ("batchrun.ledger.store:Store.commit", "after", 3),
    ("batchrun.writer.dataset:Dataset.publish", "after", 1),
    ("batchrun.execution.once:publish_next", "before", 1),
    (f"{GENERATION}:write_whole", "before", 1),
    (f"{GENERATION}:write_whole", "after", 1),
    (f"{GENERATION}:sync", "before", 1),
    (f"{GENERATION}:sync", "after", 1),
    (f"{GENERATION}:sync", "before", 2),
    (f"{GENERATION}:sync", "after", 2),
    (f"{GENERATION}:sync", "after", 3),
    (f"{GENERATION}:sync", "before", 4),
    ("pathlib:Path.replace", "before", 4),
    ("pathlib:Path.unlink", "after", 3),
    ("shutil:rmtree", "before", 2),
    ("batchrun.execution.once:_assemble", "before", 1),
    ("batchrun.execution.once:write_whole", "before", 1),
]


def models_in(output: Path) -> set[str]:
    return set(table_of(output).column("model").to_pylist())


@pytest.mark.parametrize("step", PUBLISHING, ids=lambda step: f"{step[1]} {step[0].rpartition(':')[2]} {step[2]}")
def test_r02_r26_a_crash_at_each_step_of_a_fresh_run_is_rolled_forward(
    tmp_path: Path, step: tuple[str, str, int]
) -> None:
    """The old rows or the new ones, every file whole; the next --fresh finishes at the cost of one pass."""
    write_rows(tmp_path, prompts(120))
    with endpoint() as old, endpoint("seed=7") as new:
        tables = {"limits": {"concurrency": CONCURRENCY, "max_ambiguous_attempts": 0}}
        job = job_file(tmp_path, endpoint={"base_url": old.base_url}, output={"rows_per_part": 30}, **tables)
        assert batchrun("run", job).returncode == 0
        job = job_file(
            tmp_path,
            endpoint={"base_url": new.base_url},
            request={"model": "new-model"},
            output={"rows_per_part": 50},
            **tables,
        )
        crash(job, step, "--fresh")
        parts = sorted((tmp_path / "out").glob("*.parquet"))
        assert all(pq.read_metadata(part).num_rows in {30, 50, 20} for part in parts)
        ended = batchrun("run", job, "--fresh") if batchrun("run", job).returncode == 2 else batchrun("run", job)
        assert ended.returncode == 0, ended.stderr
        assert new.stats()["prompts"] == 120
        assert new.stats()["paid_twice"] <= CONCURRENCY
        assert old.stats()["requests"] == 120
    check_end(tmp_path / "out", 120)
    assert models_in(tmp_path / "out") == {"new-model"}
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 3
    assert not (tmp_path / "out" / "_batchrun" / "next").exists()
    assert not (tmp_path / "out" / "_batchrun" / "publishing.json").exists()
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 120}


def test_r02_r26_the_old_output_stays_whole_until_the_new_one_is_complete(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(60))
    job = job_file(tmp_path, output={"rows_per_part": 25})
    assert batchrun("run", job).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")}
    with endpoint("reject_containing=say 59", "error_rate=0") as served:
        change = ("--set", f"endpoint.base_url={served.base_url}", "--set", "limits.max_row_time_s=1")
        crash(job, ("batchrun.writer.dataset:Dataset.publish", "after", 2), "--fresh", *change)
        assert {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.parquet")} == before
        sent = served.stats()["requests"]
        assert batchrun("run", job).returncode == 0  # the standing output, as it was
        assert served.stats()["requests"] == sent
        other = batchrun("run", job, "--fresh", *change, "--set", "request.model=other")
        assert other.returncode == 2
        assert "request.model" in other.stderr
        assert batchrun("run", job, "--fresh", *change).returncode == 1
        assert served.stats()["prompts"] == 59
    table = table_of(tmp_path / "out")
    assert table.column("row").to_pylist() == list(range(60))
    assert table.column("status").to_pylist() == ["ok"] * 59 + ["failed"]


def test_fresh_resets_counts_and_pays_again(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(30))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url})
        for requests in (30, 60, 90):
            assert batchrun("run", job, "--fresh").returncode == 0
            assert served.stats()["requests"] == requests
            assert summary_of(tmp_path / "out")["requests_sent"] == 30
        assert batchrun("run", job).returncode == 0
        assert served.stats()["requests"] == 90


def test_fresh_replaces_a_single_file_only_when_the_new_one_is_whole(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(60))
    job = job_file(tmp_path, output={"path": "all.parquet", "rows_per_part": 25})
    assert batchrun("run", job).returncode == 0
    before = (tmp_path / "all.parquet").read_bytes()
    change = ("--set", "request.model=second")
    crash(job, ("batchrun.writer.dataset:Dataset.publish", "after", 2), "--fresh", *change)
    assert (tmp_path / "all.parquet").read_bytes() == before
    crash(job, ("batchrun.execution.once:_assemble", "before", 1), "--fresh", *change)
    assert (tmp_path / "all.parquet").read_bytes() == before
    ended = batchrun("run", job, *change)
    assert ended.returncode == 0, ended.stderr
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert [row["row"] for row in rows] == list(range(60))
    assert {row["model"] for row in rows} == {"second"}
    assert all(row["completion"].startswith(digest_of_prompt(row["prompt"])) for row in rows)


def test_a_single_file_that_was_changed_is_made_again_without_a_request(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(20))
    with endpoint() as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"path": "all.parquet"})
        assert batchrun("run", job).returncode == 0
        (tmp_path / "all.parquet").write_bytes(b"PAR1 not any more")
        assert batchrun("run", job).returncode == 0
        assert served.stats()["requests"] == 20
    assert pq.read_table(tmp_path / "all.parquet").num_rows == 20


def test_fresh_and_retry_failed_exclude_each_other(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(2))
    assert batchrun("run", job_file(tmp_path), "--fresh", "--retry-failed").returncode == 2
    assert not (tmp_path / "out").exists()


def test_a_night_that_ran_over_midnight_is_not_begun_anew(tmp_path: Path) -> None:
    """SPEC.md, section 2: yesterday's unfinished output of the same job is named, with --date and --fresh."""
    today = dt.datetime.now(tz=dt.UTC).date()
    yesterday = (today - dt.timedelta(days=1)).isoformat()
    write_rows(tmp_path, prompts(60))
    job = job_file(tmp_path, output={"path": "night-{date}", "rows_per_part": 20})
    crash(job, ("batchrun.writer.dataset:Dataset.publish", "after", 2), "--date", yesterday)
    refused = batchrun("run", job)
    assert refused.returncode == 2
    assert "--date" in refused.stderr
    assert "--fresh" in refused.stderr
    assert not (tmp_path / f"night-{today.isoformat()}").exists()
    assert batchrun("run", job, "--set", "request.model=other").returncode == 0  # another job is none of its business
    assert batchrun("run", job, "--date", yesterday).returncode == 0
    check_end(tmp_path / f"night-{yesterday}", 60)
    refused = batchrun("run", job)
    assert refused.returncode == 2  # today's output was begun by the other model
    assert batchrun("run", job, "--fresh").returncode == 0
    check_end(tmp_path / f"night-{today.isoformat()}", 60)


def test_a_night_whose_failed_rows_were_to_be_sent_again_is_not_begun_anew(tmp_path: Path) -> None:
    yesterday = (dt.datetime.now(tz=dt.UTC).date() - dt.timedelta(days=1)).isoformat()
    write_rows(tmp_path, prompts(20))
    job = job_file(
        tmp_path,
        limits={"max_failed": "100%", "max_attempts": 1},
        output={"path": "night-{date}"},
        simulator={"error_rate": 0.5},
    )
    assert batchrun("run", job, "--date", yesterday).returncode == 0
    crash(job, ("batchrun.execution.sending:send", "before", 1), "--date", yesterday, "--retry-failed")
    refused = batchrun("run", job)
    assert refused.returncode == 2, refused.stderr
    assert "--date" in refused.stderr
    assert batchrun("run", job, "--date", yesterday).returncode == 0
    assert batchrun("run", job).returncode == 0


def test_a_state_directory_serves_one_output(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))
    job = job_file(tmp_path, output={"state_dir": "state"})
    assert batchrun("run", job).returncode == 0
    assert batchrun("run", job).returncode == 0
    assert not (tmp_path / "out" / "_batchrun").exists()
    refused = batchrun("run", job, "--set", "output.path=elsewhere")
    assert refused.returncode == 2
    assert "output.state_dir" in refused.stderr
    assert batchrun("run", job, "--fresh", "--set", "request.model=new").returncode == 0
    assert models_in(tmp_path / "out") == {"new"}
    assert not (tmp_path / "out" / "_next").exists()
