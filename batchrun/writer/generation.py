"""A fresh generation of an output put in the place of the standing one, so that a crash in between is rolled forward.

`--fresh` works in a folder of its own; the old output stays whole until the new one is complete. Publishing is
recorded first, then each part is renamed, the ledger follows, surplus old parts go last (SPEC.md, section 1). Each
step may be done again, so whoever finds the record does them all.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from batchrun.errors import OutputError
from batchrun.job.places import Places
from batchrun.writer.dataset import write_whole
from batchrun.writer.part import sync


class _Publishing(msgspec.Struct, frozen=True, kw_only=True):
    """The record: a complete generation of `parts` parts is being put in place."""

    parts: int


def publish_next(places: Places, parts: int) -> None:
    """Put the next generation, complete with `parts` parts and its ledger closed, in the standing one's place.

    Raises OutputError when a file can't be moved; what was begun is gone on with by `roll_forward`.
    """
    write_whole(places.publishing, msgspec.json.encode(_Publishing(parts=parts)), durable=True)
    roll_forward(places)


def roll_forward(places: Places) -> None:
    """Finish a publishing that was recorded, if there is one; call it with the output's lock held."""
    try:
        record = msgspec.json.decode(places.publishing.read_bytes(), type=_Publishing)
    except FileNotFoundError:
        return
    except (OSError, msgspec.DecodeError) as error:
        raise OutputError(f"{places.publishing}: can't be read: {error}") from None
    try:
        _move(places, places.next_generation(), record.parts)
    except OSError as error:
        raise OutputError(f"{error.filename}: can't be put in place: {error.strerror}") from None


def _move(places: Places, fresh: Places, parts: int) -> None:
    places.parts.mkdir(parents=True, exist_ok=True)
    for part in range(parts):
        if fresh.part(part).exists():
            fresh.part(part).replace(places.part(part))
    sync(places.parts)
    if fresh.ledger.exists():
        for ledger in (*places.worker_ledgers(), places.ledger):
            for old in _with_journal(ledger):
                old.unlink(missing_ok=True)
        fresh.ledger.replace(places.ledger)
        sync(places.state)
    for path in places.parts.glob("part-*.parquet"):
        number = path.stem.removeprefix("part-")
        if number.isdigit() and int(number) >= parts:
            path.unlink()
    sync(places.parts)
    for folder in (fresh.parts, fresh.state):
        shutil.rmtree(folder, ignore_errors=True)
    places.publishing.unlink()
    sync(places.home)


def _with_journal(ledger: Path) -> tuple[Path, ...]:
    return tuple(ledger.with_name(ledger.name + suffix) for suffix in ("-wal", "-shm", ""))
