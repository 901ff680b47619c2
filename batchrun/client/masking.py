"""What a server sent back into what may be shown: keys become `***`, long echoes of a request's texts `[…]`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import cast

import msgspec

MOST_MESSAGE_CHARS = 2000
ECHO_CHARS = 20
_FOLDED_ECHO_CHARS = 16
_WHOLE_TEXT_CHARS = 8
_SHORTEST_IN_MESSAGES, _SHORTEST_IN_BODIES = 4, 8
_READ_CHARS, _LOOKED_AT_CHARS = 16 * MOST_MESSAGE_CHARS, MOST_MESSAGE_CHARS + ECHO_CHARS
_LARGE_ASK_BYTES, _LOOKED_AT_IF_LARGE_CHARS = 256 * 1024, 200
"""Looking for echoes holds the loop: of what answers a large request only so much is looked at, and shown."""
_LIKE_A_KEY = r"\b(?:Bearer\s+\S+|(?:sk|pk|rk|gsk|hf|xai|jwt)[-_:][A-Za-z0-9_.\-]{8,})"
_ESCAPE = re.compile(
    r"\\+u([0-9a-fA-F]{4})|\\+x([0-9a-fA-F]{2})|\\+[nrtbf]|&(?:[a-z]{2,6}|#[0-9]{1,7}|#x[0-9a-f]{1,6});"
)
_ENCODED = r"[A-Za-z0-9+/_-]{100,}={0,2}"
_NO_WORD = re.compile(r"[\W_]+")
_RESERVED = r"[^A-Za-z0-9_.~-]"
_TOKEN = f"(?s:{_ESCAPE.pattern}|.)"
_NO_TEXTS = frozenset(["role", "type"])


class Masks:
    """Masks the secrets of one run; built once.

    A key of few letters is no secret, and as a word it may stand in any completion (`ollama`, `EMPTY`): it is not
    looked for in bodies.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        """Look for `secrets` as they are and as JSON or a URL may write them."""
        self._in_messages = [_written(secret) for secret in secrets if len(secret) >= _SHORTEST_IN_MESSAGES]
        self._in_bodies = [
            (secret.encode(), _escapes_of(secret), re.compile(_written(secret).encode()))
            for secret in secrets
            if len(secret) >= _SHORTEST_IN_BODIES
        ]
        marks = [mark for _, escapes, _ in self._in_bodies for mark, _ in escapes]
        self._needles = tuple(dict.fromkeys([*(plain for plain, _, _ in self._in_bodies), *marks]))
        """One of these stands in every body that holds a secret."""

    def body(self, body: bytes) -> bytes:
        """Return a reply's body with every secret masked; the same object where there is none."""
        for needle in self._needles:
            if needle in body:
                return self._looked_through(body)
        return body

    def _looked_through(self, body: bytes) -> bytes:
        for plain, escapes, pattern in self._in_bodies:
            if plain in body or any(mark in body and escape.search(body) for mark, escape in escapes):
                masked, count = pattern.subn(b"***", body)
                body = masked if count else body
        return body

    def text(self, text: str, *, ask: bytes = b"") -> str:
        """Return a server's text without keys, echoes of the request `ask` and control characters, cut to 2,000."""
        text = text[:_READ_CHARS]
        for pattern in self._in_messages:
            text = re.sub(pattern, "***", text)
        text = re.sub(_LIKE_A_KEY, "***", text)
        if ask:
            looked_at = _LOOKED_AT_CHARS if len(ask) <= _LARGE_ASK_BYTES else _LOOKED_AT_IF_LARGE_CHARS
            text = without_echoes(re.sub(_ENCODED, "[…]", text[:looked_at]), texts_of(ask))
        return "".join(char if char.isprintable() else " " for char in text[:MOST_MESSAGE_CHARS])


def texts_of(ask: bytes) -> tuple[str, ...]:
    """Return the texts of a request's messages, but for images and the like that stand in them as base64."""
    try:
        return tuple(_texts(_REQUEST.decode(ask).messages))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()


