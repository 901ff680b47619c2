"""`batchrun simulate`: the embedded endpoint by itself, until it is stopped."""

from __future__ import annotations

from collections.abc import Sequence

import click

from batchrun.cli.say import say
from batchrun.job.load import load_simulator
from batchrun.loop import drive
from batchrun.simulator.server import serve_forever


def simulate(host: str, port: int, overrides: Sequence[str]) -> None:
    """Serve on loopback; the first line on standard output is the base URL to put into a job."""
    settings = load_simulator(overrides)
    try:
        drive(serve_forever(settings, host=host, port=port, announce=click.echo))
    except KeyboardInterrupt:
        say("batchrun: stopped")
