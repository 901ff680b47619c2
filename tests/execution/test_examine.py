"""Job and input looked at together: which columns an openai-batch input carries, and what its rows would ask."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from e2e_tools import job_file, write_rows

from batchrun.errors import JobError
from batchrun.execution.examine import Examined, examine
from batchrun.job.load import load_job
from batchrun.job.places import places_of

LINE = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "of-row", "messages": [{"role": "user", "content": "hi"}], "stream": True},
}


def examined(folder: Path, **tables: object) -> Examined:
    write_rows(folder, [LINE])
    job = load_job(job_file(folder, **{"input": {"format": "openai-batch"}, **tables}))
    return examine(job, places_of(job))


@pytest.mark.parametrize(
    ("columns", "carried"),
    [
        ("all", ["custom_id", "method", "url", "body"]),
        ("none", ["custom_id"]),
        (["body"], ["custom_id", "body"]),
        (["url", "custom_id"], ["url", "custom_id"]),
    ],
)
def test_custom_id_is_always_carried(tmp_path: Path, columns: object, carried: list[str]) -> None:
    layout = examined(tmp_path, output={"columns": columns}).layout
    assert [column.name for column in layout.carried] == carried


def test_the_body_is_the_request(tmp_path: Path) -> None:
    found = examined(tmp_path, prompt={"system": "S"}, request={"temperature": 0})
    (stretch,) = found.reader(found.layout).stretches([range(1)])
    (record,) = stretch.records
    request = found.envelope().seal(0, found.prompter.messages(record), found.prompter.params(record))
    assert json.loads(request.body) == {
        "model": "of-row",
        "temperature": 0,
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "hi"}],
        "stream": False,
    }


def test_a_column_of_that_name_is_no_key_of_other_formats(tmp_path: Path) -> None:
    found = examined(tmp_path, input={"format": "jsonl"}, prompt={"user": "{{ body.messages[0].content }}"})
    assert found.survey.key is None
    with pytest.raises(JobError, match=r"set input\.format = \"openai-batch\""):
        examined(tmp_path, input={"format": "jsonl"})


@pytest.mark.parametrize("prompt", [{"user": "{{ text }}"}, {"messages": "text"}, {"user": "u", "params": "p"}])
def test_lines_of_which_none_is_an_object_are_told_of_instead_of_columns(
    tmp_path: Path, prompt: dict[str, str]
) -> None:
    write_rows(tmp_path, ["id,text", '1,"good"'])
    job = load_job(job_file(tmp_path, prompt=prompt))
    with pytest.raises(JobError) as refused:
        examine(job, places_of(job))
    assert str(refused.value) == (
        "input.path: rows.jsonl line 1: not JSON: Expecting value at character 1; "
        "expected JSON lines: a JSON object on each line, in UTF-8, each line ended by LF"
    )


@pytest.mark.parametrize(
    ("rows", "user", "told"),
    [
        (["id,text"], "{{ text", "prompt.user: not a valid template"),
        (["{}"], "{{ text }}", "prompt.user: no row has a column `text`; the input has no columns"),
        (['{"txt": 1}', "nope"], "{{ text }}", "prompt.user: no row has a column `text`; the input has txt"),
    ],
)
def test_else_what_is_wrong_with_the_prompt_is_told(tmp_path: Path, rows: list[str], user: str, told: str) -> None:
    write_rows(tmp_path, rows)
    job = load_job(job_file(tmp_path, prompt={"user": user}))
    with pytest.raises(JobError, match=re.escape(told)):
        examine(job, places_of(job))


@pytest.mark.parametrize("tables", [{"output": {"path": "n" * 300}}, {"input": {"path": "n" * 300 + ".jsonl"}}])
def test_a_path_that_can_t_be_looked_at_is_an_error_of_the_job(tmp_path: Path, tables: dict[str, object]) -> None:
    with pytest.raises(JobError, match=r"nnn.*: can't be looked at: File name too long"):
        examined(tmp_path, **tables)
