"""Job files into jobs: what is read, where paths point, and how each error names its key."""

from __future__ import annotations

import datetime as dt
import io
import os
import sys
from pathlib import Path

import pytest
from job_files import SAMPLE, SMALL, loaded, refusal, written

from batchrun.errors import JobError
from batchrun.job.load import load_job, load_simulator
from batchrun.job.places import places_of
from batchrun.job.settings import Job, LimitSettings


def test_the_sample_job(tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    job = load_job(written(tmp_path / "jobs", SAMPLE))
    assert job.name == "label-reviews"
    assert job.input.path == str(tmp_path / "sample_data/reviews.parquet")
    assert (job.input.format, job.input.key) == ("parquet", "review_id")
    assert job.prompt is not None
    assert job.prompt.user == "Review: {{ text }}"
    assert list(job.request.items()) == [
        ("model", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
        ("temperature", 0),
        ("max_tokens", 64),
    ]
    assert job.endpoint.api_key_env == "DEEPINFRA_API_KEY"
    assert job.limits == LimitSettings(requests_per_minute=600, max_failed="1%")
    assert job.price is not None
    assert job.price.cached_input == 0.06
    assert job.output.path == str(tmp_path / "out/labels")
    assert job.output.state_dir == str(tmp_path / "state")
    assert job.simulator.seed == 3


def test_defaults_are_those_of_the_document(tmp_path: Path) -> None:
    job = loaded(tmp_path)
    assert (job.prompt, job.price) == (None, None)
    assert (job.endpoint.timeout_s, job.endpoint.auth_header, job.endpoint.transport) == (900, "Authorization", "auto")
    limits = job.limits
    assert (limits.concurrency, limits.max_attempts, limits.max_ambiguous_attempts) == (200, 5, 1)
    assert (limits.max_row_time_s, limits.max_pause_s, limits.max_failed) == (1800, 300, 0)
    assert limits.fail_on == ("failed", "invalid", "empty")
    assert (job.output.columns, job.output.rows_per_part, job.output.compression) == ("all", 10_000, "zstd")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("nonsense=1", "nonsense: unknown key; expected one of endpoint, input, limits, name"),
        ("imput.path=1", "imput: unknown key; did you mean `input`?"),
        ("limits.concurency=3", "limits.concurency: unknown key; did you mean `concurrency`?"),
        ("simulator.zzz=3", "simulator.zzz: unknown key; expected one of choices, completion_tokens"),
        ("price={input=1,output=1,zzz=1}", "price.zzz: unknown key; expected one of auto, cached_input, input, output"),
        ("endpoint.max_outage_s=1", "endpoint.max_outage_s: unknown key; it is a key of [limits]"),
        ("endpoint.concurrency=1", "endpoint.concurrency: unknown key; it is a key of [[endpoint]] or [limits]"),
        ("endpoint.model=x", "endpoint.model: unknown key; it is a key of [[endpoint]] or [request]"),
        ("limits.path=x", "limits.path: unknown key; it is a key of [input] or [output]"),
        ("prompt.limits=x", "prompt.limits: unknown key; it is a key of the job file's top level"),
        ("prompt.usr=x", "prompt.usr: unknown key; did you mean `user`?"),
        ("name=3", "name: expected `str`, got `int`"),
        ("name=", "name: expected `str` of length >= 1"),
        ("input=3", "input: expected a table, got `int`"),
        ("limits=[]", "limits: expected a table, got an array"),
        ("limits.concurrency=many", "limits.concurrency: expected `int`, got `str`"),
        ("limits.concurrency=2.5", "limits.concurrency: expected `int`, got `float`"),
        ("limits.concurrency=true", "limits.concurrency: expected `int`, got `bool`"),
        ("limits.concurrency=0", "limits.concurrency: expected `int` >= 1"),
        ("limits.concurrency=100001", "limits.concurrency: expected `int` <= 100000"),
        ("limits.requests_per_minute=0", "limits.requests_per_minute: expected `float` > 0"),
        ("limits.max_ambiguous_attempts=-1", "limits.max_ambiguous_attempts: expected `int` >= 0"),
        ("limits.fail_on=failed", "limits.fail_on: expected an array, got `str`"),
        ('limits.fail_on=["bad"]', 'limits.fail_on[0]: invalid enum value \'bad\'; expected "empty" or "failed"'),
        ("endpoint.timeout_s=nan", "endpoint.timeout_s: expected a finite number, got nan"),
        ("endpoint.timeout_s=inf", "endpoint.timeout_s: expected a finite number, got inf"),
        ("endpoint.headers={a=1}", "endpoint.headers: expected `str`, got `int`"),
        (
            "endpoint.transport=fast",
            'endpoint.transport: invalid enum value \'fast\'; expected "auto" or "lean" or "session"',
        ),
        ('endpoint.stream="true"', "endpoint.stream: expected `bool`, got `str`"),
        ("input.format=csv", 'input.format: invalid enum value \'csv\'; expected "jsonl" or "openai-batch" or'),
        (
            'input={path="a.jsonl",format="openai-batch",key="id"}',
            "input.key: the key of an openai-batch input is `cus",
        ),
        ("output.columns=some", 'output.columns: invalid enum value \'some\'; expected "all" or "none"'),
        ('output.columns=["a",1]', "output.columns[1]: expected `str`, got `int`"),
        ("output.rows_per_part=0", "output.rows_per_part: expected `int` >= 1"),
        ("price.input=1", "price.output: missing; it is required"),
        ("price={input=2000000,output=1}", "price.input: expected `float` <= 1000000"),
        ("price={input=nan,output=1}", "price.input: expected a finite number"),
        ("simulator.error_rate=2", "simulator.error_rate: expected `float` <= 1"),
        ("simulator.reply=choices", "simulator.choices: missing"),
        ("simulator.reply=json", "simulator.schema: missing"),
        ("simulator.reply=song", "simulator.reply: invalid enum value 'song'; expected \"choices\""),
        ("request.model=3", "request.model: got 3; expected the name of a model"),
        ("request.model=", "request.model: got ''; expected the name of a model"),
        ("request.messages=[]", "request.messages: messages come from [prompt]"),
        ("request.stream=true", "request.stream: expected false or nothing"),
        ('request.stream="false"', "request.stream: expected false or nothing"),
        ("request.stream=0", "request.stream: expected false or nothing"),
        ("request.temperature=nan", "request.temperature: expected a finite number"),
        ("request.stop=[{a=[1,-inf]}]", "request.stop[0].a[1]: expected a finite number, got -inf"),
        ("request.when=2026-01-02T03:04:05Z", "request.when: a date or time can't be sent"),
        ("request.a={b=[07:32:00]}", "request.a.b[0]: a date or time can't be sent"),
        ("prompt={user='u',messages='m'}", "prompt.user and prompt.messages exclude each other"),
        ("endpoint={base_url='simulator',api_key_env='A',api_key_file='b'}", "endpoint.api_key_env and endpoint.api_k"),
        ("input.path=s3://bucket/in.parquet", "input.path: s3:// is not offered yet; expected a local path"),
        ("output.path=gs://bucket/out", "output.path: gs:// is not offered yet; expected a local path"),
        ("output.path=S3://bucket/out", "output.path: S3:// is not offered yet"),
        ("output.state_dir=s3://bucket/state", "output.state_dir: s3:// is not offered yet"),
        ("output.path=~no-such-user-here/out", "output.path: the home directory"),
    ],
)
def test_each_error_names_the_key_and_what_was_expected(tmp_path: Path, override: str, message: str) -> None:
    assert refusal(tmp_path, override).startswith(message)


