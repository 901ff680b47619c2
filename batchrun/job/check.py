"""What the types of the job file can't say: secrets, bounds that need two keys, words that can't go on the wire."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import cast
from urllib.parse import urlsplit

import msgspec

from batchrun.errors import JobError
from batchrun.job.deadline import EXPECTED, is_deadline
from batchrun.job.lanes import LanePlan, lanes_of
from batchrun.job.settings import OPENAI_BATCH, SIMULATOR, Job, LimitSettings, SimulatorSettings
from batchrun.prompt.openai_batch import CUSTOM_ID

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_KEY_LIKE = re.compile(r"(?=.*[0-9])[A-Za-z0-9]{20,}")
"""A random text that could be a variable's name by its letters alone."""
_SECRET = re.compile(
    r"\b(?:sk|pk|rk|gsk|hf|xai|fw|tgp|nvapi|jwt)[-_:][A-Za-z0-9_.\-]{20,}|\bBearer\s+(?=\S*[0-9])\S{12,}"
    r"|\bAIza[\w-]{30,}|\bAKIA[A-Z0-9]{16}\b"
)
_SECRET_HEADER = re.compile(r"(?:.*-)?(?:authorization|api-?key|auth-token|access-token|subscription-key|cookie)")
_SECRET_NAMES = frozenset(["api_key", "apikey", "api-key", "key", "token", "access_token", "secret", "password"])
_ENTRY = re.compile(r"^endpoint\[[0-9]+\]")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SECRET_ADVICE = (
    "a secret must not stand in the job file; put it into an environment variable and name that in endpoint.api_key_env"  # noqa: S105
)


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


def refuse_secrets(tree: Mapping[str, object]) -> None:
    """Raise JobError, which never quotes it, where a literal secret stands in the file."""
    for at, value in _leaves(tree):
        table, _, name = _ENTRY.sub("endpoint", at).rpartition(".")
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
        if (table, name) == ("endpoint", "api_key_env") and isinstance(value, str) and not _names_variable(value):
            raise JobError(f"{at}: expected the NAME of an environment variable; the key itself must not stand here")


def _names_variable(text: str) -> bool:
    return bool(_VARIABLE.fullmatch(text)) and not _KEY_LIKE.fullmatch(text)


def refuse_endless(tree: Mapping[str, object]) -> None:
    """Raise JobError where a number that bounds something is infinite or is none."""
    for at, value in _leaves(tree):
        if isinstance(value, float) and not math.isfinite(value):
            raise JobError(f"{at}: expected a finite number, got {value}")


def check_job(job: Job) -> None:
    """Raise JobError for what the types alone can't say."""
    _check_model(job)
    if "messages" in job.request:
        raise JobError("request.messages: messages come from [prompt] or from the input's columns")
    if job.request.get("stream", False) is not False:
        raise JobError("request.stream: expected false or nothing; endpoint.stream decides")
    _check_sendable(job)
    for lane in lanes_of(job):
        _check_endpoint(lane)
    _check_lanes(job)
    _check_wire_words(job)
    check_simulator(job.simulator)
    _check_prompt(job)
    _check_price(job)
    _check_limits(job.limits)
    for key, path in (
        ("input.path", job.input.path),
        ("output.path", job.output.path),
        ("output.state_dir", job.output.state_dir),
    ):
        if path and _REMOTE.match(path):
            raise JobError(f"{key}: {path.partition('://')[0]}:// is not offered yet; expected a local path")


def _check_model(job: Job) -> None:
    model = job.request.get("model")
    if "model" not in job.request and job.input.format == OPENAI_BATCH:
        return  # each line may name its own
    if not isinstance(model, str) or not model:
        what = "missing" if model is None else f"got {model!r}"
        raise JobError(f"request.model: {what}; expected the name of a model")


def _check_prompt(job: Job) -> None:
    prompt = job.prompt
    if prompt and prompt.user is not None and prompt.messages is not None:
        raise JobError("prompt.user and prompt.messages exclude each other; keep one of them")
    if job.input.format != OPENAI_BATCH:
        return
    if job.input.key not in {None, CUSTOM_ID}:
        raise JobError(f"input.key: the key of an {OPENAI_BATCH} input is `{CUSTOM_ID}`; leave input.key out")
    for name in ("user", "messages", "params"):
        if prompt and getattr(prompt, name) is not None:
            raise JobError(
                f"prompt.{name}: an {OPENAI_BATCH} input brings messages and parameters in each line's body; "
                "of [prompt] it takes only prompt.system"
            )


def _check_price(job: Job) -> None:
    if job.price is None or job.price.auto:
        return
    for name in ("input", "output"):
        if getattr(job.price, name) is None:
            raise JobError(f"price.{name}: missing; it is required unless price.auto is true")


