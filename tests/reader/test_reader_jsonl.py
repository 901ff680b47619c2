"""The rules of JSONL: lines, bad lines, text that is not Unicode, column kinds, torn files."""

from __future__ import annotations

import gzip
import hashlib
import json
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_inputs import carried, kinds, records, stretches, survey, write_jsonl, write_text

from batchrun.errors import JobError
from batchrun.reader.source import Needs
from batchrun.reader.survey import open_reader

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.model.record import Survey


def lay_out(folder: Path, text: bytes) -> Survey:
    return survey(write_text(folder / "rows.jsonl", text))


def problems(found: Survey) -> list[str | None]:
    return [record.problem for record in records(found)]


def test_crlf_bom_and_a_last_line_without_lf(tmp_path: Path) -> None:
    found = lay_out(tmp_path, b'\xef\xbb\xbf{"a":1}\r\n{"a":2}\r\n{"a":3}')
    assert [record.values for record in records(found)] == [{"a": 1}, {"a": 2}, {"a": 3}]


def test_a_bom_alone_is_an_empty_file(tmp_path: Path) -> None:
    assert lay_out(tmp_path, b"\xef\xbb\xbf").rows == 0


def test_a_bom_further_down_is_a_bad_line(tmp_path: Path) -> None:
    assert "line 2: not JSON" in str(problems(lay_out(tmp_path, b'{}\n\xef\xbb\xbf{"a":1}\n')))


def test_only_lf_ends_a_line(tmp_path: Path) -> None:
    found = lay_out(tmp_path, '{"a":"x\u2028y\u0085z"}\n'.encode() + b'{"a":\r1}\n')
    assert [record.values for record in records(found)] == [{"a": "x\u2028y\u0085z"}, {"a": 1}]


TEXT = '{"a":1}\n{"a":"zwölf"}\n'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        *((TEXT.encode(name), "text in UTF-16") for name in ("utf-16", "utf-16-le", "utf-16-be")),
        *((TEXT.encode(name), "text in UTF-32") for name in ("utf-32", "utf-32-le", "utf-32-be")),
        (b"\xfe\xff" + TEXT.encode("utf-16-be"), "text in UTF-16"),
        (TEXT.replace("\n", "\r").encode(), "text whose lines end in CR alone"),
        (TEXT.replace("\n", " \r\r ").encode(), "text whose lines end in CR alone"),
        (b"PAR1\x15\x04\x15", "a Parquet file"),
        (gzip.compress(TEXT.encode(), mtime=0), "compressed by gzip"),
        (zstandard.compress(TEXT.encode()), "compressed by zstd"),
    ],
)
def test_a_file_that_can_be_no_jsonl_is_told_for_what_it_is(tmp_path: Path, text: bytes, what: str) -> None:
    with pytest.raises(JobError) as refused:
        lay_out(tmp_path, text)
    assert str(refused.value) == (
        f"input.path: {tmp_path / 'rows.jsonl'} is {what}; "
        "expected JSON lines: a JSON object on each line, in UTF-8, each line ended by LF"
    )


@pytest.mark.parametrize(
    "text", [b'{"a":1}\r', b'{"a":\r1}\r', b'{"a":"}\\r{"}\r', b'{"a":1}\n{"a":1}\r{"a":1}\n', b"{\0\0\0\0"]
)
def test_a_file_that_only_looks_like_one_is_read(tmp_path: Path, text: bytes) -> None:
    assert lay_out(tmp_path, text).rows


@pytest.mark.parametrize("first", [b"\xff\xfe\0x", b"\xff\xfe\0\0", b"\xfe\xff", b"{\0a\0"])
def test_a_bad_first_line_among_lines_is_a_row(tmp_path: Path, first: bytes) -> None:
    """SPEC.md, section 2: however it begins."""
    found = lay_out(tmp_path, first + b'\n{"a":1}\n')
    (bad, good) = records(found)
    assert bad.problem
    assert good.values == {"a": 1}


