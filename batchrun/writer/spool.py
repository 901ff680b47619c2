"""Carried columns of parts that are not written yet: one Arrow IPC stream a part, in the state directory.

Every part goes through its spool, not only those far behind the reader: one path for all inputs, and memory that
neither the size of a part nor a straggler can move (SPEC.md, promise 7). A spool is no promise: a run that starts
again reads the input again and spools anew, so nothing here is synced.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false, reportMissingTypeStubs=false
# pyright: reportAttributeAccessIssue=false
# pyarrow has no complete types

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec
import pyarrow as pa

from batchrun.errors import OutputError
from batchrun.model.record import Stretch
from batchrun.writer.schema import Layout, carried_batch, carried_schema


class SpooledPart(msgspec.Struct, frozen=True, kw_only=True):
    """The carried columns of one part, on disk."""

    path: Path

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield them in row order; there is no file, and nothing to yield, where nothing is carried."""
        if self.path.exists():
            with pa.OSFile(str(self.path)) as source, pa.ipc.open_stream(source) as stream:
                yield from stream


class Spool:
    """The spools of one output; `append` and `end` are called from one thread, the rest from any."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        """Use `folder`, made anew and empty."""
        self._folder = folder
        self._schema = carried_schema(layout)
        self._part: int | None = None
        self._stream: pa.ipc.RecordBatchStreamWriter | None = None
        self._lock = threading.Lock()
        self._is_removed = False
        with self._writable():
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)

    def append(self, part: int, stretch: Stretch) -> None:
        """Add the carried columns of a part's next records; parts come one after the other."""
        if not self._schema.names:
            return
        with self._lock, self._writable():
            if self._is_removed:  # the run has ended; the thread that reads is the last to know
                return
            if part != self._part:
                self.end()
                self._stream = pa.ipc.new_stream(str(self._path(part)), self._schema)
                self._part = part
            if self._stream is not None:
                self._stream.write_batch(carried_batch(stretch.columns, self._schema, len(stretch.records)))

    def end(self) -> None:
        """Close the part that is being written."""
        stream, self._stream, self._part = self._stream, None, None
        if stream is not None:
            with self._writable():
                stream.close()

    @contextlib.contextmanager
    def _writable(self) -> Generator[None, None, None]:
        try:
            yield
        except OSError as error:
            raise OutputError(f"{self._folder}: can't write carried columns: {error.strerror or error}") from None

    def of(self, part: int) -> SpooledPart:
        """Return the carried columns of a part that was read whole."""
        return SpooledPart(path=self._path(part))

    def drop(self, part: int) -> None:
        """Remove the spool of a part that is written."""
        self._path(part).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all spools."""
        with self._lock:
            self._is_removed = True
            with contextlib.suppress(OutputError):  # a full disk was told before; what is removed needs no closing
                self.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, part: int) -> Path:
        return self._folder / f"part-{part:06d}.arrow"
