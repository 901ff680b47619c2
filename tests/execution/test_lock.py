"""The lock of an output: one holder, none left behind by a crash, none on a network disk."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchrun.errors import JobError, OutputError, OutputHeldError
from batchrun.execution.lock import held, refuse_remote_disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HOLDER = """
import sys, pathlib
from batchrun.execution.lock import held
with held(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def holder(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its standard input is closed."""
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_is_told_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        with (
            pytest.raises(OutputHeldError, match=f"another run holds this output: process {process.pid} on "),
            held(path),
        ):
            pass
        with pytest.raises(OutputHeldError, match=str(process.pid)), held(path):
            pass


def test_a_lock_ends_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        process.communicate(timeout=20)
        with held(path):
            assert path.read_text().startswith(f"process {os.getpid()} on ")


def test_r39_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=20)
        with held(path):
            pass


def test_a_process_does_not_hold_it_twice(tmp_path: Path) -> None:
    with held(tmp_path / "lock"), pytest.raises(OutputHeldError, match=str(os.getpid())), held(tmp_path / "lock"):
        pass
    with held(tmp_path / "lock"):
        pass


def test_an_error_inside_releases_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), held(tmp_path / "lock"):
        raise KeyError
    with held(tmp_path / "lock"):
        pass


def test_a_long_name_of_an_earlier_holder_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("process 1 on " + "x" * 500)
    with held(path):
        assert path.read_text().count("\n") == 1
        assert "xxx" not in path.read_text()


def test_a_lock_that_can_not_be_made(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="can't be made: No such file"), held(tmp_path / "none" / "lock"):
        pass
    with pytest.raises(OutputError, match="can't be made: Is a directory"), held(tmp_path):
        pass


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
/dev/sdb1 {at}/local ext4 rw 0 0
server:/export {at}/nfs nfs4 rw,vers=4.2 0 0
/dev/sdc1 {at}/nfs/scratch xfs rw 0 0
//server/share {at}/cifs cifs rw 0 0
//server/share {at}/smb smb3 rw 0 0
me@host:/ {at}/sshfs fuse.sshfs rw 0 0
host {at}/plan9 9p rw 0 0
server:/b {at}/two\\040words\\134x nfs rw 0 0
server:/c {at}/größe nfs4 rw 0 0
server:/d {at}/covered nfs4 rw 0 0
/dev/sdd1 {at}/covered ext4 rw 0 0
/dev/sde1 {at}/hidden ext4 rw 0 0
server:/e {at}/hidden nfs4 rw 0 0
broken line
"""


@pytest.fixture
def mounts(tmp_path: Path) -> str:
    path = tmp_path / "mounts"
    path.write_text(MOUNTS.format(at=tmp_path), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("nfs", "nfs4"),
        ("nfs/out/_batchrun", "nfs4"),
        ("cifs/out", "cifs"),
        ("smb/out", "smb3"),
        ("sshfs/out", "fuse.sshfs"),
        ("plan9/out", "9p"),
        ("two words\\x/out", "nfs"),
        ("größe/out", "nfs4"),
        ("hidden/out", "nfs4"),
        ("local/../nfs/out", "nfs4"),
    ],
)
def test_network_disks_are_refused(tmp_path: Path, mounts: str, place: str, kind: str) -> None:
    with pytest.raises(JobError, match=rf"^output\.state_dir: .* is on a network disk \({kind}\)"):
        refuse_remote_disk(tmp_path / place, mounts)


@pytest.mark.parametrize("place", ["local/out", "out", "nfs/scratch/out", "nfs2/out", "covered/out"])
def test_local_disks_are_not(tmp_path: Path, mounts: str, place: str) -> None:
    refuse_remote_disk(tmp_path / place, mounts)


def test_a_link_is_followed(tmp_path: Path, mounts: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nfs")
    with pytest.raises(JobError, match="network disk"):
        refuse_remote_disk(tmp_path / "link" / "out", mounts)


def test_a_list_of_mounts_that_is_odd_or_not_there(tmp_path: Path) -> None:
    refuse_remote_disk(tmp_path, str(tmp_path / "none"))
    odd = tmp_path / "odd"
    odd.write_bytes(b"server:/ /mnt/\xff\xfe nfs4 rw 0 0\n\n/dev/sda1 / ext4 rw 0 0\n")
    refuse_remote_disk(tmp_path, str(odd))


def test_this_machines_mounts_can_be_read(tmp_path: Path) -> None:
    with contextlib.suppress(JobError):
        refuse_remote_disk(tmp_path)
