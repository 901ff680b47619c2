"""Ready parts into files under their final names: the file of a part changes between two commits of the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from batchrun.execution.parts import OpenPart
from batchrun.execution.resume import OpenRun
from batchrun.ledger.group_commit import Ledger
from batchrun.ledger.opening import reading
from batchrun.ledger.records import PartRecord, Tallies
from batchrun.ledger.store import Store
from batchrun.writer.spool import Spool


class Sealing:
    """Seals the parts of one run, one after the other, in the order in which they get ready."""

    def __init__(self, run: OpenRun, ledger: Ledger, spool: Spool) -> None:
        """Seal what is put; must be made inside the running loop."""
        self._run = run
        self._ledger = ledger
        self._spool = spool
        self._ready: asyncio.Queue[OpenPart | None] = asyncio.Queue(run.parts + 1)

    def put(self, part: OpenPart) -> None:
        """Have a part sealed."""
        self._ready.put_nowait(part)

    def end(self) -> None:
        """Say that no part will come any more."""
        self._ready.put_nowait(None)

    async def seal(self, *, goes_on: Callable[[], bool], sealed: Callable[[OpenPart], None]) -> None:
        """Seal parts to the end, as long as `goes_on` says so; `sealed` is called with each.

        Raises OutputError when a part can't be written.
        """
        while (part := await self._ready.get()) is not None and goes_on():
            record = await asyncio.to_thread(self._write, part)
            await self._ledger.ask(_bound(Store.replace_part, record))
            await asyncio.to_thread(self._run.dataset.publish, part.part)
            await self._ledger.ask(_bound(Store.confirm_part, record, part.rows))
            self._spool.drop(part.part)
            sealed(part)

    def _write(self, part: OpenPart) -> PartRecord:
        dataset = self._run.dataset
        with reading(self._run.places.ledger) as store:
            written = self._run.part_writer.write(
                dataset.beside(part.part),
                part.rows,
                store.outcomes(part.rows),
                self._spool.of(part.part),
                dataset.path(part.part) if part.kept else None,
            )
        return PartRecord(
            part=part.part,
            rows=written.rows,
            sha256=written.sha256,
            tallies=Tallies(
                by_status=written.by_status, by_error_class=written.by_error_class, unpriced=written.unpriced
            ),
        )


def _bound(change: Callable[..., None], *values: object) -> Callable[[Store], None]:
    return lambda store: change(store, *values)
