"""Words onto standard error that a closed terminal or pipe can't turn into a failure of the run."""

from __future__ import annotations

import contextlib

import click


def say(text: str) -> None:
    """Print one message on standard error, if anybody is there to read it."""
    with contextlib.suppress(OSError):
        click.echo(text, err=True)