@pytest.mark.parametrize("table", ["input", "endpoint", "output"])
def test_a_missing_table(tmp_path: Path, table: str) -> None:
    text = SMALL.replace(f"[{table}]", "[limits]")
    assert refusal(tmp_path, text=text.split("[limits]")[0] + text.split("[limits]")[1].partition("\n\n")[2]) == (
        f"{table}: missing; it is required"
    )


def test_a_missing_key(tmp_path: Path) -> None:
    assert (
        refusal(tmp_path, text=SMALL.replace("base_url", "# base_url")) == "endpoint.base_url: missing; it is required"
    )
    assert refusal(tmp_path, text=SMALL.replace('name = "small"', "")) == "name: missing; it is required"
    assert refusal(tmp_path, text="") == "name: missing; it is required"
    assert refusal(tmp_path, text=SMALL.replace('[request]\nmodel = "m"\n', "")).startswith("request.model: missing")
    assert refusal(tmp_path, text=SMALL.replace("model =", "# model =")).startswith("request.model: missing")


BATCH = 'input={path="in.jsonl",format="openai-batch"}'


def test_an_openai_batch_needs_no_model_and_no_request_table(tmp_path: Path) -> None:
    job = loaded(tmp_path, BATCH, text=SMALL.replace('[request]\nmodel = "m"\n', ""))
    assert (job.input.format, job.input.key, job.request) == ("openai-batch", None, {})
    assert loaded(tmp_path, BATCH, "input.key=custom_id", "request.temperature=0").request["temperature"] == 0
    assert loaded(tmp_path, BATCH, "prompt.system=S").prompt is not None
    assert refusal(tmp_path, BATCH, "request.model=3").startswith("request.model: got 3")


