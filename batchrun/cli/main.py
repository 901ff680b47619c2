"""`batchrun`: the commands, their options, and how each end becomes an exit status."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections.abc import Callable
from typing import Literal, NoReturn

import click

from batchrun import __version__
from batchrun.cli.say import say
from batchrun.errors import BatchrunError, ExitStatus
from batchrun.startup import loading, start_light

_SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY.PATH=VALUE",
    help="Override a key of the job file; repeatable.",
)
_DATE = click.option(
    "--date",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Fills {date} in output.path; default: today, UTC.",
)
_LIMIT = click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the first N rows of the input.")


def _processes(_context: click.Context, _option: click.Parameter, value: str) -> int | Literal["auto"]:
    """Return the number of processes or `auto`; raises BadParameter for anything else."""
    if value == "auto":
        return "auto"
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise click.BadParameter(f"{value!r} is not a whole number of at least 1, nor auto")
    return int(value)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="batchrun")
def cli() -> None:
    """Run bulk LLM jobs: prompts from JSONL or Parquet in, completions, tokens and cost out to Parquet."""


@cli.command()
@click.argument("job")
@_SET
@_LIMIT
@_DATE
@click.option("--retry-failed", is_flag=True, help="Send again exactly the rows whose status is in limits.fail_on.")
@click.option("--fresh", is_flag=True, help="Start over; the old output stays whole until the new one is complete.")
@click.option(
    "--processes",
    callback=_processes,
    default="1",
    show_default=True,
    metavar="N|auto",
    help="Worker processes; auto: one, and more, up to the cores, while those there are have no time left.",
)
@click.option(
    "--grace",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a stopped run waits for what is in flight.",
)
@click.option(
    "--progress",
    type=click.Choice(["auto", "bar", "plain", "none"]),
    default="auto",
    show_default=True,
    help="auto: a bar on a terminal, else one line every 30 s.",
)
@click.option("--quiet", is_flag=True, help="Say nothing at all when all went well.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on standard output, in every case.")
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("-v", "--verbose", is_flag=True, help="Say more on standard error.")
def run(
    job: str,
    overrides: tuple[str, ...],
    limit: int | None,
    date: dt.datetime | None,
    retry_failed: bool,
    fresh: bool,
    processes: int | Literal["auto"],
    grace: float,
    progress: str,
    quiet: bool,
    as_json: bool,
    log_format: str,
    verbose: bool,
) -> None:
    """Run the job, or go on with it: sends only what is not settled yet."""
    from batchrun.cli.memory import share_one_heap  # noqa: PLC0415

    share_one_heap()
    with loading():
        from batchrun.cli.run import Wishes, run_job_file  # noqa: PLC0415 - heavy imports only where they are used

    wishes = Wishes(
        limit=limit,
        retry_failed=retry_failed,
        fresh=fresh,
        processes=processes,
        grace_s=grace,
        progress=progress,
        quiet=quiet,
        as_json=as_json,
        log_format=log_format,
        verbose=verbose,
    )
    sys.exit(run_job_file(job, overrides, date.date() if date else None, wishes))


@cli.command()
@click.argument("job")
@_SET
@_LIMIT
@_DATE
@click.option("-n", "shown", type=click.IntRange(min=0), default=3, show_default=True, help="Requests to show.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(
    job: str,
    overrides: tuple[str, ...],
    limit: int | None,
    date: dt.datetime | None,
    shown: int,
    as_json: bool,
) -> None:
    """Send nothing: check the whole job and input, count, show the first rendered requests."""
    import signal  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored, and a template never end
    with loading():
        from batchrun.cli.plan import plan_job_file  # noqa: PLC0415

    plan_job_file(job, overrides, date.date() if date else None, limit=limit, shown=shown, as_json=as_json)


@cli.command()
@click.argument("output")
@click.option("--format", "_format", type=click.Choice(["openai-batch"]), required=True, help="Lines to write.")
@click.option("--output", "target", default="-", metavar="FILE", help="Default: -, standard output.")
@click.option("--errors", metavar="FILE", help="Where lines of failed rows go; default: to the others.")
@click.option("--key", metavar="COLUMN", help="The column that becomes custom_id; default: custom_id, else row-N.")
def export(output: str, _format: str, target: str, errors: str | None, key: str | None) -> None:
    """Write an output as the result lines of a batch API, in row order; an unfinished one as far as it stands."""
    with loading():
        from batchrun.cli.export import export_output  # noqa: PLC0415

    export_output(output, output=target, errors=errors, key=key)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="A loopback address.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0: one that is free.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="A key of [simulator]; repeatable.")
def simulate(host: str, port: int, overrides: tuple[str, ...]) -> None:
    """Serve the embedded endpoint on loopback until it is stopped."""
    with loading():
        from batchrun.cli.simulate import simulate as serve  # noqa: PLC0415

    serve(host, port, overrides)


@cli.command()
@click.argument("path", default="job.toml")
def init(path: str) -> None:
    """Write a commented job file to start from; PATH may be - for standard output."""
    from batchrun.cli.init import write_example  # noqa: PLC0415

    write_example(path)


@cli.command()
def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    import json  # noqa: PLC0415

    from batchrun.job.load import job_schema  # noqa: PLC0415

    click.echo(json.dumps(job_schema(), indent=2))


def main() -> NoReturn:
    """Run the command; always leaves by SystemExit with an exit status of SPEC.md, section 4."""
    _open_standard_files()
    start_light()
    sys.exit(_status_of(cli))


def _open_standard_files() -> None:
    """Put nothing where a standard file is closed: else the next that is opened, the lock say, would take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open to the end


def _status_of(command: Callable[..., object]) -> int:
    try:
        ended = command(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        if sys.argv[1:2] == ["run"] and "--json" in sys.argv:
            import json  # noqa: PLC0415

            click.echo(json.dumps({"exit_status": int(ExitStatus.USAGE), "reason": error.format_message()}))
        return ExitStatus.USAGE
    except (click.Abort, KeyboardInterrupt):
        say("batchrun: stopped by SIGINT")
        return ExitStatus.SIGINT
    except BatchrunError as error:
        say(f"batchrun: {error}")
        return error.status
    except BrokenPipeError:
        sys.stderr.close()
        return ExitStatus.OUTPUT
    except Exception as error:  # noqa: BLE001 - the last frame: a fault is told by its exit status
        from batchrun.cli.fault import show_fault  # noqa: PLC0415

        show_fault(error)
        return ExitStatus.FAULT
    return ended if isinstance(ended, int) else ExitStatus.OK  # `--help` and `--version` end with a number
