"""The tables of the job file as types: names, ranges and defaults, and the JSON Schema that follows from them.

Sizes end in their unit; the meaning of each key is SPEC.md, section 2. What this version does not offer can't be asked
for: its key is not here, or takes only the value that says so.
"""

# Without `from __future__ import annotations`: msgspec would compile each field's text again, in 40 µs (measured).

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from batchrun.model.record import InputFormat
from batchrun.pricing import Price
from batchrun.prompt.settings import PromptSettings

SIMULATOR = "simulator"
"""The base_url that stands for the embedded endpoint."""
OPENAI_BATCH: InputFormat = "openai-batch"

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Slots = Annotated[int, Meta(ge=1, le=100_000)]
Name = Annotated[str, Meta(min_length=1, max_length=200)]
Share = Annotated[float, Meta(ge=0, le=1)]
NonNegative = Annotated[float, Meta(ge=0)]
FailingStatus = Literal["failed", "invalid", "empty", "truncated", "refused"]


class InputSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[input]: where the rows come from."""

    path: Annotated[str, Meta(min_length=1, description="file, directory or glob")]
    format: Annotated[
        InputFormat | None, Meta(description="default: jsonl or parquet, from the suffix of the files")
    ] = None
    key: Annotated[
        str | None, Meta(description="column of unique strings or ints; of openai-batch always custom_id")
    ] = None


class EndpointSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[endpoint]: who answers."""

    base_url: Annotated[str, Meta(min_length=1, description='URL up to and without /chat/completions, or "simulator"')]
    api_key_env: Annotated[str | None, Meta(description="the NAME of an environment variable")] = None
    api_key_file: Annotated[str | None, Meta(description="a file that holds the key")] = None
    auth_header: Annotated[str, Meta(min_length=1)] = "Authorization"
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    stream: Annotated[bool, Meta(description="ask for streamed replies, folded into the same rows")] = False
    timeout_s: Annotated[Positive, Meta(description="for one attempt, from its slot")] = 900.0
    keep_raw: Annotated[bool, Meta(description="keep the reply body in column response_json")] = False
    transport: Annotated[
        Literal["auto", "lean", "session"],
        Meta(description="lean: less than a third of the CPU for an exchange, but no proxy; auto: lean where it can"),
    ] = "auto"


