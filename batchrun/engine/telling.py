"""What members report, summed up: the progress of the run, what its slots have learned, its failures so far."""

from __future__ import annotations

from collections.abc import Sequence

from batchrun.engine.member import Member
from batchrun.engine.messages import Note, Report
from batchrun.engine.sums import Notes, lane_state, lanes_progress, oldest
from batchrun.events import Progress
from batchrun.execution.around import Around
from batchrun.execution.before import slots_note
from batchrun.execution.company import keep_progress
from batchrun.execution.deadline import Deadline
from batchrun.execution.ending import Ending
from batchrun.execution.resume import OpenRun
from batchrun.execution.tolerance import early_ending
from batchrun.job.lanes import lanes_of


class Telling:
    """Tells one run of several members as if it were one process's."""

    def __init__(self, run: OpenRun, around: Around) -> None:
        """Tell whoever watches."""
        self._run = run
        self._around = around
        self._notes = Notes()
        self._last: dict[int, Report] = {}
        self._learned: Sequence[tuple[int | None, ...]] = ()
        self.slots: tuple[int, ...] = ()
        self._deadline = Deadline(
            run.ends_at,
            named=run.job.limits.deadline or "",
            most_attempt_s=max(lane.endpoint.timeout_s for lane in lanes_of(run.job)),
            watcher=around.watcher,
        )

    def note(self, member: Member, note: Note) -> None:
        """Tell what a member has to tell, once where others tell it too."""
        if self._notes.is_news(member.number, note):
            self._around.watcher.noted(note.event, **note.facts)

    def reported(self, member: Member, report: Report, members: Sequence[Member]) -> None:
        """Take note of a report."""
        member.take_report(report)
        self._last[member.number] = report
        self._around.pulse.add_first_tokens(report.first_tokens_ms)
        reports = _reports([one for one in members if one.is_working])
        self.slots = tuple(map(sum, zip(*(one.slots for one in reports), strict=True)))
        if len(reports) == sum(one.has_begun for one in members):  # who has ended took its part of it along
            self._learned = [one.learned for one in reports]

    async def tell(self, members: Sequence[Member], *, draining: bool, budget_used: float | None) -> None:
        """Tell how far the run has come."""
        working = _reports([one for one in members if one.is_working])
        pulse = self._around.pulse
        pulse.add_elsewhere([one.counted for one in _reports(members)])
        progress: Progress = pulse.progress(
            lane_state(working, list(self._last.values()), budget_used),
            lanes=lanes_progress(working),
            waiting=sum(report.waiting for report in working),
            draining=draining,
            oldest=oldest(working),
            deadline_s=self._deadline.left_s,
        )
        self._around.watcher.progressed(progress)
        self._deadline.follow(progress)
        await keep_progress(self._run, progress)

    def early_ending(self, members: Sequence[Member]) -> Ending | None:
        """Return why the run is to end early for what has failed by all reports, None where it is not."""
        limits, pulse = self._run.job.limits, self._around.pulse
        suspected = sum(report.suspected for report in _reports(members)) if "failed" in limits.fail_on else 0
        return early_ending(limits, self._run.rows, settled=pulse.settled, failed=pulse.failed - suspected)

    def note_slots(self) -> None:
        """Keep what the slots of all came to for the next run."""
        lanes, store = lanes_of(self._run.job), self._run.store
        with store.changing():
            for number, learned in enumerate(zip(*self._learned, strict=True)):
                if None not in learned:
                    store.note(**{slots_note(number, lanes[number].name): str(sum(filter(None, learned)))})


def _reports(members: Sequence[Member]) -> list[Report]:
    return [member.report for member in members if member.report is not None]
