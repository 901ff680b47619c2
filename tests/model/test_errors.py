"""The error tree, its exit statuses, and an import that opens nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import batchrun
from batchrun.errors import (
    BatchrunError,
    ExitStatus,
    JobError,
    OutputError,
    OutputHeldError,
    RecordError,
    innermost,
)

HEAVY = ["aiohttp", "pyarrow", "jinja2", "rich", "click", "sqlite3", "asyncio", "msgspec", "uvloop"]


def test_exit_statuses_are_those_of_the_contract() -> None:
    assert [int(status) for status in ExitStatus] == [0, 1, 2, 3, 4, 5, 6, 7, 70, 130, 143]


@pytest.mark.parametrize(
    ("error", "status"),
    [(BatchrunError, 70), (JobError, 2), (OutputHeldError, 6), (OutputError, 7)],
)
def test_each_error_has_its_status(error: type[BatchrunError], status: int) -> None:
    assert issubclass(error, BatchrunError)
    assert error("x").status == status
    assert (error.__doc__ or "").startswith("Raised when")


def test_a_bad_record_ends_no_run() -> None:
    assert not issubclass(RecordError, BatchrunError)


def test_the_first_error_inside_groups() -> None:
    inner = JobError("first")
    assert innermost(inner) is inner
    assert innermost(ExceptionGroup("a", [ExceptionGroup("b", [inner, KeyError()]), ValueError()])) is inner


def test_importing_batchrun_loads_no_heavy_library() -> None:
    """In a fresh interpreter: no client, no Arrow, no templates, no event loop."""
    script = f"import sys, batchrun; print([name for name in {HEAVY} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_all_public_names_are_there() -> None:
    for name in batchrun.__all__:
        assert getattr(batchrun, name) is not None
