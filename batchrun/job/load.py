"""A TOML file and the overrides of the command line, turned into a checked Job, or one error that names the key."""

from __future__ import annotations

import datetime as dt
import difflib
import math
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import msgspec
import msgspec.inspect

from batchrun.errors import JobError
from batchrun.job.settings import SIMULATOR, Job, SimulatorSettings

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*?)`(?: - at `\$(?P<at>.*)`)?$", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*?)`(?: - at `\$(?P<at>.*)`)?$", re.DOTALL)
_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?:key in )?\$(?P<at>.*)`)?$", re.DOTALL)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_LIKE = re.compile(r"(?=.*[0-9])[A-Za-z0-9]{20,}")
"""A random text that could be a variable's name by its letters alone."""
_SECRET = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|xai|fw|tgp|nvapi|jwt)[-_:][A-Za-z0-9_.\-]{20,}|\bBearer\s+(?=\S*[0-9])\S{12,}"
    r"|\bAIza[\w-]{30,}|\bAKIA[A-Z0-9]{16}\b"
)
_SECRET_HEADER = re.compile(r"(?:.*-)?(?:authorization|api-?key|auth-token|access-token|subscription-key|cookie)")
_SECRET_NAMES = frozenset(["api_key", "apikey", "api-key", "key", "token", "access_token", "secret", "password"])
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PLACEHOLDER = re.compile(r"\{[^{}/]*\}")
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NO_BARE_WORD = re.compile(r"[\"'\[]|\{(?!date\}|[{%#])")
"""How a TOML value begins that is no bare word; `{date}` and templates are."""
_SECRET_ADVICE = (
    "a secret must not stand in the job file; put it into an environment variable and name that in endpoint.api_key_env"  # noqa: S105
)


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
    _refuse_secrets(tree)
    _refuse_endless(tree)
    try:
        job = msgspec.convert(tree, Job)
    except msgspec.ValidationError as error:
        raise JobError(_worded(str(error))) from None
    _check(job)
    return _resolved(job, folder, date or dt.datetime.now(tz=dt.UTC).date())


def load_simulator(overrides: Iterable[str]) -> SimulatorSettings:
    """Return simulator settings from `KEY=VALUE` strings; raises JobError as `load_job` does."""
    tree: dict[str, object] = {}
    for override in overrides:
        _override(tree, f"simulator.{override}")
    _refuse_endless(tree)
    try:
        settings = msgspec.convert(tree.get("simulator", {}), SimulatorSettings)
    except msgspec.ValidationError as error:
        raise JobError(_worded(str(error), under="simulator")) from None
    _check_simulator(settings)
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
        if _NO_BARE_WORD.match(text):
            raise JobError(f"--set {dotted}: not a TOML value: {error}; mind what the shell does to quotes") from None
        value = text
    table = tree
    for key in keys[:-1]:
        below = table.setdefault(key, {})
        if not isinstance(below, dict):
            raise JobError(f"--set {dotted}: `{key}` is no table")
        table = cast("dict[str, object]", below)
    table[keys[-1]] = value


def _worded(message: str, under: str = "") -> str:
    """Turn msgspec's message into one that starts with the key's path and says what was expected.

    `under` is the table that was read, when it was not the whole job file.
    """
    if unknown := _UNKNOWN.match(message):
        at, name = _dotted(unknown["at"], under), unknown["name"]
        place = f"{at}.{name}" if at else name
        names = sorted(field.encode_name for kind in _kinds_at(at) for field in getattr(kind, "fields", ()))
        close = difflib.get_close_matches(name, names, n=1)
        known = f"did you mean `{close[0]}`?" if close else f"expected one of {', '.join(names)}"
        return f"{place}: unknown key; {known}"
    if missing := _MISSING.match(message):
        at, name = _dotted(missing["at"], under), missing["name"]
        return f"{f'{at}.{name}' if at else name}: missing; it is required"
    place = _PLACE.match(message)
    what, at = (place["what"], _dotted(place["at"], under)) if place else (message, under)
    if what.startswith("Invalid enum value"):
        values = [value for kind in _kinds_at(at) for value in getattr(kind, "values", ())]
        what = f"{what}; expected {' or '.join(msgspec.json.encode(value).decode() for value in values)}"
    elif "matching regex" in what:
        what = 'expected a count, or a share such as "1%"'
    what = what[:1].lower() + what[1:].replace("`object`", "a table").replace("`array`", "an array")
    return f"{at or 'job file'}: {what}"


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


def _leaves(tree: object, at: str = "") -> Iterator[tuple[str, object]]:
    """Yield each value of a TOML tree with its dotted path; an empty table is one."""
    if isinstance(tree, dict) and tree:
        for name, value in cast("dict[str, object]", tree).items():
            yield from _leaves(value, f"{at}.{name}" if at else name)
    elif isinstance(tree, list):
        for index, value in enumerate(cast("list[object]", tree)):
            yield from _leaves(value, f"{at}[{index}]")
    else:
        yield at, tree


def _refuse_secrets(tree: Mapping[str, object]) -> None:
    for at, value in _leaves(tree):
        table, _, name = at.rpartition(".")
        named_so = (
            (table == "endpoint" and name.lower() in _SECRET_NAMES)
            or (table == "endpoint.headers" and _SECRET_HEADER.fullmatch(name.lower()))
            or (table == "endpoint.query" and name.lower() in _SECRET_NAMES)
            or (table == "request" and name.lower() in {"api_key", "apikey", "api-key"})
        )
        if _SECRET.search(at):
            raise JobError(f"a key of the job file: {_SECRET_ADVICE}")
        if named_so or (isinstance(value, str) and _SECRET.search(value)):
            raise JobError(f"{at}: {_SECRET_ADVICE}")
        if at == "endpoint.api_key_env" and isinstance(value, str) and not _names_variable(value):
            raise JobError(f"{at}: expected the NAME of an environment variable; the key itself must not stand here")


def _names_variable(text: str) -> bool:
    return bool(_VARIABLE.fullmatch(text)) and not _KEY_LIKE.fullmatch(text)


def _refuse_endless(tree: Mapping[str, object]) -> None:
    for at, value in _leaves(tree):
        if isinstance(value, float) and not math.isfinite(value):
            raise JobError(f"{at}: expected a finite number, got {value}")


def _check(job: Job) -> None:
    """Raise JobError for what the types alone can't say."""
    model = job.request.get("model")
    if not isinstance(model, str) or not model:
        raise JobError("request.model: missing; expected the name of a model")
    if "messages" in job.request:
        raise JobError("request.messages: messages come from [prompt] or from the input's columns")
    if job.request.get("stream", False) is not False:
        raise JobError("request.stream: expected false or nothing; endpoint.stream decides")
    _check_sendable(job)
    _check_endpoint(job)
    _check_wire_words(job)
    _check_simulator(job.simulator)
    if job.prompt and job.prompt.user is not None and job.prompt.messages is not None:
        raise JobError("prompt.user and prompt.messages exclude each other; keep one of them")
    share = job.limits.max_failed
    if isinstance(share, str) and Decimal(share[:-1]) > 100:  # noqa: PLR2004 - per cent
        raise JobError(f"limits.max_failed: expected at most 100%, got {share}")
    for key, path in (
        ("input.path", job.input.path),
        ("output.path", job.output.path),
        ("output.state_dir", job.output.state_dir),
    ):
        if path and _REMOTE.match(path):
            raise JobError(f"{key}: {path.partition('://')[0]}:// is not offered yet; expected a local path")


def _check_sendable(job: Job) -> None:
    for at, value in _leaves(job.request, "request"):
        if isinstance(value, dt.datetime | dt.date | dt.time):
            raise JobError(f"{at}: a date or time can't be sent as JSON; put it in quotes")


def _check_wire_words(job: Job) -> None:
    """Refuse what can't stand in an HTTP head or in a path, before anything is made."""
    for at, value in _leaves(msgspec.to_builtins({"endpoint": job.endpoint, "output": job.output, "input": job.input})):
        if isinstance(value, str) and not value.isprintable():
            raise JobError(f"{at}: holds control characters")
    for name in (*job.endpoint.headers, job.endpoint.auth_header):
        if not _TOKEN.fullmatch(name):
            raise JobError(f"endpoint.headers: {name!r} is no name of an HTTP header")
    try:
        (urlsplit(job.endpoint.base_url).hostname or "").encode("idna")
    except UnicodeError:
        raise JobError("endpoint.base_url: the host's name is not a valid one") from None


def _check_simulator(simulator: SimulatorSettings) -> None:
    if simulator.reply == "choices" and not simulator.choices:
        raise JobError('simulator.choices: missing; reply = "choices" needs at least one')
    if simulator.reply == "json" and simulator.schema is None:
        raise JobError('simulator.schema: missing; reply = "json" needs one')


def _check_endpoint(job: Job) -> None:
    endpoint = job.endpoint
    for name in endpoint.headers:
        if name.lower() == endpoint.auth_header.lower():
            raise JobError(f"endpoint.headers.{name}: {_SECRET_ADVICE}")
    if endpoint.api_key_env and endpoint.api_key_file:
        raise JobError("endpoint.api_key_env and endpoint.api_key_file exclude each other; keep one of them")
    if endpoint.base_url == SIMULATOR:
        return
    try:
        url = urlsplit(endpoint.base_url)
        port_is_right = url.port is None or url.port > 0
    except ValueError:
        url, port_is_right = urlsplit(""), False
    is_clean = endpoint.base_url.isprintable() and " " not in endpoint.base_url
    if url.scheme not in {"http", "https"} or not url.hostname or not port_is_right or not is_clean:
        raise JobError('endpoint.base_url: expected an http:// or https:// URL, or "simulator"')
    if url.username or url.password:
        raise JobError(f"endpoint.base_url: {_SECRET_ADVICE}")
    if "?" in endpoint.base_url or "#" in endpoint.base_url:
        raise JobError("endpoint.base_url: expected no query and no fragment; see endpoint.query")
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise JobError("endpoint.base_url: give the URL without /chat/completions; batchrun adds it")


def _resolved(job: Job, folder: Path, date: dt.date) -> Job:
    def absolute(key: str, path: str) -> str:
        try:
            return os.path.abspath(folder / Path(path).expanduser())  # noqa: PTH100 - resolve() would follow links
        except RuntimeError:
            raise JobError(f"{key}: the home directory that `~` stands for is not known") from None

    def dated(key: str, path: str) -> str:
        filled = path.replace("{date}", date.isoformat())
        if unknown := _PLACEHOLDER.search(filled):
            raise JobError(f"{key}: {unknown[0]} is not known; expected {{date}} or no braces")
        return absolute(key, filled)

    endpoint = msgspec.structs.replace(
        job.endpoint,
        base_url=job.endpoint.base_url.rstrip("/"),
        api_key_file=absolute("endpoint.api_key_file", job.endpoint.api_key_file)
        if job.endpoint.api_key_file
        else None,
    )
    output = msgspec.structs.replace(
        job.output,
        path=dated("output.path", job.output.path),
        state_dir=dated("output.state_dir", job.output.state_dir) if job.output.state_dir else None,
    )
    source = msgspec.structs.replace(job.input, path=absolute("input.path", job.input.path))
    return msgspec.structs.replace(job, endpoint=endpoint, output=output, input=source)
