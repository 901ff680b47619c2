"""Request bodies: what is asked, and what is refused in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from simulator_wire import ask

from batchrun.simulator.asked import Asked, Refusal, read_request
from batchrun.simulator.draws import prompt_digest


def read(body: bytes, reject: str | None = None) -> Any:
    return read_request(body, reject_containing=reject)


def messages(*given: Any) -> bytes:
    return json.dumps({"model": "m", "messages": given}).encode()


def test_what_is_asked() -> None:
    body = ask("héllo", max_tokens=7, temperature=0, stream=False)
    digest = prompt_digest([{"role": "user", "content": "héllo"}])
    assert read(body) == Asked(model="m", digest=digest, prompt_chars=5, most_tokens=7)


def test_all_contents_are_counted() -> None:
    """Lists of parts count their texts; images and null contents count nothing."""
    parts = [{"type": "text", "text": "four"}, {"type": "image_url", "image_url": {"url": "x"}}]
    body = messages(
        {"role": "system", "content": "abc"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    )
    assert read(body).prompt_chars == 7


def test_the_newer_limit_wins() -> None:
    assert read(ask(max_tokens=7, max_completion_tokens=3)).most_tokens == 3
    assert read(ask(max_tokens=None)).most_tokens is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b'{"model":"m"} x',
        b'{"model": "\xff"}',
        b'{"model":' + b"[" * 100_000,
        b'{"model": NaN}',
    ],
)
def test_bad_json_is_400(body: bytes) -> None:
    refusal = read(body)
    assert isinstance(refusal, Refusal)
    assert refusal.status == 400
    assert refusal.type == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"[]", None),
        (b'"x"', None),
        (b'{"messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"","messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":5,"messages":[{"role":"user","content":"x"}]}', "model"),
        (b'{"model":"m"}', "messages"),
        (messages(), "messages"),
        (b'{"model":"m","messages":"hello"}', "messages"),
        (b'{"model":"m","messages":{"role":"user"}}', "messages"),
        (messages("x"), "messages.0.role"),
        (messages({"role": "user", "content": "x"}, {"content": "x"}), "messages.1.role"),
        (messages({"role": 1, "content": "x"}), "messages.0.role"),
        (messages({"role": "user", "content": 5}), "messages.0.content"),
        (messages({"role": "user", "content": ["x"]}), "messages.0.content"),
        (ask(max_tokens="5"), "max_tokens"),
        (ask(max_tokens=-1), "max_tokens"),
        (ask(max_completion_tokens=True), "max_completion_tokens"),
        (ask(stream=True, stream_options=[]), "stream_options"),
    ],
)
def test_json_of_another_shape_is_422(body: bytes, param: str | None) -> None:
    refusal = read(body)
    assert (refusal.status, refusal.param) == (422, param)
    assert set(json.loads(refusal.body())["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("stream", ["true", "false", 0, 1, []])
def test_stream_has_to_be_a_json_bool(stream: object) -> None:
    refusal = read(ask(stream=stream))
    assert (refusal.status, refusal.param) == (400, "stream")


@pytest.mark.parametrize(
    ("options", "with_usage"),
    [(None, True), ({}, True), ({"include_usage": True}, True), ({"include_usage": False}, False)],
)
def test_a_stream_ends_with_its_usage_unless_told_otherwise(options: object, *, with_usage: bool) -> None:
    """As DeepInfra's streams do (PROTOCOL.md 1E)."""
    asked = read(ask(stream=True, stream_options=options))
    assert isinstance(asked, Asked)
    assert (asked.stream, asked.with_usage) == (True, with_usage)
    plain = read(ask())
    assert isinstance(plain, Asked)
    assert plain.stream is False


def test_rejected_text_in_any_content() -> None:
    parts = messages(
        {"role": "system", "content": "x"}, {"role": "user", "content": [{"type": "text", "text": "a BAD b"}]}
    )
    for body in (ask("a BAD b"), parts):
        refusal = read(body, "BAD")
        assert (refusal.status, refusal.type) == (400, "invalid_request_error")
        assert isinstance(read(body, "bad"), Asked)
