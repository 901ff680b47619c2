"""One kernel lock for one output, so that two runs can't share it and none is left behind by a crash."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
from collections.abc import Generator
from pathlib import Path

from batchrun.errors import JobError, OutputError, OutputHeldError

_REMOTE_KINDS = ("nfs", "cifs", "smb", "fuse", "9p")
_NAMED = r"process (\d+) on (.*)"
"""How a lock file names its holder."""
_ESCAPED = re.compile(r"\\([0-7]{3})")
"""How the kernel writes blanks and backslashes in a mount's place."""


@contextlib.contextmanager
def held(path: Path) -> Generator[None, None, None]:
    """Hold the lock file `path`, whose folder must be there.

    Raises OutputHeldError, naming the holder, when another run holds it; OutputError when it can't be made.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise OutputError(f"{path}: can't be made: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            if _is_dead(holder):
                raise OutputHeldError(
                    f"worker processes of a run that was killed ({holder}) still finish what they have in flight, and "
                    "hold this output until then: for no longer than the grace time of that run"
                ) from None
            raise OutputHeldError(f"another run holds this output: {holder or 'it has just begun'}") from None
        except OSError as error:
            raise OutputError(f"{path}: can't be locked: {error.strerror}") from None
        with contextlib.suppress(OSError):  # naming the holder is a courtesy; a full disk is found by the ledger
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _is_dead(holder: str) -> bool:
    """Say whether the process that a lock file names is gone, as far as this machine can tell."""
    named = re.fullmatch(_NAMED, holder)
    if named is None or named[2] != socket.gethostname():
        return False
    try:
        os.kill(int(named[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def parts_held(folder: Path) -> Generator[None, None, None]:
    """Hold a folder of parts whose state, and so whose lock, lies elsewhere: another state_dir must not write there.

    Raises OutputHeldError when another run holds it. A disk that knows no locks is left to the state's lock alone.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputHeldError(
                    f"another run, with another output.state_dir, holds this output: {folder}"
                ) from None
        yield
    finally:
        os.close(descriptor)


def refuse_remote_disk(path: Path, mounts: str = "/proc/self/mounts") -> None:
    """Raise JobError where `path` would lie on a network file system, which keeps no promise of flock and WAL."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError:
        return
    resolved = path.resolve()
    kind_of: dict[Path, str] = {}
    for line in lines:
        fields = line.split(" ")
        if len(fields) > 2:  # noqa: PLR2004 - device, place, kind
            place = _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), fields[1])
            kind_of[Path(place)] = fields[2]
    kind = next((kind_of[above] for above in (resolved, *resolved.parents) if above in kind_of), "")
    if kind.startswith(_REMOTE_KINDS):
        raise JobError(
            f"output.state_dir: {path} is on a network disk ({kind}), where neither locks nor the ledger can be "
            "trusted; set output.state_dir to a folder on a local disk"
        )
