"""A template that only prints texts and columns, filled in without Jinja as long as each of these holds a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

_BEGIN = re.compile(r"\{[{%#]")
_PRINT = re.compile(r"\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}")
_JINJAS = frozenset(
    (
        *("true", "false", "none", "True", "False", "None", "and", "else", "if", "in", "is", "not", "or", "self"),
        *("cycler", "dict", "joiner", "lipsum", "namespace", "range"),
    )
)
"""Names that are, or may be, no column's."""


class Filled(Protocol):
    """Makes the text of each row."""

    @property
    def names(self) -> frozenset[str]:
        """The columns that it reads."""
        ...

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text for one row; raises RecordError when the template can't be filled in."""
        ...


class Printed(str):
    """The name of a column whose text is printed as it is."""

    __slots__ = ()


def pieces_of(source: str) -> tuple[str, ...] | None:
    """Return the texts and columns that a template prints one after the other, None where it may do more."""
    if "\r" in source:  # Jinja makes a newline of it
        return None
    source = source.removesuffix("\n")  # as Jinja does
    pieces: list[str] = []
    at = 0
    while (begin := _BEGIN.search(source, at)) is not None:
        printed = _PRINT.match(source, begin.start())
        if printed is None or printed[1] in _JINJAS:
            return None
        pieces += [source[at : begin.start()], Printed(printed[1])]
        at = printed.end()
    pieces.append(source[at:])
    return tuple(filter(None, pieces))


class PlainTemplate:
    """Joins pieces."""

    def __init__(self, pieces: tuple[str, ...], compiled: Callable[[], Filled]) -> None:
        """Print `pieces`; `compiled` returns the same template as Jinja has it, for rows in which one is no text."""
        self._pieces = pieces
        self._compiled = compiled
        self._by_jinja: Filled | None = None
        self.names = frozenset(str(piece) for piece in pieces if type(piece) is Printed)

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text for one row; raises RecordError when the template can't be filled in."""
        texts: list[str] = []
        for piece in self._pieces:
            text = values.get(piece) if type(piece) is Printed else piece
            if type(text) is not str:
                break
            texts.append(text)
        else:
            return "".join(texts)
        if self._by_jinja is None:
            self._by_jinja = self._compiled()
        return self._by_jinja.render(values)
