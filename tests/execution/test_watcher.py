"""Who looks on at a run can't end it."""

from __future__ import annotations

from pathlib import Path

import pytest
from e2e_tools import endpoint, job_file, prompts, write_rows

import batchrun
from batchrun.events import Progress


class Raising:
    """A Watcher of somebody else's that has a fault."""

    def __init__(self, *faulty: str) -> None:
        self.faulty = faulty
        self.calls: list[str] = []

    def progressed(self, progress: Progress) -> None:
        self._called("progressed")

    def noted(self, event: str, **facts: str | float | None) -> None:
        self._called("noted")

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if name in self.faulty:
            raise KeyError(name)


@pytest.mark.parametrize("faulty", ["progressed", "noted"])
def test_a_watcher_that_raises_is_dropped_and_the_run_goes_on(
    tmp_path: Path, faulty: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told nothing more from its first error on, which is logged once; no row is lost."""
    write_rows(tmp_path, prompts(20))
    watcher = Raising(faulty)
    with endpoint() as served:
        tables = {"endpoint": {"base_url": served.base_url}, "output": {"rows_per_part": 10}}
        assert batchrun.run(batchrun.load_job(job_file(tmp_path, **tables))).exit_status == 0
        (tmp_path / "out" / "part-000001.parquet").unlink()  # which the next run notes
        summary = batchrun.run(batchrun.load_job(job_file(tmp_path, **tables)), watcher=watcher)
    assert (summary.exit_status, summary.by_status) == (0, {"ok": 20})
    assert watcher.calls.count(faulty) == 1
    assert watcher.calls[-1] == faulty
    assert [record.getMessage() for record in caplog.records if record.name == "batchrun"] == [
        "the watcher raised; the run goes on and tells it nothing more"
    ]