def _check_limits(limits: LimitSettings) -> None:
    most = limits.max_failed
    share = Decimal(most[:-1] if isinstance(most, str) else most)
    if isinstance(most, str) and share > 100:  # noqa: PLR2004 - per cent
        raise JobError(f"limits.max_failed: expected at most 100%, got {most}")
    if limits.stop_early and not share:
        raise JobError("limits.stop_early: expected limits.max_failed above 0 with it")
    if limits.deadline is not None and not is_deadline(limits.deadline):
        raise JobError(f"limits.deadline: {EXPECTED}")


def _check_sendable(job: Job) -> None:
    for at, value in _leaves(job.request, "request"):
        if isinstance(value, dt.datetime | dt.date | dt.time):
            raise JobError(f"{at}: a date or time can't be sent as JSON; put it in quotes")


def _check_wire_words(job: Job) -> None:
    """Refuse what can't stand in an HTTP head or in a path, before anything is made."""
    endpoint = list(job.endpoint) if isinstance(job.endpoint, tuple) else job.endpoint
    for at, value in _leaves(msgspec.to_builtins({"endpoint": endpoint, "output": job.output, "input": job.input})):
        if isinstance(value, str) and not value.isprintable():
            raise JobError(f"{at}: holds control characters")
    for lane in lanes_of(job):
        for name in (*lane.endpoint.headers, lane.endpoint.auth_header):
            if not _TOKEN.fullmatch(name):
                raise JobError(f"{lane.at}.headers: {name!r} is no name of an HTTP header")
        try:
            (urlsplit(lane.endpoint.base_url).hostname or "").encode("idna")
        except UnicodeError:
            raise JobError(f"{lane.at}.base_url: the host's name is not a valid one") from None


def check_simulator(simulator: SimulatorSettings) -> None:
    """Raise JobError where the chosen reply needs a key that is not set."""
    if simulator.reply == "choices" and not simulator.choices:
        raise JobError('simulator.choices: missing; reply = "choices" needs at least one')
    if simulator.reply == "json" and simulator.schema is None:
        raise JobError('simulator.schema: missing; reply = "json" needs one')


def _check_endpoint(lane: LanePlan) -> None:
    at, endpoint = lane.at, lane.endpoint
    for name in endpoint.headers:
        if name.lower() == endpoint.auth_header.lower():
            raise JobError(f"{at}.headers.{name}: {_SECRET_ADVICE}")
    if endpoint.api_key_env and endpoint.api_key_file:
        raise JobError(f"{at}.api_key_env and {at}.api_key_file exclude each other; keep one of them")
    if endpoint.base_url == SIMULATOR:
        return
    try:
        url = urlsplit(endpoint.base_url)
        port_is_right = url.port is None or url.port > 0
    except ValueError:
        url, port_is_right = urlsplit(""), False
    is_clean = endpoint.base_url.isprintable() and " " not in endpoint.base_url
    if url.scheme not in {"http", "https"} or not url.hostname or not port_is_right or not is_clean:
        raise JobError(f'{at}.base_url: expected an http:// or https:// URL, or "simulator"')
    if url.username or url.password:
        raise JobError(f"{at}.base_url: {_SECRET_ADVICE}")
    if "?" in endpoint.base_url or "#" in endpoint.base_url:
        raise JobError(f"{at}.base_url: expected no query and no fragment; see {at}.query")
    if url.path.rstrip("/").endswith("/chat/completions"):
        raise JobError(f"{at}.base_url: give the URL without /chat/completions; batchrun adds it")


def _check_lanes(job: Job) -> None:
    """Refuse several endpoints that can't stand beside each other."""
    lanes = lanes_of(job)
    names = [lane.name for lane in lanes]
    for index, lane in enumerate(lanes):
        if lane.name in names[:index]:
            raise JobError(f"{lane.at}.name: {lane.name!r} is the name of another endpoint too")
        if lane.endpoint.stream is not lanes[0].endpoint.stream:
            raise JobError(f"{lane.at}.stream: expected the same in every [[endpoint]]")
        if lane.model is not None and "model" not in job.request:
            raise JobError(f"{lane.at}.model: is sent instead of request.model, which is not set")
        if lane.model is not None and len(lanes) == 1:
            raise JobError(f"{lane.at}.model: is for one of several endpoints; with one, set request.model")
    simulators = [lane for lane in lanes if lane.endpoint.base_url == SIMULATOR]
    if len(simulators) > 1:
        raise JobError(f"{simulators[1].at}.base_url: the simulator can be only one of the endpoints")
