"""Outputs on disk as a run would leave them, made in this process from outcomes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from batchrun.job.places import places_at
from batchrun.model.attempt import ErrorClass, Reply, Usage
from batchrun.model.outcome import Account, Completion, Failure, Outcome
from batchrun.model.record import Column, Record, Stretch
from batchrun.writer.dataset import Dataset
from batchrun.writer.part import PartWriter
from batchrun.writer.schema import Layout
from batchrun.writer.spool import Spool

RUN_ID = "run-1"
USAGE = Usage(
    prompt_tokens=3,
    completion_tokens=2,
    total_tokens=5,
    raw='{\n "prompt_tokens": 3,\n "completion_tokens": 2,\n "total_tokens": 5, "estimated_cost": 1.50e-7}',
)
FINISHED_US = 1_767_323_045_000_000


def reply(text: str | None = "x", **fields: object) -> Reply:
    usual = {"status": "ok", "finish_reason": "stop", "model": "m", "response_id": "chatcmpl-1", "usage": USAGE}
    return Reply(text=text, **{**usual, **fields})  # type: ignore[arg-type]


def completed(row: int, of: Reply | None = None, *, http_status: int = 200) -> Outcome:
    account = Account(attempts=1, http_status=http_status, finished_us=FINISHED_US, started_us=FINISHED_US)
    return Completion(row=row, reply=of or reply(f"text {row}"), account=account)


def failed(
    row: int, error_class: ErrorClass = "rejected", message: str = "no", *, http_status: int | None = None
) -> Outcome:
    account = Account(attempts=1, http_status=http_status, finished_us=FINISHED_US)
    return Failure(row=row, error_class=error_class, message=message, account=account)


def make_output(  # noqa: PLR0913
    path: Path,
    outcomes: Sequence[Outcome],
    *,
    carried: Mapping[str, Sequence[object]] | None = None,
    rows_per_part: int = 1000,
    prefix: str = "",
    keep_raw: bool = False,
    written: Sequence[int] | None = None,
    rows_noted: int | None = -1,
) -> Path:
    """Write the parts of an output, all of them or those `written`, and the single file where `path` is one.

    `carried` are string columns, or int64 ones where the first value is an int. `rows_noted` are the rows that
    summary.json tells of: as many as there are outcomes by default, None for no summary.
    """
    carried = carried or {}
    kinds = {name: "int64" if isinstance(values[0], int) else "string" for name, values in carried.items()}
    columns = tuple(Column(name=name, kind=kind) for name, kind in kinds.items())  # type: ignore[arg-type]
    layout = Layout(rows_per_part=rows_per_part, carried=columns, prefix=prefix, keep_raw=keep_raw)
    places = places_at(str(path))
    for folder in (places.parts, places.home):
        folder.mkdir(parents=True, exist_ok=True)
    spool = Spool(places.spool, layout)
    writer = PartWriter(layout, run_id=RUN_ID, compression="zstd")
    starts = range(0, len(outcomes), rows_per_part)
    for part, start in enumerate(starts):
        if written is not None and part not in written:
            continue
        rows = range(start, min(start + rows_per_part, len(outcomes)))
        spool.append(
            part,
            Stretch(
                records=[Record(row=row, values=None) for row in rows],
                columns={name: list(values[rows.start : rows.stop]) for name, values in carried.items()},
            ),
        )
        spool.end()
        writer.write(places.part(part), rows, iter(outcomes[rows.start : rows.stop]), spool.of(part), None)
    spool.remove()
    if rows_noted is not None:
        rows_noted = len(outcomes) if rows_noted == -1 else rows_noted
        places.summary.write_text(json.dumps({"run_id": RUN_ID, "rows": rows_noted, "state": "complete"}))
    if written is None:
        Dataset(places, compression="zstd").assemble(len(starts))
    return path
