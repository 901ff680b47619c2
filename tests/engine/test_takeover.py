"""What a worker process leaves: outcomes to the main ledger, parts and its share to others; a death is told."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import job_file, prompts, write_rows

from batchrun.engine.forking import Seat
from batchrun.engine.member import Member
from batchrun.engine.messages import Ended
from batchrun.engine.shares import whole_share
from batchrun.engine.sharing import Sharing
from batchrun.engine.takeover import Takeover
from batchrun.events import Totals, Unwatched
from batchrun.execution.around import Around
from batchrun.execution.opening import open_run
from batchrun.execution.pulse import Pulse
from batchrun.execution.signals import SignalWatch
from batchrun.job.load import load_job
from batchrun.job.options import RunOptions
from batchrun.ledger.adopting import make_worker_store
from batchrun.ledger.records import Entry
from batchrun.model.outcome import Account, Failure

DIED = "a worker process died; its parts are taken over, what it had in flight may be billed"


class Heard(Unwatched):
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, str | float | None]]] = []

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.told.append((event, facts))


@pytest.mark.parametrize("died", [True, False])
def test_what_it_settled_is_kept_and_what_is_left_is_for_others(tmp_path: Path, died: bool) -> None:  # noqa: FBT001
    """Its first part lacks a row, its second all; a share whose holder died counts as used up for a minute."""
    write_rows(tmp_path, prompts(20))
    tables: dict[str, Any] = {"limits": {"requests_per_minute": 60}, "output": {"rows_per_part": 5}}
    job = load_job(str(job_file(tmp_path, endpoint={"base_url": "http://127.0.0.1:9/v1"}, **tables)))
    heard, whole = Heard(), whole_share(job)
    ours, theirs = socket.socketpair()
    with ours, theirs, open_run(job, RunOptions(processes=2), Unwatched()) as run:
        store = make_worker_store(run.places.of_worker(1).ledger, run_id=run.run_id, rows_per_part=5)
        with store.changing():
            store.begin_sending(3)
        store.commit(
            [
                Entry(
                    row=row,
                    totals=Totals(requests_sent=1),
                    outcome=Failure(row=row, error_class="rejected", message="no", account=Account(attempts=1)),
                )
                for row in range(4)
            ]
        )
        store.close()
        member = Member(Seat(1, 99, ours), lambda member, word: None)
        member.share, member.has_begun = whole, True
        member.assigned = {part.part: part for part in run.open_parts[:2]}
        member.ended = None if died else Ended(endings=[], past={"0 requests": [(1.0, 2.0)]})
        sharing = Sharing(whole, lambda share, past, is_first: pytest.fail("nobody begins"))
        pulse = Pulse(run, clock=time.monotonic)
        around = Around(access=(), watcher=heard, signals=SignalWatch(enabled=False), pulse=pulse)
        left = asyncio.run(Takeover(run, around, sharing, None).take_over(member, -9 if died else 0))
        assert [(part.part, part.pending) for part in left] == [(0, 1), (1, 5)]
        assert run.store.tallies().by_status == {"failed": 4}
        assert pulse.counted().by_status["failed"] == 4
        assert not run.places.of_worker(1).ledger.exists()
    assert (member.assigned, member.share) == ({}, {})
    if died:
        assert heard.told == [(DIED, {"process": 99, "status": -9, "parts": 2, "attempts": 3})]
        assert {name: sum(amount for _, amount in sent) for name, sent in sharing.left.items()} == whole
    else:
        assert heard.told == []
        assert sharing.left == {"0 requests": [(1.0, 2.0)]}
