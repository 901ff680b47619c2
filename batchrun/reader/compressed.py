"""A plain, gzip or zstd file into its decompressed bytes, piece by piece.

A torn file is an error, never an end.
"""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import zstandard

from batchrun.errors import JobError
from batchrun.reader.source import label

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

PIECE_BYTES = 1 << 19
COMPRESSED_PIECE_BYTES = 16 << 10
FIRST_FEED_BYTES = 256


class _Frame(Protocol):
    """A gzip member or zstd frame that is being decompressed."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def _gzip_member() -> _Frame:
    return zlib.decompressobj(wbits=31)


def _zstd_frame() -> _Frame:
    return zstandard.ZstdDecompressor().decompressobj()


def read_pieces(path: str, watch: Callable[[bytes], object] | None = None) -> Generator[bytes]:
    """Read a file, decompressed if its name ends in .gz or .zst; `watch` sees every byte as it is stored.

    Raises JobError when the file can't be read, or its compressed data is torn or damaged.
    """
    try:
        match Path(path).suffix.lower():
            case ".gz":
                yield from _expand(_stored(path, COMPRESSED_PIECE_BYTES, watch), _gzip_member, padding=b"\0")
            case ".zst":
                yield from _expand(_stored(path, COMPRESSED_PIECE_BYTES, watch), _zstd_frame)
            case _:
                yield from _stored(path, PIECE_BYTES, watch)
    except EOFError:
        raise JobError(f"input.path: {label(path)} is torn: its compressed data ends too early") from None
    except (zlib.error, zstandard.ZstdError) as error:
        raise JobError(f"input.path: {label(path)} is damaged or not compressed as named: {error}") from None
    except OSError as error:
        raise JobError(f"input.path: {label(path)} can't be read: {error.strerror}") from None


def _stored(path: str, piece_bytes: int, watch: Callable[[bytes], object] | None) -> Iterator[bytes]:
    with Path(path).open("rb", buffering=0) as file:
        while piece := file.read(piece_bytes):
            if watch is not None:
                watch(piece)
            yield piece


def _expand(stored: Iterator[bytes], begin: Callable[[], _Frame], padding: bytes = b"") -> Iterator[bytes]:
    """Decompress frames that follow each other, zero bytes as `padding` between them; EOFError when torn.

    One call expands all it is fed, at ratios of up to 30,000; so it is fed less where pieces come out large.
    """
    frame = begin()
    feed_bytes = FIRST_FEED_BYTES
    for stored_piece in stored:
        rest = stored_piece
        while rest:
            if frame.eof:
                rest = rest.lstrip(padding) if padding else rest
                if not rest:
                    break
                frame = begin()
            piece = frame.decompress(rest[:feed_bytes])
            yield piece
            rest = (frame.unused_data if frame.eof else b"") + rest[feed_bytes:]
            if len(piece) > PIECE_BYTES:
                feed_bytes = max(feed_bytes // 2, 16)
            elif len(piece) < PIECE_BYTES // 4:
                feed_bytes = min(feed_bytes * 2, COMPRESSED_PIECE_BYTES)
    if not frame.eof:
        raise EOFError
