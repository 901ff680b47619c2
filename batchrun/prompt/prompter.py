"""A record into the messages of its request: templates, columns that hold messages, and per-row parameters.

The rules are SPEC.md, section 2, Prompts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from batchrun.errors import JobError, RecordError
from batchrun.model.record import Record
from batchrun.model.request import Messages, encode_messages, encode_texts
from batchrun.prompt.template import Template, template_environment

NOT_FOR_PARAMS = ("messages", "stream")


class PromptSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[prompt]: Jinja2 templates over the row's columns, or the name of a column that holds messages."""

    system: Annotated[str | None, Meta(description="template of the system message")] = None
    user: Annotated[str | None, Meta(description="template of the user message")] = None
    messages: Annotated[str | None, Meta(description="column of chat messages, instead of user")] = None
    params: Annotated[str | None, Meta(description="column of body fields that override [request]")] = None


class Prompter:
    """Makes the messages and parameters of each record; built once a run."""

    def __init__(
        self, settings: PromptSettings | None, columns: Iterable[str] | None, *, from_arrow: bool = False
    ) -> None:
        """Compile the templates and check their names against the input's `columns`, None where it has no rows.

        `from_arrow` says that an Arrow struct's null may stand for a field that is not there. Raises JobError when a
        template is wrong or names a column that no row has.
        """
        known = tuple(columns or ())
        environment = template_environment()
        self._system = self._user = None
        self._messages_columns: tuple[str, ...]
        self._prompt_column: str | None = None
        self._params = settings.params if settings else None
        self._from_arrow = from_arrow
        if settings and settings.system is not None:
            self._system = Template(environment, "prompt.system", settings.system, known)
        if settings and settings.user is not None:
            self._user = Template(environment, "prompt.user", settings.user, known)
            self._messages_columns = ()
        elif settings and settings.messages is not None:
            self._messages_columns = (settings.messages,)
        else:
            self._messages_columns = tuple(name for name in ("messages",) if name in known)
            self._prompt_column = "prompt" if "prompt" in known else None
        self.columns = self._needed() if columns is not None else frozenset[str]()
        missing = sorted(self.columns - set(known))
        if missing:
            raise JobError(
                f"prompt: no row has a column `{missing[0]}`; the input has {', '.join(known) or 'no columns'}"
            )
        if columns is not None and self._user is None and not self._messages_columns and self._prompt_column is None:
            raise JobError(
                "prompt: set prompt.user or prompt.messages, or give the input a column `messages` or `prompt`; "
                f"it has {', '.join(known) or 'no columns'}"
            )

    def _needed(self) -> frozenset[str]:
        names = set(self._messages_columns)
        for template in (self._system, self._user):
            if template is not None:
                names |= template.names
        names |= {name for name in (self._prompt_column, self._params) if name is not None}
        return frozenset(names)

    def messages(self, record: Record) -> Messages:
        """Return the encoded messages of one record; raises RecordError when it has none."""
        try:
            return self._messages(record)
        except RecursionError:
            raise RecordError("the row's messages are nested too deeply") from None
        except UnicodeEncodeError:
            raise RecordError("the row's messages hold text that is not valid Unicode") from None

    def params(self, record: Record) -> Mapping[str, object] | None:
        """Return the body fields that one record overrides, or None; raises RecordError when they can't be used."""
        try:
            return self._params_of(record)
        except RecursionError:
            raise RecordError("the row's parameters are nested too deeply") from None

    def _messages(self, record: Record) -> Messages:
        values = _values(record)
        system = self._system.render(values) if self._system else None
        if self._user is not None:
            return encode_texts(system, self._user.render(values))
        for name in self._messages_columns:
            if values.get(name) is not None:
                return self._encode_given(name, values[name], system)
        if self._prompt_column is not None:
            text = values.get(self._prompt_column)
            if isinstance(text, str):
                return encode_texts(system, text)
            if text is not None:
                raise RecordError(f"column `{self._prompt_column}` holds {_kind(text)}, expected a string")
        tried = [*self._messages_columns, *([self._prompt_column] if self._prompt_column else [])]
        raise RecordError(f"no prompt: {' and '.join(f'`{name}`' for name in tried)} null in this row")

    def _params_of(self, record: Record) -> Mapping[str, object] | None:
        if self._params is None:
            return None
        value = _values(record).get(self._params)
        if value is None:
            return None
        if self._from_arrow and not isinstance(value, str):
            parsed = _without_absent(value) or dict[str, object]()  # an empty map arrives as an empty list
        else:
            parsed = _from_json(self._params, value)
        if not isinstance(parsed, dict):
            raise RecordError(f"column `{self._params}` holds {_kind(parsed)}, expected an object")
        given = cast("dict[str, object]", parsed)
        for name in NOT_FOR_PARAMS:
            if name in given:
                raise RecordError(f"column `{self._params}` may not hold `{name}`")
        _refuse_unsendable(self._params, given)
        return given

    def _encode_given(self, name: str, value: object, system: str | None) -> Messages:
        messages = _from_json(name, value)
        if not isinstance(messages, list):
            raise RecordError(f"column `{name}` holds {_kind(messages)}, expected a list of messages")
        given = cast("list[object]", messages)
        if not given:
            raise RecordError(f"column `{name}` holds an empty list of messages")
        for message in given:
            if not isinstance(message, dict) or not isinstance(cast("dict[str, object]", message).get("role"), str):
                raise RecordError(f"column `{name}`: each message must be an object with a `role`")
        if self._from_arrow and not isinstance(value, str):
            given = [_without_absent(message) for message in given]
        first = cast("dict[str, object]", given[0])
        if system is not None and first["role"] != "system":
            given = [{"role": "system", "content": system}, *given]
        _refuse_unsendable(name, given)
        return encode_messages(given)


def _values(record: Record) -> Mapping[str, object]:
    if record.values is None:
        raise RecordError(record.problem or "the row could not be read")
    return record.values


def _without_absent(value: object) -> object:
    """Return an Arrow value as JSON has it: maps, which arrive as pairs, as objects, and decimals as numbers.

    The nulls that a struct gives to fields that are not there are dropped; a null `content` is one that is.
    """
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {
            name: _without_absent(field) for name, field in fields.items() if field is not None or name == "content"
        }
    if isinstance(value, list):
        members = cast("list[object]", value)
        if members and all(isinstance(member, tuple) for member in members):
            return _without_absent(dict(cast("list[tuple[str, object]]", value)))
        return [_without_absent(member) for member in members]
    return float(value) if isinstance(value, Decimal) else value


def _from_json(name: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return cast("object", msgspec.json.decode(value))
    except msgspec.DecodeError as error:
        raise RecordError(f"column `{name}` holds text that is not JSON: {error}") from None


def _refuse_unsendable(name: str, value: object) -> None:
    """Raise RecordError where `value` holds what JSON has no form for."""
    if isinstance(value, dict):
        for key, field in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise RecordError(f"column `{name}` holds an object whose keys are no strings")
            _refuse_unsendable(name, field)
    elif isinstance(value, list | tuple):
        for member in cast("list[object]", value):
            _refuse_unsendable(name, member)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"column `{name}` holds {value}, which JSON can't carry")
    elif isinstance(value, bytes):
        raise RecordError(f"column `{name}` holds binary data, which JSON can't carry")


def _kind(value: object) -> str:
    kinds: dict[type, str] = {
        str: "a string",
        bool: "a bool",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else kinds.get(type(value), f"a value of type {type(value).__name__}")
