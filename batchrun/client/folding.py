"""The events of a stream into the JSON body that the same reply has in one piece (PROTOCOL.md 2.5). Pure."""

from __future__ import annotations

import msgspec

from batchrun.client.choice import NO_ERROR, GrowingChoice, encoded
from batchrun.client.chunk import NOTHING, Chunk, ChunkChoice, decode_chunk, fields_of, is_there, members_of, raw_json
from batchrun.client.sse import Event

_DONE = b"[DONE]"
_FOLDED = frozenset(["choices", "usage", "error", "x_groq", "object", "obfuscation"])
_NAMES = frozenset(["id", "model"])
_OF_FIRST = _NAMES | {"created"}
_UNKNOWN = (b'""', b"0")
_ENCODE = msgspec.json.Encoder().encode
_CHOICE_BYTES = 1024
"""What a choice costs beside its text; so a flood of empty choices is not kept for nothing."""


class Folded(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as one body; `problem` says why it can't be the reply although it came to its end."""

    body: bytes
    flags: tuple[str, ...] = ()
    problem: str | None = None


class Folding:
    """Folds one stream; keeps its texts, not its events.

    `size` is about how much is kept, in bytes. `has_text` is true from the first text, reasoning or tool call on,
    `is_done` from `[DONE]` on.
    """

    def __init__(self) -> None:
        """Expect the stream's first event."""
        self.size = 0
        self.has_text = False
        self.is_done = False
        self._choices: dict[int, GrowingChoice] = {}
        self._usage = NOTHING
        self._error = NOTHING
        self._failed_choice: GrowingChoice | None = None
        self._groq: dict[str, msgspec.Raw] = {}
        self._fields: dict[str, msgspec.Raw] = {}
        self._flags: list[str] = []
        self._problem: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether an error has come, of the stream or of a choice."""
        return self._error is not NOTHING or self._failed_choice is not None

    @property
    def is_complete(self) -> bool:
        """Whether the stream may end here: with its last finish_reason, with `[DONE]`, or with an error."""
        return self.is_done or self.has_failed or self._is_finished()

    def add(self, event: Event) -> None:
        """Take the next event."""
        data = event.data.strip()
        if self.is_done or not data:
            return
        if data == _DONE:
            self.is_done = True
            return
        try:
            self._take(event.name, data)
        except Exception as error:  # noqa: BLE001 - an event nobody foresaw spoils its reply, never the run
            self._problem = f"an event of the stream can't be read: {type(error).__name__}"

    def add_last(self, event: Event) -> None:
        """Take an event that was cut off before its blank line: as far as it can be read."""
        problem = self._problem
        self.add(event)
        self._problem = problem
        self._flag("sse_no_terminator")

    def whole(self) -> Folded:
        """Return what the stream has come to."""
        if not self._is_finished():
            if self._failed_choice is not None:  # another choice is cut short by it: the error is the whole stream's
                self._fail(self._failed_choice.error)
            elif self.is_done and not self.has_failed:
                self._flag("finish_reason_missing")
        try:
            problem = None if self.has_failed else self._problem
            return Folded(body=self._body(), flags=tuple(self._flags), problem=problem)
        except Exception as error:  # noqa: BLE001 - a reply nobody foresaw fails its row, never the run
            problem = f"the stream can't be put together: {type(error).__name__}"
            return Folded(body=b'{"choices":[]}', problem=problem)

    def _is_finished(self) -> bool:
        return bool(self._choices) and all(
            choice.finish_reason or choice.error is not NOTHING for choice in self._choices.values()
        )

    def _take(self, name: bytes, data: bytes) -> None:
        if not data.startswith((b"{", b"[")):
            text = data.decode("utf-8", "replace")
            self._fail(raw_json(text)) if name == b"error" else self._flag("sse_junk")
            return
        chunk = decode_chunk(data, self._flags)
        if chunk is None:
            self._problem = "an event of the stream is JSON that can't be read"
            return
        if is_there(chunk.error):
            self._fail(chunk.error)
        elif name == b"error" or (chunk.object == "error" and chunk.choices is None):
            self._fail(encoded(fields_of(data)))
        if is_there(chunk.x_groq):
            self.size += len(bytes(chunk.x_groq))
            self._groq |= fields_of(bytes(chunk.x_groq))
            self._fail(self._groq.get("error", NOTHING))
        self._fold(chunk, data)

    def _fold(self, chunk: Chunk, data: bytes) -> None:
        """Take texts from every chunk, and what else is said from the first, the last and one with an error."""
        is_telling = self.has_failed
        if is_there(chunk.usage):
            self._usage = chunk.usage
            is_telling = True
        if chunk.choices is not None:
            is_telling = is_telling or not self._fields.keys() >= _NAMES
        for place, choice in enumerate(chunk.choices or ()):
            index = _index(choice, place)
            growing = self._choices.get(index)
            if growing is None:
                growing = self._choices[index] = GrowingChoice()
                self.size += _CHOICE_BYTES
            if grown := growing.add(choice):
                self.size += grown
                self.has_text = True
            if growing.error is not NOTHING:
                self._failed_choice = growing
            if is_there(choice.logprobs):
                self.size += growing.add_logprobs(choice.logprobs)
            is_telling = is_telling or choice.finish_reason is not None
        if is_telling:
            self._keep(chunk, data)

    def _keep(self, chunk: Chunk, data: bytes) -> None:
        """Keep the fields that are not folded: id, model and time of the first chunk that has them, else the last."""
        fields = fields_of(data)
        for name, value in fields.items():
            if name in _FOLDED or (name in _OF_FIRST and (name in self._fields or bytes(value) in _UNKNOWN)):
                continue
            self.size += 0 if name in self._fields else len(bytes(value))
            self._fields[name] = value
        for place, (choice, raw) in enumerate(
            zip(chunk.choices or (), members_of(fields.get("choices", NOTHING)), strict=False)
        ):
            self.size += self._choices[_index(choice, place)].keep(fields_of(bytes(raw)))

    def _body(self) -> bytes:
        usage = self._usage
        if not is_there(usage) and b'"prompt_tokens"' in bytes(self._groq.get("usage", usage)):
            usage = self._groq["usage"]
        fields: dict[str, object] = {"id": NOTHING, "object": "chat.completion", "created": NOTHING, "model": NOTHING}
        body = {name: value for name, value in (fields | self._fields).items() if value is not NOTHING}
        body["choices"] = [self._choices[index].whole(index) for index in sorted(self._choices)]
        if is_there(usage):
            body["usage"] = usage
        if self._groq:
            body["x_groq"] = self._groq
        if is_there(self._error):
            body["error"] = self._error
        return _ENCODE(body)

    def _fail(self, error: msgspec.Raw) -> None:
        if self._error is NOTHING and bytes(error) not in NO_ERROR:
            self._error = error

    def _flag(self, flag: str) -> None:
        if flag not in self._flags:
            self._flags.append(flag)


def _index(choice: ChunkChoice, place: int) -> int:
    return place if choice.index is None else choice.index
