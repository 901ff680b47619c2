"""Rows into result lines: the shape that OpenAI documents for the lines of a batch's output and error files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_outputs import FINISHED_US, completed, failed, make_output, reply

from batchrun.writer.openai_batch import result_line
from batchrun.writer.standing import StandingRow, find_output, read_rows

RAW = {
    "id": "chatcmpl-9",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "one"}, "finish_reason": "stop"},
        {"index": 1, "message": {"role": "assistant", "content": "two"}, "finish_reason": "stop"},
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}


def standing(**fields: Any) -> StandingRow:
    usual: dict[str, Any] = {
        "row": 4,
        "status": "ok",
        "completion": "text",
        "reasoning": None,
        "tool_calls": None,
        "finish_reason": "stop",
        "model": "m",
        "response_id": "chatcmpl-1",
        "http_status": 200,
        "finished_at": FINISHED_US,
        "error_class": None,
        "error_message": None,
        "usage_json": '{"prompt_tokens": 3}',
        "run_id": "r",
        "key": "request-4",
    }
    return StandingRow(**{**usual, **fields})


def line_of(**fields: Any) -> dict[str, Any]:
    text = result_line(standing(**fields)).text
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    line: dict[str, Any] = json.loads(text)
    return line


def message_of(**fields: Any) -> dict[str, Any]:
    message: dict[str, Any] = line_of(**fields)["response"]["body"]["choices"][0]["message"]
    return message


def test_a_row_is_a_line_with_its_chat_completion() -> None:
    line = line_of()
    assert line.pop("id").startswith("batch_req_")
    assert line == {
        "custom_id": "request-4",
        "response": {
            "status_code": 200,
            "request_id": "chatcmpl-1",
            "body": {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1_767_323_045,
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": "text", "refusal": None},
                        "logprobs": None,
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 3},
            },
        },
        "error": None,
    }


def test_the_id_is_that_of_the_row_in_its_run() -> None:
    ids = [line_of(**fields)["id"] for fields in ({}, {}, {"row": 5}, {"run_id": "s"})]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_row_without_a_key_is_named_by_its_number() -> None:
    assert line_of(key=None)["custom_id"] == "row-4"
    assert line_of(key="")["custom_id"] == ""


def test_usage_comes_as_the_server_wrote_it_on_one_line() -> None:
    text = result_line(standing(usage_json='{\n  "cost": 1.50e-7,\r\n "n": 12345678901234567890123}')).text
    assert b'"usage":{"cost":1.50e-7,"n":12345678901234567890123}' in text
    assert line_of(usage_json=None)["response"]["body"]["usage"] is None
    assert line_of(usage_json='{"x": NaN}')["response"]["body"]["usage"] is None


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("other", None),
        (None, None),
    ],
)
def test_finish_reasons_are_openais_words(ours: str | None, theirs: str | None) -> None:
    assert line_of(finish_reason=ours)["response"]["body"]["choices"][0]["finish_reason"] == theirs


def test_reasoning_and_tool_calls_stand_in_the_message_where_there_are_any() -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a":\n 1}'}}]
    message = message_of(completion=None, reasoning="because", tool_calls=json.dumps(calls, indent=1))
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "reasoning_content": "because",
        "tool_calls": calls,
    }


def test_the_text_of_a_refusal_is_no_content() -> None:
    refused = message_of(status="refused", completion="I can't.")
    assert (refused["content"], refused["refusal"]) == (None, "I can't.")
    filtered = message_of(status="refused", completion="half a", finish_reason="content_filter")
    assert (filtered["content"], filtered["refusal"]) == ("half a", None)


@pytest.mark.parametrize("status", ["ok", "truncated", "empty", "invalid", "refused"])
def test_every_row_that_was_answered_is_a_response(status: str) -> None:
    line = result_line(standing(status=status))
    assert not line.is_error
    assert json.loads(line.text)["error"] is None


def test_a_kept_body_is_the_body() -> None:
    assert line_of(response_json=json.dumps(RAW, indent=2))["response"]["body"] == RAW


@pytest.mark.parametrize(
    "kept",
    [
        "",
        "no JSON",
        'data: {"choices": [{}]}\n\ndata: [DONE]\n',
        json.dumps(RAW) + " data: [DONE]",
        '{"error": {"message": "filtered"}}',
        '{"choices": []}',
        "[1]",
        "[" * 100_000,
    ],
    ids=lambda kept: kept[:20],
)
def test_a_kept_body_that_is_no_completion_is_made_of_the_columns(kept: str) -> None:
    body = line_of(response_json=kept)["response"]["body"]
    assert body["choices"][0]["message"]["content"] == "text"


def test_what_the_server_did_not_tell_is_empty_or_null() -> None:
    line = line_of(response_id=None, model=None, completion=None, status="empty")
    assert (line["response"]["request_id"], line["response"]["body"]["id"], line["response"]["body"]["model"]) == (
        "",
        "",
        "",
    )
    assert line["response"]["body"]["choices"][0]["message"]["content"] is None


@pytest.mark.parametrize("http_status", [None, 200])
def test_a_failure_without_an_http_error_has_no_response(http_status: int | None) -> None:
    line = line_of(status="failed", http_status=http_status, error_class="timeout", error_message="no reply in 9 s")
    assert line["response"] is None
    assert line["error"] == {"code": "timeout", "message": "no reply in 9 s"}


def test_a_failure_with_an_http_error_tells_its_status() -> None:
    failure = standing(status="failed", http_status=400, error_class="context_overflow", error_message="HTTP 400: long")
    line = result_line(failure)
    assert line.is_error
    decoded = json.loads(line.text)
    assert decoded["error"] == {"code": "context_overflow", "message": "HTTP 400: long"}
    assert decoded["response"] == {
        "status_code": 400,
        "request_id": "",
        "body": {"error": {"message": "HTTP 400: long", "type": None, "param": None, "code": "context_overflow"}},
    }


def test_a_request_that_a_filter_refused_is_an_error() -> None:
    """The server answered with 400 or 403, so there is no completion."""
    line = line_of(status="refused", http_status=403, completion=None, finish_reason="content_filter")
    assert line["response"]["status_code"] == 403
    assert line["error"]["code"] == "content_filter"


TEXT = st.none() | st.text(max_size=30)


@given(
    completion=TEXT,
    reasoning=TEXT,
    tool_calls=TEXT,
    usage_json=TEXT,
    response_json=TEXT,
    key=TEXT,
    error_message=TEXT,
    status=st.sampled_from(["ok", "truncated", "refused", "empty", "invalid", "failed"]),
    http_status=st.none() | st.sampled_from([200, 204, 302, 400, 500]),
)
def test_any_row_is_one_line_of_the_documented_shape(**fields: Any) -> None:
    text = result_line(standing(**fields)).text
    assert text.count(b"\n") == 1
    line = json.loads(text)
    assert list(line) == ["id", "custom_id", "response", "error"]
    assert isinstance(line["custom_id"], str)
    assert (line["error"] is None) == (line["response"] is not None and line["response"]["status_code"] == 200)
    if line["response"] is not None:
        assert list(line["response"]) == ["status_code", "request_id", "body"]
        assert isinstance(line["response"]["request_id"], str)


def test_rows_of_real_files_become_lines(tmp_path: Path) -> None:
    outcomes = [completed(0, reply("größe 😀\n\x00 \u2028")), failed(1, "input", "no prompt")]
    rows = read_rows(find_output(make_output(tmp_path / "out", outcomes), key=None, default_key="custom_id"))
    lines = [json.loads(result_line(row).text) for row in rows]
    assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "größe 😀\n\x00 \u2028"
    assert lines[0]["response"]["body"]["created"] == FINISHED_US // 1_000_000
    assert lines[1]["error"] == {"code": "input", "message": "no prompt"}