@pytest.mark.parametrize("name", ["user", "messages", "params"])
def test_an_openai_batch_takes_only_a_system_prompt(tmp_path: Path, name: str) -> None:
    assert refusal(tmp_path, BATCH, f"prompt.{name}=x").startswith(f"prompt.{name}: an openai-batch input brings")


@pytest.mark.parametrize("value", ['"1%"', '"0.5%"', '"100%"', '"0%"', '"00.10%"', "3", "0"])
def test_forms_of_max_failed(tmp_path: Path, value: str) -> None:
    assert loaded(tmp_path, f"limits.max_failed={value}").limits.max_failed in {
        value.strip('"'),
        int(value.strip('"%').partition(".")[0]),
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"3x"', 'expected a count, or a share such as "1%"'),
        ('"3"', 'expected a count, or a share such as "1%"'),
        ('"1 %"', 'expected a count, or a share such as "1%"'),
        ('"-1%"', 'expected a count, or a share such as "1%"'),
        ('".5%"', 'expected a count, or a share such as "1%"'),
        (r'"1%\n"', 'expected a count, or a share such as "1%"'),
        ('"\\u0661%"', 'expected a count, or a share such as "1%"'),
        ('"101%"', "expected at most 100%, got 101%"),
        ('"100.01%"', "expected at most 100%, got 100.01%"),
        ("-1", "expected `int` >= 0"),
        ("0.01", 'expected a count, or a share such as "1%"'),
        ("true", 'expected a count, or a share such as "1%"'),
    ],
)
def test_what_is_no_max_failed(tmp_path: Path, value: str, message: str) -> None:
    assert refusal(tmp_path, f"limits.max_failed={value}") == f"limits.max_failed: {message}"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("simulator", "simulator"),
        ("https://api.deepinfra.com/v1/openai", "https://api.deepinfra.com/v1/openai"),
        ("https://api.deepinfra.com/v1/openai/", "https://api.deepinfra.com/v1/openai"),
        ("https://host//", "https://host"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/v1"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_base_urls(tmp_path: Path, given: str, kept: str) -> None:
    assert loaded(tmp_path, f'endpoint.base_url="{given}"').endpoint.base_url == kept


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("ftp://host/v1", "expected an http:// or https:// URL"),
        ("host/v1", "expected an http:// or https:// URL"),
        ("Simulator", "expected an http:// or https:// URL"),
        ("https://", "expected an http:// or https:// URL"),
        ("https://:443/v1", "expected an http:// or https:// URL"),
        ("https://host:port/v1", "expected an http:// or https:// URL"),
        ("https://host:99999", "expected an http:// or https:// URL"),
        ("https://host:0", "expected an http:// or https:// URL"),
        ("https://[::1/v1", "expected an http:// or https:// URL"),
        ("https://ho st/v1", "expected an http:// or https:// URL"),
        (r"https://host/v1\n", "expected an http:// or https:// URL"),
        ("https://host/v1/chat/completions", "give the URL without /chat/completions"),
        ("https://host/v1/chat/completions/", "give the URL without /chat/completions"),
        ("https://host/v1?api-version=1", "expected no query"),
        ("https://host/v1?", "expected no query"),
        ("https://host/v1#part", "expected no query"),
    ],
)
def test_what_is_no_base_url(tmp_path: Path, given: str, message: str) -> None:
    assert refusal(tmp_path, f'endpoint.base_url="{given}"').startswith(f"endpoint.base_url: {message}")


