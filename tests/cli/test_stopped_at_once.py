"""A signal before anything was sent ends the command with its status, whatever library was at work when it came."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from e2e_tools import job_file, prompts, write_rows

from batchrun.cli import run as command
from batchrun.errors import JobError

WISHES = command.Wishes(
    limit=None,
    retry_failed=False,
    fresh=False,
    processes=1,
    grace_s=1.0,
    progress="none",
    quiet=True,
    as_json=False,
    log_format="text",
    verbose=False,
)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("error", [pa.ArrowInvalid("import pytz"), JobError("rows.parquet can't be read")])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_library_that_makes_an_error_of_it_hides_no_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int, error: Exception
) -> None:
    """Arrow does so where it calls Python, to look up a time zone say."""

    def opening(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(number)
        except (SystemExit, KeyboardInterrupt):
            raise error from None

    write_rows(tmp_path, prompts(1))
    monkeypatch.setattr(command, "run_job", opening)
    with pytest.raises(SystemExit) as ended:
        command.run_job_file(str(job_file(tmp_path)), (), None, WISHES)
    assert ended.value.code == status


def test_an_error_without_a_signal_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opening(*_: object, **__: object) -> None:
        raise JobError("no")

    write_rows(tmp_path, prompts(1))
    monkeypatch.setattr(command, "run_job", opening)
    with pytest.raises(JobError, match="no"):
        command.run_job_file(str(job_file(tmp_path)), (), None, WISHES)
