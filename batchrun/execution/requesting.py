"""Records into rows that are ready to be sent, each with its request; done as they are read, off the loop.

What is done for one row after the other costs half of what it costs between two turns of the loop (measured), and a
large template holds up no exchange.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping

from batchrun.budget import MostTokens, most_tokens, with_messages
from batchrun.errors import RecordError
from batchrun.model.attempt import Tries
from batchrun.model.record import Record
from batchrun.model.request import Envelope, Messages, Request
from batchrun.prompt.prompter import Prompting
from batchrun.worker import OpenRow

SLICE_BYTES = 1 << 20
"""Bodies that are made before the rows which have them are handed on: a short row may become a long request."""
SLICE_S = 0.05
"""How long they may be made before that: a template may take long, the slots wait, and so does who stops the run."""
_NEVER_TRIED = Tries()


class Requests:
    """Makes the requests of one run; used by one thread at a time."""

    def __init__(
        self,
        prompter: Prompting,
        envelope: Envelope,
        *,
        bounded: Mapping[str, object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make them by `prompter` and `envelope`; under a budget `bounded` are the job's body fields.

        `clock` is monotonic, in seconds.
        """
        self._prompter = prompter
        self._envelope = envelope
        self._clock = clock
        self._bounded = bounded
        self._most = None if bounded is None else most_tokens(bounded)

    def slices(
        self, records: Iterable[Record], skipped: Container[int], tried: Mapping[int, Tries]
    ) -> Iterator[tuple[list[OpenRow], int]]:
        """Yield rows, in order, some at a time, and how many of `records` these took.

        Those in `skipped` need no request; `tried` is what earlier attempts of some rows came to.
        """
        rows: list[OpenRow] = []
        size = read = 0
        until = self._clock() + SLICE_S
        for record in records:
            read += 1
            if record.row in skipped:
                continue
            row = self.row(record, tried.get(record.row, _NEVER_TRIED))
            rows.append(row)
            if row.request is not None:
                size += len(row.request.body)
            if size >= SLICE_BYTES or self._clock() >= until:
                yield rows, read
                rows, size, read = [], 0, 0
                until = self._clock() + SLICE_S
        if read:
            yield rows, read

    def row(self, record: Record, tries: Tries = _NEVER_TRIED) -> OpenRow:
        """Return a record's row, with its request or with why it has none, and under a budget with its bounds."""
        try:
            messages = self._prompter.messages(record)
            params = self._prompter.params(record)
            request = self._sealed(record.row, messages, params)
        except RecordError as error:
            return OpenRow(row=record.row, request=None, unsendable=str(error), replaced=record.replaced, tries=tries)
        most = None if self._most is None else self._bounds(self._most, messages, params)
        return OpenRow(row=record.row, request=request, replaced=record.replaced, tries=tries, most=most)

    def _sealed(self, row: int, messages: Messages, params: Mapping[str, object] | None) -> Request:
        try:
            return self._envelope.seal(row, messages, params)
        except RecursionError:
            raise RecordError("the row's parameters are nested too deeply") from None

    def _bounds(self, most: MostTokens, messages: Messages, params: Mapping[str, object] | None) -> MostTokens:
        return with_messages(most_tokens({**(self._bounded or {}), **params}) if params else most, messages)
