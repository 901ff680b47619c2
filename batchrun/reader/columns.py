"""Values of JSONL rows into typed columns: which kind a column has, and values that fit it exactly."""

from __future__ import annotations

import json
from itertools import chain
from operator import itemgetter
from types import NoneType
from typing import TYPE_CHECKING

import msgspec

from batchrun.errors import JobError
from batchrun.model.record import Column, ColumnKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_INT64 = range(-(2**63), 2**63)
_ENCODE = msgspec.json.Encoder().encode
_FITTING: Mapping[ColumnKind, frozenset[type]] = {
    "bool": frozenset({bool, NoneType}),
    "int64": frozenset({int, NoneType}),
    "double": frozenset({int, float, NoneType}),
    "string": frozenset({str, NoneType}),
}


class _BeyondInt64:
    """Stands for the type of an integer that int64 can't hold."""


class ColumnTypes:
    """The types seen in each column, in the order in which the columns were first seen."""

    def __init__(self) -> None:
        self._seen: dict[str, set[type]] = {}

    def add(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Note names and types of all values; the order of columns is that of the rows' keys."""
        names = dict.fromkeys(chain.from_iterable(rows))
        columns: dict[str, list[object]]
        if sum(map(len, rows)) == len(names) * len(rows):  # each row has all of them
            columns = {name: list(map(itemgetter(name), rows)) for name in names}
        else:
            columns = {name: [] for name in names}
            for row in rows:
                for name, value in row.items():
                    columns[name].append(value)
        for name, values in columns.items():
            self._seen.setdefault(name, set()).update(_types_of(values))

    def columns(self) -> tuple[Column, ...]:
        """Fix each column's kind (SPEC.md, section 2, Rows)."""
        return tuple(Column(name=name, kind=_kind(types)) for name, types in self._seen.items())


def _types_of(values: Sequence[object]) -> set[type]:
    types = set(map(type, values))
    if int in types:
        ints = [value for value in values if type(value) is int]
        if min(ints) not in _INT64 or max(ints) not in _INT64:
            types.add(_BeyondInt64)
    return types


def _kind(types: Iterable[type]) -> ColumnKind:
    seen = set(types) - {NoneType}
    kinds: tuple[ColumnKind, ...] = ("string", "bool", "int64", "double")  # only null: the first
    for kind in kinds:
        if seen <= _FITTING[kind]:
            return kind
    return "json"


def fit(values: Sequence[object], column: Column) -> Sequence[object]:
    """Turn values into such as the column's kind holds; JobError when the survey saw none like them."""
    if column.kind == "json":
        return [None if value is None else json_text(value) for value in values]
    if not set(map(type, values)) <= _FITTING[column.kind]:
        raise JobError(f"input.path: the files changed: column `{column.name}` was surveyed as {column.kind}")
    if column.kind == "double":
        return [float(value) if isinstance(value, int) else value for value in values]
    return values


def json_text(value: object) -> str:
    """Encode a value as compact JSON text, not escaping what is not ASCII."""
    try:
        return _ENCODE(value).decode()
    except OverflowError:  # releases of msgspec that refuse integers beyond 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