def test_lines_of_white_space_are_no_rows_but_count_as_lines(tmp_path: Path) -> None:
    found = lay_out(tmp_path, b'\n{"a":1}\n  \t\r\n\nnope\n\n')
    assert found.rows == 2
    (good, bad) = records(found)
    assert good.values == {"a": 1}
    assert bad.problem is not None
    assert bad.problem.startswith("rows.jsonl line 5: not JSON: ")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b'{"secret": 1', "not JSON: Expecting ',' delimiter at character 13"),
        (b'{"secret": "x', "not JSON: Unterminated string starting at character 12"),
        (b'{"secret": NaN}', "not JSON: NaN is no JSON value"),
        (b'{"secret": -Infinity}', "not JSON: -Infinity is no JSON value"),
        (b'{"secret": 1e999}', "not JSON: a number is out of range"),
        (b'{"secret": ' + b"7" * 5000 + b"}", "not JSON: an integer has too many digits"),
        (b'{"secret": 1} {}', "not JSON: Extra data at character 15"),
        (b'{"secret": "\\q"}', "not JSON: Invalid \\escape at character 13"),
        (b'{"secret": "\x01"}', "not JSON: Invalid control character at character 13"),
        (b"[" * 100_000, "not JSON: nested too deeply"),
        (b'["secret"]', "expected a JSON object, got a list"),
        (b'"secret"', "expected a JSON object, got a string"),
        (b"12345678901234567890123", "expected a JSON object, got a number"),
        (b"1.5", "expected a JSON object, got a number"),
        (b"true", "expected a JSON object, got true or false"),
        (b"null", "expected a JSON object, got null"),
    ],
)
def test_a_bad_line_is_a_row_that_says_why_without_its_text(tmp_path: Path, line: bytes, problem: str) -> None:
    found = lay_out(tmp_path, b'{"a":"x"}\n' + line + b'\n{"a":"y"}\n')
    assert problems(found) == [None, f"rows.jsonl line 2: {problem}", None]
    assert records(found)[1].values is None
    assert "secret" not in str(problems(found))
    assert found.column_names() == ("a",)
    assert carried(found) == {"a": ["x", None, "y"]}


def test_a_problem_names_the_path_where_base_names_are_shared(tmp_path: Path) -> None:
    paths = [write_text(tmp_path / folder / "rows.jsonl", b"nope\n") for folder in "ab"]
    write_text(tmp_path / "c.jsonl", b"nope\n")
    named = [str(problem).split(" line ")[0] for problem in problems(survey(tmp_path))]
    assert named == [str(paths[0]), str(paths[1]), "c.jsonl"]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b'{"a":"\xff\xfe!"}', {"a": "\ufffd\ufffd!"}),
        (b'{"\xff":1}', {"\ufffd": 1}),
        (rb'{"a":"\ud800 \uD83D\uDE00 \udc00"}', {"a": "\ufffd \U0001f600 \ufffd"}),
        (rb'{"\udfff":[{"b":"\ud83d"}]}', {"\ufffd": [{"b": "\ufffd"}]}),
    ],
)
def test_text_that_is_not_unicode_is_replaced_and_flagged(
    tmp_path: Path, line: bytes, value: dict[str, object]
) -> None:
    good, replaced = records(lay_out(tmp_path, b'{"a":"\xc3\xa9"}\n' + line))
    assert (good.values, good.replaced) == ({"a": "é"}, False)
    assert (replaced.values, replaced.replaced) == (value, True)


def test_nul_and_escaped_pairs_stay_and_are_no_replacement(tmp_path: Path) -> None:
    found = lay_out(tmp_path, rb'{"a":"\u0000\ud83d\ude00\\ud800", "b":1234567890123456789012}')
    (record,) = records(found)
    assert record.values == {"a": "\x00\U0001f600\\ud800", "b": 1234567890123456789012}
    assert not record.replaced


def test_the_last_of_duplicate_keys_wins(tmp_path: Path) -> None:
    found = lay_out(tmp_path, b'{"a":1,"a":2}\n{"a":1,"a":99999999999999999999}')
    assert [record.values for record in records(found)] == [{"a": 2}, {"a": 99999999999999999999}]


