"""Parts into the dataset: a part is renamed into place only whole; one file is made of all parts where asked for."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
# pyarrow has no complete types

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchrun.errors import OutputError
from batchrun.job.places import Places
from batchrun.model.outcome import Account
from batchrun.pricing import nanousd_from_usd
from batchrun.writer.digests import Digests
from batchrun.writer.part import digest_of, sync
from batchrun.writer.schema import RUN_ID_KEY

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Dataset:
    """The part files of one output, and the single file made of them where the output is one."""

    def __init__(self, places: Places, *, compression: str, digests: Digests | None = None) -> None:
        """Use the paths of `places`; touches no disk. `digests` spare hashing files that nobody touched."""
        self._places = places
        self._digests = digests or Digests({})
        self._compression = compression

    def beside(self, part: int) -> Path:
        """Return where a part is written before it is whole; readers skip the name."""
        return self._places.parts / f".part-{part:06d}.parquet.partial"

    def path(self, part: int) -> Path:
        """Return a part's final path."""
        return self._places.part(part)

    def digest(self, part: int) -> str | None:
        """Return the SHA-256 of the file under a part's final name, None when there is none."""
        try:
            return self._digests.of(self.path(part))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise OutputError(f"{self.path(part)}: can't be read: {error.strerror}") from None

    def is_readable(self, part: int) -> bool:
        """Say whether the file under a part's final name is Parquet that can be read whole."""
        try:
            with pq.ParquetFile(self.path(part), pre_buffer=False) as file:  # else the whole part is held
                for _ in file.iter_batches():
                    pass
        except (OSError, pa.ArrowException):
            return False
        return True

    def publish(self, part: int) -> None:
        """Rename a part that was written beside into place, durably."""
        try:
            self.beside(part).replace(self.path(part))
            sync(self._places.parts)
        except OSError as error:
            raise OutputError(f"{self.path(part)}: can't be put in place: {error.strerror}") from None

    def clear_unfinished(self) -> None:
        """Remove what an earlier run left half written."""
        try:
            for left in self._places.parts.glob(".part-*.parquet.partial"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._places.parts}: can't be cleared: {error.strerror}") from None

    def single_digest(self) -> str | None:
        """Return the SHA-256 of the single output file; None when there is none, or none is asked for."""
        single = self._places.single
        return None if single is None or not single.exists() else self._digests.of(single)

    def assemble(self, parts: int) -> str | None:
        """Stream all parts together into the single output file, put that in place durably, return its SHA-256.

        Returns None, having done nothing, when the output is a directory.
        """
        target = self._places.single
        if target is None:
            return None
        beside = target.with_name(f".{target.name}.partial")
        try:
            schema = pq.read_schema(self.path(0))
            with pq.ParquetWriter(beside, schema, compression=self._compression) as writer:
                for part in range(parts):
                    with pq.ParquetFile(self.path(part)) as source:
                        for group in range(source.num_row_groups):
                            writer.write_table(source.read_row_group(group))
            sync(beside)
            if pq.read_metadata(beside).num_rows != sum(
                pq.read_metadata(self.path(part)).num_rows for part in range(parts)
            ):
                raise OutputError(f"{target}: rows were lost while it was written")
            digest = digest_of(beside)
            beside.replace(target)
            sync(target.parent)
        except (OSError, pa.ArrowException) as error:
            beside.unlink(missing_ok=True)
            raise OutputError(f"{target}: can't be written: {error}") from None
        return digest

    def rows_with_status(
        self, part: int, prefix: str, statuses: Sequence[str]
    ) -> Iterator[tuple[int, str, str | None, Account]]:
        """Yield row, status, error class and account of a part's rows with one of these statuses."""
        names = ("row", "status", "error_class", "attempts", "cost_usd", "cost_source", "flags", "started_at")
        with pq.ParquetFile(self.path(part)) as source:
            table = source.read(columns=[prefix + name for name in names])
        columns = (table.column(prefix + name).to_pylist() for name in names)
        for row, status, error_class, attempts, cost, cost_source, flags, started in zip(*columns, strict=True):
            if status in statuses:
                account = Account(
                    attempts=attempts,
                    cost_nanousd=nanousd_from_usd(cost),
                    cost_source=cost_source,
                    started_us=None if started is None else (started - _EPOCH) // timedelta(microseconds=1),
                    flags=tuple(flags),
                )
                yield row, status, error_class, account


def is_ours(path: Path) -> bool:
    """Say whether a file is Parquet that batchrun wrote, by the run id in its metadata."""
    try:
        metadata = pq.read_schema(path).metadata
    except (OSError, pa.ArrowException):
        return False
    return metadata is not None and RUN_ID_KEY.encode() in metadata


def write_whole(path: Path, content: bytes, *, durable: bool) -> None:
    """Replace a small file by `content`, so that no reader ever sees half of it.

    Raises OutputError when it can't be written.
    """
    beside = path.with_name(f".{path.name}.partial")
    try:
        with beside.open("wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
        if durable:
            sync(path.parent)
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror}") from None
