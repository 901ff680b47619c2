"""A chat completion to ask for: the bytes to send and the digest that names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import msgspec

_SORTED = msgspec.json.Encoder(order="sorted")
_PLAIN = msgspec.json.Encoder()
_FIELDS = msgspec.json.Decoder(dict[str, msgspec.Raw])

NEVER_IN_DIGEST = ("stream", "stream_options")


class Request(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request: `body` is UTF-8 JSON, `sha256` hex as in column `request_sha256`, row counted from 0.

    `model` is the one that the row asks for where that is not the job's.
    """

    row: int
    body: bytes
    sha256: str
    model: str | None = None


class Messages(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The `count` chat messages of one request, encoded once for sending and once with sorted keys for the digest."""

    plain: bytes
    canonical: bytes
    count: int


def encode_messages(messages: list[object]) -> Messages:
    """Encode a list of message objects as it stands."""
    return Messages(plain=_PLAIN.encode(messages), canonical=_SORTED.encode(messages), count=len(messages))


def encode_texts(system: str | None, user: str) -> Messages:
    """Encode the messages of the two templates: an optional system text, then the user's."""
    text = _PLAIN.encode(user)
    plain = b'{"role":"user","content":' + text + b"}"
    canonical = b'{"content":' + text + b',"role":"user"}'
    if system is not None:
        text = _PLAIN.encode(system)
        plain = b'{"role":"system","content":' + text + b"}," + plain
        canonical = b'{"content":' + text + b',"role":"system"},' + canonical
    count = 1 if system is None else 2
    return Messages(plain=b"[" + plain + b"]", canonical=b"[" + canonical + b"]", count=count)


class Envelope:
    """Everything of a job's requests that is the same for each row, encoded once for the run.

    The digest is SHA-256 over the base URL without trailing slash (the word `simulator` for the simulator),
    LF, and the body as UTF-8 JSON with sorted keys and no spaces, without `stream` and `stream_options`
    (SPEC.md, section 3). Numbers in the fields are written as Python's json does, so that anyone can check it.
    """

    def __init__(self, *, identity: str, fields: Mapping[str, object], stream: bool = False) -> None:
        """Prepare for bodies that hold `fields` and the messages; `identity` is the base URL or `simulator`.

        With `stream` they ask for a stream that ends with its usage, unless fields or parameters have `stream_options`.
        """
        self._left_out = frozenset(["stream"]) if stream else frozenset(NEVER_IN_DIGEST)
        self._fields = {name: value for name, value in fields.items() if name not in self._left_out}
        self._salt = identity.encode() + b"\n"
        self._head = _before_messages(self._fields)
        self._before, self._after = _around_messages(self._fields)
        self._digest_head = hashlib.sha256(self._salt + self._before)
        self._bare_tail = b',"stream":true}' if stream else b',"stream":false}'
        self._usage_tail = b',"stream":true,"stream_options":{"include_usage":true}}' if stream else self._bare_tail

    def seal(self, row: int, messages: Messages, params: Mapping[str, object] | None) -> Request:
        """Return the request of one row; `params` override the job's fields for this row."""
        if params:
            fields = {name: value for name, value in {**self._fields, **params}.items() if name not in self._left_out}
            before, after = _around_messages(fields)
            digest = hashlib.sha256(self._salt + before)
            head = _before_messages(fields)
        else:
            fields, head, after = self._fields, self._head, self._after
            digest = self._digest_head.copy()
        digest.update(messages.canonical + after)
        tail = self._bare_tail if "stream_options" in fields else self._usage_tail
        body = head + messages.plain + tail
        return Request(row=row, body=body, sha256=digest.hexdigest(), model=self._own_model(params) if params else None)

    def _own_model(self, params: Mapping[str, object]) -> str | None:
        model = params.get("model")
        return model if isinstance(model, str) and model != self._fields.get("model") else None


def _before_messages(fields: Mapping[str, object]) -> bytes:
    """Return what a body begins with, up to the value of `messages`."""
    return _PLAIN.encode(fields)[:-1] + (b',"messages":' if fields else b'"messages":')


def with_model(body: bytes, model: str) -> bytes:
    """Return a request's body for another model; every other byte of its fields stays as it is."""
    return _PLAIN.encode({**_FIELDS.decode(body), "model": model})


def _around_messages(fields: Mapping[str, object]) -> tuple[bytes, bytes]:
    """Return the canonical JSON before and after the value of `messages`."""
    named = {name: value for name, value in fields.items() if name not in NEVER_IN_DIGEST}
    before = _canonical({name: value for name, value in named.items() if name < "messages"})[:-1]
    after = _canonical({name: value for name, value in named.items() if name > "messages"})[1:]
    before += b',"messages":' if len(before) > 1 else b'"messages":'
    return before, (b"," + after if len(after) > 1 else after)


def _canonical(fields: Mapping[str, object]) -> bytes:
    text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=msgspec.to_builtins)
    return text.encode()
