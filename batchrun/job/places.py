"""Where a job's files lie: the parts, the state directory and what is in it (SPEC.md, section 3)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from batchrun.job.settings import Job

STATE_NAME = "_batchrun"


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of one output, or of its next generation while `--fresh` makes one.

    `parts` holds the part files. `single` is the file to make of them when the output is one `.parquet` file, else
    None. `home` is the state directory of the output, on a local disk; `state` is where this generation's ledger
    and spool lie, the same folder but for a next generation. `worker` numbers the worker process that works some of the
    parts with a ledger and a spool of its own, None for the process that holds the output.
    """

    output: Path
    parts: Path
    home: Path
    state: Path
    single: Path | None
    worker: int | None = None

    @property
    def lock(self) -> Path:
        """The file that a run holds its kernel lock on."""
        return self.home / "lock"

    @property
    def summary(self) -> Path:
        """`summary.json`."""
        return self.home / "summary.json"

    @property
    def progress(self) -> Path:
        """`progress.json`."""
        return self.home / "progress.json"

    @property
    def publishing(self) -> Path:
        """The record that a next generation is being put in place."""
        return self.home / "publishing.json"

    @property
    def ledger(self) -> Path:
        """The SQLite file of the ledger."""
        return self.state / f"ledger{self._of_worker}.sqlite"

    @property
    def spool(self) -> Path:
        """The folder of carried columns of parts that are not written yet."""
        return self.state / f"spool{self._of_worker}"

    @property
    def _of_worker(self) -> str:
        return "" if self.worker is None else f"-{self.worker}"

    def of_worker(self, number: int) -> Places:
        """Return the paths that a worker process works with: a ledger and a spool of its own, all else as here."""
        return msgspec.structs.replace(self, worker=number)

    def worker_ledgers(self) -> list[Path]:
        """Return the ledgers that worker processes left here."""
        return sorted(self.state.glob("ledger-*.sqlite"))

    def worker_spools(self) -> list[Path]:
        """Return the spools that worker processes left here."""
        return sorted(self.state.glob("spool-*"))

    @property
    def is_apart(self) -> bool:
        """Whether parts and state lie in different places (output.state_dir)."""
        return not self.parts.is_relative_to(self.home) and not self.home.is_relative_to(self.parts)

    def part(self, number: int) -> Path:
        """Return the final path of a part."""
        return self.parts / f"part-{number:06d}.parquet"

    def next_generation(self) -> Places:
        """Return the paths that `--fresh` works in; its parts lie on the disk of the standing ones."""
        state = self.home / "next"
        parts = self.parts / "_next" if self.is_apart else state / "parts"
        return msgspec.structs.replace(self, parts=parts, state=state)


def places_of(job: Job) -> Places:
    """Return the paths of a job's output; touches no disk."""
    return places_at(job.output.path, job.output.state_dir)


def places_at(path: str, state_dir: str | None = None) -> Places:
    """Return the paths of an output by its own path, as `places_of` does."""
    output = Path(path)
    single = output if output.suffix == ".parquet" else None
    if state_dir is not None:
        home = Path(state_dir)
    elif single is not None:
        home = output.with_name(f".{output.name}.batchrun")
    else:
        home = output / STATE_NAME
    parts = output if single is None else home / "parts"
    return Places(output=output, parts=parts, home=home, state=home, single=single)
