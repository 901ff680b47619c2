"""A job and its output into a run that can start: the lock, the ledger, and whether they belong to this job."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from batchrun.errors import JobError, OutputError
from batchrun.events import Watcher
from batchrun.execution.before import before_of, earlier_places
from batchrun.execution.descriptors import ensure_descriptors
from batchrun.execution.examine import Examined, examine
from batchrun.execution.identity import difference, identity_of
from batchrun.execution.leftovers import settle_standing, take_over_leftovers
from batchrun.execution.lock import held, parts_held, refuse_remote_disk
from batchrun.execution.resume import OpenRun, take_up
from batchrun.job.lanes import lanes_of, most_in_flight
from batchrun.job.options import RunOptions
from batchrun.job.places import Places, places_of
from batchrun.job.settings import Job
from batchrun.ledger.opening import open_store, reading
from batchrun.ledger.store import Store
from batchrun.model.record import Survey
from batchrun.writer.dataset import is_ours
from batchrun.writer.generation import roll_forward
from batchrun.writer.schema import Layout


@contextlib.contextmanager
def open_run(job: Job, options: RunOptions, watcher: Watcher) -> Generator[OpenRun, None, None]:
    """Take the output's lock and open its ledger, making both where there are none.

    An output that exists is locked before the input is read; one that does not is made after everything was checked,
    so that a wrong job leaves nothing behind. Raises JobError, OutputHeldError or OutputError.
    """
    if options.fresh and options.retry_failed:
        raise JobError("--fresh and --retry-failed exclude each other")
    standing = places_of(job)
    refuse_remote_disk(standing.home)
    with contextlib.ExitStack() as stack:
        was_there = _is_there(standing.home)
        if was_there:
            stack.enter_context(held(standing.lock))
            roll_forward(standing)
        places = standing.next_generation() if options.fresh else standing
        if options.fresh:
            settle_standing(standing, watcher)
        store = _open_store(stack, places, watcher) if places.ledger.exists() else None
        parts_were_there = _is_there(standing.parts)
        if standing.is_apart and parts_were_there:
            stack.enter_context(parts_held(standing.parts))
        examined = examine(job, places, known=_known_survey(store))
        rows = examined.survey.rows if options.limit is None else min(options.limit, examined.survey.rows)
        ensure_descriptors(min(most_in_flight(job), rows))
        if store is None:
            _refuse_beginning(examined, options, standing)
        _make_folders(places)  # a folder of parts that was taken away is made again
        if standing.is_apart and not parts_were_there:
            stack.enter_context(parts_held(standing.parts))
        if store is None:
            if not was_there:
                stack.enter_context(held(standing.lock))  # another run may have come before: it is found by its ledger
            store = _open_store(stack, places, watcher)
        _begin_or_refuse(store, examined, options)
        layout = _layout(store, examined.layout, watcher)
        run = take_up(examined, options, store, layout, rows, watcher)
        others = (standing if options.fresh else None, earlier_places(job, options))
        yield msgspec.structs.replace(run, before=before_of(store, others, lanes_of(job)))


def _is_there(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError as error:
        raise OutputError(f"{folder}: can't be looked at: {error.strerror}") from None


def _make_folders(places: Places) -> None:
    try:
        for folder in (places.output.parent, places.parts, places.state):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{error.filename}: can't be made: {error.strerror}") from None


def _begin_or_refuse(store: Store, examined: Examined, options: RunOptions) -> None:
    """Note what the output is an output of, or refuse where it was begun as one of another job or input.

    As long as nothing was tried, nothing is lost by beginning anew: a job whose model or URL was wrong may be mended.
    """
    job, places = examined.job, examined.places
    identity = identity_of(job, examined.survey)
    if store.noted("run_id") is None or store.is_untouched():
        if store.noted("run_id") is None and not options.fresh:
            _refuse_foreign_files(places)
        with store.changing():
            store.begin_anew()
            store.note(
                run_id=uuid.uuid4().hex,
                job=job.name,
                output=_output_from_home(places),
                begun_at=datetime.now(tz=UTC).isoformat(),
                identity=_text(identity),
                survey=_text(examined.survey),
                layout=_text(examined.layout),
                rows="0",
            )
    elif different := difference(_noted_identity(store), identity):
        raise JobError(_refusal(options, places, different))
    elif job.output.state_dir is not None and store.noted("output") != _output_from_home(places):
        raise JobError(
            f"output.state_dir: {places.home} holds the state of another output, {store.noted('output')} seen from "
            "there; give each output its own"
        )


def _output_from_home(places: Places) -> str:
    """Return the output's path relative to its state, so that both may be moved together."""
    return os.path.relpath(places.output, places.home)


def _refuse_beginning(examined: Examined, options: RunOptions, standing: Places) -> None:
    """Raise JobError where a new output would lie on top of what is there, or begin anew what is nearly done."""
    if not standing.ledger.exists():
        _refuse_foreign_files(standing)
    earlier = earlier_places(examined.job, options)
    if earlier is not None and not options.fresh:
        _refuse_unfinished(examined, earlier)


def _refuse_foreign_files(places: Places) -> None:
    """Raise JobError where the output holds Parquet files that no ledger knows of."""
    if places.single is None:
        foreign = any(places.output.glob("*.parquet"))
    else:
        foreign = places.single.exists() and not is_ours(places.single)
    if foreign:
        raise JobError(
            f"output.path: {places.output} holds Parquet that no run recorded; choose another place, or move it away"
        )


def _refuse_unfinished(examined: Examined, places: Places) -> None:
    """Raise JobError when the day before left the same work unfinished: going on costs less than starting anew."""
    if not places.ledger.exists():
        return
    with reading(places.ledger) as earlier:
        same = not difference(_noted_identity(earlier), identity_of(examined.job, examined.survey))
        rows = int(earlier.noted("rows") or 0)
        written = sum(part.rows for part in earlier.parts()) - earlier.count_reopened(range(rows))
    if same and written < rows:
        raise JobError(
            f"{places.output} holds an unfinished run of the same job and input ({written} of {rows} rows are "
            "written); finish it with --date and its date, or start over for today with --fresh"
        )


def _refusal(options: RunOptions, places: Places, different: str) -> str:
    if options.fresh:
        return (
            f"{places.state}: an unfinished fresh run of another job or input lies here; the difference:\n{different}\n"
            "finish it with that job and --fresh, or remove the folder if its answers are not wanted"
        )
    return (
        f"{places.output}: this output was begun by another job or input; the difference:\n{different}\n"
        "go on with the job as it was, start over with --fresh, or choose another output.path"
    )


def _open_store(stack: contextlib.ExitStack, places: Places, watcher: Watcher) -> Store:
    store = open_store(places.ledger)
    stack.callback(store.close)
    take_over_leftovers(store, places, watcher)
    return store


def _known_survey(store: Store | None) -> Survey | None:
    noted = store.noted("survey") if store else None
    return None if noted is None else msgspec.json.decode(noted, type=Survey)


def _noted_identity(store: Store) -> dict[str, object]:
    return msgspec.json.decode(store.noted("identity") or "{}", type=dict[str, object])


def _text(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _layout(store: Store, asked: Layout, watcher: Watcher) -> Layout:
    """Return the layout that the output was begun with; a changed one does not reach into a begun output."""
    begun = msgspec.json.decode(store.noted("layout") or "", type=Layout)
    if begun != asked:
        what = "rows_per_part, columns, prefix, keep_raw and column endpoint stay as the output was begun"
        watcher.noted("layout kept", why=what)
    return begun
