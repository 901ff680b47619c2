"""A file is hashed once for as long as the file system says that nobody touched it."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import msgspec
import pytest

from batchrun.writer.digests import SETTLED_NS, Digests, Seen

CONTENT = b"whole"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def later_ns() -> int:
    return time.time_ns() + 2 * SETTLED_NS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "part-000000.parquet"
    path.write_bytes(CONTENT)
    return path


def seen(path: Path) -> Seen:
    """What is known of a file after it was hashed, but for a digest by which one sees where it comes from."""
    digests = Digests({}, wall_ns=later_ns)
    assert digests.of(path) == SHA256
    return msgspec.structs.replace(digests.seen[path.name], sha256="known")


def test_a_file_that_nobody_touched_is_not_read_again(path: Path) -> None:
    known = {path.name: seen(path)}
    digests = Digests(known, wall_ns=later_ns)
    assert digests.of(path) == "known"
    assert digests.seen == known


@pytest.mark.parametrize("number", ["size", "mtime_ns", "ctime_ns", "inode"])
def test_a_file_of_another_mark_is_read(path: Path, number: str) -> None:
    known = seen(path)
    other = msgspec.structs.replace(known, **{number: getattr(known, number) + 1})
    digests = Digests({path.name: other}, wall_ns=later_ns)
    assert digests.of(path) == SHA256
    assert digests.seen == {path.name: msgspec.structs.replace(known, sha256=SHA256)}


def test_a_digest_is_that_of_its_own_file(path: Path) -> None:
    assert Digests({"part-000001.parquet": seen(path)}, wall_ns=later_ns).of(path) == SHA256


def test_what_has_just_been_changed_may_change_again_within_the_same_tick(path: Path) -> None:
    digests = Digests({}, wall_ns=lambda: path.stat().st_ctime_ns + SETTLED_NS)
    assert digests.of(path) == SHA256
    assert digests.seen == {}


def test_a_file_that_is_gone_is_told(path: Path) -> None:
    known = {path.name: seen(path)}
    path.unlink()
    with pytest.raises(FileNotFoundError):
        Digests(known).of(path)