def test_paths_are_relative_to_the_job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    path = written(tmp_path)
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    overrides = ["input.path=../a/*.jsonl", "endpoint.api_key_file=key.txt", "output.path=~/out", "output.state_dir=/s"]
    job = load_job(os.path.relpath(path), overrides=overrides)
    assert job.input.path == str(tmp_path.parent / "a/*.jsonl")
    assert job.endpoint.api_key_file == str(tmp_path / "key.txt")
    assert job.output.path == str(tmp_path / "home/out")
    assert job.output.state_dir == "/s"


def test_the_date_is_filled_in(tmp_path: Path) -> None:
    path = written(tmp_path)
    job = load_job(path, overrides=["output.path={date}/labels-{date}"], date=dt.date(2026, 2, 3))
    assert job.output.path == str(tmp_path / "2026-02-03/labels-2026-02-03")
    before = dt.datetime.now(tz=dt.UTC).date()
    today = load_job(path, overrides=["output.path={date}"]).output.path
    assert before.isoformat() <= Path(today).name <= dt.datetime.now(tz=dt.UTC).date().isoformat()


@pytest.mark.parametrize(
    ("override", "at", "value"),
    [
        ("request.model=meta-llama/Llama-3.3-70B", "model", "meta-llama/Llama-3.3-70B"),
        ('request.model="quoted = word"', "model", "quoted = word"),
        ("request.temperature=0.7", "temperature", 0.7),
        ("request.n=3", "n", 3),
        ("request.logprobs=true", "logprobs", True),
        ('request.stop=["a", "b"]', "stop", ["a", "b"]),
        ('request.response_format={type="json_object"}', "response_format", {"type": "json_object"}),
        ("request.extra.deep.er=1", "extra", {"deep": {"er": 1}}),
        (" request . n = 3", "n", 3),
        ("request.user=a=b", "user", "a=b"),
        ("request.user=", "user", ""),
        ("request.user=two words", "user", "two words"),
        ("request.user={{ text }}!", "user", "{{ text }}!"),
        ("request.user={date}", "user", "{date}"),
    ],
)
def test_overrides(tmp_path: Path, override: str, at: str, value: object) -> None:
    assert loaded(tmp_path, override).request[at] == value


