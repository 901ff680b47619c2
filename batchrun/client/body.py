"""The bytes of a 200 into its typed body (PROTOCOL.md 2.4): typed and quick first, tolerant second.

The quick path refuses what a strict decoder must: lone surrogates, a BOM, NaN, trailing text, content in parts. All
of these are seen in the wild, so a refusal only leads to the slower path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

import msgspec

_LONE = re.compile("[\ud800-\udfff]")
_DONE = "data: [DONE]"
_NOTHING: Mapping[str, object] = MappingProxyType({})


class UnusableReplyError(Exception):
    """Raised when a 200 holds no completion; the message says why.

    `inner` is the error object that the body holds, if any. `tries` bounds further tries (PROTOCOL.md 2.2, #20 to
    #23), None leaves them to the row's budget. `is_page` marks HTML or other text that is no JSON at all.
    """

    def __init__(
        self,
        what: str,
        *,
        inner: Mapping[str, object] | None = None,
        tries: int | None = 2,
        is_page: bool = False,
    ) -> None:
        """Describe the reply without quoting completions."""
        super().__init__(what)
        self.inner = inner
        self.tries = tries
        self.is_page = is_page


class Message(msgspec.Struct, gc=False):
    """`choices[].message`; reasoning in parts is refused here, so that the slower path joins it."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()
    reasoning_details: None = None


class Choice(msgspec.Struct, gc=False):
    """`choices[]`."""

    message: Message
    index: int = 0
    finish_reason: str | None = None
    error: msgspec.Raw = msgspec.Raw()


class Body(msgspec.Struct, gc=False):
    """A chat completion; what is kept as JSON text stays raw."""

    choices: list[Choice]
    id: str | None = None
    model: str | None = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()


_BODY = msgspec.json.Decoder(Body)


def decode_body(body: bytes, flags: list[str]) -> Body:
    """Return the body of a 200; adds `text_replaced` or `trailing_junk` to `flags` where that was needed.

    Raises UnusableReplyError when it is no JSON object or has no choices.
    """
    try:
        return _BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _tolerant(body, flags)


def json_text(raw: msgspec.Raw) -> str | None:
    """Return raw JSON as text; None where the field is missing or null."""
    text = bytes(raw)
    return None if not text or text == b"null" else text.decode("utf-8", "replace")


def as_object(value: object) -> Mapping[str, object]:
    """Return a decoded JSON object, or an empty one for any other value."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else _NOTHING


def _tolerant(body: bytes, flags: list[str]) -> Body:
    tree = _json_object(_unicode(body, flags), flags)
    if "choices" not in tree and tree.get("error") is None:
        raise UnusableReplyError("the reply has no choices")
    choices = tree.get("choices")
    given = cast("list[object]", choices) if isinstance(choices, list) else []
    return Body(
        choices=[_choice(as_object(choice), place, flags) for place, choice in enumerate(given)],
        id=_string(tree.get("id"), flags),
        model=_string(tree.get("model"), flags),
        usage=_raw(tree.get("usage"), flags),
        error=_raw(tree.get("error"), flags),
    )


def _unicode(body: bytes, flags: list[str]) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        _add(flags, "text_replaced")
    return text.removeprefix("\ufeff").lstrip(" \t\r\n")


def _json_object(text: str, flags: list[str]) -> Mapping[str, object]:
    if not text.startswith(("{", "[")):
        what = "the reply is empty" if not text else "the reply is not JSON"
        raise UnusableReplyError(what, is_page=bool(text))
    try:
        tree, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        raise UnusableReplyError("the reply's JSON is cut short or broken") from None
    rest = text[end:].strip()
    if rest and rest != _DONE:
        raise UnusableReplyError("the reply's JSON is followed by other text")
    if rest:
        _add(flags, "trailing_junk")
    if not isinstance(tree, dict):
        many = cast("list[object]", tree) if isinstance(tree, list) else []
        for one in many:
            if "error" in as_object(one):
                return as_object(one)
        raise UnusableReplyError("the reply's JSON is no object")
    return cast("dict[str, object]", tree)


def _choice(tree: Mapping[str, object], place: int, flags: list[str]) -> Choice:
    index = tree.get("index")
    message = as_object(tree.get("message"))
    reasoning = message.get("reasoning")
    content, thinking = _parts(message.get("content"), flags)
    if reasoning is None:
        details = message.get("reasoning_details")
        reasoning = thinking if thinking is not None else _parts(details, flags)[0]
    return Choice(
        index=index if isinstance(index, int) else place,
        message=Message(
            content=content,
            reasoning_content=_string(message.get("reasoning_content"), flags),
            reasoning=_string(reasoning, flags),
            refusal=_string(message.get("refusal"), flags),
            tool_calls=_raw(message.get("tool_calls"), flags),
        ),
        finish_reason=_string(tree.get("finish_reason"), flags),
        error=_raw(tree.get("error"), flags),
    )


def _parts(content: object, flags: list[str]) -> tuple[str | None, str | None]:
    """Return text and thinking of a content that may be a string or a list of parts (Mistral)."""
    if not isinstance(content, list):
        return _string(content, flags), None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in cast("list[object]", content):
        fields = as_object(part)
        if isinstance(part, str):
            texts.append(_string(part, flags) or "")
        elif fields.get("type") == "thinking":
            thoughts.append(_parts(fields.get("thinking"), flags)[0] or "")
        elif isinstance(fields.get("text"), str):
            texts.append(_string(fields["text"], flags) or "")
    return "".join(texts) if texts else None, "".join(thoughts) if thoughts else None


def _string(value: object, flags: list[str]) -> str | None:
    if not isinstance(value, str):
        return None
    if not _LONE.search(value):
        return value
    _add(flags, "text_replaced")
    return _LONE.sub("\ufffd", value)


def _raw(value: object, flags: list[str]) -> msgspec.Raw:
    if value is None:
        return msgspec.Raw()
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return msgspec.Raw((_string(text, flags) or "").encode())


def _add(flags: list[str], flag: str) -> None:
    if flag not in flags:
        flags.append(flag)
