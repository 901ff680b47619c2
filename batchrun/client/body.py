"""The bytes of a 200 into its typed body (PROTOCOL.md 2.4): typed and quick first, tolerant second.

The quick path refuses what a strict decoder must: lone surrogates, a BOM, NaN, trailing text, content in parts. All
of these are seen in the wild, so a refusal only leads to the slower path.
"""

# Without `from __future__ import annotations`: msgspec would compile each field's text again, in 40 µs (measured).

import json
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, cast

import msgspec

from batchrun.model.attempt import Reply

Useless = Literal["page", "unparsable", "empty_choices", "nothing"]

_LONE = re.compile("[\ud800-\udfff]")
_DONE = re.compile(r"data: ?\[DONE\]")
_BLANK = " \t\r\n"
_NOTHING: Mapping[str, object] = MappingProxyType({})
ABSENT = msgspec.Raw()
"""A field that is not there."""


class UnusableReplyError(Exception):
    """Raised when a 200 holds no completion; the message says why.

    `useless` names the case: HTML or other text that is no JSON at all, JSON that can't be read, no choices, or nothing
    in them; the row may be settled with `instead` when it is so again. `inner` is the error object that the body holds
    instead, if any (PROTOCOL.md 2.2, #20 to #23).
    """

    def __init__(
        self,
        what: str,
        useless: Useless = "unparsable",
        *,
        inner: Mapping[str, object] | None = None,
        instead: Reply | None = None,
    ) -> None:
        """Describe the reply without quoting completions."""
        super().__init__(what)
        self.useless: Useless = useless
        self.inner = inner
        self.instead = instead


class Message(msgspec.Struct, gc=False):
    """`choices[].message`; reasoning in parts is refused here, so that the slower path joins it."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = ABSENT
    function_call: msgspec.Raw = ABSENT
    reasoning_details: None = None


class Choice(msgspec.Struct, gc=False):
    """`choices[]`."""

    message: Message
    index: int = 0
    finish_reason: str | None = None
    error: msgspec.Raw = ABSENT


class Body(msgspec.Struct, gc=False):
    """A chat completion; what is kept as JSON text stays raw."""

    choices: list[Choice]
    id: str | None = None
    model: str | None = None
    service_tier: str | None = None
    usage: msgspec.Raw = ABSENT
    x_groq: msgspec.Raw = ABSENT
    timings: msgspec.Raw = ABSENT
    error: msgspec.Raw = ABSENT


_BODY = msgspec.json.Decoder(Body)


def decode_body(body: bytes, flags: list[str]) -> Body:
    """Return the body of a 200; adds to `flags` what had to be borne: `text_replaced`, `leading_junk`, `nan` and so on.

    Raises UnusableReplyError when it is no JSON object or has no choices.
    """
    try:
        return _BODY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _tolerant(body, flags)


def json_text(raw: msgspec.Raw) -> str | None:
    """Return raw JSON as text; None where the field is missing or null."""
    if raw is ABSENT:
        return None
    text = str(raw, "utf-8", "replace")
    return text if text and text != "null" else None


def as_object(value: object) -> Mapping[str, object]:
    """Return a decoded JSON object, or an empty one for any other value."""
    return cast("dict[str, object]", value) if isinstance(value, dict) else _NOTHING


def _tolerant(body: bytes, flags: list[str]) -> Body:
    tree = _json_object(_unicode(body, flags), flags)
    if "choices" not in tree and tree.get("error") is None:
        if tree.get("object") == "error":  # flat, as SGLang and Mistral write it
            raise UnusableReplyError("the reply holds an error", inner=tree)
        raise UnusableReplyError("empty_choices: the reply has no choices", "empty_choices")
    choices = tree.get("choices")
    given = cast("list[object]", choices) if isinstance(choices, list) else []
    return Body(
        choices=[_choice(as_object(choice), place, flags) for place, choice in enumerate(given)],
        id=_string(tree.get("id"), flags),
        model=_string(tree.get("model"), flags),
        service_tier=_string(tree.get("service_tier"), flags),
        usage=_raw(tree.get("usage"), flags),
        x_groq=_raw(tree.get("x_groq"), flags),
        timings=_raw(tree.get("timings"), flags),
        error=_raw(tree.get("error"), flags),
    )


def _unicode(body: bytes, flags: list[str]) -> str:
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        _add(flags, "text_replaced")
    if text.startswith("\ufeff"):
        _add(flags, "leading_junk")
        text = text[1:]
    return text.lstrip(_BLANK)


def _json_object(text: str, flags: list[str]) -> Mapping[str, object]:
    if not text.startswith(("{", "[")):
        if text:
            raise UnusableReplyError("the reply is not JSON", "page")
        raise UnusableReplyError("the reply is empty")

    def not_json(name: str) -> float:
        _add(flags, "nan")
        return float(name)

    try:
        tree, end = json.JSONDecoder(parse_constant=not_json).raw_decode(text)
    except (ValueError, RecursionError):
        raise UnusableReplyError("the reply's JSON is cut short or broken") from None
    rest = text[end:].strip(_BLANK)
    if rest and not _DONE.fullmatch(rest):
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
    content, thinking = _parts(message.get("content"), flags)
    reasoning = _string(message.get("reasoning"), flags)
    if reasoning is None:
        details, _ = _parts(message.get("reasoning_details"), flags)
        reasoning = thinking if details is None else details
    return Choice(
        index=index if isinstance(index, int) else place,
        message=Message(
            content=content,
            reasoning_content=_string(message.get("reasoning_content"), flags),
            reasoning=reasoning,
            refusal=_string(message.get("refusal"), flags),
            tool_calls=_raw(message.get("tool_calls"), flags),
            function_call=_raw(message.get("function_call"), flags),
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
        return ABSENT
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return msgspec.Raw((_string(text, flags) or "").encode())


def _add(flags: list[str], flag: str) -> None:
    if flag not in flags:
        flags.append(flag)
