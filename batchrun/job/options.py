"""What one run is asked for beside its job."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchrun.job.settings import OutputSettings


class RunOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of one run; none of them is part of the job's fingerprint.

    `limit` treats the input as its first rows. `fresh` starts over, or goes on with an unfinished fresh generation;
    the old output stays whole until the new one is complete. `retry_failed` sends again exactly the rows whose status
    is in `fail_on`. `grace_s` is how long a stopped run waits for what is in flight. `signals` makes the run drain on
    SIGINT, SIGTERM and SIGHUP, which only the main thread can ask for. `earlier_output` is where the run of the day
    before would have written: when that is unfinished, a new day's run is refused. `processes` is how many worker
    processes work the parts; 1 stands for this process alone, `auto` for one and, up to its cores, one more each time
    that those there are compute nearly all of the time.
    """

    limit: Annotated[int, Meta(ge=0)] | None = None
    fresh: bool = False
    retry_failed: bool = False
    grace_s: float = 30.0
    signals: bool = False
    earlier_output: OutputSettings | None = None
    processes: Annotated[int, Meta(ge=1)] | Literal["auto"] = 1
