"""The error tree and the exit statuses: what went wrong, turned into what cron and CI are told."""

from __future__ import annotations

from enum import IntEnum
from typing import cast


class ExitStatus(IntEnum):
    """Exit statuses of the command (SPEC.md, section 4)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    ENDPOINT = 3
    BUDGET = 4
    DEADLINE = 5
    HELD = 6
    OUTPUT = 7
    FAULT = 70
    SIGINT = 130
    SIGTERM = 143


class BatchrunError(Exception):
    """Raised when a run can't start or can't go on; `status` is the exit status it leads to."""

    status: ExitStatus = ExitStatus.FAULT


class JobError(BatchrunError):
    """Raised when the command, the job file or the input is wrong; nothing was sent."""

    status = ExitStatus.USAGE


class OutputHeldError(BatchrunError):
    """Raised when another run holds the output."""

    status = ExitStatus.HELD


class OutputError(BatchrunError):
    """Raised when the output or the state can't be written or can't be trusted."""

    status = ExitStatus.OUTPUT


class RecordError(Exception):
    """Raised when a record can't become a request; its row fails as `input`."""


def innermost(error: BaseException) -> BaseException:
    """Return the first error inside groups of errors, or the error itself where it is no group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
