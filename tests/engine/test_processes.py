"""`--processes N`: several worker processes do what one does, within the same limits, as one run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from e2e_tools import (
    batchrun,
    digest_of_prompt,
    endpoint,
    job_file,
    prompts,
    summary_of,
    table_of,
    toml,
    write_rows,
)

OWN = ["latency_ms", "started_at", "finished_at", "response_id"]
FEWER = (
    "batchrun: fewer parts are left than processes are asked for; the others have no work processes={} parts={} why="
)
SHARED = "batchrun: worker processes share the work processes={}"


def answers(table: pa.Table) -> list[dict[str, Any]]:
    """Return all that two runs of the same job have in common."""
    return table.drop_columns(OWN).to_pylist()


def same_but_times(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    of_run = {"run_id", "started_at", "finished_at", "wall_s", "bound_by", "waited_s", "used", "output"}
    return {name: one[name] for name in one.keys() - of_run} == {name: other[name] for name in other.keys() - of_run}


@pytest.mark.parametrize("processes", [2, 3])
def test_several_processes_give_what_one_gives(tmp_path: Path, processes: int) -> None:
    """Bad lines, rejected rows and carried columns too; one summary; nothing of the workers is left behind."""
    rows = [{"id": n, "prompt": f"say {n}", "more": {"x": n}} for n in range(400)]
    write_rows(tmp_path, ["no json" if n % 97 == 3 else row for n, row in enumerate(rows)])
    with endpoint("latency_ms=3", "reject_containing='77'") as served:
        tables: dict[str, Any] = {"limits": {"concurrency": 6, "max_failed": "100%"}}
        one = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 20}, **tables)
        assert batchrun("run", one).returncode == 0
        many = job_file(
            tmp_path, endpoint={"base_url": served.base_url}, output={"path": "many", "rows_per_part": 20}, **tables
        )
        ended = batchrun("run", many, "--processes", str(processes))
        assert ended.returncode == 0, ended.stderr
        assert SHARED.format(processes) in ended.stderr
        assert served.stats()["requests"] == 2 * (400 - 5)
        assert served.stats()["max_in_flight"] <= 6
    assert answers(table_of(tmp_path / "out")) == answers(table_of(tmp_path / "many"))
    assert same_but_times(summary_of(tmp_path / "out"), summary_of(tmp_path / "many"))
    assert sorted(path.name for path in (tmp_path / "many").iterdir()) == sorted(
        path.name for path in (tmp_path / "out").iterdir()
    )
    state = sorted(path.name for path in (tmp_path / "many" / "_batchrun").iterdir())
    assert state == ["ledger.sqlite", "lock", "progress.json", "summary.json"]
    progress = json.loads((tmp_path / "many" / "_batchrun" / "progress.json").read_bytes())
    assert (progress["settled"], progress["parts_sealed"], progress["in_flight"]) == (400, 20, 0)


def test_parquet_is_read_by_each_process(tmp_path: Path) -> None:
    """The survey reads Parquet before the fork; what Arrow had begun there must not stop a worker."""
    table = pa.table({"id": list(range(600)), "prompt": [f"say {n}" for n in range(600)]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=70)
    job = job_file(tmp_path, input={"path": "rows.parquet"}, output={"path": "all.parquet", "rows_per_part": 50})
    ended = batchrun("run", job, "--processes", "2", "--set", "simulator.latency_ms=5")
    assert ended.returncode == 0, ended.stderr
    assert SHARED.format(2) in ended.stderr
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert [row["row"] for row in rows] == list(range(600))
    assert all(row["completion"].startswith(digest_of_prompt(row["prompt"])) for row in rows)


def test_retry_failed_limit_and_fresh_do_as_with_one_process(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(240))
    many = ("--processes", "2")
    with endpoint("latency_ms=3", "reject_containing='3'") as refusing:
        port = refusing.port
        job = job_file(tmp_path, endpoint={"base_url": refusing.base_url}, output={"rows_per_part": 20})
        ended = batchrun("run", job, *many, "--limit", "110")
        assert ended.returncode == 1, ended.stderr
        refused = sum("3" in str(n) for n in range(110))
        assert summary_of(tmp_path / "out")["by_status"] == {"ok": 110 - refused, "failed": refused}
        assert batchrun("run", job, *many).returncode == 1
        assert refusing.stats()["requests"] == 240
        assert table_of(tmp_path / "out").column("row").to_pylist() == list(range(240))
    with endpoint("latency_ms=3", port=port) as served:
        ended = batchrun("run", job, *many, "--retry-failed")
        assert ended.returncode == 0, ended.stderr
        assert served.stats()["requests"] == sum("3" in str(n) for n in range(240))
        assert summary_of(tmp_path / "out")["by_status"] == {"ok": 240}
        assert batchrun("run", job, *many).returncode == 0
        ended = batchrun("run", job, *many, "--fresh", "--set", "request.model=new")
        assert ended.returncode == 0, ended.stderr
        assert set(table_of(tmp_path / "out").column("model").to_pylist()) == {"new"}
    rows = table_of(tmp_path / "out").to_pylist()
    assert [row["row"] for row in rows] == list(range(240))
    assert all(row["completion"].startswith(digest_of_prompt(row["prompt"])) for row in rows)
    assert not (tmp_path / "out" / "_batchrun" / "next").exists()


def test_a_bad_key_costs_what_it_costs_with_one_process(tmp_path: Path) -> None:
    """Until a row is answered only one process sends (issue 4: at most concurrency + 5 requests)."""
    write_rows(tmp_path, prompts(400))
    with endpoint("latency_ms=3", "reject_containing='say'") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"concurrency": 4},
            output={"rows_per_part": 10},
        )
        ended = batchrun("run", job, "--processes", "3")
        assert ended.returncode == 3, ended.stderr
        assert served.stats()["requests"] <= 20 + 4 + 5
        assert summary_of(tmp_path / "out")["by_status"] == {}
    job = job_file(tmp_path, endpoint={"base_url": "http://127.0.0.1:9/v1"}, output={"path": "unused"})
    assert batchrun("run", job, "--processes", "2", "--set", "limits.max_outage_s=0.5").returncode == 3


@pytest.mark.parametrize("limit", ["requests_per_minute", "requests_per_day"])
def test_a_limit_lets_no_more_in_through_several_processes(tmp_path: Path, limit: str) -> None:
    """A share of a limit takes its past along: the first process has used some of it before others join."""
    write_rows(tmp_path, prompts(200))
    with endpoint("latency_ms=2", "requests_per_minute=60") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            limits={"concurrency": 8, limit: 60, "deadline": "3s"},
            output={"rows_per_part": 5},
        )
        ended = batchrun("run", job, "--processes", "3", "--grace", "1")
        assert ended.returncode == 5, ended.stderr
        assert SHARED.format(3) in ended.stderr
        first = served.stats()
        assert first["by_status"].keys() == {"200"}
        assert 2 <= first["requests"] <= 60
        if limit == "requests_per_day":
            assert first["requests"] == 60
            assert batchrun("run", job, "--processes", "2", "--grace", "1").returncode == 5
            assert served.stats()["requests"] == 60
    assert summary_of(tmp_path / "out")["throttled"] == 0


def test_each_of_several_endpoints_is_shared(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(300))
    with endpoint("latency_ms=5") as one, endpoint("latency_ms=5") as other:
        lanes = [{"base_url": one.base_url, "concurrency": 4}, {"base_url": other.base_url, "concurrency": 3}]
        job = job_file(tmp_path, output={"rows_per_part": 10})
        text = job.read_text().replace('[endpoint]\nbase_url = "simulator"\n', "")
        job.write_text(text + "".join(f"[[endpoint]]\n{toml(lane)}" for lane in lanes))
        ended = batchrun("run", job, "--processes", "3")
        assert ended.returncode == 0, ended.stderr
        assert SHARED.format(3) in ended.stderr
        counts = [served.stats() for served in (one, other)]
        assert sum(stats["requests"] for stats in counts) == 300
        assert [stats["max_in_flight"] <= most for stats, most in zip(counts, (4, 3), strict=True)] == [True, True]
        assert all(stats["requests"] for stats in counts)
    assert table_of(tmp_path / "out").column("row").to_pylist() == list(range(300))


def test_a_budget_is_kept_by_all_processes_together(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(600))
    with endpoint("latency_ms=3", "output_usd_per_mtok=1000", "completion_tokens=8") as served:
        job = job_file(
            tmp_path,
            endpoint={"base_url": served.base_url},
            request={"max_tokens": 20},
            price={"input": 0.12, "output": 1000},
            limits={"concurrency": 8, "max_cost_usd": 2.0},
            output={"rows_per_part": 20},
        )
        ended = batchrun("run", job, "--processes", "3")
        assert ended.returncode == 4, ended.stderr
        assert SHARED.format(3) in ended.stderr
        assert "max_cost_usd = 2 does not cover the next attempt" in ended.stderr
        assert served.stats()["requests"] == summary_of(tmp_path / "out")["requests_sent"]
    spent = summary_of(tmp_path / "out")["cost_usd"]
    assert 2.0 - 0.03 < spent <= 2.0


def test_one_process_is_enough_for_few_parts_and_errors_name_the_option(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(20))
    ended = batchrun("run", job_file(tmp_path), "--processes", "4")
    assert ended.returncode == 0, ended.stderr
    assert "share the work" not in ended.stderr
    assert ended.stderr.count(FEWER.format(4, 1)) == 1
    for wrong in ("0", "two", "1.5"):
        refused = batchrun("run", job_file(tmp_path), "--processes", wrong)
        assert refused.returncode == 2
        assert "--processes" in refused.stderr


def test_auto_takes_no_second_process_that_has_nothing_to_do(tmp_path: Path) -> None:
    """One process is far from bound by its core here; the one that stood by ends with it."""
    write_rows(tmp_path, prompts(60))
    job = job_file(tmp_path, simulator={"latency_ms": 10}, output={"rows_per_part": 10})
    ended = batchrun("run", job, "--processes", "auto")
    assert ended.returncode == 0, ended.stderr
    assert "share the work" not in ended.stderr
    assert "fewer parts" not in ended.stderr
    assert summary_of(tmp_path / "out")["by_status"] == {"ok": 60}


def test_what_counts_is_how_many_parts_are_left(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(60))
    job = job_file(tmp_path, simulator={"latency_ms": 1}, output={"rows_per_part": 10})
    ended = batchrun("run", job, "--processes", "4", "--limit", "40")
    assert ended.returncode == 0, ended.stderr
    assert "fewer parts" not in ended.stderr
    ended = batchrun("run", job, "--processes", "4")
    assert ended.returncode == 0, ended.stderr
    assert FEWER.format(4, 2) + "one process works a part; output.rows_per_part decides" in ended.stderr


def test_a_later_run_may_have_another_number_of_processes(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(300))
    with endpoint("latency_ms=5") as served:
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, output={"rows_per_part": 20})
        for processes, limit in ((2, 90), (1, 150), (3, 300)):
            ended = batchrun("run", job, "--processes", str(processes), "--limit", str(limit))
            assert ended.returncode == 0, ended.stderr
        assert served.stats()["requests"] == 300
    assert table_of(tmp_path / "out").column("row").to_pylist() == list(range(300))


def test_the_notes_of_all_processes_are_told_once(tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(200))
    job = job_file(
        tmp_path,
        limits={"concurrency": 8, "max_cost_usd": 5.0},
        simulator={"latency_ms": 5},
        output={"rows_per_part": 10},
    )
    ended = batchrun("run", job, "--processes", "2")
    assert ended.returncode == 0, ended.stderr
    assert len(re.findall("the budget is kept by the costs", ended.stderr)) == 1
