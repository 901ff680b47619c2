"""Outcomes and carried columns as Arrow: one fixed schema for every part of an output (SPEC.md, section 3)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
# pyarrow has no complete types

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import pyarrow as pa

from batchrun.errors import JobError
from batchrun.model.attempt import Reply
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


def _of_reply(read: Callable[[Reply], object]) -> Callable[[Outcome], object]:
    return lambda outcome: read(outcome.reply) if isinstance(outcome, Completion) else None


def _of_failure(read: Callable[[Failure], object]) -> Callable[[Outcome], object]:
    return lambda outcome: read(outcome) if isinstance(outcome, Failure) else None


def _of_account(read: Callable[[Account], object]) -> Callable[[Outcome], object]:
    return lambda outcome: read(outcome.account)


def _cost_usd(account: Account) -> float | None:
    return None if account.cost_nanousd is None else usd(account.cost_nanousd)


ADDED: tuple[tuple[str, pa.DataType, Callable[[Outcome], object]], ...] = (
    ("row", pa.int64(), lambda o: o.row),
    ("status", pa.string(), lambda o: o.status),
    ("completion", pa.string(), _of_reply(lambda r: r.text)),
    ("reasoning", pa.string(), _of_reply(lambda r: r.reasoning)),
    ("tool_calls", pa.string(), _of_reply(lambda r: r.tool_calls)),
    ("finish_reason", pa.string(), _of_reply(lambda r: r.finish_reason)),
    ("model", pa.string(), _of_reply(lambda r: r.model)),
    ("response_id", pa.string(), _of_reply(lambda r: r.response_id)),
    ("prompt_tokens", pa.int64(), lambda o: o.usage.prompt_tokens),
    ("completion_tokens", pa.int64(), lambda o: o.usage.completion_tokens),
    ("total_tokens", pa.int64(), lambda o: o.usage.total_tokens),
    ("cached_tokens", pa.int64(), lambda o: o.usage.cached_tokens),
    ("reasoning_tokens", pa.int64(), lambda o: o.usage.reasoning_tokens),
    ("cost_usd", pa.float64(), _of_account(_cost_usd)),
    ("cost_source", pa.string(), _of_account(lambda a: a.cost_source)),
    ("attempts", pa.int32(), _of_account(lambda a: a.attempts)),
    ("http_status", pa.int32(), _of_account(lambda a: a.http_status)),
    ("latency_ms", pa.float64(), _of_account(lambda a: a.latency_ms)),
    ("started_at", _TIMESTAMP, _of_account(lambda a: a.started_us)),
    ("finished_at", _TIMESTAMP, _of_account(lambda a: a.finished_us)),
    ("error_class", pa.string(), _of_failure(lambda f: f.error_class)),
    ("error_message", pa.string(), _of_failure(lambda f: f.message)),
    ("flags", pa.list_(pa.string()), _of_account(lambda a: a.flags)),
    ("usage_json", pa.string(), lambda o: o.usage.raw),
    ("request_sha256", pa.string(), _of_account(lambda a: a.request_sha256)),
)
ENDPOINT = ("endpoint", pa.string(), _of_account(lambda a: a.endpoint))
RAW = ("response_json", pa.string(), lambda o: o.reply.raw if isinstance(o, Completion) else o.raw)


def added_columns(layout: Layout) -> tuple[tuple[str, pa.DataType, Callable[[Outcome], object]], ...]:
    """Return name, type and value of each column that batchrun adds, in order, prefix included."""
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
    arrays = [pa.array([value(outcome) for outcome in outcomes], type=kind) for _, kind, value in added_columns(layout)]
    return pa.RecordBatch.from_arrays([*carried, *arrays], schema=schema)


def _arrow_type(column: Column) -> pa.DataType:
    if column.kind == "arrow":
        return pa.ipc.read_schema(pa.py_buffer(column.ipc)).field(0).type
    return _KINDS[column.kind]
