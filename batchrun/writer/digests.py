"""Digests of files, computed once for as long as the file system says that nobody touched them.

Hashing all parts at each start costs about a second for each GB, and more where they have to be read from a slow disk.
The time of a file's last change can't be set by hand: whoever writes to a file, cuts it, replaces it or moves it here
changes one of the four numbers of its mark, and the digest decides again. What a disk loses by itself changes none of
them, and is found by whoever reads the file.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from batchrun.writer.part import digest_of

SETTLED_NS = 2_000_000_000
"""A change may leave no trace within the same tick of a clock, which is 2 s in the coarsest file systems."""


class Seen(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A file as it was when its digest was computed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str

    def is_of(self, stat: os.stat_result) -> bool:
        """Say whether a file is still the one that was seen."""
        now = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode) == now


class Digests:
    """Digests of the files of one output, by their names."""

    def __init__(self, known: Mapping[str, Seen], *, wall_ns: Callable[[], int] = time.time_ns) -> None:
        """Go on from what was `known` of files before."""
        self._known = known
        self._wall_ns = wall_ns
        self.seen: dict[str, Seen] = {}

    def of(self, path: Path) -> str:
        """Return the SHA-256 of a file, in hex; `seen` then holds it unless the file has just been changed.

        Raises OSError when it can't be read.
        """
        began_ns, stat = self._wall_ns(), path.stat()
        known = self.seen.get(path.name) or self._known.get(path.name)
        if known is None or not known.is_of(stat):
            known = Seen(
                size=stat.st_size,
                mtime_ns=stat.st_mtime_ns,
                ctime_ns=stat.st_ctime_ns,
                inode=stat.st_ino,
                sha256=digest_of(path),
            )
        if stat.st_ctime_ns < began_ns - SETTLED_NS:
            self.seen[path.name] = known
        return known.sha256
