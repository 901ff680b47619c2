"""The command itself: what is wrong is named and leaves nothing behind; what it prints goes where it belongs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from e2e_tools import COMMAND, batchrun, endpoint, job_file, prompts, summary_of, table_of, toml, write_rows

import batchrun as library


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"limits": {"concurency": 3}}, "limits.concurency"),
        ({"limits": {"concurrency": "many"}}, "limits.concurrency"),
        ({"limits": {"concurrency": 0}}, "limits.concurrency"),
        ({"limits": {"max_failed": "5"}}, "limits.max_failed"),
        ({"limits": {"fail_on": ["ok"]}}, "limits.fail_on"),
        ({"output": {"compression": "rar"}}, "output.compression"),
        ({"surprise": 1}, "surprise"),
        ({"request": {"model": 7}}, "request.model"),
        ({"request": {"stream": "false"}}, "request.stream"),
        ({"input": {"path": "missing.jsonl"}}, "missing.jsonl"),
        ({"input": {"path": "*.none"}}, "*.none"),
        ({"input": {"format": "csv"}}, "input.format"),
        ({"input": {"key": "nokey"}}, "nokey"),
        ({"input": {"key": "double"}}, "double"),
        ({"prompt": {"user": "{{ nothing }}"}}, "nothing"),
        ({"prompt": {"user": "{% if %}"}}, "prompt.user"),
        ({"prompt": {"user": "a", "messages": "b"}}, "prompt.messages"),
        ({"output": {"columns": ["absent"]}}, "absent"),
        ({"endpoint": {"api_key": "abc"}}, "endpoint.api_key"),
        ({"endpoint": {"base_url": "http://127.0.0.1:9", "api_key_env": "NOT_SET_ANYWHERE"}}, "NOT_SET_ANYWHERE"),
        ({"endpoint": {"base_url": "localhost:8000"}}, "endpoint.base_url"),
        ({"simulator": {"reply": "choices"}}, "simulator.choices"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_made(tmp_path: Path, change: dict[str, object], named: str) -> None:
    """Exit 2, one clear message, no output directory, nothing sent."""
    write_rows(tmp_path, [{"id": n, "double": n // 2, "prompt": "p"} for n in range(4)])
    ended = batchrun("run", job_file(tmp_path, **change))
    assert ended.returncode == 2
    assert named in ended.stderr
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("in/*.parquet", {"path": "in/all.parquet"}),
        ("in/*", {"path": "in/all.parquet"}),
        ("in/**/*.parquet", {"path": "in/out"}),
        ("in/**", {"path": "elsewhere.parquet", "state_dir": "in/state"}),
        ("in", {"path": "elsewhere.parquet", "state_dir": "in/state"}),
    ],
)
def test_an_input_that_would_take_in_the_output_is_refused_at_once(
    tmp_path: Path, source: str, output: dict[str, str]
) -> None:
    """Not only at the second command, when the output is there and everything was paid."""
    (tmp_path / "in").mkdir()
    pq.write_table(pa.Table.from_pylist(prompts(3)), tmp_path / "in" / "rows.parquet")
    job = job_file(tmp_path, input={"path": source}, output=output)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(library.JobError, match=r"input\.path: it would take in"):
        library.run(library.load_job(job))
    assert sorted(tmp_path.rglob("*")) == before
    assert library.run(library.load_job(job, overrides=["input.path=in/rows.parquet"])).exit_status == 0


@pytest.mark.parametrize("name", ["row", "status", "model", "flags"])
def test_a_column_that_clashes_is_refused(tmp_path: Path, name: str) -> None:
    write_rows(tmp_path, [{"prompt": "p", name: 1}])
    ended = batchrun("run", job_file(tmp_path))
    assert ended.returncode == 2
    assert f"`{name}`" in ended.stderr
    assert "output.prefix" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_torn_input_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    import gzip  # noqa: PLC0415

    whole = gzip.compress(b'{"prompt": "p"}\n' * 500)
    (tmp_path / "rows.jsonl.gz").write_bytes(whole[:-20])
    with endpoint() as served:
        job = job_file(tmp_path, input={"path": "rows.jsonl.gz"}, endpoint={"base_url": served.base_url})
        ended = batchrun("run", job)
        assert served.stats()["requests"] == 0
    assert ended.returncode == 2
    assert "rows.jsonl.gz" in ended.stderr
    assert not (tmp_path / "out").exists()


def test_a_directory_of_somebody_elses_parquet_is_left_alone(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(2))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.parquet").write_bytes(b"mine")
    assert batchrun("run", job_file(tmp_path)).returncode == 2
    assert (tmp_path / "out" / "part-000000.parquet").read_bytes() == b"mine"


def test_an_output_that_cannot_be_made_exits_7(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(2))
    (tmp_path / "file").write_text("")
    ended = batchrun("run", job_file(tmp_path, output={"path": "file/out"}))
    assert ended.returncode == 7
    assert "file" in ended.stderr


def test_quiet_says_nothing_at_all_when_all_went_well(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))
    job = job_file(tmp_path)
    ended = batchrun("run", job, "--quiet")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_json_prints_the_summary_in_every_case(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))
    job = job_file(tmp_path)
    ended = batchrun("run", job, "--json", "--quiet")
    assert json.loads(ended.stdout) == summary_of(tmp_path / "out")
    refused = batchrun("run", job, "--json", "--set", "limits.x=1")
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["exit_status"] == 2


def test_progress_is_plain_lines_on_stderr_and_the_summary_is_on_stdout(tmp_path: Path) -> None:
    """DEMAND.md R30: no carriage returns, nothing but the summary on stdout."""
    write_rows(tmp_path, prompts(3))
    ended = batchrun("run", job_file(tmp_path))
    assert "\r" not in ended.stderr + ended.stdout
    assert "3 ok" in ended.stdout
    assert ended.stderr == ""


def test_the_job_may_come_from_standard_input(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))
    text = job_file(tmp_path).read_text()
    ended = subprocess.run(
        [*COMMAND, "run", "-"], input=text, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert table_of(tmp_path / "out").num_rows == 3


def test_date_stands_in_the_output_path(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(1))
    job = job_file(tmp_path, output={"path": "out-{date}"})
    assert batchrun("run", job, "--date", "2026-02-03").returncode == 0
    assert table_of(tmp_path / "out-2026-02-03").num_rows == 1


def test_plan_sends_nothing_makes_nothing_and_shows_the_first_requests(tmp_path: Path) -> None:
    write_rows(tmp_path, [*prompts(2), {"id": 2, "prompt": None}, *prompts(5)])
    job = job_file(
        tmp_path, request={"temperature": 0.5}, output={"rows_per_part": 3}, limits={"requests_per_minute": 60}
    )
    ended = batchrun("plan", job, "--json")
    assert ended.returncode == 0, ended.stderr
    plan = json.loads(ended.stdout)
    assert (plan["rows"], plan["parts"], plan["shortest_time_s"]) == (8, 3, 8.0)
    assert plan["requests"][0]["body"] == {
        "model": "test-model",
        "temperature": 0.5,
        "messages": [{"role": "user", "content": "say 0"}],
        "stream": False,
    }
    assert "null" in plan["requests"][2]["problem"]
    assert not (tmp_path / "out").exists()
    told = batchrun("plan", job)
    assert "8 rows into 3 parts" in told.stdout
    assert '"content": "say 1"' in told.stdout


def test_plan_of_a_wrong_job_exits_2(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(2))
    assert batchrun("plan", job_file(tmp_path, prompt={"user": "{{ nothing }}"})).returncode == 2


def test_init_schema_version_and_help(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    write_rows(tmp_path, [{"text": "t"}], "prompts.jsonl")
    assert batchrun("init", path).returncode == 0
    assert batchrun("init", path).returncode == 2
    assert batchrun("run", path, "--quiet").returncode == 0
    schema = json.loads(batchrun("schema").stdout)
    assert set(schema["$defs"]["Job"]["properties"]) >= {"input", "prompt", "request", "endpoint", "limits", "output"}
    assert batchrun("--version").stdout.startswith("batchrun, version ")
    assert batchrun("--help").returncode == 0
    assert batchrun("nonsense").returncode == 2
    assert batchrun("run", path, "--nonsense").returncode == 2


def test_a_closed_stdout_does_not_change_the_exit_status(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))
    job = job_file(tmp_path)
    script = f"import os, subprocess, sys; r, w = os.pipe(); os.close(r); sys.exit(subprocess.run({[*COMMAND, 'run', str(job)]!r}, stdout=w).returncode)"  # noqa: E501
    ended = subprocess.run([sys.executable, "-c", script], timeout=60, check=False, capture_output=True)
    assert ended.returncode == 0, ended.stderr


def test_the_public_api_runs_a_job(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(4))
    job = library.load_job(job_file(tmp_path), overrides=["limits.concurrency=2"])
    summary = library.run(job)
    assert (summary.exit_status, summary.state, summary.by_status) == (0, "complete", {"ok": 4})
    assert library.run(job) == summary
    with pytest.raises(library.JobError):
        library.run(library.load_job(job_file(tmp_path, request={"model": "other"})))


def test_the_example_jobs_are_valid(tmp_path: Path) -> None:
    jobs = sorted((Path(__file__).parents[2] / "jobs").glob("*.toml"))
    assert len(jobs) >= 4
    for job in jobs:
        ended = batchrun("plan", job, "--set", f"output.path={tmp_path / 'out'}")
        assert ended.returncode == 0, ended.stderr


def test_a_job_written_as_toml_reads_back() -> None:
    assert "[input]" in toml({"name": "x", "input": {"path": "p"}})
