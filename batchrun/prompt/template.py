"""Jinja2 templates over a row's columns, sandboxed, in which a null can be tested but not printed.

Printing a null, plain or through a filter, fails its row, so that no prompt with the word "None" in it is ever paid
for (SPEC.md, section 2, Prompts). In a list or object that is printed, which is JSON text, it is JSON's null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import cast

import jinja2
from jinja2 import meta, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from batchrun.errors import JobError, RecordError


class _Null(jinja2.StrictUndefined):
    """A null in a template: false, equal to none, and an error where it would be printed."""

    __slots__ = ()

    def __init__(self, what: str) -> None:
        super().__init__(hint=f"it prints {what}, which is null in this row", exc=RecordError)  # type: ignore[arg-type]

    def __bool__(self) -> bool:  # type: ignore[override]
        return False

    def __eq__(self, other: object) -> bool:  # type: ignore[override]
        return _is_null(other)

    def __ne__(self, other: object) -> bool:  # type: ignore[override]
        return not _is_null(other)

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(None)

    def __repr__(self) -> str:
        return self._fail_with_undefined_error()


class TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of the templates, in which a call brings no plain None either."""

    def call(self, context: Context, obj: object, /, *args: object, **kwargs: object) -> object:
        """Call as the sandbox does."""
        value: object = super().call(context, obj, *args, **kwargs)
        return _Null("what a call returned") if value is None else value


def template_environment() -> TemplateEnvironment:
    """Return an environment in which a null can be tested but not printed."""
    environment = TemplateEnvironment(undefined=jinja2.StrictUndefined, finalize=_printable, autoescape=False)
    environment.tests["none"] = _is_null
    environment.tests["defined"] = _is_defined
    environment.tests["undefined"] = lambda value: not _is_defined(value)
    environment.filters["tojson"] = _as_json  # Jinja's own writes < > & ' as \\u003c and so on, for HTML
    return environment


def _with_nulls(name: str, value: object) -> object:
    """Return a column's value as templates see it: each null in it can be tested but not printed."""
    return _Null(f"`{name}`") if value is None else _nulls_within(f"a value in `{name}`", value)


def _nulls_within(what: str, value: object) -> object:
    if value is None:
        return _Null(what)
    if isinstance(value, dict):
        return {key: _nulls_within(what, member) for key, member in cast("dict[object, object]", value).items()}
    if isinstance(value, list | tuple):
        members = [_nulls_within(what, member) for member in cast("list[object]", value)]
        return members if isinstance(value, list) else tuple(members)
    return value


def _printable(value: object) -> object:
    if value is None:
        raise RecordError("it prints none")
    if isinstance(value, dict | list | tuple):
        return _as_json(cast("object", value))
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        raise RecordError("it prints binary data, or a number that is not finite")
    if callable(value) and not isinstance(value, jinja2.Undefined):
        raise RecordError("it prints a function, not what that returns; for a field of that name write x['name']")
    return value


def _is_null(value: object) -> bool:
    return value is None or isinstance(value, _Null)


def _is_defined(value: object) -> bool:
    return not isinstance(value, jinja2.Undefined) or isinstance(value, _Null)


def _as_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent, default=_json_null)


def _json_null(value: object) -> None:
    if not isinstance(value, _Null):
        raise RecordError(f"a value of type {type(value).__name__} can't be written as JSON")


class Template:
    """One compiled template and the columns it reads."""

    def __init__(self, environment: TemplateEnvironment, where: str, source: str, known: Iterable[str]) -> None:
        """Compile `source`; `known` are the input's columns. Raises JobError, naming `where`, when it is wrong."""
        self._where = where
        try:
            tree = environment.parse(source)
            if other := next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None):
                raise JobError(f"{where}, line {other.lineno}: a template can't include, import or extend another one")
            named = {node.name for node in tree.find_all(nodes.Name)}
            hidden = named & environment.globals.keys() & set(known)  # a column called `range` is meant, not Jinja's
            self.names = frozenset(meta.find_undeclared_variables(tree) | hidden)
            self._template = environment.from_string(tree)
        except jinja2.TemplateSyntaxError as error:
            raise JobError(f"{where}: not a valid template, line {error.lineno}: {error.message}") from None
        except SyntaxError as error:  # Python's, of what Jinja made of the template: its line is none of the template
            raise JobError(f"{where}: not a valid template: {error.msg}") from None
        except RecursionError:
            raise JobError(f"{where}: not a valid template: nested too deeply") from None
        except ValueError:
            raise JobError(f"{where}: not a valid template: a number has too many digits") from None
        self._template.globals = dict(self._template.globals)  # Jinja copies them for each row, from a slow mapping

    def render(self, values: Mapping[str, object]) -> str:
        """Return the text for one row; raises RecordError, naming the key, when the template can't be filled in."""
        try:
            return self._template.render({name: _with_nulls(name, values.get(name)) for name in self.names})
        except RecordError as error:
            raise RecordError(f"{self._where}: {error}") from None
        except Exception as error:  # noqa: BLE001 - whatever a row's data raises is that row's failure
            raise RecordError(f"{self._where}: {type(error).__name__} while the template was filled in") from None
