"""The text of a template into what fills it in."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchrun.prompt.template import Template


def compiled(where: str, source: str | None, known: Iterable[str]) -> Template | None:
    """Compile the template at the job's key `where`, None where there is none; `known` are the input's columns.

    Raises JobError when it is wrong.
    """
    if source is None:
        return None
    from batchrun.prompt.template import Template, template_environment  # noqa: PLC0415 - Jinja takes 16 ms of CPU

    return Template(template_environment(), where, source, known)
