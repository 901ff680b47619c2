"""`batchrun run`: a job file to a summary on standard output and an exit status."""

from __future__ import annotations

import datetime as dt
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Literal

import click
import msgspec

from batchrun.cli.say import say
from batchrun.cli.watch import Teller, teller
from batchrun.cli.wording import cost_text
from batchrun.engine.access import access_of
from batchrun.engine.local import run_job
from batchrun.errors import BatchrunError, ExitStatus
from batchrun.events import Summary
from batchrun.execution.signals import STATUSES
from batchrun.job.load import load_job
from batchrun.job.options import RunOptions
from batchrun.job.settings import Job, OutputSettings
from batchrun.prompt.compiling import needs_jinja
from batchrun.startup import loading


class Wishes(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line asks for, beside the job."""

    limit: int | None
    retry_failed: bool
    fresh: bool
    processes: int | Literal["auto"]
    grace_s: float
    progress: str
    quiet: bool
    as_json: bool
    log_format: str
    verbose: bool


def run_job_file(path: str, overrides: Sequence[str], date: dt.date | None, wishes: Wishes) -> int:
    """Run a job file and print its summary; return the exit status."""
    try:
        summary = _run(path, overrides, date, wishes)
    except BatchrunError as error:
        if wishes.as_json:
            _print_end(error.status, str(error))
        if wishes.log_format != "json":
            raise
        _say_end(error.status, str(error), wishes)
        return error.status
    except Exception as error:
        if wishes.as_json:
            _print_end(ExitStatus.FAULT, f"internal error: {type(error).__name__}")
        raise
    except (SystemExit, KeyboardInterrupt) as ended:
        if wishes.as_json:
            status = ended.code if isinstance(ended, SystemExit) and isinstance(ended.code, int) else ExitStatus.SIGINT
            _print_end(ExitStatus(status), "stopped by a signal before anything was sent")
        raise
    _tell(summary, wishes)
    return summary.exit_status


def _run(path: str, overrides: Sequence[str], date: dt.date | None, wishes: Wishes) -> Summary:
    job = load_job(path, overrides=overrides, date=date)
    _import_for(job)
    access = access_of(job, os.environ)
    options = RunOptions(
        earlier_output=None if date else _output_of_yesterday(path, overrides, job),
        limit=wishes.limit,
        fresh=wishes.fresh,
        retry_failed=wishes.retry_failed,
        processes=wishes.processes,
        grace_s=wishes.grace_s,
        signals=True,
    )
    stopped = _Stopped()
    for number in STATUSES:  # until the run drains on them
        signal.signal(number, stopped.end_at_once)
    watcher: Teller = teller(
        progress="none" if wishes.quiet else wishes.progress,
        log_format=wishes.log_format,
        verbose=wishes.verbose,
        quiet=wishes.quiet,
    )
    try:
        with watcher:
            return run_job(job, options, access=access, watcher=watcher, importing=loading)
    except Exception:
        if stopped.by is not None:  # a library was at work that made an error of its own of it, as Arrow does
            raise SystemExit(STATUSES[stopped.by]) from None
        raise


class _Stopped:
    """Ends the process at a signal, and knows afterwards `by` which."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None

    def end_at_once(self, number: int, _frame: object) -> None:
        self.by = signal.Signals(number)
        say(f"batchrun: stopped by {self.by.name} before anything was sent")
        raise SystemExit(STATUSES[self.by])


def _import_for(job: Job) -> None:
    """Import what this job needs and not every one does, while the collector is at rest: later it costs 5 ms more."""
    with loading():
        if job.prompt is not None and (needs_jinja(job.prompt.system) or needs_jinja(job.prompt.user)):
            import batchrun.prompt.template  # noqa: F401, PLC0415  # pyright: ignore[reportUnusedImport] - see above


def _output_of_yesterday(path: str, overrides: Sequence[str], job: Job) -> OutputSettings | None:
    """Return where yesterday's run of the job wrote to, None where the path has no date or can't be read twice."""
    if path == "-":
        return None
    yesterday = dt.datetime.now(tz=dt.UTC).date() - dt.timedelta(days=1)
    output = load_job(path, overrides=overrides, date=yesterday).output
    return None if output.path == job.output.path else output


def _print_end(status: ExitStatus, reason: str) -> None:
    click.echo(msgspec.json.encode({"exit_status": int(status), "reason": reason}).decode())


def _say_end(status: int, reason: str, wishes: Wishes) -> None:
    """Say on standard error why a run did not end well, in the format of the other lines there."""
    ended = {"event": "ended", "exit_status": int(status), "reason": reason}
    say(msgspec.json.encode(ended).decode() if wishes.log_format == "json" else f"batchrun: {reason}")


def _tell(summary: Summary, wishes: Wishes) -> None:
    well = summary.exit_status == ExitStatus.OK
    if not well:
        _say_end(summary.exit_status, summary.reason, wishes)
    try:
        if wishes.as_json:
            click.echo(msgspec.json.format(msgspec.json.encode(summary), indent=2).decode())
        elif not (wishes.quiet and well):
            click.echo("\n".join(summary_lines(summary)))
        sys.stdout.flush()
    except OSError as error:  # the summary stands in the output too; the run is what it is
        if not isinstance(error, BrokenPipeError):
            say(f"batchrun: standard output can't take the summary: {error.strerror}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered goes there at exit


def _known(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,}"


def summary_lines(summary: Summary) -> Iterator[str]:
    """Yield the summary as aligned lines for a person."""
    counts = ", ".join(f"{count:,} {name}" for name, count in summary.by_status.items()) or "none"
    errors = ", ".join(f"{count:,} {name}" for name, count in summary.by_error_class.items())
    requests = f"{summary.requests_sent:,} sent, {summary.retries:,} retries, {summary.throttled:,} throttled"
    yield f"{summary.job}: {summary.state}, exit status {summary.exit_status}: {summary.reason}"
    yield f"  rows      {summary.rows:,}: {counts}" + (f" (errors: {errors})" if errors else "")
    if summary.by_error_class:
        yield "  why       column error_message of each failed row says it; --retry-failed sends those rows again"
    cut = f"; {summary.maybe_billed:,} possibly billed without a result" if summary.maybe_billed else ""
    lost = f"; at most {summary.lost_attempts:,} more were in flight when a process was killed"
    yield f"  requests  {requests}{cut}" + (lost if summary.lost_attempts else "")
    yield f"  tokens    {_known(summary.prompt_tokens)} in, {_known(summary.completion_tokens)} out"
    held = (
        f"; the budget holds {summary.held_usd:.6f} USD more for attempts of unknown cost" if summary.held_usd else ""
    )
    sent = summary.requests_sent or summary.lost_attempts
    cost = cost_text(summary.cost_usd, summary.unpriced_rows, digits=6) if sent else "none: nothing was sent"
    yield f"  cost      {cost}{held}"
    first_token = f", first token after {summary.first_token_ms:.0f} ms" if summary.first_token_ms is not None else ""
    yield f"  time      {summary.wall_s:.1f} s{first_token}; the counts above are over all runs of this output"
    yield f"  output    {summary.output}"
