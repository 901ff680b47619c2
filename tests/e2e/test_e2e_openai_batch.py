"""A batch as OpenAI takes it, through a run, into result lines as OpenAI gives them: one for each custom_id."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from e2e_tools import digest_of_prompt, job_file, table_of

import batchrun
from batchrun.cli.main import cli


class Error(msgspec.Struct, forbid_unknown_fields=True):
    """`error` of a line: for requests that failed without an HTTP error."""

    code: str
    message: str


class Message(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class Choice(msgspec.Struct):
    index: int
    message: Message
    logprobs: None
    finish_reason: Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class Tokens(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatCompletion(msgspec.Struct):
    """The chat completion object as OpenAI's reference lists what is required in it."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Tokens


class Response(msgspec.Struct, forbid_unknown_fields=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class Line(msgspec.Struct, forbid_unknown_fields=True):
    """BatchRequestOutput of OpenAI's API reference: the line of an output or error file."""

    id: str
    custom_id: str
    response: Response | None
    error: Error | None


def request(custom_id: str, *, model: str | None, text: str, url: str = "/v1/chat/completions") -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "max_tokens": 40, "stream": True}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": model, **body} if model else body}


def test_one_line_for_each_custom_id(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Rows with two models, with the job's, and lines that can't be asked, through the simulator and back."""
    models = ["model-a", "model-b", None]
    asked = [request(f"request-{at}", model=models[at % 3], text=f"say {at} é") for at in range(60)]
    asked.insert(7, request("embedding", model="model-a", text="x", url="/v1/embeddings"))
    asked.insert(31, request("refused", model="model-a", text="what is FORBIDDEN here"))
    (tmp_path / "batch.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(one) + "\n" for one in asked).encode()))
    job = job_file(
        tmp_path,
        input={"path": "batch.jsonl.gz", "format": "openai-batch"},
        limits={"max_failed": 2},
        output={"columns": "none", "rows_per_part": 25, "prefix": "llm_"},
        simulator={"reject_containing": "FORBIDDEN"},
    )
    assert batchrun.run(batchrun.load_job(job)).exit_status == 0

    rows = table_of(tmp_path / "out").to_pylist()
    assert [row["custom_id"] for row in rows] == [one["custom_id"] for one in asked]
    assert {row["llm_model"] for row in rows} == {"model-a", "model-b", "test-model", None}
    assert not any(row["llm_flags"] for row in rows)

    cli(["export", str(tmp_path / "out"), "--format", "openai-batch"], standalone_mode=False)
    told = capfd.readouterr()
    assert told.err == ""
    lines = [msgspec.json.decode(line, type=Line) for line in told.out.splitlines()]
    assert [line.custom_id for line in lines] == [one["custom_id"] for one in asked]
    assert len({line.id for line in lines}) == len(lines)
    for line, one in zip(lines, asked, strict=True):
        if line.custom_id == "embedding":
            assert line.response is None
            assert line.error is not None
            assert (line.error.code, "batch.jsonl.gz line 8" in line.error.message) == ("input", True)
        elif line.custom_id == "refused":
            assert line.response is not None
            assert line.response.status_code == 400
            assert line.error is not None
            assert line.error.code == "rejected"
        else:
            assert line.error is None
            assert line.response is not None
            completion = msgspec.json.decode(line.response.body, type=ChatCompletion)
            assert completion.model == one["body"].get("model", "test-model")
            content = completion.choices[0].message.content
            assert content is not None
            assert content.startswith(digest_of_prompt(one["body"]["messages"][0]["content"]))