def without_echoes(message: str, texts: Sequence[str]) -> str:
    """Return the message with `[…]` for each run of 20 characters or more that stands in one of `texts`.

    A run counts as standing there too where JSON, HTML or a reprint escaped it or changed its blanks and signs: it is
    then looked for by its letters and digits, 16 or more. A text of 8 to 19 characters counts where it stands whole.
    """
    marks = bytearray(len(message))
    folded, places = _folded(message)
    for text in texts:
        for first in _windows(message, text, ECHO_CHARS):
            _mark(marks, first, first + ECHO_CHARS)
        if _WHOLE_TEXT_CHARS <= len(text) < ECHO_CHARS:
            for found in re.finditer(re.escape(text), message):
                _mark(marks, *found.span())
        letters = _NO_WORD.sub("", _ESCAPE.sub(_unescaped, text))
        for first in _windows(folded, letters, _FOLDED_ECHO_CHARS):
            _mark(marks, places[first][0], places[first + _FOLDED_ECHO_CHARS - 1][1])
    if not any(marks):
        return message
    runs = groupby(zip(marks, message, strict=True), key=itemgetter(0))
    return "".join("[…]" if marked else "".join(char for _, char in run) for marked, run in runs)


def _mark(marks: bytearray, start: int, end: int) -> None:
    marks[start:end] = b"\1" * (end - start)


def _windows(line: str, text: str, width: int) -> Iterator[int]:
    """Yield the first place of each stretch of `width` characters of the line that stands in the text.

    Each such stretch holds one whole block of half its width that begins at a multiple of it, so most of a line that
    holds no echo is passed over in steps of that.
    """
    if len(text) < width:
        return
    half = width // 2
    for block in range(0, len(line) - half + 1, half):
        if line[block : block + half] in text:
            for first in range(max(0, block - half + 1), min(block, len(line) - width) + 1):
                if line[first : first + width] in text:
                    yield first


def _folded(message: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a message's letters and digits, escapes resolved, and where each begins and ends in it."""
    letters: list[str] = []
    places: list[tuple[int, int]] = []
    for token in re.finditer(_TOKEN, message):
        for char in _NO_WORD.sub("", _ESCAPE.sub(_unescaped, token[0])):
            letters.append(char)
            places.append(token.span())
    return "".join(letters), places


def _unescaped(escape: re.Match[str]) -> str:
    number = escape[1] or escape[2]
    return chr(int(number, 16)) if number else ""


def _texts(tree: object) -> Iterator[str]:
    if isinstance(tree, str):
        if not tree.startswith("data:"):
            yield tree
    elif isinstance(tree, list):
        for one in cast("list[object]", tree):
            yield from _texts(one)
    elif isinstance(tree, dict):
        for name, value in cast("dict[str, object]", tree).items():
            if name not in _NO_TEXTS:
                yield from _texts(value)


def _escapes_of(secret: str) -> list[tuple[bytes, re.Pattern[bytes]]]:
    """Return what stands in every body that holds the secret in another way than as it is: a quick mark, a pattern."""
    codes = "|".join(_hex(char) for char in sorted(set(secret)))
    escapes = [(b"\\u00", re.compile(rf"\\u00(?:{codes})".encode()))]
    if "/" in secret:
        escapes.append((b"\\/", re.compile(rb"\\/")))
    if re.search(_RESERVED, secret):
        escapes.append((b"%", re.compile(rf"%(?:{codes})".encode())))
    return escapes


def _written(secret: str) -> str:
    """Return a pattern for a secret as it stands, and with any of its characters escaped."""
    return "".join(_char(char) for char in secret)


def _char(char: str) -> str:
    plain = rf"\\*{re.escape(char)}" if char in "/\"'\\" else re.escape(char)
    return rf"(?:{plain}|\\+u00{_hex(char)}|%{_hex(char)})"


def _hex(char: str) -> str:
    """Return a pattern for a character's number, two hexadecimal digits of either case."""
    return "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in f"{ord(char):02x}")


class _Request(msgspec.Struct):
    messages: object = None


_REQUEST = msgspec.json.Decoder(_Request)
