"""A TOML file and the overrides of the command line, turned into a checked Job, or one error that names the key."""

from __future__ import annotations

import datetime as dt
import os
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import msgspec.inspect

from batchrun.errors import JobError
from batchrun.job.check import check_job, check_simulator, refuse_endless, refuse_secrets
from batchrun.job.deadline import EXPECTED
from batchrun.job.settings import EndpointSettings, Job, LaneSettings, SimulatorSettings

_Endpoint = TypeVar("_Endpoint", bound=EndpointSettings)
# Compiled when they are first looked for: in what is wrong.
_UNKNOWN = r"(?s)Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<at>.*)`)?$"
_MISSING = r"(?s)Object missing required field `(?P<name>.*?)`(?: - at `\$(?P<at>.*)`)?$"
_PLACE = r"(?s)^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<at>.*)`)?$"
_PLACEHOLDER = r"\{[^{}/]*\}"
_OF_REQUEST = frozenset(("model", "temperature", "max_tokens"))
"""Keys of [request], which takes any, that may be looked for elsewhere."""
_NO_BARE_WORD = r"[\"'\[]|\{(?!date\}|[{%#])"
"""How a TOML value begins that is no bare word; `{date}` and templates are."""


def load_job(path: str | Path, *, overrides: Iterable[str] = (), date: dt.date | None = None) -> Job:
    """Read and check a job file; `-` is standard input.

    `overrides` are `KEY.PATH=VALUE` strings, VALUE a TOML value or a bare word. `date` fills `{date}` in
    output.path, default the UTC date of now. Paths of the result are absolute, resolved against the job file's
    folder (the working directory for standard input).

    Raises JobError when the file can't be read or is not valid; the message names the key's path.
    """
    tree, folder = _read(path)
    for override in overrides:
        _override(tree, override)
    refuse_secrets(tree)
    refuse_endless(tree)
    try:
        job = msgspec.convert(tree, Job)
    except msgspec.ValidationError as error:
        raise JobError(_worded(str(error))) from None
    check_job(job)
    return _resolved(job, folder, date or dt.datetime.now(tz=dt.UTC).date())


def load_simulator(overrides: Iterable[str]) -> SimulatorSettings:
    """Return simulator settings from `KEY=VALUE` strings; raises JobError as `load_job` does."""
    tree: dict[str, object] = {}
    for override in overrides:
        _override(tree, f"simulator.{override}")
    refuse_endless(tree)
    try:
        settings = msgspec.convert(tree.get("simulator", {}), SimulatorSettings)
    except msgspec.ValidationError as error:
        raise JobError(_worded(str(error), under="simulator")) from None
    check_simulator(settings)
    return settings


def job_schema() -> dict[str, object]:
    """Return the JSON Schema of the job file, for editors."""
    return cast("dict[str, object]", msgspec.json.schema(Job))


def _read(path: str | Path) -> tuple[dict[str, object], Path]:
    piped = str(path) == "-"
    folder, name = (Path.cwd(), "standard input") if piped else (Path(path).resolve().parent, str(path))
    try:
        text = (sys.stdin.buffer.read() if piped else Path(path).read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise JobError(f"{name}: can't read the job file: {reason}") from None
    try:
        return tomllib.loads(text), folder
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise JobError(f"{name}: not valid TOML: {error}") from None


def _override(tree: dict[str, object], override: str) -> None:
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):  # what stands there may be a secret: it is not repeated
        raise JobError("--set: expected KEY.PATH=VALUE")
    try:
        value: object = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError as error:
        if re.match(_NO_BARE_WORD, text):
            raise JobError(f"--set {dotted}: not a TOML value: {error}; mind what the shell does to quotes") from None
        value = text
    _put(tree, keys, value, dotted)


def _put(table: object, keys: list[str], value: object, dotted: str, above: str = "job file") -> None:
    """Put a value where the keys lead; tables that are not there are made, of an array of tables a key is a number."""
    key, below = keys[0], keys[1:]
    if isinstance(table, dict):
        named = cast("dict[str, object]", table)
        if below:
            _put(named.setdefault(key, {}), below, value, dotted, key)
        else:
            named[key] = value
    elif isinstance(table, list):
        entries = cast("list[object]", table)
        if not key.isdecimal() or int(key) >= len(entries):
            raise JobError(f"--set {dotted}: `{above}` is an array; expected one of 0 to {len(entries) - 1} after it")
        if below:
            _put(entries[int(key)], below, value, dotted, key)
        else:
            entries[int(key)] = value
    else:
        raise JobError(f"--set {dotted}: `{above}` is no table")


