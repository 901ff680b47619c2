"""100,000 rows over the simulator: every one once, in order, with its own completion, in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from e2e_tools import COMMAND, digest_of_prompt, job_file, table_of

ROWS = 100_000
MOST_RSS_MB = 400


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_100_000_rows(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": number, "prompt": f"prompt number {number} " + "lorem ipsum " * 8} for number in range(ROWS)]
    path = tmp_path / f"rows.{form}"
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = job_file(tmp_path, input={"path": path.name, "key": "id"}, limits={"concurrency": 64})
    run = subprocess.Popen([*COMMAND, "run", str(job), "--quiet"])
    _, status, used = os.wait4(run.pid, 0)
    run.returncode = os.waitstatus_to_exitcode(status)
    assert run.returncode == 0
    table = table_of(tmp_path / "out")
    assert table.column("row").to_pylist() == list(range(ROWS))
    completions = table.column("completion").to_pylist()
    for row, completion in zip(rows, completions, strict=True):
        assert completion.startswith(digest_of_prompt(str(row["prompt"])))
    peak_mb = used.ru_maxrss / 1024
    with capsys.disabled():
        print(f"\n{form}: peak RSS {peak_mb:.0f} MB, {used.ru_utime + used.ru_stime:.1f} s CPU")  # noqa: T201
    assert peak_mb < MOST_RSS_MB
