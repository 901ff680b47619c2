"""A record into the messages of its request: templates, columns that hold messages, and per-row parameters.

The rules are SPEC.md, section 2, Prompts. A null can be tested but not printed: printing it, plain or through a
filter, fails its row, so that no prompt with the word "None" in it is ever paid for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, NoReturn, cast

import jinja2
import msgspec
from jinja2 import meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from msgspec import Meta

from batchrun.errors import JobError, RecordError
from batchrun.model.record import Record
from batchrun.model.request import Messages, encode_messages, encode_texts

NOT_FOR_PARAMS = ("messages", "stream")


class PromptSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[prompt]: Jinja2 templates over the row's columns, or the name of a column that holds messages."""

    system: Annotated[str | None, Meta(description="template of the system message")] = None
    user: Annotated[str | None, Meta(description="template of the user message")] = None
    messages: Annotated[str | None, Meta(description="column of chat messages, instead of user")] = None
    params: Annotated[str | None, Meta(description="column of body fields that override [request]")] = None


class _Null(jinja2.StrictUndefined):
    """A null in a template: false, equal to none, and an error where it would be printed."""

    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return other is None or isinstance(other, _Null)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(None)

    def _fail_with_undefined_error(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise RecordError(f"the prompt prints `{self._undefined_name}`, which is null in this row")


def _refuse_none(value: object) -> object:
    if value is None:
        raise RecordError("the prompt prints a value that is null in this row")
    return value


def _is_null(value: object) -> bool:
    return value is None or isinstance(value, _Null)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, finalize=_refuse_none, autoescape=False
    )
    environment.tests["none"] = _is_null
    environment.tests["defined"] = lambda value: not isinstance(value, jinja2.Undefined) or _is_null(value)
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": False,
        "ensure_ascii": False,
        "default": _json_null,
    }
    return environment


def _json_null(value: object) -> None:
    if not isinstance(value, _Null):
        raise RecordError(f"a value of type {type(value).__name__} can't be written as JSON")


class _Template:
    """One compiled template and the columns it reads."""

    def __init__(self, environment: ImmutableSandboxedEnvironment, where: str, source: str) -> None:
        self._where = where
        try:
            tree = environment.parse(source)
            self.names = frozenset(meta.find_undeclared_variables(tree)) - set(environment.globals)
            self._template = environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise JobError(f"{where}: not a valid template, line {error.lineno}: {error.message}") from None
        self._constant = _constant_text(tree)

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text for one row."""
        if self._constant is not None:
            return self._constant
        seen: dict[str, object] = {}
        for name in self.names:
            value = values.get(name)
            seen[name] = _Null(name=name) if value is None else value
        try:
            return self._template.render(seen)
        except RecordError:
            raise
        except Exception as error:  # noqa: BLE001 - a template runs the row's data: whatever it raises is that row's failure
            raise RecordError(f"{self._where}: {type(error).__name__} while the template was filled in") from None


def _constant_text(tree: nodes.Template) -> str | None:
    """Return the text of a template that has no variable part."""
    texts: list[str] = []
    for output in tree.body:
        if not isinstance(output, nodes.Output):
            return None
        for node in output.nodes:
            if not isinstance(node, nodes.TemplateData):
                return None
            texts.append(node.data)
    return "".join(texts)


class Prompter:
    """Makes the messages and parameters of each record; built once a run."""

    def __init__(self, settings: PromptSettings | None, columns: Iterable[str], *, from_arrow: bool = False) -> None:
        """Compile the templates and check their names against the input's `columns`.

        `from_arrow` says that an Arrow struct's null may stand for a field that is not there. Raises JobError when a template is wrong or names a column that no row has.
        """
        known = tuple(columns)
        environment = _environment()
        self._system = self._user = None
        self._messages_columns: tuple[str, ...]
        self._prompt_column: str | None = None
        self._params = settings.params if settings else None
        self._from_arrow = from_arrow
        if settings and settings.system is not None:
            self._system = _Template(environment, "prompt.system", settings.system)
        if settings and settings.user is not None:
            self._user = _Template(environment, "prompt.user", settings.user)
            self._messages_columns = ()
        elif settings and settings.messages is not None:
            self._messages_columns = (settings.messages,)
        else:
            self._messages_columns = tuple(name for name in ("messages",) if name in known)
            self._prompt_column = "prompt" if "prompt" in known else None
        self.columns = self._needed()
        missing = sorted(self.columns - set(known))
        if missing:
            raise JobError(
                f"prompt: no row has a column `{missing[0]}`; the input has {', '.join(known) or 'no columns'}"
            )
        if self._user is None and not self._messages_columns and self._prompt_column is None:
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

    def params(self, record: Record) -> Mapping[str, object] | None:
        """Return the body fields that one record overrides, or None; raises RecordError when they can't be used."""
        if self._params is None:
            return None
        value = _values(record).get(self._params)
        if value is None:
            return None
        parsed = _from_json(self._params, value)
        if self._from_arrow:
            parsed = _without_absent(_map_as_object(parsed))
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
    """Drop the nulls that an Arrow struct gives to fields that are not there; a null `content` is one that is."""
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {
            name: _without_absent(field) for name, field in fields.items() if field is not None or name == "content"
        }
    if isinstance(value, list):
        return [_without_absent(member) for member in cast("list[object]", value)]
    return value


def _map_as_object(value: object) -> object:
    """Return an Arrow map, which arrives as pairs, as an object."""
    if not isinstance(value, list):
        return value
    members = cast("list[object]", value)
    if members and all(isinstance(member, tuple) for member in members):
        return dict(cast("list[tuple[str, object]]", value))
    return members


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
        for field in cast("dict[object, object]", value).values():
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
