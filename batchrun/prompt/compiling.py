"""The text of a template into what fills it in."""

from __future__ import annotations

from collections.abc import Iterable

from batchrun.prompt.plain import Filled, PlainTemplate, pieces_of


def compiled(where: str, source: str | None, known: Iterable[str]) -> Filled | None:
    """Compile the template at the job's key `where`, None where there is none; `known` are the input's columns.

    Raises JobError when it is wrong.
    """
    if source is None:
        return None
    if (pieces := pieces_of(source)) is not None:
        return PlainTemplate(pieces, lambda: _by_jinja(where, source, known))
    return _by_jinja(where, source, known)


def needs_jinja(source: str | None) -> bool:
    """Say whether a template is more than texts and columns."""
    return source is not None and pieces_of(source) is None


def _by_jinja(where: str, source: str, known: Iterable[str]) -> Filled:
    from batchrun.prompt.template import Template, template_environment  # noqa: PLC0415 - Jinja takes 20 ms of CPU

    return Template(template_environment(), where, source, known)
