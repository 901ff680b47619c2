"""A line of an OpenAI batch file into the request that its `body` is (PROTOCOL.md 1F, 1G). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import cast

from batchrun.errors import RecordError
from batchrun.model.record import Record
from batchrun.model.request import Messages, encode_messages
from batchrun.prompt.compiling import compiled
from batchrun.prompt.given import kind_of, messages_in, refuse_unknown, refuse_unsendable, values_of

CUSTOM_ID = "custom_id"
BODY = "body"
BATCH_LINE = frozenset([CUSTOM_ID, "method", "url", BODY])
URL_END = "/chat/completions"
NOT_FROM_BODY = frozenset(["messages", "stream", "stream_options"])
"""Fields of a body that are no parameters: endpoint.stream decides how a job is answered."""
_SHORT_WORD = r"[\w./:@-]{1,100}"


def refusal_of(line: Mapping[str, object]) -> str | None:
    """Return why a line asks for what can't be sent, None when it asks for a chat completion."""
    if line.get("method") != "POST":
        return f"`method` {_is(line.get('method'))}; expected POST"
    url = line.get("url")
    if not isinstance(url, str) or not url.endswith(URL_END):
        return f"`url` {_is(url)}; only chat completions are supported: expected a url that ends in {URL_END}"
    if not isinstance(line.get(BODY), dict):
        return f"`body` {_is(line.get(BODY))}; expected an object, the body of a chat completion request"
    return None


class BodyPrompter:
    """Takes each record's request from its column `body`; a Prompting."""

    def __init__(self, *, system: str | None, model_known: bool, columns: Iterable[str] | None) -> None:
        """Compile the template `system`, which goes before messages that don't start with a system message.

        `model_known` says that the job names a model; without one every body must. `columns` are the input's, None
        where it has no rows. Raises JobError when the template is wrong or names a column that no row has.
        """
        known = tuple(columns or ())
        self._model_known = model_known
        self._system = compiled("prompt.system", system, known)
        self.columns: frozenset[str] = frozenset()
        if columns is not None:
            named = self._system.names if self._system else frozenset[str]()
            refuse_unknown("prompt.system", named, known)
            refuse_unknown("input.path", (BODY,), known)
            self.columns = named | {BODY}

    def messages(self, record: Record) -> Messages:
        """Return the encoded `body.messages`; raises RecordError when they are none."""
        values = values_of(record)
        system = self._system.render(values) if self._system else None
        try:
            return encode_messages(messages_in("`messages` in the row's body", _body(values).get("messages"), system))
        except RecursionError:
            raise RecordError("the row's messages are nested too deeply") from None
        except UnicodeEncodeError:
            raise RecordError("the row's messages hold text that is not valid Unicode") from None

    def params(self, record: Record) -> Mapping[str, object]:
        """Return the other fields of the body; raises RecordError when neither it nor the job names a model."""
        body = _body(values_of(record))
        fields = {name: value for name, value in body.items() if name not in NOT_FROM_BODY}
        model = fields.get("model")
        if model is None and self._model_known:
            fields.pop("model", None)
        elif model is None:
            raise RecordError("no model: neither request.model nor the row's body names one")
        elif not isinstance(model, str) or not model:
            raise RecordError(f"`model` in the row's body {_is(model)}; expected the name of a model")
        try:
            refuse_unsendable(BODY, fields)
        except RecursionError:
            raise RecordError("the row's parameters are nested too deeply") from None
        return fields


def _body(values: Mapping[str, object]) -> Mapping[str, object]:
    body = values.get(BODY)
    return cast("dict[str, object]", body) if isinstance(body, dict) else {}


def _is(value: object) -> str:
    """Say what a value is; a text is shown where it is as short and plain as a URL, never what may be a prompt."""
    if value is None:
        return "is missing or null"
    if isinstance(value, str):
        return f"is {value}" if re.fullmatch(_SHORT_WORD, value) else "is another text"
    return f"is {kind_of(value)}"
