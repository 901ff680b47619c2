"""A request body into what it asks for, or into the refusal that DeepInfra would answer (PROTOCOL.md 1D)."""

from __future__ import annotations

from typing import Any, Literal, cast

import msgspec

from batchrun.simulator.draws import prompt_digest

RefusalType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class Asked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a request asks for: `digest` as in `prompt_digest`, `prompt_chars` over all contents.

    `most_tokens` is `max_completion_tokens` or `max_tokens`, None where the request names neither. `with_usage` is
    whether a stream is to end with its usage; as DeepInfra's do, unless the request says otherwise.
    """

    model: str
    digest: str
    prompt_chars: int
    most_tokens: int | None
    stream: bool = False
    with_usage: bool = True


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """An error reply: its HTTP status and the fields of the OpenAI envelope."""

    status: int
    message: str
    type: RefusalType = "invalid_request_error"
    param: str | None = None
    code: str | None = None

    def body(self) -> bytes:
        """Return the envelope as JSON."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return msgspec.json.encode({"error": error})


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    model: Any = None
    messages: Any = None
    stream: Any = None
    stream_options: Any = None
    max_tokens: Any = None
    max_completion_tokens: Any = None


class _RefusedError(Exception):
    """Raised when a request body is not one to answer."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


_BODY = msgspec.json.Decoder(_Body)


def read_request(body: bytes, *, reject_containing: str | None) -> Asked | Refusal:
    """Return what a request body asks for, or the refusal.

    400 stands for bad JSON, for a `stream` that is no bool and for a rejected prompt, 422 for JSON of another shape.
    """
    try:
        asked = _decode(body)
        stream = _stream(asked.stream)
        with_usage = _with_usage(asked.stream_options)
        if not isinstance(asked.model, str) or not asked.model:
            raise _invalid("model", "model must be a non-empty string")
        messages = _list(asked.messages)
        if not messages:
            raise _invalid("messages", "messages must be a non-empty list")
        texts = [text for at, message in enumerate(messages) for text in _texts(at, message)]
        most_tokens = _most_tokens(asked)
    except _RefusedError as refused:
        return refused.refusal
    if reject_containing is not None and any(reject_containing in text for text in texts):
        return Refusal(status=400, message="The prompt holds text that this endpoint rejects", param="messages")
    return Asked(
        model=asked.model,
        digest=prompt_digest(messages),
        prompt_chars=sum(map(len, texts)),
        most_tokens=most_tokens,
        stream=stream,
        with_usage=with_usage,
    )


def _decode(body: bytes) -> _Body:
    try:
        return _BODY.decode(body)
    except msgspec.ValidationError:
        raise _invalid(None, "the body must be a JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _RefusedError(Refusal(status=400, message="The body is not valid JSON")) from None


def _stream(stream: object) -> bool:
    """Return whether a stream is asked for; a string is refused as Ollama refuses it (PROTOCOL.md 0, fact 11)."""
    if stream is not None and not isinstance(stream, bool):
        raise _RefusedError(Refusal(status=400, message="stream must be a JSON bool", param="stream"))
    return bool(stream)


def _with_usage(options: object) -> bool:
    if options is None:
        return True
    if not isinstance(options, dict):
        raise _invalid("stream_options", "stream_options must be an object")
    return cast("dict[str, object]", options).get("include_usage") is not False


def _texts(at: int, message: object) -> list[str]:
    """Return the texts of one message's content, which is a string, a list of parts, or null."""
    fields: dict[str, object] = cast("dict[str, object]", message) if isinstance(message, dict) else {}
    role = fields.get("role")
    if not isinstance(role, str) or not role:
        raise _invalid(f"messages.{at}.role", "a message must be an object with a role")
    content = fields.get("content")
    if isinstance(content, str):
        return [content]
    if content is None:
        return []
    parts = _list(content)
    if parts is None:
        raise _invalid(f"messages.{at}.content", "content must be a string, a list of parts, or null")
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, dict):
            raise _invalid(f"messages.{at}.content", "a part of a content must be an object")
        text = cast("dict[str, object]", part).get("text")
        if isinstance(text, str):
            texts.append(text)
    return texts


def _list(value: object) -> list[object] | None:
    return cast("list[object]", value) if isinstance(value, list) else None


def _most_tokens(asked: _Body) -> int | None:
    for name, value in (
        ("max_completion_tokens", asked.max_completion_tokens),
        ("max_tokens", asked.max_tokens),
    ):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise _invalid(name, f"{name} must be an integer ≥ 0")
        return value
    return None


def _invalid(param: str | None, message: str) -> _RefusedError:
    return _RefusedError(Refusal(status=422, message=message, param=param))
