"""Prompts into digests and chances: everything the simulator draws follows from seed, prompt and try."""

from __future__ import annotations

import hashlib

import msgspec

_SORTED = msgspec.json.Encoder(order="sorted")
_STEP = 2.0**-53


def prompt_digest(messages: list[object]) -> str:
    """Return 16 hex digits: the head of SHA-256 over the messages as UTF-8 JSON, keys sorted, no spaces."""
    return hashlib.sha256(_SORTED.encode(messages)).hexdigest()[:16]


def draw(seed: int, digest: str, nth: int, purpose: str) -> float:
    """Return a number from [0, 1), the same for the same arguments, on every machine and in every run.

    `nth` counts the tries of one prompt from 0, so that a retry has draws of its own and may succeed;
    `purpose` keeps the draws of one try independent of each other.
    """
    word = hashlib.blake2b(_key(seed, digest, nth, purpose), digest_size=8).digest()
    return (int.from_bytes(word, "big") >> 11) * _STEP


def draw_hex(seed: int, digest: str, nth: int, purpose: str) -> str:
    """Return 32 hex digits, drawn as `draw` draws."""
    return hashlib.blake2b(_key(seed, digest, nth, purpose), digest_size=16).hexdigest()


def draw_bytes(seed: int, digest: str, purpose: str, size: int) -> bytes:
    """Return `size` bytes that are the same for each try of a prompt."""
    return hashlib.shake_128(_key(seed, digest, 0, purpose)).digest(size)


def _key(seed: int, digest: str, nth: int, purpose: str) -> bytes:
    return f"{seed}|{digest}|{nth}|{purpose}".encode()
