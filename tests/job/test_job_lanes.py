"""[[endpoint]] given more than once: names, limits, what may not stand beside each other (DEMAND.md R41)."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_files import SMALL, loaded, refusal

from batchrun.engine.access import access_of
from batchrun.errors import JobError
from batchrun.execution.identity import identity_of
from batchrun.job.lanes import lanes_of, most_in_flight
from batchrun.model.record import Survey

SECRET = "sk-" + "a1" * 20
SURVEY = Survey(format="jsonl", files=(), columns=())


def several(*entries: str, rest: str = "") -> str:
    """The small job with these entries of [[endpoint]]."""
    tables = "\n".join(f"[[endpoint]]\n{entry}\n" for entry in entries)
    return SMALL.replace('[endpoint]\nbase_url = "simulator"\n', tables) + rest


def url(host: str) -> str:
    return f'base_url = "http://{host}/v1"'


TWO = several(url("one"), url("two:8000"))


def test_entries_have_names_and_limits_of_their_own(tmp_path: Path) -> None:
    text = several(
        url("one"),
        url("One") + "\nmodel = 'small'\nconcurrency = 3\nrequests_per_minute = 60",
        'base_url = "simulator"',
        url("[::1]:80") + "\nname = 'one-2'",
        rest="[limits]\nconcurrency = 10\nrequests_per_minute = 6\nstrategy = 'fallback'",
    )
    job = loaded(tmp_path, text=text)
    assert [(lane.name, lane.model, lane.concurrency, lane.requests_per_minute) for lane in lanes_of(job)] == [
        ("one", None, 10, 6),
        ("one-3", "small", 3, 60),
        ("simulator", None, 10, 6),
        ("one-2", None, 10, 6),
    ]
    assert most_in_flight(job) == 33
    assert job.limits.strategy == "fallback"


def test_one_table_is_one_lane(tmp_path: Path) -> None:
    job = loaded(tmp_path, text=several(url("Host:8000")).replace("[[endpoint]]", "[endpoint]"))
    (lane,) = lanes_of(job)
    assert (lane.at, lane.name, lane.concurrency, lane.requests_per_minute) == ("endpoint", "host:8000", 200, None)
    (lane,) = lanes_of(loaded(tmp_path, text=several(url("host") + "\nname = 'x'")))
    assert (lane.at, lane.name) == ("endpoint[0]", "x")


def test_an_override_names_an_entry_by_its_place(tmp_path: Path) -> None:
    job = loaded(tmp_path, 'endpoint.1.base_url="http://other/v1/"', "endpoint.0.headers.x=y", text=TWO)
    assert [lane.endpoint.base_url for lane in lanes_of(job)] == ["http://one/v1", "http://other/v1"]
    assert lanes_of(job)[0].endpoint.headers == {"x": "y"}
    assert len(lanes_of(loaded(tmp_path, 'endpoint.0={base_url="http://a/v1"}', text=TWO))) == 2
    assert len(lanes_of(loaded(tmp_path, 'endpoint=[{base_url="http://a/v1"}]'))) == 1
    for wrong in ("endpoint.base_url=x", "endpoint.2.base_url=x", "endpoint.-1=x", "endpoint.x=1"):
        told = refusal(tmp_path, wrong, text=TWO)
        assert told == f"--set {wrong.partition('=')[0]}: `endpoint` is an array; expected one of 0 to 1 after it"


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        (
            (url("a") + "\nname = 'x'", url("b") + "\nname = 'x'"),
            "endpoint[1].name: 'x' is the name of another endpoint",
        ),
        (('base_url = "simulator"',) * 2, "endpoint[1].base_url: the simulator can be only one of the endpoints"),
        ((url("a"), url("b") + "\nstream = true"), "endpoint[1].stream: expected the same"),
        (
            (url("a") + "\nmodel = 'm'",),
            "endpoint[0].model: is for one of several endpoints; with one, set request.model",
        ),
        ((url("a"), url("b") + "\nnam = 'x'"), "endpoint[1].nam: unknown key; did you mean `name`?"),
        (
            (url("a"), url("b") + "\nrequests_per_day = 5"),
            "endpoint[1].requests_per_day: unknown key; it is a key of [limits]",
        ),
        ((url("a"), url("b") + "\nmax_tokens = 5"), "endpoint[1].max_tokens: unknown key; it is a key of [request]"),
        ((url("a"), "name = 'x'"), "endpoint[1].base_url: missing; it is required"),
        ((url("a"), url("b") + "\nconcurrency = 0"), "endpoint[1].concurrency: expected `int` >= 1"),
        ((url("a"), 'base_url = "b"'), "endpoint[1].base_url: expected an http:// or https:// URL"),
        ((url("a"), url("b") + '\nname = "a\\nb"'), "endpoint[1].name: holds control characters"),
        ((url("a"), url("b") + f"\nheaders = {{x = '{SECRET}'}}"), "endpoint[1].headers.x: a secret must not stand"),
        ((url("a"), url("b") + "\napi_key = 'x'"), "endpoint[1].api_key: a secret must not stand"),
        ((url("a"), url("b") + "\nheaders = {api-key = 'x'}"), "endpoint[1].headers.api-key: a secret must not stand"),
        ((url("a"), url("b") + "\nquery = {key = 'x'}"), "endpoint[1].query.key: a secret must not stand"),
        (
            (url("a"), url("b") + "\napi_key_env = 'A B'"),
            "endpoint[1].api_key_env: expected the NAME of an environment",
        ),
    ],
)
def test_what_can_t_be_is_refused_by_its_place(tmp_path: Path, entries: tuple[str, ...], told: str) -> None:
    refused = refusal(tmp_path, text=several(*entries))
    assert refused.startswith(told)
    assert SECRET not in refused


def test_no_entry_and_no_table_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path, "endpoint=[]").startswith(
        "endpoint: expected `array` of length >= 1".replace("`array`", "an array")
    )
    assert refusal(tmp_path, "endpoint=3") == "endpoint: expected a table or an array of tables, got `int`"


def test_a_model_of_its_own_needs_one_that_it_stands_for(tmp_path: Path) -> None:
    text = several(url("a"), url("b") + "\nmodel = 'x'").replace('[request]\nmodel = "m"\n', "")
    text = text.replace('path = "in.jsonl"', 'path = "in.jsonl"\nformat = "openai-batch"')
    assert refusal(tmp_path, text=text).startswith("endpoint[1].model: is sent instead of request.model")


def test_only_the_first_base_url_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    one = loaded(tmp_path, text=several(url("a")).replace("[[endpoint]]", "[endpoint]"))
    two = loaded(tmp_path, text=several(url("a"), url("b") + "\nmodel = 'x'"))
    other = loaded(tmp_path, text=several(url("b"), url("a")))
    assert identity_of(one, SURVEY) == identity_of(two, SURVEY)
    assert identity_of(one, SURVEY) != identity_of(other, SURVEY)


def test_each_lane_has_its_own_key_and_proxy(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("second\n")
    text = several(
        url("a") + "\napi_key_env = 'A_KEY'", url("b") + "\napi_key_file = 'key'", 'base_url = "simulator"', url("c")
    )
    job = loaded(tmp_path, text=text)
    access = access_of(job, {"A_KEY": "first", "http_proxy": "http://proxy:1", "no_proxy": "b"})
    assert [(one.key, one.trust_env) for one in access] == [
        ("first", True),
        ("second", False),
        (None, False),
        (None, True),
    ]
    with pytest.raises(JobError, match=r"named by endpoint\[0\].api_key_env is not set"):
        access_of(job, {})