@pytest.mark.parametrize("digits", [18, 19, 20, 21, 40, 400])
def test_integers_are_exact(tmp_path: Path, digits: int) -> None:
    number = 10**digits - 3
    (record,) = records(lay_out(tmp_path, b'{"a":%d,"b":-%d,"c":[%d]}' % (number, number, number)))
    assert record.values == {"a": number, "b": -number, "c": [number]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"b":1,"a":"x"}\n{"a":null,"b":2}', [("b", "int64"), ("a", "string")]),
        (b'{"b":1}\n{}\n{"a":[],"b":2.5}\n{"c":true,"b":1}', [("b", "double"), ("a", "json"), ("c", "bool")]),
    ],
)
def test_columns_stand_in_the_order_in_which_they_are_first_seen(
    tmp_path: Path, text: bytes, expected: list[tuple[str, str]]
) -> None:
    """Also where a row has some of them only, or in another order."""
    assert [(column.name, column.kind) for column in lay_out(tmp_path, text).columns] == expected


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        (["null", "null"], "string", [None, None]),
        (["true", "null"], "bool", [True, None]),
        (["1", "-9223372036854775808"], "int64", [1, -(2**63)]),
        (["9223372036854775807"], "int64", [2**63 - 1]),
        (["9223372036854775808", "1"], "json", ["9223372036854775808", "1"]),
        (["-9223372036854775809", "1.5"], "json", ["-9223372036854775809", "1.5"]),
        (["1", "2.5", "null"], "double", [1.0, 2.5, None]),
        (["1e3"], "double", [1000.0]),
        (['"x"', '""'], "string", ["x", ""]),
        (['"é"', "1", "null"], "json", ['"é"', "1", None]),
        (["true", "1"], "json", ["true", "1"]),
        (["[1, 2]", '{"b": "é"}', "null"], "json", ["[1,2]", '{"b":"é"}', None]),
    ],
)
def test_column_kinds(tmp_path: Path, values: list[str], kind: str, stored: list[object]) -> None:
    found = lay_out(tmp_path, "\n".join(f'{{"a": {value}}}' for value in values).encode())
    assert kinds(found) == {"a": kind}
    assert carried(found) == {"a": stored}
    assert list(map(type, carried(found)["a"])) == list(map(type, stored))


def test_columns_stand_in_the_order_first_seen_over_all_files(tmp_path: Path) -> None:
    write_text(tmp_path / "a.jsonl", b'{"b":1}\n{"a":1,"b":2}\n')
    write_text(tmp_path / "b.jsonl", b'{"c":1,"a":"x"}\n')
    found = survey(tmp_path)
    assert kinds(found) == {"b": "int64", "a": "json", "c": "int64"}
    assert carried(found) == {"b": [1, 2, None], "a": [None, "1", '"x"'], "c": [None, None, 1]}


