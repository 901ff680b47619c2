"""One choice of a streamed reply, put together from its deltas (PROTOCOL.md 2.5). Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

import msgspec

from batchrun.client.body import as_object
from batchrun.client.chunk import NOTHING, ChunkChoice, Delta, Part, fields_of, is_there, members_of

_OWN = frozenset(["index", "delta", "message", "finish_reason", "error", "logprobs"])
NO_ERROR = (b"", b"null", b"{}", b'""', b"false")
"""What servers send as `error` where there is none."""
_OBJECT_BYTES = 256
_MOST_PIECES = 256
_GROW = frozenset(["arguments", "text", "summary"])
"""Strings of a tool call or of a reasoning detail that come in pieces; other strings come whole."""


class Text:
    """A text that grows by many small pieces and takes little more room than its characters."""

    __slots__ = ("_joined", "_pieces")

    def __init__(self) -> None:
        """Start empty."""
        self._joined: list[str] = []
        self._pieces: list[str] = []

    def write(self, piece: str) -> int:
        """Add a piece; return its length."""
        self._pieces.append(piece)
        if len(self._pieces) >= _MOST_PIECES:
            self._joined.append("".join(self._pieces))
            self._pieces.clear()
        return len(piece)

    def whole(self) -> str:
        """Return the text so far."""
        return "".join((*self._joined, *self._pieces))


class GrowingChoice:
    """What a choice has come to so far."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.finish_reason: str | None = None
        self._role = "assistant"
        self._texts: dict[str, Text] = {}
        self._calls = Listed()
        self._details = Listed()
        self._function_call: dict[str, object] = {}
        self.error = NOTHING
        self._logprobs: dict[str, list[msgspec.Raw]] = {}
        self._fields: dict[str, msgspec.Raw] = {}

    def add(self, choice: ChunkChoice) -> int:
        """Take a chunk's share of this choice; return how long the text is that it brings, tool calls included."""
        if choice.finish_reason:
            self.finish_reason = choice.finish_reason
        if bytes(choice.error) not in NO_ERROR:
            self.error = choice.error
        delta = choice.message if choice.delta is None else choice.delta
        return 0 if delta is None else self._grow(delta)

    def add_logprobs(self, raw: msgspec.Raw) -> int:
        """Take a chunk's log probabilities, which are lists that grow; return how long they are."""
        for name, value in fields_of(bytes(raw)).items():
            self._logprobs.setdefault(name, []).extend(members_of(value))
        return len(bytes(raw))

    def keep(self, fields: Mapping[str, msgspec.Raw]) -> int:
        """Keep what else a server says of the choice, such as `stop_reason`; return how long what is new is."""
        kept = {name: value for name, value in fields.items() if name not in _OWN}
        size = sum(len(name) + len(bytes(kept[name])) for name in kept.keys() - self._fields.keys())
        self._fields |= kept
        return size

    def whole(self, index: int) -> dict[str, object]:
        """Return the choice as a reply in one piece has it."""
        finish_reason = encoded(self.finish_reason)
        choice: dict[str, object] = {"index": index, "message": self._message(), "finish_reason": finish_reason}
        if self._logprobs:
            choice["logprobs"] = self._logprobs
        if is_there(self.error):
            choice["error"] = self.error
        return choice | self._fields

    def _grow(self, delta: Delta) -> int:
        size = 0
        content = delta.content
        if isinstance(content, str):
            size += self._write("content", content)
        elif content is not None:
            size += self._write_parts(content)
        if delta.reasoning_content is not None:
            size += self._write("reasoning_content", delta.reasoning_content)
        if delta.reasoning is not None:
            size += self._write("reasoning", delta.reasoning)
        if delta.refusal is not None:
            size += self._write("refusal", delta.refusal)
        if is_there(delta.tool_calls):
            size += self._calls.add(_objects(delta.tool_calls))
        if is_there(delta.function_call):
            size += _merge(self._function_call, _objects(delta.function_call)[:1])
        if is_there(delta.reasoning_details):
            size += self._details.add(_objects(delta.reasoning_details))
        if delta.role:
            self._role = delta.role
        return size

    def _write(self, name: str, piece: str) -> int:
        text = self._texts.get(name)
        if text is None:
            text = self._texts[name] = Text()
        return text.write(piece)

    def _write_parts(self, parts: Iterable[Part | str]) -> int:
        size = 0
        for part in parts:
            if isinstance(part, str):
                size += self._write("content", part)
            elif part.type == "thinking":
                thoughts = [part.thinking] if isinstance(part.thinking, str) else part.thinking or []
                texts = (thought if isinstance(thought, str) else thought.text for thought in thoughts)
                size += self._write("thinking", "".join(text or "" for text in texts))
            elif part.text is not None:
                size += self._write("content", part.text)
        return size

    def _message(self) -> dict[str, object]:
        texts = {name: text.whole() for name, text in self._texts.items()}
        calls = self._calls.whole()
        for call in calls:
            call.pop("index", None)
        content, thinking = texts.pop("content", None), texts.pop("thinking", None)
        if not content and (calls or self._function_call or texts.get("refusal")):
            content = None  # the empty text that a stream begins with is no answer
        message: dict[str, object] = {"role": self._role, "content": content}
        if thinking is not None:
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": thinking}]}
            message["content"] = [thought, *([] if content is None else [{"type": "text", "text": content}])]
        message |= texts
        if calls:
            message["tool_calls"] = calls
        if self._function_call:
            message["function_call"] = self._function_call
        if details := self._details.whole():
            message["reasoning_details"] = details
        return {name: encoded(value) for name, value in message.items()}


