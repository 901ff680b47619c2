"""Job and input looked at together before anything is made or sent: survey, prompts, carried columns, clashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from batchrun.budget import most_completion_tokens
from batchrun.errors import JobError, RecordError
from batchrun.job.catalogue import Quote, quote_of
from batchrun.job.lanes import lanes_of
from batchrun.job.places import Places
from batchrun.job.settings import OPENAI_BATCH, Job
from batchrun.model.record import Column, Record, Survey
from batchrun.model.request import Envelope
from batchrun.prompt.openai_batch import CUSTOM_ID, BodyPrompter
from batchrun.prompt.prompter import Prompter, Prompting
from batchrun.reader.jsonl import refuse_without_objects
from batchrun.reader.source import Needs, Reader
from batchrun.reader.survey import open_reader, survey_input, would_take
from batchrun.writer.schema import Layout, refuse_clashes

LOOKED_AT_ROWS = 100


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """A job that fits its input."""

    job: Job
    places: Places
    survey: Survey
    prompter: Prompting
    layout: Layout
    quote: Quote

    def reader(self, layout: Layout) -> Reader:
        """Return a reader of the input for the prompts and for `layout`'s carried columns."""
        carried = tuple(column.name for column in layout.carried)
        return open_reader(self.survey, Needs(values=self.prompter.columns, carried=carried))

    def first_records(self, count: int) -> Iterator[Record]:
        """Yield the first `count` records, or all there are, with what prompts need of them."""
        reader = open_reader(self.survey, Needs(values=self.prompter.columns, carried=()))
        for stretch in reader.stretches([range(min(count, self.survey.rows))]):
            yield from stretch.records

    def envelope(self) -> Envelope:
        """Return the fixed part of the job's requests, as they go to its first endpoint."""
        endpoint = lanes_of(self.job)[0].endpoint
        return Envelope(identity=endpoint.base_url, fields=self.job.request, stream=endpoint.stream)


def examine(job: Job, places: Places, *, known: Survey | None = None) -> Examined:
    """Survey the input and check the job against it and its output; `known` spares a second look at unchanged files.

    Raises JobError when anything is wrong; nothing has been made or sent then.
    """
    _check_output(job, places)
    quote = quote_of(job)
    survey = survey_input(job.input, known=known)
    prompter = _prompter(job, survey)
    lanes = lanes_of(job)
    layout = Layout(
        rows_per_part=job.output.rows_per_part,
        carried=_carried(job, survey),
        prefix=job.output.prefix,
        keep_raw=any(lane.endpoint.keep_raw for lane in lanes),
        endpoint=len(lanes) > 1,
    )
    refuse_clashes(layout)
    examined = Examined(job=job, places=places, survey=survey, prompter=prompter, layout=layout, quote=quote)
    _check_budget(examined)
    return examined


def _check_budget(examined: Examined) -> None:
    """Refuse a price that is asked for and not known, and a budget that can't bound what any of the first rows cost."""
    job, quote = examined.job, examined.quote
    for lane in lanes_of(job) if job.limits.require_priced else ():
        if (theirs := quote_of(job, lane=lane)).rates is None:
            raise JobError(f"limits.require_priced: no price is known before the start: {theirs.unknown}; set [price]")
    if job.limits.max_cost_usd is None or quote.tariff is None or most_completion_tokens(job.request) is not None:
        return
    by_row = job.input.format == OPENAI_BATCH or (job.prompt is not None and job.prompt.params is not None)
    if quote.rates is not None if not by_row else _all_unbounded(examined):
        rows = f", and neither does any of the first {LOOKED_AT_ROWS} rows" if by_row else ""
        raise JobError(
            f"request.max_tokens: it bounds no output{rows}; limits.max_cost_usd needs a whole number of at least 1, "
            "because what a request can cost is reserved before it is sent"
        )


def _all_unbounded(examined: Examined) -> bool:
    """Say whether each of the first rows has a price and no bound."""
    job, tariff = examined.job, examined.quote.tariff
    looked_at = 0
    for record in examined.first_records(LOOKED_AT_ROWS):
        try:
            fields = {**job.request, **(examined.prompter.params(record) or {})}
        except RecordError:
            continue
        looked_at += 1
        model = fields.get("model")
        priced = tariff is not None and tariff(None, model if isinstance(model, str) else None) is not None
        if not priced or most_completion_tokens(fields) is not None:
            return False
    return looked_at > 0


def _prompter(job: Job, survey: Survey) -> Prompting:
    try:
        return _prompter_of(job, survey, survey.column_names() if survey.rows else None)
    except JobError:
        if survey.format == "jsonl":
            _prompter_of(job, survey, None)  # what is wrong with the job whatever the columns are
            refuse_without_objects(survey)
        raise


def _prompter_of(job: Job, survey: Survey, columns: tuple[str, ...] | None) -> Prompting:
    if survey.format == OPENAI_BATCH:
        system = job.prompt.system if job.prompt else None
        return BodyPrompter(system=system, model_known="model" in job.request, columns=columns)
    return Prompter(job.prompt, columns, from_arrow=survey.format == "parquet")


def _carried(job: Job, survey: Survey) -> tuple[Column, ...]:
    """Return the columns to carry; those of an openai-batch input always hold `custom_id`."""
    chosen = job.output.columns
    if chosen == "all":
        return survey.columns
    chosen = () if chosen == "none" else chosen
    if survey.format == OPENAI_BATCH and CUSTOM_ID not in chosen:
        chosen = (CUSTOM_ID, *chosen)
    by_name = {column.name: column for column in survey.columns}
    for name in chosen:
        if not survey.rows:
            by_name.setdefault(name, Column(name=name, kind="string"))
        if name not in by_name:
            raise JobError(f"output.columns: the input has no column `{name}`; it has {', '.join(by_name)}")
    return tuple(by_name[name] for name in dict.fromkeys(chosen))


def _check_output(job: Job, places: Places) -> None:
    """Refuse outputs that would lie in the input or on top of files that no run made."""
    try:
        _refuse_places(job, places)
    except OSError as error:
        raise JobError(f"{error.filename}: can't be looked at: {error.strerror}") from None


def _refuse_places(job: Job, places: Places) -> None:
    if places.single is None and places.output.is_file():
        raise JobError(f"output.path: {places.output} is a file; expected a directory, or a name ending in .parquet")
    if places.single is not None and places.single.is_dir():
        raise JobError(f"output.path: {places.single} is a directory; a name ending in .parquet is one file")
    source, output = Path(job.input.path).resolve(), Path(job.output.path).resolve()
    if source == output or (source.is_dir() and output.is_relative_to(source)):
        raise JobError(f"output.path: {output} lies in the input; choose a place outside of it")
    for made in (places.single, places.part(0)):
        if made is not None and would_take(job.input.path, made, job.input.format):
            raise JobError(
                f"input.path: it would take in {made}, which this job makes, from the second run on; "
                "name the input more narrowly, or choose another place for the output"
            )