def test_a_value_the_survey_never_saw_is_an_error(tmp_path: Path) -> None:
    path = write_text(tmp_path / "rows.jsonl", b'{"a":1}\n')
    found = survey(path)
    write_text(path, b'{"a":"x"}\n')
    with pytest.raises(JobError, match="column `a` was surveyed as int64"):
        carried(found)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_a_line_of_20_mb(tmp_path: Path, suffix: str) -> None:
    text = "x" * 20_000_000
    path = write_jsonl(tmp_path / f"rows{suffix}", [{"a": 1}, {"a": 2, "b": text}, {"a": 3}])
    assert carried(survey(path)) == {"a": [1, 2, 3], "b": [None, text, None]}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, suffix: str) -> None:
    """Rows of 100 kB, 60 MB in all, are read in far less."""
    path = write_jsonl(tmp_path / f"rows{suffix}", [{"a": "x" * 100_000}] * 600)
    found = survey(path)
    tracemalloc.start()
    needs = Needs(values=frozenset({"a"}), carried=("a",))
    largest = max(len(stretch.records) for stretch in open_reader(found, needs).stretches([range(600)]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert largest <= 42
    assert peak < 20_000_000


def test_the_digest_is_of_the_stored_bytes(tmp_path: Path) -> None:
    for suffix in ("jsonl", "jsonl.gz", "jsonl.zst"):
        path = write_jsonl(tmp_path / f"rows.{suffix}", [{"a": at} for at in range(1000)])
        assert survey(path).files[0].sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_members_and_frames_follow_each_other(tmp_path: Path, suffix: str) -> None:
    """A row may begin in one and end in the next; so may a line's numbering."""
    first = write_text(tmp_path / f"1.jsonl{suffix}", b'{"a":1}\n{"a"').read_bytes()
    second = write_text(tmp_path / f"2.jsonl{suffix}", b":2}\nnope\n").read_bytes()
    both = tmp_path / f"both.jsonl{suffix}"
    both.write_bytes(first + second)
    found = survey(both)
    assert [record.values for record in records(found)] == [{"a": 1}, {"a": 2}, None]
    assert "line 3" in str(problems(found)[2])


def test_zero_bytes_after_gzip_and_skippable_zstd_frames_are_no_data(tmp_path: Path) -> None:
    gz = write_text(tmp_path / "a.jsonl.gz", b"{}\n")
    gz.write_bytes(gz.read_bytes() + b"\0" * 100)
    zst = write_text(tmp_path / "b.jsonl.zst", b"{}\n")
    zst.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zst.read_bytes())
    assert survey(tmp_path).rows == 2


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_torn_compressed_file_is_refused_wherever_it_ends(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, object]] = [{"a": hashlib.sha256(b"%d" % at).hexdigest()} for at in range(2000)]
    path = write_jsonl(tmp_path / f"rows.jsonl{suffix}", rows)
    whole = path.read_bytes()
    for kept in (0, 1, 3, 9, 20, len(whole) // 3, len(whole) // 2, len(whole) - 9, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(JobError, match=r"^input.path: .*rows.jsonl.* is torn"):
            survey(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_torn_in_its_second_part_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_text(tmp_path / f"rows.jsonl{suffix}", b"{}\n")
    whole = path.read_bytes()
    for kept in (1, 4, len(whole) - 1):
        path.write_bytes(whole + whole[:kept])
        with pytest.raises(JobError, match=r"rows.jsonl"):
            survey(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damage_and_trailing_rubbish_in_a_compressed_file_are_refused(tmp_path: Path, suffix: str) -> None:
    path = write_jsonl(tmp_path / f"rows.jsonl{suffix}", [{"a": at} for at in range(2000)])
    whole = path.read_bytes()
    middle = len(whole) // 2
    overwritten = whole[:middle] + b"\xff" * 40 + whole[middle + 40 :]
    for damaged in (whole + b"rubbish", b"not compressed at all", overwritten):
        path.write_bytes(damaged)
        with pytest.raises(JobError, match=r"rows.jsonl"):
            survey(path)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**62, max_value=2**66)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
OBJECTS = st.lists(st.dictionaries(st.sampled_from("abcdé") | st.text(max_size=3), JSON, max_size=5), max_size=20)
FITS = {
    "bool": lambda value: type(value) is bool,
    "int64": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "double": lambda value: type(value) is float,
    "string": lambda value: type(value) is str,
    "json": lambda value: type(value) is str,
}


@settings(deadline=None)
@given(OBJECTS, st.booleans())
def test_any_json_objects_come_back_equal_and_carried_values_fit(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[dict[str, object]],
    escaped: bool,  # noqa: FBT001
) -> None:
    text = b"".join(json.dumps(row, ensure_ascii=escaped).encode() + b"\n" for row in rows)
    found = survey(write_text(tmp_path_factory.mktemp("any") / "rows.jsonl.zst", text))
    assert [record.values for record in records(found)] == rows
    columns = carried(found)
    for column in found.columns:
        for row, value in zip(rows, columns[column.name], strict=True):
            given_value = row.get(column.name)
            if value is None:
                assert given_value is None
                continue
            assert FITS[column.kind](value)
            assert (json.loads(value) if column.kind == "json" else value) == given_value


@settings(deadline=None)
@given(st.lists(st.binary(max_size=30), max_size=30))
def test_any_bytes_give_a_record_for_each_line_that_is_not_blank(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    lines = [line.replace(b"\n", b"") for line in lines]
    found = survey(write_text(tmp_path_factory.mktemp("any") / "rows.jsonl", b"\n".join([b"{}", *lines])))
    assert found.rows == 1 + sum(bool(line.strip()) for line in lines)
    assert sum(len(stretch.records) for stretch in stretches(found)) == found.rows
