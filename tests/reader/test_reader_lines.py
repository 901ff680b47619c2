"""Lines come out whole, and with their numbers, wherever the pieces end in which a file is read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_inputs import records, survey, write_text

from batchrun.reader.decode import decode_lines
from batchrun.reader.lines import BOM, LineCursor, Lines, read_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable

NAMES = ["rows.jsonl", "rows.jsonl.gz", "rows.jsonl.zst"]
OBJECT = st.text("aé€😀\u2028\\", max_size=9).map(lambda text: f'{{"a":"{text}"}}'.encode())
BLANK = st.text(" \t\r", max_size=3).map(str.encode)
LINE = st.one_of(OBJECT, OBJECT.map(BOM.__add__), BLANK, st.binary(max_size=30))
ENDED = st.builds(bytes.__add__, LINE, st.sampled_from([b"\n", b"\r\n"]))
TEXT = st.builds(
    lambda start, lines, last: start + b"".join(lines) + last,
    st.sampled_from([b"", BOM, BOM[:2]]),
    st.lists(ENDED),
    LINE,
)
SIZES = st.fixed_dictionaries(
    {
        "compressed.PIECE_BYTES": st.integers(1, 40),
        "compressed.COMPRESSED_PIECE_BYTES": st.integers(1, 40),
        "compressed.FIRST_FEED_BYTES": st.integers(1, 40),
        "lines.BLOCK_BYTES": st.integers(1, 40),
        "lines.STRETCH_ROWS": st.integers(1, 4),
    }
)


def plain(text: bytes) -> list[tuple[int, bytes]]:
    """The rows of a text and their numbers, by looking at all of it at once."""
    lines = enumerate(text.removeprefix(BOM).split(b"\n"), 1)
    return [(number, line) for number, line in lines if line.strip()]


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(text=TEXT, sizes=SIZES, data=st.data())
def test_rows_numbers_and_messages_do_not_depend_on_where_pieces_end(
    tmp_path_factory: pytest.TempPathFactory, name: str, text: bytes, sizes: dict[str, int], data: st.DataObject
) -> None:
    expected = plain(text)
    path = write_text(tmp_path_factory.mktemp("pieces") / name, text)
    begin = data.draw(st.integers(0, len(expected)))
    wanted = range(begin, data.draw(st.integers(begin, len(expected))))
    with pytest.MonkeyPatch.context() as patch:
        for cut, size in sizes.items():
            patch.setattr(f"batchrun.reader.{cut}", size)
        assert _numbered(read_blocks(str(path))) == expected
        cursor = LineCursor(str(path))
        assert _numbered(cursor.take(wanted.start, wanted.stop)) == expected[begin : wanted.stop]
        cursor.close()
        found = survey(path)
        made = [(record.row, record.values, record.problem, record.replaced) for record in records(found, wanted)]
    assert found.rows == len(expected)
    assert made == [_alone(row, *expected[row], name) for row in wanted]


def _numbered(blocks: Iterable[Lines]) -> list[tuple[int, bytes]]:
    return [found for lines in blocks for found in zip(lines.numbers, lines.texts, strict=True)]


def _alone(row: int, number: int, line: bytes, name: str) -> tuple[int, object, str | None, bool]:
    """What becomes of a line that is decoded by itself."""
    rows = decode_lines(Lines(texts=[line], numbers=[number]), name)
    return row, None if rows.problems else rows.values[0], rows.problems.get(0), bool(rows.replaced)
