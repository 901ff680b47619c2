"""OpenAI batch files: JSONL by another name, read only when named, keyed by custom_id, refused line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reader_inputs import carried, kinds, records, write_jsonl, write_text

from batchrun.errors import JobError
from batchrun.job.settings import InputSettings
from batchrun.reader.survey import survey_input

if TYPE_CHECKING:
    from batchrun.model.record import Survey


def line(custom_id: str, **changed: Any) -> dict[str, object]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"say {custom_id}"}]}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body, **changed}


ONLY_CHAT = "only chat completions are supported: expected a url that ends in /chat/completions"
LINES = [line(f"request-{at}") for at in range(600)]


def survey(path: Path | str, known: Survey | None = None) -> Survey:
    return survey_input(InputSettings(path=str(path), format="openai-batch"), known=known)


def refusal(path: Path) -> str:
    with pytest.raises(JobError) as caught:
        survey(path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst", ".txt"])
def test_one_file_of_any_name_gives_every_line_in_order(tmp_path: Path, suffix: str) -> None:
    found = survey(write_jsonl(tmp_path / f"batch{suffix}", LINES))
    assert (found.format, found.key, found.rows) == ("openai-batch", "custom_id", 600)
    assert kinds(found) == {"custom_id": "string", "method": "string", "url": "string", "body": "json"}
    assert [record.values for record in records(found)] == LINES
    columns = carried(found)
    assert columns["custom_id"] == [one["custom_id"] for one in LINES]
    assert [json.loads(str(body)) for body in columns["body"]] == [one["body"] for one in LINES]


@pytest.mark.parametrize("form", ["", "/*.jsonl*"])
def test_directories_and_globs_hold_jsonl_files(tmp_path: Path, form: str) -> None:
    write_jsonl(tmp_path / "in" / "a.jsonl", LINES[:5])
    write_jsonl(tmp_path / "in" / "b.jsonl.gz", LINES[5:9])
    (tmp_path / "in" / "notes.parquet").write_bytes(b"no batch")
    found = survey(f"{tmp_path / 'in'}{form}")
    assert [record.values for record in records(found)] == LINES[:9]


def test_a_directory_without_any(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"")
    assert "input.format is openai-batch" in refusal(tmp_path)


def test_the_format_is_never_guessed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "batch.jsonl", LINES[:3])
    assert survey_input(InputSettings(path=str(path))).format == "jsonl"


def test_a_line_that_is_no_chat_completion_is_a_bad_line_of_which_everything_is_carried(tmp_path: Path) -> None:
    """The message names file and line; blank lines count as lines."""
    lines = [
        json.dumps(line("a")),
        "",
        json.dumps(line("b", url="/v1/embeddings")),
        "not JSON",
        json.dumps(line("c", method="GET")),
        json.dumps(line("d", body="text")),
    ]
    found = survey(write_text(tmp_path / "batch.jsonl", "\n".join(lines).encode()))
    read = records(found)
    assert [record.problem for record in read] == [
        None,
        f"batch.jsonl line 3: `url` is /v1/embeddings; {ONLY_CHAT}",
        "batch.jsonl line 4: not JSON: Expecting value at character 1",
        "batch.jsonl line 5: `method` is GET; expected POST",
        "batch.jsonl line 6: `body` is text; expected an object, the body of a chat completion request",
    ]
    assert [record.values is None for record in read] == [False, True, True, True, True]
    assert carried(found)["custom_id"] == ["a", "b", None, "c", "d"]
    assert carried(found)["url"][1] == "/v1/embeddings"


def test_a_custom_id_that_stands_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", LINES[:3])
    second = write_jsonl(tmp_path / "b.jsonl", [line("other"), LINES[1]])
    assert refusal(tmp_path) == f"input.key: column `custom_id` holds the same key at {first}:2 and at {second}:2"


@pytest.mark.parametrize(
    ("custom_id", "said"), [(None, "is null or missing"), (7, "is a int"), (1.5, "is a float"), (["a"], "is a list")]
)
def test_a_custom_id_that_is_no_string_is_refused(tmp_path: Path, custom_id: object, said: str) -> None:
    path = write_jsonl(tmp_path / "batch.jsonl", [LINES[0], {**LINES[1], "custom_id": custom_id}])
    assert refusal(path) == f"input.key: column `custom_id` {said} at {path}:2; expected a string in every row"


def test_lines_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "p"}])
    assert refusal(path) == "input.key: no row has a column `custom_id`"
    write_text(path, b"nope\nnope\n")
    assert refusal(path).startswith("input.path: rows.jsonl line 1: not JSON")


def test_an_empty_file_still_has_its_custom_id(tmp_path: Path) -> None:
    found = survey(write_text(tmp_path / "batch.jsonl", b"\n"))
    assert (found.rows, kinds(found)) == (0, {"custom_id": "string"})


def test_a_known_survey_is_kept_and_one_of_plain_jsonl_is_not(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "batch.jsonl", LINES[:3])
    first = survey(path)
    assert survey(path, known=first) is first
    plain = survey_input(InputSettings(path=str(path), format="jsonl", key="custom_id"))
    assert survey(path, known=plain) == first
