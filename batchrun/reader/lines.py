"""Decompressed bytes into blocks of numbered lines, and a cursor that moves forward over them by rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from batchrun.reader.compressed import read_pieces
from batchrun.reader.source import STRETCH_ROWS, ended_early

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

BLOCK_BYTES = 1 << 19
"""So much stays in a core's cache from reading to decoding; twice as much costs 7 % more, an eighth short stretches."""
BOM = b"\xef\xbb\xbf"


class Lines(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Lines that are rows, and the number of each in its file's decompressed text, counted from 1."""

    texts: list[bytes]
    numbers: Sequence[int]

    def cut(self, start: int, stop: int) -> Lines:
        """Lines `start` to `stop` of these."""
        return Lines(texts=self.texts[start:stop], numbers=self.numbers[start:stop])

    def stretches(self) -> Iterator[Lines]:
        """Cut into runs of at most STRETCH_ROWS lines; a block is small enough to need no cut by bytes."""
        for start in range(0, len(self.texts), STRETCH_ROWS):
            yield self.cut(start, start + STRETCH_ROWS)


def read_blocks(path: str, watch: Callable[[bytes], object] | None = None) -> Generator[Lines]:
    """Read a file as blocks of about BLOCK_BYTES, or of one longer line; `watch` sees the stored bytes.

    A line ends at LF and keeps its CR, which JSON takes as white space. A BOM at the start is dropped.
    Raises JobError as `read_pieces` does.
    """
    number = 1
    for text in _whole_lines(read_pieces(path, watch)):
        texts = (text.removeprefix(BOM) if number == 1 else text).split(b"\n")
        rows = list(filter(bytes.strip, texts))
        numbers: Sequence[int] = range(number, number + len(texts))
        if len(rows) < len(texts):
            numbers = [at for at, line in enumerate(texts, number) if line.strip()]
        number += len(texts)
        yield Lines(texts=rows, numbers=numbers)


def _whole_lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Join pieces to texts that end where a line ends, without its LF."""
    held: list[bytes] = []
    held_bytes = 0
    for piece in pieces:
        cut = piece.rfind(b"\n") if held_bytes + len(piece) >= BLOCK_BYTES else -1
        if cut < 0:
            held.append(piece)
            held_bytes += len(piece)
            continue
        yield b"".join((*held, piece[:cut]))
        held = [piece[cut + 1 :]]
        held_bytes = len(held[0])
    if held_bytes:
        yield b"".join(held)


class LineCursor:
    """A place in a surveyed file that moves forward only; lines it passes over are not decoded."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._blocks = read_blocks(path)
        self._lines = Lines(texts=[], numbers=())
        self._row = 0  # of the first of `_lines`

    def take(self, start: int, stop: int) -> Iterator[Lines]:
        """Read rows `start` to `stop` of the file, a stretch at a time; JobError when it ends before."""
        while start < stop:
            end = self._row + len(self._lines.texts)
            if start >= end:
                self._row = end
                self._lines = self._next_block()
                continue
            upto = min(stop, end)
            yield from self._lines.cut(start - self._row, upto - self._row).stretches()
            start = upto

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()

    def _next_block(self) -> Lines:
        block = next(self._blocks, None)
        if block is None:
            raise ended_early(self._path, self._row)
        return block
