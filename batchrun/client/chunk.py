"""The data of one streamed event into its typed chunk: quick and typed first, tolerant second, as `body` does. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

import msgspec

from batchrun.client.body import as_object

NOTHING = msgspec.Raw()
_NULL = (b"", b"null")
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_MEMBERS = msgspec.json.Decoder(list[msgspec.Raw])


class Part(msgspec.Struct, gc=False):
    """A part of a content that is a list (Mistral)."""

    type: str = ""
    text: str | None = None
    thinking: list[Part | str] | str | None = None


Content = str | list[Part | str] | None


class Delta(msgspec.Struct, gc=False):
    """`choices[].delta`, or the `message` of a whole reply that came as an event."""

    role: str | None = None
    content: Content = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = NOTHING
    function_call: msgspec.Raw = NOTHING
    reasoning_details: msgspec.Raw = NOTHING


class ChunkChoice(msgspec.Struct, gc=False):
    """`choices[]` of a chunk."""

    index: int | None = None
    delta: Delta | None = None
    message: Delta | None = None
    finish_reason: str | None = None
    error: msgspec.Raw = NOTHING
    logprobs: msgspec.Raw = NOTHING


class Chunk(msgspec.Struct, gc=False):
    """A chunk of a chat completion; what is kept as JSON text stays raw."""

    choices: list[ChunkChoice] | None = None
    usage: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING
    x_groq: msgspec.Raw = NOTHING
    object: str | None = None


_CHUNK = msgspec.json.Decoder(Chunk)


def decode_chunk(data: bytes, flags: list[str]) -> Chunk | None:
    """Return the chunk that JSON data holds, None where it is broken or holds none.

    Adds `text_replaced` to `flags` where bytes had to be replaced. Halves of a surrogate pair are kept: the other
    half may come in the next chunk.
    """
    try:
        if not data.isascii():
            data.decode()  # what is kept raw is not looked at below
        return _CHUNK.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        tree = _tree(data, flags)
        return None if tree is None else _chunk(tree)
    except RecursionError:
        return None


def fields_of(data: bytes) -> Mapping[str, msgspec.Raw]:
    """Return the fields of a JSON object, each as its JSON; those that are null are left out."""
    try:
        fields = _FIELDS.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        fields = {name: raw_json(value) for name, value in (_tree(data, []) or {}).items()}
    return {name: value for name, value in fields.items() if is_there(value)}


def members_of(raw: msgspec.Raw) -> list[msgspec.Raw]:
    """Return the members of a JSON list, each as its JSON; none where it is something else."""
    try:
        return _MEMBERS.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        tree: object = json.loads(bytes(raw) or b"null")
        return [_json(one) for one in cast("list[object]", tree)] if isinstance(tree, list) else []


def is_there(raw: msgspec.Raw) -> bool:
    """Say whether a raw field was given and is not null."""
    return raw is not NOTHING and bytes(raw) not in _NULL


def raw_json(value: object) -> msgspec.Raw:
    """Return a decoded value as JSON, nothing where it is null."""
    return NOTHING if value is None else _json(value)


def _json(value: object) -> msgspec.Raw:
    """Return a decoded value as JSON; half a surrogate pair, which UTF-8 can't carry, stays escaped."""
    return msgspec.Raw(json.dumps(value, separators=(",", ":")).encode())


def _chunk(tree: Mapping[str, object]) -> Chunk:
    choices = tree.get("choices")
    given = cast("list[object]", choices) if isinstance(choices, list) else None
    return Chunk(
        choices=None if given is None else [_choice(as_object(choice)) for choice in given],
        usage=raw_json(tree.get("usage")),
        error=raw_json(tree.get("error")),
        x_groq=raw_json(tree.get("x_groq")),
        object=_string(tree.get("object")),
    )


def _tree(data: bytes, flags: list[str]) -> Mapping[str, object] | None:
    """Decode a JSON object as Python's json would; of a list the member that holds an error (Gemini)."""
    text = data.decode("utf-8", "replace")
    try:
        tree: object = json.loads(text)
    except ValueError:
        return None
    if "text_replaced" not in flags and text.encode() != data:
        flags.append("text_replaced")
    many = cast("list[object]", tree) if isinstance(tree, list) else [tree]
    found = next((one for one in many if one is tree or "error" in as_object(one)), None)
    return cast("dict[str, object]", found) if isinstance(found, dict) else None


def _choice(tree: Mapping[str, object]) -> ChunkChoice:
    index = tree.get("index")
    return ChunkChoice(
        index=int(index) if isinstance(index, int) or (isinstance(index, float) and index.is_integer()) else None,
        delta=_delta(tree.get("delta")),
        message=_delta(tree.get("message")),
        finish_reason=_string(tree.get("finish_reason")),
        error=raw_json(tree.get("error")),
        logprobs=raw_json(tree.get("logprobs")),
    )


def _delta(value: object) -> Delta | None:
    if not isinstance(value, dict):
        return None
    tree = cast("dict[str, object]", value)
    return Delta(
        role=_string(tree.get("role")),
        content=_content(tree.get("content")),
        reasoning_content=_string(tree.get("reasoning_content")),
        reasoning=_string(tree.get("reasoning")),
        refusal=_string(tree.get("refusal")),
        tool_calls=raw_json(tree.get("tool_calls")),
        function_call=raw_json(tree.get("function_call")),
        reasoning_details=raw_json(tree.get("reasoning_details")),
    )


def _content(value: object) -> Content:
    if not isinstance(value, list):
        return _string(value)
    parts: list[Part | str] = []
    for member in cast("list[object]", value):
        if isinstance(member, str):
            parts.append(member)
            continue
        fields = as_object(member)
        parts.append(
            Part(
                type=_string(fields.get("type")) or "",
                text=_string(fields.get("text")),
                thinking=_content(fields.get("thinking")),
            )
        )
    return parts


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
