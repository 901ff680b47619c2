"""Outcomes and carried columns as Arrow: one fixed schema for every part of an output (SPEC.md, section 3)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
# pyarrow has no complete types

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Literal

import msgspec
import pyarrow as pa

from batchrun.errors import JobError
from batchrun.model.attempt import Reply, Usage
from batchrun.model.outcome import Account, Completion, Failure, Outcome
from batchrun.model.record import Column
from batchrun.pricing import usd

SCHEMA_VERSION = "1"
SCHEMA_VERSION_KEY, RUN_ID_KEY, PREFIX_KEY = "batchrun.schema_version", "batchrun.run_id", "batchrun.prefix"
"""Names in the key-value metadata of each file."""
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_KINDS: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
}


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What must stay the same in all parts of one output: fixed when it is made, kept in its ledger.

    With `endpoint` a column says which of several endpoints answered.
    """

    rows_per_part: int
    carried: tuple[Column, ...]
    prefix: str = ""
    keep_raw: bool = False
    endpoint: bool = False


_NO_REPLY = Reply(status="empty", text=None)
"""Stands for the reply of a row that got none, in columns that are null then."""


class _Slice(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Outcomes of some rows, and what they are made of, taken apart once for all columns; whether some are failures."""

    outcomes: Sequence[Outcome]
    some_failed: bool
    replies: Sequence[Reply]
    usages: Sequence[Usage]
    accounts: Sequence[Account]


def _slice_of(outcomes: Sequence[Outcome]) -> _Slice:
    return _Slice(
        outcomes=outcomes,
        some_failed=Failure in set(map(type, outcomes)),
        replies=[outcome.reply if isinstance(outcome, Completion) else _NO_REPLY for outcome in outcomes],
        usages=[outcome.reply.usage if isinstance(outcome, Completion) else outcome.usage for outcome in outcomes],
        accounts=[outcome.account for outcome in outcomes],
    )


_Values = Callable[[_Slice], Sequence[object]]
_Added = tuple[str, pa.DataType, _Values]


def _each(of: Literal["outcomes", "replies", "usages", "accounts"], name: str) -> _Values:
    some, value = attrgetter(of), attrgetter(name)
    return lambda taken: list(map(value, some(taken)))


def _of_failures(name: str) -> _Values:
    value = attrgetter(name)

    def values(taken: _Slice) -> Sequence[object]:
        if not taken.some_failed:
            return [None] * len(taken.outcomes)
        return [value(one) if isinstance(one, Failure) else None for one in taken.outcomes]

    return values


def _costs_usd(taken: _Slice) -> list[float | None]:
    return [None if one.cost_nanousd is None else usd(one.cost_nanousd) for one in taken.accounts]


def _raws(taken: _Slice) -> list[str | None]:
    return [one.reply.raw if isinstance(one, Completion) else one.raw for one in taken.outcomes]


ADDED: tuple[_Added, ...] = (
    ("row", pa.int64(), _each("outcomes", "row")),
    ("status", pa.string(), _each("outcomes", "status")),
    ("completion", pa.string(), _each("replies", "text")),
    ("reasoning", pa.string(), _each("replies", "reasoning")),
    ("tool_calls", pa.string(), _each("replies", "tool_calls")),
    ("finish_reason", pa.string(), _each("replies", "finish_reason")),
    ("model", pa.string(), _each("replies", "model")),
    ("response_id", pa.string(), _each("replies", "response_id")),
    ("prompt_tokens", pa.int64(), _each("usages", "prompt_tokens")),
    ("completion_tokens", pa.int64(), _each("usages", "completion_tokens")),
    ("total_tokens", pa.int64(), _each("usages", "total_tokens")),
    ("cached_tokens", pa.int64(), _each("usages", "cached_tokens")),
    ("reasoning_tokens", pa.int64(), _each("usages", "reasoning_tokens")),
    ("cost_usd", pa.float64(), _costs_usd),
    ("cost_source", pa.string(), _each("accounts", "cost_source")),
    ("attempts", pa.int32(), _each("accounts", "attempts")),
    ("http_status", pa.int32(), _each("accounts", "http_status")),
    ("latency_ms", pa.float64(), _each("accounts", "latency_ms")),
    ("started_at", _TIMESTAMP, _each("accounts", "started_us")),
    ("finished_at", _TIMESTAMP, _each("accounts", "finished_us")),
    ("error_class", pa.string(), _of_failures("error_class")),
    ("error_message", pa.string(), _of_failures("message")),
    ("flags", pa.list_(pa.string()), _each("accounts", "flags")),
    ("usage_json", pa.string(), _each("usages", "raw")),
    ("request_sha256", pa.string(), _each("accounts", "request_sha256")),
)
ENDPOINT: _Added = ("endpoint", pa.string(), _each("accounts", "endpoint"))
RAW: _Added = ("response_json", pa.string(), _raws)
_DISTINCT = frozenset(
    [
        *("row", "completion", "reasoning", "tool_calls", "response_id", "latency_ms", "started_at", "finished_at"),
        *("usage_json", "request_sha256", "response_json"),
    ]
)
"""Columns in which hardly a value comes twice: a dictionary is built for nothing there, and makes the file larger."""


def distinct_columns(layout: Layout) -> frozenset[str]:
    """Return the added columns in which hardly a value comes twice."""
    return frozenset(layout.prefix + name for name in _DISTINCT)


def added_columns(layout: Layout) -> tuple[_Added, ...]:
    """Return name, type and values of each column that batchrun adds, in order, prefix included."""
    columns = (*ADDED, *[ENDPOINT] * layout.endpoint, *[RAW] * layout.keep_raw)
    return tuple((layout.prefix + name, kind, value) for name, kind, value in columns)


def carried_schema(layout: Layout) -> pa.Schema:
    """Return the Arrow schema of the carried columns, all nullable."""
    return pa.schema([pa.field(column.name, _arrow_type(column)) for column in layout.carried])


def refuse_clashes(layout: Layout) -> None:
    """Raise JobError when a carried column has the name of a column that batchrun adds."""
    clashes = {name for name, _, _ in added_columns(layout)} & {column.name for column in layout.carried}
    if clashes:
        raise JobError(
            f"input column `{min(clashes)}` has the name of a column that batchrun adds; "
            "set output.prefix, or leave it out of output.columns"
        )


def output_schema(layout: Layout, *, run_id: str) -> pa.Schema:
    """Return the schema of every part: carried columns, then all that batchrun adds."""
    fields = [*carried_schema(layout), *(pa.field(name, kind) for name, kind, _ in added_columns(layout))]
    metadata = {SCHEMA_VERSION_KEY: SCHEMA_VERSION, RUN_ID_KEY: run_id, PREFIX_KEY: layout.prefix}
    return pa.schema(fields, metadata=metadata)


def carried_batch(columns: Mapping[str, Sequence[object]], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """Return a stretch's carried columns as one batch of `rows` rows."""
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], type=field.type)
        for field in schema
    ]
    if any(len(array) != rows for array in arrays):
        raise ValueError("a stretch's carried columns differ in length from its records")
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def joined_batch(
    carried: Sequence[pa.Array], outcomes: Sequence[Outcome], layout: Layout, schema: pa.Schema
) -> pa.RecordBatch:
    """Return output rows: the carried arrays beside the outcomes of the same rows, in the same order."""
    taken = _slice_of(outcomes)
    arrays = [pa.array(values(taken), type=kind) for _, kind, values in added_columns(layout)]
    return pa.RecordBatch.from_arrays([*carried, *arrays], schema=schema)


def _arrow_type(column: Column) -> pa.DataType:
    if column.kind == "arrow":
        return pa.ipc.read_schema(pa.py_buffer(column.ipc)).field(0).type
    return _KINDS[column.kind]
