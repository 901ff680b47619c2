"""Keys: in every row, strings or integers, each once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_inputs import Row, survey, write_jsonl, write_parquet, write_text

from batchrun.errors import JobError
from batchrun.reader import keys
from batchrun.reader.jsonl import survey_jsonl
from batchrun.reader.keys import KeyCheck, Place
from batchrun.reader.parquet import survey_parquet

Write = Callable[[Path, list[Row]], Path]


def refusal(path: Path, key: str = "k") -> str:
    with pytest.raises(JobError, match=r"^input.key: ") as caught:
        survey(path, key)
    return str(caught.value)


@pytest.mark.parametrize("values", [["a", "b", "1"], [1, 2, 3], [-1, -2, 0, 2**61 - 1, 2**61 - 2]])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_unique_keys_pass(tmp_path: Path, values: list[object], suffix: str) -> None:
    """Also integers that share a hash, as -1 and -2 do in CPython."""
    rows = [{"k": value} for value in values]
    write: Write = write_jsonl if suffix == "jsonl" else write_parquet
    assert survey(write(tmp_path / f"rows.{suffix}", rows), "k").key == "k"


def test_one_and_the_text_one_are_different_keys(tmp_path: Path) -> None:
    path = write_text(tmp_path / "rows.jsonl", b'{"k":1}\n{"k":"1"}\n')
    with closing(KeyCheck("k", hash_of=lambda _: 7)) as check:
        assert survey_jsonl([str(path)], check).rows == 2


def test_a_duplicate_names_file_and_line_of_both(tmp_path: Path) -> None:
    first = write_text(tmp_path / "a.jsonl", b'\n{"k":"x"}\n{"k":"y"}\n')
    second = write_text(tmp_path / "b.jsonl", b'{"k":"z"}\nbad line\n\n{"k":"x"}\n')
    message = refusal(tmp_path)
    assert message == f"input.key: column `k` holds the same key at {first}:2 and at {second}:4"


def test_a_duplicate_names_file_and_row_of_both(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "a.parquet", [{"k": at} for at in range(300)], group=100)
    second = write_parquet(tmp_path / "b.parquet", [{"k": 1000 - at} for at in range(900)])
    message = refusal(tmp_path)
    assert message == f"input.key: column `k` holds the same key at {first} row 299 and at {second} row 701"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b'{"k":null}', "is null or missing"),
        (b'{"other":1}', "is null or missing"),
        (b'{"k":true}', "is a bool"),
        (b'{"k":1.0}', "is a float"),
        (b'{"k":["x"]}', "is a list"),
    ],
)
def test_a_value_that_is_no_key_is_named_by_its_line(tmp_path: Path, line: bytes, what: str) -> None:
    path = write_text(tmp_path / "rows.jsonl", b'nope\n{"k":1}\n' + line + b"\n" + line)
    assert f"column `k` {what} at {path}:3; expected a string or an integer" in refusal(path)


@pytest.mark.parametrize("text", [b'{"a":1}\n', b"{}\nnope\n"])
def test_a_key_that_no_row_has(tmp_path: Path, text: bytes) -> None:
    assert refusal(write_text(tmp_path / "rows.jsonl", text)) == "input.key: no row has a column `k`"


def test_a_key_where_no_line_is_an_object(tmp_path: Path) -> None:
    path = write_text(tmp_path / "rows.jsonl", b"k\nnope\n")
    with pytest.raises(JobError, match=r"^input\.path: rows\.jsonl line 1: not JSON: .*; expected JSON lines: "):
        survey(path, "k")


def test_a_key_in_an_input_without_rows(tmp_path: Path) -> None:
    assert survey(write_text(tmp_path / "rows.jsonl", b"\n"), "k").rows == 0


def test_a_null_key_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [{"k": "a"}, {"k": None}])
    assert f"is null or missing at {path} row 1;" in refusal(path)


def test_a_parquet_column_that_can_hold_no_keys(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "rows.parquet", [{"k": 1.5}])
    assert "column `k` is double; expected strings or integers" in refusal(path)
    assert "no row has a column `nope`" in refusal(path, "nope")


def test_a_dictionary_of_strings_holds_keys(tmp_path: Path) -> None:
    pq.write_table(pa.table({"k": pa.array(["a", "b", "a"]).dictionary_encode()}), tmp_path / "rows.parquet")
    assert "holds the same key" in refusal(tmp_path / "rows.parquet")


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("twice", [False, True])
def test_hashes_on_disk_and_hashes_that_collide_change_nothing(tmp_path: Path, *, constant: bool, twice: bool) -> None:
    values: list[object] = [*range(500), *map(str, range(500)), *([77] if twice else [])]
    path = write_jsonl(tmp_path / "rows.jsonl", [{"k": value} for value in values])
    parquet = write_parquet(tmp_path / "rows.parquet", [{"k": str(value) + str(type(value))} for value in values])
    for scan, file, unit in ((survey_jsonl, path, "line"), (survey_parquet, parquet, "row")):
        hash_of = (lambda _: -5) if constant else hash
        with closing(KeyCheck("k", unit=unit, run_rows=64, memory_rows=200, hash_of=hash_of)) as check:
            if twice:
                with pytest.raises(JobError, match="holds the same key"):
                    scan([str(file)], check)
            else:
                assert scan([str(file)], check).rows == 1000
            assert check._spill._file is not None


def test_many_equal_hashes_are_compared_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many hashes collide, only so many are looked up in one pass."""
    monkeypatch.setattr(keys, "COMPARED_HASHES", 3)
    values: list[object] = list(range(40))
    passes: list[int] = []

    def again() -> list[Place]:
        passes.append(1)
        return [(value, at, "f") for at, value in enumerate(values)]

    with closing(KeyCheck("k", hash_of=lambda value: int(str(value)) // 2)) as check:
        check.add(values, range(40), "f")
        check.finish(again)
    assert len(passes) == 7


@settings(deadline=None)
@given(st.lists(st.integers() | st.text(), max_size=60), st.integers(1, 20), st.integers(0, 30))
def test_a_check_refuses_exactly_the_lists_with_a_duplicate(
    values: list[object], run_rows: int, memory_rows: int
) -> None:
    with closing(KeyCheck("k", run_rows=run_rows, memory_rows=memory_rows)) as check:
        for at, value in enumerate(values):
            check.add([value], [at], "f")
        refused = False
        try:
            check.finish(lambda: ((value, at, "f") for at, value in enumerate(values)))
        except JobError:
            refused = True
    assert refused == (len(set(values)) < len(values))