class LaneSettings(EndpointSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of several [[endpoint]]: who answers, under which name, as which model, and within which limits."""

    name: Annotated[Name | None, Meta(description="in column endpoint; default: host and port")] = None
    model: Annotated[Name | None, Meta(description="sent here instead of request.model")] = None
    concurrency: Annotated[Slots | None, Meta(description="default: limits.concurrency")] = None
    requests_per_minute: Annotated[Positive | None, Meta(description="default: limits.requests_per_minute")] = None
    tokens_per_minute: Annotated[Positive | None, Meta(description="default: limits.tokens_per_minute")] = None


class LimitSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[limits]: how much at once, how often, how long."""

    concurrency: Annotated[Slots, Meta(description="the most attempts in flight")] = 200
    adaptive: Annotated[bool, Meta(description="find by trying how many attempts the server bears")] = True
    requests_per_minute: Positive | None = None
    requests_per_day: Positive | None = None
    tokens_per_minute: Annotated[Positive, Meta(description="input and output together")] | None = None
    tokens_per_day: Positive | None = None
    strategy: Annotated[
        Literal["spread", "fallback"],
        Meta(description="of several endpoints: those with room, or the first that is not out"),
    ] = "spread"
    max_attempts: Annotated[Count, Meta(description="for one row, 429s not counted")] = 5
    max_ambiguous_attempts: Annotated[
        int, Meta(ge=0, description="further tries after an attempt that was sent and then cut")
    ] = 1
    max_row_time_s: Annotated[Positive, Meta(description="for one row, waits included")] = 1800.0
    max_pause_s: Annotated[Positive, Meta(description="a longer pause asked for ends the run")] = 300.0
    max_outage_s: Annotated[Positive, Meta(description="an endpoint down for longer ends the run")] = 900.0
    deadline: Annotated[
        str | None, Meta(description='ends the run: the next such local time, as "06:00", or a duration, as "5h30m"')
    ] = None
    max_failed: Annotated[
        Annotated[int, Meta(ge=0)] | Annotated[str, Meta(pattern=r"^[0-9]+(\.[0-9]+)?%(?!\n)$")],
        Meta(description='a count, or a share of the rows such as "1%"'),
    ] = 0
    fail_on: tuple[FailingStatus, ...] = ("failed", "invalid", "empty")
    breaker: Annotated[bool, Meta(description="rows that all fail alike end the run instead of failing")] = True
    stop_early: Annotated[
        bool, Meta(description="with max_failed > 0: end the run once more rows have failed than may, of 100 or more")
    ] = False
    max_cost_usd: Annotated[
        Annotated[float, Meta(ge=1e-9, le=1_000_000_000)] | None,
        Meta(description="the most that all runs of the output may cost"),
    ] = None
    require_priced: Annotated[bool, Meta(description="refuse to start where no price is known")] = False


class OutputSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[output]: where the rows go."""

    path: Annotated[str, Meta(min_length=1, description="a directory, or a file ending in .parquet")]
    state_dir: Annotated[str | None, Meta(description="default: inside the output; a local disk")] = None
    columns: Annotated[Literal["all", "none"] | tuple[str, ...], Meta(description="input columns to carry")] = "all"
    prefix: Annotated[str, Meta(description="before every column that batchrun adds")] = ""
    rows_per_part: Annotated[Count, Meta(le=10_000_000)] = 10_000
    compression: Literal["zstd", "snappy", "gzip", "lz4", "brotli", "none"] = "zstd"


class SimulatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[simulator]: how the embedded endpoint behaves; everything it draws follows from `seed` and the prompt."""

    seed: int = 0
    reply: Annotated[
        Literal["text", "choices", "json"],
        Meta(description="text with a digest of the prompt, one of `choices`, or an object for `schema`"),
    ] = "text"
    choices: tuple[str, ...] = ()
    schema: Annotated[dict[str, Any] | None, Meta(description="JSON Schema for reply = json")] = None
    latency_ms: Annotated[NonNegative, Meta(description="fixed, or the median")] = 0.0
    latency_sigma: Annotated[NonNegative, Meta(description="of a lognormal latency; 0: fixed")] = 0.0
    completion_tokens: Annotated[Count, Meta(description="words in a text reply, about")] = 16
    error_rate: Annotated[Share, Meta(description="share of requests answered 500")] = 0.0
    reject_containing: Annotated[str | None, Meta(description="prompts with this text are answered 400")] = None
    truncate_rate: Annotated[Share, Meta(description="share of replies cut in the middle of the body or stream")] = 0.0
    reset_rate: Annotated[Share, Meta(description="share of requests answered by a reset")] = 0.0
    hang_rate: Annotated[Share, Meta(description="share of requests never answered")] = 0.0
    max_in_flight: Annotated[int, Meta(ge=0, description="429 above; 0: no limit")] = 0
    requests_per_minute: Annotated[int, Meta(ge=0, description="429 above; 0: no limit")] = 0
    retry_after_s: Annotated[NonNegative, Meta(description="sent with a 429; 0: not sent")] = 0.0
    input_usd_per_mtok: NonNegative = 0.12
    output_usd_per_mtok: NonNegative = 0.30


class Job(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole job file; as `load_job` returns it, all paths are absolute and `{date}` is filled in."""

    name: Annotated[str, Meta(min_length=1)]
    input: InputSettings
    endpoint: Annotated[
        EndpointSettings | Annotated[tuple[LaneSettings, ...], Meta(min_length=1)],
        Meta(description="[endpoint] once, or [[endpoint]] once for each of several"),
    ]
    output: OutputSettings
    request: Annotated[
        dict[str, Any],
        Meta(description="the JSON body, as it stands; `model` is required, save where openai-batch lines name theirs"),
    ] = {}
    prompt: PromptSettings | None = None
    limits: LimitSettings = LimitSettings()
    price: Price | None = None
    simulator: SimulatorSettings = SimulatorSettings()
