"""Outcomes and carried columns as Arrow: one fixed schema for every part of an output (SPEC.md, section 3)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
# pyarrow has no complete types

from __future__ import annotations

import contextlib
import struct
from collections.abc import Mapping, Sequence

import msgspec
import pyarrow as pa

from batchrun.errors import JobError
from batchrun.model.attempt import Reply
from batchrun.model.outcome import Completion, Outcome
from batchrun.model.record import Column
from batchrun.pricing import usd

SCHEMA_VERSION = "1"
SCHEMA_VERSION_KEY, RUN_ID_KEY, PREFIX_KEY = "batchrun.schema_version", "batchrun.run_id", "batchrun.prefix"
"""Names in the key-value metadata of each file."""
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_FLAGS = pa.list_(pa.string())
_KINDS: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "json": pa.string(),
}


_FORMATS: Mapping[pa.DataType, str] = {pa.int64(): "q", pa.int32(): "i", pa.float64(): "d", _TIMESTAMP: "q"}
"""Types whose values are numbers beside each other, and what `struct` calls those."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What must stay the same in all parts of one output: fixed when it is made, kept in its ledger.

    With `endpoint` a column says which of several endpoints answered.
    """

    rows_per_part: int
    carried: tuple[Column, ...]
    prefix: str = ""
    keep_raw: bool = False
    endpoint: bool = False


_Added = tuple[str, pa.DataType]
ADDED: tuple[_Added, ...] = (
    ("row", pa.int64()),
    ("status", pa.string()),
    ("completion", pa.string()),
    ("reasoning", pa.string()),
    ("tool_calls", pa.string()),
    ("finish_reason", pa.string()),
    ("model", pa.string()),
    ("response_id", pa.string()),
    ("prompt_tokens", pa.int64()),
    ("completion_tokens", pa.int64()),
    ("total_tokens", pa.int64()),
    ("cached_tokens", pa.int64()),
    ("reasoning_tokens", pa.int64()),
    ("cost_usd", pa.float64()),
    ("cost_source", pa.string()),
    ("attempts", pa.int32()),
    ("http_status", pa.int32()),
    ("latency_ms", pa.float64()),
    ("started_at", _TIMESTAMP),
    ("finished_at", _TIMESTAMP),
    ("error_class", pa.string()),
    ("error_message", pa.string()),
    ("flags", _FLAGS),
    ("usage_json", pa.string()),
    ("request_sha256", pa.string()),
)
ENDPOINT: _Added = ("endpoint", pa.string())
RAW: _Added = ("response_json", pa.string())
_VALUES = tuple(name for name, _ in (*ADDED, ENDPOINT, RAW))
"""The columns for which `values_of` has a value, in its order; a test holds both to each other."""
Values = tuple[object, ...]
_NO_REPLY = Reply(status="empty", text=None)
"""Stands for the reply of a row that got none, in columns that are null then."""


def values_of(outcome: Outcome) -> Values:
    """Take an outcome apart into what stands in its row of the output: all at once, for there are many rows."""
    account = outcome.account
    if isinstance(outcome, Completion):
        reply = outcome.reply
        usage, raw, error_class, message = reply.usage, reply.raw, None, None
    else:
        reply, usage, raw = _NO_REPLY, outcome.usage, outcome.raw
        error_class, message = outcome.error_class, outcome.message
    return (
        outcome.row,
        reply.status if error_class is None else "failed",
        reply.text,
        reply.reasoning,
        reply.tool_calls,
        reply.finish_reason,
        reply.model,
        reply.response_id,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.total_tokens,
        usage.cached_tokens,
        usage.reasoning_tokens,
        None if account.cost_nanousd is None else usd(account.cost_nanousd),
        account.cost_source,
        account.attempts,
        account.http_status,
        account.latency_ms,
        account.started_us,
        account.finished_us,
        error_class,
        message,
        account.flags,
        usage.raw,
        account.request_sha256,
        account.endpoint,
        raw,
    )


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
    """Return name, without prefix, and type of each column that batchrun adds, in order."""
    return (*ADDED, *[ENDPOINT] * layout.endpoint, *[RAW] * layout.keep_raw)


def carried_schema(layout: Layout) -> pa.Schema:
    """Return the Arrow schema of the carried columns, all nullable."""
    return pa.schema([pa.field(column.name, _arrow_type(column)) for column in layout.carried])


def refuse_clashes(layout: Layout) -> None:
    """Raise JobError when a carried column has the name of a column that batchrun adds."""
    clashes = {layout.prefix + name for name, _ in added_columns(layout)} & {column.name for column in layout.carried}
    if clashes:
        raise JobError(
            f"input column `{min(clashes)}` has the name of a column that batchrun adds; "
            "set output.prefix, or leave it out of output.columns"
        )


def output_schema(layout: Layout, *, run_id: str) -> pa.Schema:
    """Return the schema of every part: carried columns, then all that batchrun adds."""
    fields = [*carried_schema(layout), *(pa.field(layout.prefix + name, kind) for name, kind in added_columns(layout))]
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
    carried: Sequence[pa.Array], rows: Sequence[Values], layout: Layout, schema: pa.Schema
) -> pa.RecordBatch:
    """Return output rows, one at least: the carried arrays beside what `values_of` the same rows' outcomes is."""
    values = dict(zip(_VALUES, zip(*rows, strict=True), strict=True))
    arrays = [_array(values[name], kind) for name, kind in added_columns(layout)]
    return pa.RecordBatch.from_arrays([*carried, *arrays], schema=schema)


def _array(values: Sequence[object], kind: pa.DataType) -> pa.Array:
    """Return what `pa.array` does, in a tenth of its time where all values are one text or null, or numbers."""
    first = values[0]
    if kind != _FLAGS and first == values[-1] and values.count(first) == len(values):
        return pa.repeat(pa.scalar(first, type=kind), len(values))
    if kind in _FORMATS:
        with contextlib.suppress(struct.error):  # there are nulls
            numbers = struct.pack(f"{len(values)}{_FORMATS[kind]}", *values)
            return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(numbers)])
    return pa.array(values, type=kind)


def _arrow_type(column: Column) -> pa.DataType:
    if column.kind == "arrow":
        return pa.ipc.read_schema(pa.py_buffer(column.ipc)).field(0).type
    return _KINDS[column.kind]