def test_overrides_come_one_after_another_and_before_the_check(tmp_path: Path) -> None:
    job = loaded(tmp_path, "name=3", "name=second", "limits.concurrency=7", "prompt.user=x", "limits.max_failed=2%")
    assert (job.name, job.limits.concurrency, job.limits.max_failed) == ("second", 7, "2%")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("name", "--set: expected KEY.PATH=VALUE"),
        ("=3", "--set: expected KEY.PATH=VALUE"),
        ("a..b=3", "--set: expected KEY.PATH=VALUE"),
        (".name=3", "--set: expected KEY.PATH=VALUE"),
        ("", "--set: expected KEY.PATH=VALUE"),
        ("name.x=3", "--set name.x: `name` is no table"),
        ("request.model.x.y=3", "--set request.model.x.y: `model` is no table"),
        ("request.stop=[a,b]", "--set request.stop: not a TOML value"),
        ("request.response_format={type:json_object}", "--set request.response_format: not a TOML value"),
        ('request.user="open', "--set request.user: not a TOML value"),
    ],
)
def test_malformed_overrides(tmp_path: Path, override: str, message: str) -> None:
    """A list whose quotes the shell has eaten must not be sent as the text `[a,b]`."""
    assert refusal(tmp_path, override).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = \n", "(at line 1"),
        ('name = "a"\n[input\n', "(at line 2"),
        ('name = "a"\nname = "b"\n', "(at line 2"),
        ("a = " + "[" * 50_000, "not valid TOML"),
    ],
)
def test_wrong_toml_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(JobError) as refused:
        load_job(path)
    assert str(refused.value).startswith(f"{path}: not valid TOML: ")
    assert message in str(refused.value)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="can't read the job file: No such file"):
        load_job(tmp_path / "none.toml")
    with pytest.raises(JobError, match="can't read the job file: Is a directory"):
        load_job(tmp_path)
    (tmp_path / "latin.toml").write_bytes('name = "größe"'.encode("latin-1"))
    with pytest.raises(JobError, match=r"latin\.toml: can't read the job file: it is not UTF-8 text"):
        load_job(tmp_path / "latin.toml")


def test_a_bom_and_windows_lines_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load_job(path).name == "small"


def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text is UTF-8 whatever the locale says; its paths are relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    piped(monkeypatch, b"\xef\xbb\xbf" + SMALL.replace("small", "größe").encode())
    job = load_job("-", overrides=["limits.concurrency=3"])
    assert (job.name, job.limits.concurrency) == ("größe", 3)
    assert job.output.path == str(tmp_path / "out")


def test_wrong_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    piped(monkeypatch, b"name = \xff")
    with pytest.raises(JobError, match="standard input: can't read the job file: it is not UTF-8 text"):
        load_job("-")
    piped(monkeypatch, b"name = ")
    with pytest.raises(JobError, match=r"standard input: not valid TOML: Invalid value"):
        load_job("-")


def test_simulator_settings_on_their_own() -> None:
    settings = load_simulator(["error_rate=0.5", "reply=choices", 'choices=["a"]'])
    assert (settings.error_rate, settings.reply, settings.choices) == (0.5, "choices", ("a",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=1", "simulator.sed: unknown key; did you mean `seed`?"),
        ("zzz=1", "simulator.zzz: unknown key; expected one of choices, completion_tokens"),
        ("error_rate=2", "simulator.error_rate: expected `float` <= 1"),
        ("reply=song", 'simulator.reply: invalid enum value \'song\'; expected "choices" or "json" or "text"'),
        ("latency_ms=inf", "simulator.latency_ms: expected a finite number"),
        ("reply=choices", "simulator.choices: missing"),
        ("seed", "--set: expected"),
    ],
)
def test_wrong_simulator_settings(override: str, message: str) -> None:
    with pytest.raises(JobError) as refused:
        load_simulator([override])
    assert str(refused.value).startswith(message)


def test_places_of_a_directory_and_of_a_file(tmp_path: Path) -> None:
    def places(*overrides: str) -> tuple[Path, Path, Path, Path | None]:
        job: Job = loaded(tmp_path, *overrides)
        found = places_of(job)
        return found.output, found.parts, found.state, found.single

    out, file, state = tmp_path / "out", tmp_path / "x.parquet", tmp_path / ".x.parquet.batchrun"
    assert places() == (out, out, out / "_batchrun", None)
    assert places("output.path=x.parquet") == (file, state / "parts", state, file)
    assert places("output.state_dir=s") == (out, out, tmp_path / "s", None)
    assert places_of(loaded(tmp_path)).part(7) == out / "part-000007.parquet"
    assert list(tmp_path.iterdir()) == [tmp_path / "job.toml"]
