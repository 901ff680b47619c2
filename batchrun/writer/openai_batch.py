"""A row of an output into the line that a batch of OpenAI's would have for it (PROTOCOL.md 1F, 1G). Pure."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from batchrun.writer.standing import StandingRow

_ENCODE = msgspec.json.Encoder().encode


class ResultLine(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line, with its LF; `is_error` says that it belongs into an error file."""

    text: bytes
    is_error: bool


class _Error(msgspec.Struct, frozen=True, kw_only=True):
    code: str
    message: str


class _BodyError(msgspec.Struct, frozen=True, kw_only=True):
    message: str
    type: None = None
    param: None = None
    code: str


class _ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    error: _BodyError


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    tool_calls: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Choice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    message: _Message
    logprobs: None = None
    finish_reason: str | None


class _Completion(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[_Choice]
    usage: msgspec.Raw | None


class _Response(msgspec.Struct, frozen=True, kw_only=True):
    status_code: int
    request_id: str
    body: _Completion | _ErrorBody | msgspec.Raw


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    custom_id: str
    response: _Response | None
    error: _Error | None


def result_line(row: StandingRow) -> ResultLine:
    """Return a row's line: its chat completion, or an error that says what the row failed with.

    The completion is the reply's own body where the output keeps it, else made of the columns. Its `custom_id` is the
    row's key, `row-N` where it has none. What the server did not tell is null, or empty where readers want a text.
    """
    status = row.http_status
    answered = status is not None and 200 <= status < 300  # noqa: PLR2004 - what HTTP calls a success
    error: _Error | None = None
    response: _Response | None = None
    if row.status != "failed" and answered:
        response = _Response(status_code=200, request_id=row.response_id or "", body=_body(row))
    else:
        error = _error(row)
        if status is not None and not answered:
            body = _ErrorBody(error=_BodyError(message=error.message, code=error.code))
            response = _Response(status_code=status, request_id="", body=body)
    line = _Line(
        id=f"batch_req_{hashlib.sha256(f'{row.run_id} {row.row}'.encode()).hexdigest()[:32]}",
        custom_id=f"row-{row.row}" if row.key is None else row.key,
        response=response,
        error=error,
    )
    return ResultLine(text=_ENCODE(line) + b"\n", is_error=error is not None)


def _error(row: StandingRow) -> _Error:
    if row.status == "failed":
        return _Error(code=row.error_class or "failed", message=row.error_message or "the row failed")
    return _Error(code="content_filter", message=f"the endpoint refused the request: HTTP {row.http_status}")


def _body(row: StandingRow) -> _Completion | msgspec.Raw:
    raw = _on_one_line(row.response_json)
    if raw is not None and _is_completion(raw):
        return raw
    return _Completion(
        id=row.response_id or "",
        created=(row.finished_at or 0) // 1_000_000,
        model=row.model or "",
        choices=(_Choice(message=_message(row), finish_reason=_finish_reason(row)),),
        usage=_on_one_line(row.usage_json),
    )


def _message(row: StandingRow) -> _Message:
    """Return the message; the text of a row that the model itself refused is its refusal, not content."""
    is_refusal = row.status == "refused" and row.finish_reason != "content_filter"
    return _Message(
        content=None if is_refusal else row.completion,
        refusal=row.completion if is_refusal else None,
        reasoning_content=msgspec.UNSET if row.reasoning is None else row.reasoning,
        tool_calls=_on_one_line(row.tool_calls) or msgspec.UNSET,
    )


def _finish_reason(row: StandingRow) -> str | None:
    """Return the reason in OpenAI's words, which have none for `other`."""
    return None if row.finish_reason == "other" else row.finish_reason


class _Outline(msgspec.Struct):
    choices: list[msgspec.Raw]


def _is_completion(raw: msgspec.Raw) -> bool:
    """Say whether a kept body is a chat completion: it may also be an error, or the events of a stream."""
    try:
        return bool(msgspec.json.decode(raw, type=_Outline).choices)
    except msgspec.DecodeError:
        return False


def _on_one_line(text: str | None) -> msgspec.Raw | None:
    """Return JSON text without white space, so that it fits a line; None where it is no JSON."""
    if text is None:
        return None
    try:
        return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except (msgspec.DecodeError, RecursionError):
        return None