class Listed:
    """Objects that come in pieces: pieces with the same `index` are one object."""

    def __init__(self) -> None:
        """Start with an empty list."""
        self._objects: list[dict[str, object]] = []
        self._at: dict[int | None, dict[str, object]] = {}

    def add(self, pieces: Iterable[Mapping[str, object]]) -> int:
        """Take pieces, in order; return about how long what they add is."""
        size = 0
        for piece in pieces:
            index = _index(piece)
            current = self._at.get(index)
            if current is None or _begins(current, piece):
                current = self._at[index] = {}
                self._objects.append(current)
                size += _OBJECT_BYTES
            size += _merge(current, [piece])
        return size

    def whole(self) -> list[dict[str, object]]:
        """Return the objects as far as they have come, by their index where they have one."""
        return sorted(self._objects, key=lambda listed: _index(listed) or 0)


def encoded(value: object) -> msgspec.Raw:
    """Return a folded value as JSON; half a surrogate pair, which UTF-8 can't carry, is escaped."""
    try:
        return msgspec.Raw(_ENCODE(value))
    except UnicodeEncodeError:
        return msgspec.Raw(json.dumps(value, separators=(",", ":"), default=_text).encode())


def _text(value: object) -> object:
    if isinstance(value, Text):
        return value.whole()
    raise TypeError(type(value).__name__)


_ENCODE = msgspec.json.Encoder(enc_hook=_text).encode


def _begins(current: Mapping[str, object], piece: Mapping[str, object]) -> bool:
    """Say whether a piece begins another object although it has the current one's index, or none as that has none.

    Gemini gives no index and Ollama the same to each call; older vLLM gives a new id to each piece of one call.
    """
    kind = piece.get("type")
    if kind and current.get("type") and kind != current["type"]:
        return True
    if not as_object(piece.get("function")).get("name") or not as_object(current.get("function")).get("name"):
        return False
    return piece["id"] != current.get("id") if piece.get("id") else _index(piece) is None


def _merge(into: dict[str, object], pieces: Iterable[Mapping[str, object]]) -> int:
    size = 0
    for piece in pieces:
        for name, value in piece.items():
            before = into.get(name)
            if isinstance(value, dict):
                inner = into[name] = cast("dict[str, object]", before) if isinstance(before, dict) else {}
                size += _merge(inner, [cast("dict[str, object]", value)])
            elif isinstance(value, str) and name in _GROW:
                size += _grown(into, name).write(value)
            elif not before and (value is not None or name not in into):
                into[name] = value
                size += len(name) + (len(value) if isinstance(value, str) else 0)
    return size


def _grown(into: dict[str, object], name: str) -> Text:
    before = into.get(name)
    if not isinstance(before, Text):
        before = into[name] = Text()
    return before


def _objects(raw: msgspec.Raw) -> list[Mapping[str, object]]:
    """Return the objects of a list, or the one object that is given instead."""
    tree: object = json.loads(bytes(raw))
    many = cast("list[object]", tree) if isinstance(tree, list) else [tree]
    return [fields for fields in map(as_object, many) if fields]


def _index(listed: Mapping[str, object]) -> int | None:
    index = listed.get("index")
    return index if isinstance(index, int) else None
