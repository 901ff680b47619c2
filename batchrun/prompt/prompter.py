"""A record into the messages of its request: templates, columns that hold messages, and per-row parameters.

The rules are SPEC.md, section 2, Prompts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, cast

from batchrun.errors import JobError, RecordError
from batchrun.model.record import Record
from batchrun.model.request import Messages, encode_messages, encode_texts
from batchrun.prompt.compiling import compiled
from batchrun.prompt.given import (
    from_json,
    kind_of,
    messages_in,
    refuse_unknown,
    refuse_unsendable,
    values_of,
    without_absent,
)
from batchrun.prompt.openai_batch import BATCH_LINE
from batchrun.prompt.settings import PromptSettings

NOT_FOR_PARAMS = ("messages", "stream")


class Prompting(Protocol):
    """Makes the messages and parameters of each record; built once a run."""

    @property
    def columns(self) -> frozenset[str]:
        """The columns that a record must hold for it."""
        ...

    def messages(self, record: Record) -> Messages:
        """Return the encoded messages of one record; raises RecordError when it has none."""
        ...

    def params(self, record: Record) -> Mapping[str, object] | None:
        """Return the body fields that one record overrides, or None; raises RecordError when they can't be used."""
        ...


class Prompter:
    """Fills templates from a record's columns, or takes the messages that one of them holds; a Prompting."""

    def __init__(
        self, settings: PromptSettings | None, columns: Iterable[str] | None, *, from_arrow: bool = False
    ) -> None:
        """Compile the templates and check their names against the input's `columns`, None where it has no rows.

        `from_arrow` says that an Arrow struct's null may stand for a field that is not there. Raises JobError when a
        template is wrong or names a column that no row has.
        """
        known = tuple(columns or ())
        self._system = compiled("prompt.system", settings.system if settings else None, known)
        self._user = compiled("prompt.user", settings.user if settings else None, known)
        self._messages_columns: tuple[str, ...]
        self._prompt_column: str | None = None
        self._params = settings.params if settings else None
        self._from_arrow = from_arrow
        if self._user is not None:
            self._messages_columns = ()
        elif settings and settings.messages is not None:
            self._messages_columns = (settings.messages,)
        else:
            self._messages_columns = tuple(name for name in ("messages",) if name in known)
            self._prompt_column = "prompt" if "prompt" in known else None
        needed: Mapping[str, frozenset[str]] = self._needed() if columns is not None else {}
        for where, names in needed.items():
            refuse_unknown(where, names, known)
        self.columns = frozenset[str]().union(*needed.values())
        if columns is not None and self._user is None and not self._messages_columns and self._prompt_column is None:
            raise JobError(
                "prompt: set prompt.user or prompt.messages, or give the input a column `messages` or `prompt`; "
                f"it has {', '.join(known) or 'no columns'}"
                + ('; for lines of an OpenAI batch set input.format = "openai-batch"' if {*known} >= BATCH_LINE else "")
            )

    def _needed(self) -> Mapping[str, frozenset[str]]:
        """Return the columns that a record must hold, by the key of the job that needs them."""
        return {
            "prompt.system": self._system.names if self._system else frozenset(),
            "prompt.user": self._user.names if self._user else frozenset(),
            "prompt.messages": frozenset(self._messages_columns),
            "prompt.params": frozenset(name for name in (self._params,) if name is not None),
            "prompt": frozenset(name for name in (self._prompt_column,) if name is not None),
        }

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
        if self._params is None:
            return None
        try:
            return self._params_of(record, self._params)
        except RecursionError:
            raise RecordError("the row's parameters are nested too deeply") from None

    def _messages(self, record: Record) -> Messages:
        values = values_of(record)
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
                raise RecordError(f"column `{self._prompt_column}` holds {kind_of(text)}, expected a string")
        tried = [*self._messages_columns, *([self._prompt_column] if self._prompt_column else [])]
        raise RecordError(f"no prompt: {' and '.join(f'`{name}`' for name in tried)} null in this row")

    def _params_of(self, record: Record, column: str) -> Mapping[str, object] | None:
        value = values_of(record).get(column)
        if value is None:
            return None
        if self._from_arrow and not isinstance(value, str):
            parsed = without_absent(value) or dict[str, object]()  # an empty map arrives as an empty list
        else:
            parsed = from_json(column, value)
        if not isinstance(parsed, dict):
            raise RecordError(f"column `{column}` holds {kind_of(parsed)}, expected an object")
        given = cast("dict[str, object]", parsed)
        for name in NOT_FOR_PARAMS:
            if name in given:
                raise RecordError(f"column `{column}` may not hold `{name}`")
        refuse_unsendable(column, given)
        return given

    def _encode_given(self, name: str, value: object, system: str | None) -> Messages:
        messages = from_json(name, value)
        if self._from_arrow and not isinstance(value, str):
            messages = without_absent(messages)
        given = messages_in(f"column `{name}`", messages, system)
        refuse_unsendable(name, given)
        return encode_messages(given)
