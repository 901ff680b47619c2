"""Where a job's files lie: the parts, the state directory and what is in it (SPEC.md, section 3)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchrun.job.settings import Job

STATE_NAME = "_batchrun"


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of one output.

    `parts` holds the part files. `single` is the file to make of them when the output is one `.parquet` file, else
    None. `state` is the state directory, on a local disk.
    """

    output: Path
    parts: Path
    state: Path
    single: Path | None

    @property
    def lock(self) -> Path:
        """The file that a run holds its kernel lock on."""
        return self.state / "lock"

    @property
    def ledger(self) -> Path:
        """The SQLite file of the ledger."""
        return self.state / "ledger.sqlite"

    @property
    def spool(self) -> Path:
        """The folder of carried columns of parts that are not written yet."""
        return self.state / "spool"

    @property
    def summary(self) -> Path:
        """`summary.json`."""
        return self.state / "summary.json"

    @property
    def progress(self) -> Path:
        """`progress.json`."""
        return self.state / "progress.json"

    def part(self, number: int) -> Path:
        """Return the final path of a part."""
        return self.parts / f"part-{number:06d}.parquet"


def places_of(job: Job) -> Places:
    """Return the paths of a job's output; touches no disk."""
    output = Path(job.output.path)
    single = output if output.suffix == ".parquet" else None
    if job.output.state_dir is not None:
        state = Path(job.output.state_dir)
    elif single is not None:
        state = output.with_name(f".{output.name}.batchrun")
    else:
        state = output / STATE_NAME
    parts = output if single is None else state / "parts"
    return Places(output=output, parts=parts, state=state, single=single)
