"""The body of a reply, as its bytes arrive, into a whole Exchange: in one piece or as a stream, whichever it is. Pure.

The first bytes that are not blank decide, not what was asked for: gateways answer either way (PROTOCOL.md 2.4, 2.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from batchrun.model.attempt import Exchange

if TYPE_CHECKING:
    from batchrun.client.streaming import Stream

MOST_BODY_BYTES = 64 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_JSON = (b"{", b"[")
_OPENINGS = (b"data:", b"event:", b":", b"id:", b"retry:")
_UNDECIDED = frozenset(start[:size] for start in (_BOM, *_OPENINGS) for size in range(len(start))) | {_BOM}

Phase = Literal["shortage", "dns", "connect", "proxy", "tls", "timeout", "disconnected", "too_large"]


class ExchangeError(Exception):
    """Raised when an exchange brought no whole HTTP reply.

    `phase` says where it ended, `shortage` that this machine could open no connection; `sent` is false when the
    request can't have reached the server.
    """

    def __init__(self, phase: Phase, message: str, *, sent: bool) -> None:
        """Describe the failure; `message` never holds headers or bodies."""
        super().__init__(message)
        self.phase: Phase = phase
        self.sent = sent


def at_once(status: int, headers: dict[str, str], body: bytes) -> Exchange | None:
    """Return the exchange of a whole body that is plainly JSON, as most are; None where Arriving has to look at it."""
    if body.startswith(_JSON) and len(body) <= MOST_BODY_BYTES:
        return Exchange(status=status, headers=headers, body=body)
    return None


class Arriving:
    """Takes the body of one reply, decoded from what Content-Encoding says, chunk by chunk."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        """Expect the first byte of the body; `headers` have lower-case names."""
        self._status = status
        self._headers = headers
        self._said_stream = headers.get("content-type", "").lower().startswith("text/event-stream")
        self._head: bytes = b""
        self._chunks: list[bytes] = []
        self._size = 0
        self._is_plain = False
        self._stream: Stream | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the body has turned out to be a stream of events."""
        return self._stream is not None

    @property
    def has_text(self) -> bool:
        """Whether a stream has brought any text."""
        return self._stream is not None and self._stream.folding.has_text

    @property
    def has_ended(self) -> bool:
        """Whether a stream has said that nothing more comes: by `[DONE]`, or by an error."""
        return self._stream is not None and (self._stream.folding.is_done or self._stream.folding.has_failed)

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes; raises ExchangeError when more than MOST_BODY_BYTES would have to be kept."""
        if self._stream is not None:
            self._pour(self._stream, chunk)
            return
        self._size += len(chunk)
        if self._size > MOST_BODY_BYTES:
            raise _too_large()
        self._chunks.append(chunk)
        if not self._is_plain:
            self._look(chunk)

    def end(self, *, broken: bool) -> Exchange | None:
        """Return the whole exchange, None where the body is cut; `broken` says that the connection did not end well.

        A stream that has brought what it must is whole although it is broken; one that has not is cut although the
        connection ended well. The body of an error status is judged as far as it came.
        """
        if self._said_stream and not self._is_plain and self._stream is None:
            self._begin_stream()
        if self._stream is None and broken:
            return None
        if self._stream is None:
            return Exchange(status=self._status, headers=self._headers, body=b"".join(self._chunks))
        folding = self._stream.end()
        is_success = 200 <= self._status < 300  # noqa: PLR2004 - HTTP statuses
        if not folding.is_complete and (broken or is_success):
            return None
        folded = folding.whole()
        return Exchange(
            status=self._status,
            headers=self._headers,
            body=folded.body,
            flags=folded.flags,
            problem=folded.problem,
        )

    def _look(self, chunk: bytes) -> None:
        """Decide what the body is, if its first bytes suffice."""
        head = self._head + chunk
        if not _BOM.startswith(head):
            head = head.removeprefix(_BOM).lstrip(_BLANK)
        self._head = head
        if head in _UNDECIDED:
            return
        is_json = head.startswith(_JSON)
        if not is_json and (self._said_stream or head.startswith(_OPENINGS)):
            self._begin_stream()
        else:
            self._is_plain = True

    def _begin_stream(self) -> None:
        from batchrun.client.streaming import Stream  # noqa: PLC0415 - 2 ms of CPU that only streamed replies need

        self._chunks.clear()
        self._stream = Stream()
        self._pour(self._stream, self._head)

    @staticmethod
    def _pour(stream: Stream, chunk: bytes) -> None:
        stream.feed(chunk)
        if stream.kept_bytes > MOST_BODY_BYTES:
            raise _too_large()


def _too_large() -> ExchangeError:
    return ExchangeError("too_large", f"the reply is larger than {MOST_BODY_BYTES >> 20} MiB", sent=True)
