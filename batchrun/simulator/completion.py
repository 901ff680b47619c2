"""A chat completion as DeepInfra sends it, in one piece or as the events of a stream (PROTOCOL.md 0.1)."""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length"]

DONE = b"data: [DONE]\n\n"
_MOST_DELTAS = 8
_ENCODE = msgspec.json.Encoder().encode


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """`choices[].message`."""

    role: Literal["assistant"] = "assistant"
    content: str
    name: None = None
    tool_calls: None = None


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """`choices[]`."""

    index: int = 0
    message: Message
    finish_reason: FinishReason


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """`usage`; the cost is a number in USD."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int
    estimated_cost: msgspec.Raw


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The body of a reply in one piece."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: tuple[Choice]
    usage: Usage


class _Delta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    role: Literal["assistant"] | None = None
    content: str | None = None


class _ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    index: int = 0
    delta: _Delta
    finish_reason: FinishReason | None = None


class _Chunk(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: tuple[_ChunkChoice]
    usage: Usage | None = None


def streamed(completion: Completion, *, with_usage: bool) -> tuple[bytes, ...]:
    """Return the events that bring the same reply: its role, its text in pieces, its end with the usage, `[DONE]`."""
    choice = completion.choices[0]
    content = choice.message.content
    step = max(1, -(-len(content) // _MOST_DELTAS))
    pieces = [content[at : at + step] for at in range(0, len(content), step)]
    chunks = [
        _ChunkChoice(delta=_Delta(role="assistant", content="")),
        *(_ChunkChoice(delta=_Delta(content=piece)) for piece in pieces),
        _ChunkChoice(delta=_Delta(), finish_reason=choice.finish_reason),
    ]
    usages = [*(None for _ in chunks[1:]), completion.usage if with_usage else None]
    return (*(_event(completion, chunk, usage) for chunk, usage in zip(chunks, usages, strict=True)), DONE)


def _event(completion: Completion, choice: _ChunkChoice, usage: Usage | None) -> bytes:
    chunk = _Chunk(id=completion.id, created=completion.created, model=completion.model, choices=(choice,), usage=usage)
    return b"data: " + _ENCODE(chunk) + b"\n\n"
