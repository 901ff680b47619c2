"""What a row gives as it stands, messages or body fields, into values that can be sent, or into the row's error."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import cast

import msgspec

from batchrun.errors import JobError, RecordError
from batchrun.model.record import Record


def refuse_unknown(where: str, columns: Collection[str], known: Collection[str]) -> None:
    """Raise JobError where the job's key `where` needs a column that is not among the input's `known` ones."""
    if missing := sorted(set(columns) - set(known)):
        raise JobError(f"{where}: no row has a column `{missing[0]}`; the input has {', '.join(known) or 'no columns'}")


def values_of(record: Record) -> Mapping[str, object]:
    """Return a record's values; raises RecordError, saying why, when the row could not be read."""
    if record.values is None:
        raise RecordError(record.problem or "the row could not be read")
    return record.values


def messages_in(where: str, value: object, system: str | None) -> list[object]:
    """Return a list of messages, checked, `system` put first unless they start with a system message.

    `where` names the value in messages. Raises RecordError when it is no list of messages.
    """
    if not isinstance(value, list):
        raise RecordError(f"{where} holds {kind_of(value)}, expected a list of messages")
    given = cast("list[object]", value)
    if not given:
        raise RecordError(f"{where} holds an empty list of messages")
    for message in given:
        if not isinstance(message, dict) or not isinstance(cast("dict[str, object]", message).get("role"), str):
            raise RecordError(f"{where}: each message must be an object with a `role`")
    first = cast("dict[str, object]", given[0])
    if system is not None and first["role"] != "system":
        return [{"role": "system", "content": system}, *given]
    return given


def without_absent(value: object) -> object:
    """Return an Arrow value as JSON has it: maps, which arrive as pairs, as objects, and decimals as numbers.

    The nulls that a struct gives to fields that are not there are dropped; a null `content` is one that is.
    """
    if isinstance(value, dict):
        fields = cast("dict[str, object]", value)
        return {name: without_absent(field) for name, field in fields.items() if field is not None or name == "content"}
    if isinstance(value, list):
        members = cast("list[object]", value)
        if members and all(isinstance(member, tuple) for member in members):
            return without_absent(dict(cast("list[tuple[str, object]]", value)))
        return [without_absent(member) for member in members]
    return float(value) if isinstance(value, Decimal) else value


def from_json(name: str, value: object) -> object:
    """Return a value as it is, or what its JSON text stands for; raises RecordError, naming the column `name`."""
    if not isinstance(value, str):
        return value
    try:
        return cast("object", msgspec.json.decode(value))
    except msgspec.DecodeError as error:
        raise RecordError(f"column `{name}` holds text that is not JSON: {error}") from None


def refuse_unsendable(name: str, value: object) -> None:
    """Raise RecordError where `value` holds what JSON has no form for."""
    if isinstance(value, dict):
        for key, field in cast("dict[object, object]", value).items():
            if not isinstance(key, str):
                raise RecordError(f"column `{name}` holds an object whose keys are no strings")
            refuse_unsendable(name, field)
    elif isinstance(value, list | tuple):
        for member in cast("list[object]", value):
            refuse_unsendable(name, member)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RecordError(f"column `{name}` holds {value}, which JSON can't carry")
    elif isinstance(value, bytes):
        raise RecordError(f"column `{name}` holds binary data, which JSON can't carry")


def kind_of(value: object) -> str:
    """Say what a value is, in a message's words."""
    kinds: dict[type, str] = {
        str: "a string",
        bool: "a bool",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return "null" if value is None else kinds.get(type(value), f"a value of type {type(value).__name__}")