def _worded(message: str, under: str = "") -> str:
    """Turn msgspec's message into one that starts with the key's path and says what was expected.

    `under` is the table that was read, when it was not the whole job file.
    """
    if unknown := re.match(_UNKNOWN, message):
        at, name = _dotted(unknown["at"], under), unknown["name"]
        place = f"{at}.{name}" if at else name
        return f"{place}: unknown key; {_known_instead(at, name)}"
    if missing := re.match(_MISSING, message):
        at, name = _dotted(missing["at"], under), missing["name"]
        return f"{f'{at}.{name}' if at else name}: missing; it is required"
    place = re.match(_PLACE, message)
    what, at = (place["what"], _dotted(place["at"], under)) if place else (message, under)
    if what.startswith("Invalid enum value"):
        values = [value for kind in _kinds_at(at) for value in getattr(kind, "values", ())]
        or_names = " or a list of names" if at == "output.columns" else ""
        what = f"{what}; expected {' or '.join(msgspec.json.encode(value).decode() for value in values)}{or_names}"
    elif at == "limits.max_failed" and ">= 0" not in what:
        what = 'expected a count, or a share such as "1%"'
    elif at == "limits.deadline":
        what = EXPECTED
    what = what.replace("`object | array`", "a table or an array of tables")
    what = what[:1].lower() + what[1:].replace("`object`", "a table").replace("`array`", "an array")
    return f"{at or 'job file'}: {what}"


def _known_instead(at: str, name: str) -> str:
    """Say where the key `name`, which is none of the table at a dotted path, is one, or which key may be meant."""
    if owners := _tables_with(name):
        return f"it is a key of {' or '.join(owners)}"
    names = sorted(_keys_of(_kinds_at(at)))
    import difflib  # noqa: PLC0415 - 0.6 ms of CPU that only a wrong key needs

    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{close[0]}`?" if close else f"expected one of {', '.join(names)}"


def _tables_with(name: str) -> list[str]:
    """Return the tables of the job file that have a key, as they are written there."""
    tables = {"the job file's top level": _kinds_at("")}
    for table in _keys_of(_kinds_at("")):
        tables[f"[{table}]"] = _kinds_at(table)
        tables[f"[[{table}]]"] = _kinds_at(f"{table}[0]")
    found = [table for table, kinds in tables.items() if name in _keys_of(kinds)]
    return [*found, "[request]"] if name in _OF_REQUEST else found


def _keys_of(kinds: Iterable[msgspec.inspect.Type]) -> list[str]:
    return [field.encode_name for kind in kinds for field in getattr(kind, "fields", ())]


def _dotted(at: str | None, under: str) -> str:
    return f"{under}{at or ''}".removeprefix(".").removesuffix("[...]")


def _kinds_at(at: str) -> list[msgspec.inspect.Type]:
    """Return the types that the job file may hold at a dotted path."""
    kinds = _flat(msgspec.inspect.type_info(Job))
    for key in filter(None, re.split(r"\.|\[", at)):
        below: list[msgspec.inspect.Type] = []
        for kind in kinds:
            if isinstance(kind, msgspec.inspect.StructType):
                below += [part for field in kind.fields if field.encode_name == key for part in _flat(field.type)]
            elif isinstance(kind, msgspec.inspect.VarTupleType):
                below += _flat(kind.item_type)
        kinds = below
    return kinds


def _flat(kind: msgspec.inspect.Type) -> list[msgspec.inspect.Type]:
    if isinstance(kind, msgspec.inspect.Metadata):
        return _flat(kind.type)
    if isinstance(kind, msgspec.inspect.UnionType):
        return [part for option in kind.types for part in _flat(option)]
    return [kind]


def _resolved(job: Job, folder: Path, date: dt.date) -> Job:
    def absolute(key: str, path: str) -> str:
        try:
            return os.path.abspath(folder / Path(path).expanduser())  # noqa: PTH100 - resolve() would follow links
        except RuntimeError:
            raise JobError(f"{key}: the home directory that `~` stands for is not known") from None

    def dated(key: str, path: str) -> str:
        filled = path.replace("{date}", date.isoformat())
        if unknown := re.search(_PLACEHOLDER, filled):
            raise JobError(f"{key}: {unknown[0]} is not known; expected {{date}} or no braces")
        return absolute(key, filled)

    def resolved(at: str, endpoint: _Endpoint) -> _Endpoint:
        file = endpoint.api_key_file
        return msgspec.structs.replace(
            endpoint,
            base_url=endpoint.base_url.rstrip("/"),
            api_key_file=absolute(f"{at}.api_key_file", file) if file else None,
        )

    if isinstance(job.endpoint, tuple):
        endpoint: EndpointSettings | tuple[LaneSettings, ...] = tuple(
            resolved(f"endpoint[{index}]", lane) for index, lane in enumerate(job.endpoint)
        )
    else:
        endpoint = resolved("endpoint", job.endpoint)
    output = msgspec.structs.replace(
        job.output,
        path=dated("output.path", job.output.path),
        state_dir=dated("output.state_dir", job.output.state_dir) if job.output.state_dir else None,
    )
    source = msgspec.structs.replace(job.input, path=absolute("input.path", job.input.path))
    return msgspec.structs.replace(job, endpoint=endpoint, output=output, input=source)
