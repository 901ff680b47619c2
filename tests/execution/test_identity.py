"""What makes two runs the same run, and how a difference reads (DEMAND.md R26)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import msgspec
import pytest

from batchrun.execution.identity import difference, identity_of, input_fingerprint
from batchrun.job.load import load_job
from batchrun.model.record import InputFile, Survey

if TYPE_CHECKING:
    from pathlib import Path

    from batchrun.job.settings import Job

JOB = """\
name = "j"
[input]
path = "in.jsonl"
[prompt]
system = "S"
user = "{{ text }}"
[request]
model = "m"
temperature = 0
tools = [{type = "function", name = "f"}]
[endpoint]
base_url = "https://host/v1"
api_key_env = "A_KEY"
[limits]
concurrency = 8
[output]
path = "out"
"""


def job(folder: Path, *overrides: str, text: str = JOB) -> Job:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return load_job(path, overrides=overrides)


def survey(*sha256: str, key: str | None = None, rows: int = 5, path: str = "in.jsonl") -> Survey:
    files = tuple(InputFile(path=path, size=9, mtime_ns=1, sha256=digest, rows=rows) for digest in sha256 or ("aa",))
    return Survey(format="jsonl", files=files, columns=(), key=key)


def noted(job: Job, found: Survey) -> dict[str, object]:
    """The identity as it comes back from the ledger, where it is JSON text."""
    return msgspec.json.decode(msgspec.json.encode(dict(identity_of(job, found))), type=dict[str, object])


@pytest.mark.parametrize(
    "override",
    [
        "name=other",
        "endpoint.api_key_env=OTHER_KEY",
        "endpoint.timeout_s=5",
        "endpoint.keep_raw=true",
        "endpoint.stream=true",
        "endpoint.headers={X-Title='t'}",
        "limits.concurrency=1",
        "limits.requests_per_minute=5",
        "limits.max_failed=3",
        "price={input=1, output=2}",
        "output.path=elsewhere",
        "output.rows_per_part=3",
        "output.columns=none",
        "input.path=moved.jsonl",
        "request.stream=false",
        "request.stream_options={include_usage=false}",
    ],
)
def test_what_makes_no_difference(tmp_path: Path, override: str) -> None:
    before = noted(job(tmp_path), survey())
    assert difference(before, identity_of(job(tmp_path, override), survey(path="moved.jsonl"))) == ""


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("request.model=n", '  request.model: "m" → "n"'),
        ("request.temperature=0.5", "  request.temperature: 0 → 0.5"),
        ("request.seed=1", "  request.seed: not set → 1"),
        ("prompt.system=T", '  prompt.system: "S" → "T"'),
        ("prompt.user={{ text }}!", '  prompt.user: "{{ text }}" → "{{ text }}!"'),
        ("prompt.params=p", '  prompt.params: not set → "p"'),
        ("endpoint.base_url=simulator", '  endpoint.base_url: "https://host/v1" → "simulator"'),
        ("endpoint.base_url=https://other/v1/", '  endpoint.base_url: "https://host/v1" → "https://other/v1"'),
    ],
)
def test_what_does(tmp_path: Path, override: str, line: str) -> None:
    assert difference(noted(job(tmp_path), survey()), identity_of(job(tmp_path, override), survey())) == line


def test_another_input(tmp_path: Path) -> None:
    before = noted(job(tmp_path), survey())
    assert difference(before, identity_of(job(tmp_path), survey("bb"))).startswith("  input.sha256: ")
    assert difference(before, identity_of(job(tmp_path), survey(key="id"))) == '  input.key: null → "id"'
    more = difference(before, identity_of(job(tmp_path), survey(rows=6)))
    assert more.splitlines()[0] == "  input.rows: 5 → 6"


def test_a_prompt_table_that_was_not_there(tmp_path: Path) -> None:
    text = JOB.replace('[prompt]\nsystem = "S"\nuser = "{{ text }}"\n', "")
    lines = difference(identity_of(job(tmp_path, text=text), survey()), identity_of(job(tmp_path), survey()))
    assert '  prompt.system: not set → "S"' in lines.splitlines()


def test_order_of_keys_makes_no_difference(tmp_path: Path) -> None:
    """Not in a table, nor in a table within an array."""
    other = JOB.replace('model = "m"\ntemperature = 0\n', 'temperature = 0\nmodel = "m"\n')
    other = other.replace('{type = "function", name = "f"}', '{name = "f", type = "function"}')
    assert other != JOB
    assert difference(noted(job(tmp_path), survey()), identity_of(job(tmp_path, text=other), survey())) == ""


def test_several_differences_are_lines_in_order(tmp_path: Path) -> None:
    now = identity_of(job(tmp_path, "request.model=n", "prompt.user=x", "endpoint.base_url=simulator"), survey())
    names = [line.split(":")[0].strip() for line in difference(noted(job(tmp_path), survey()), now).splitlines()]
    assert names == ["endpoint.base_url", "prompt.user", "request.model"]


def test_long_texts_are_shown_where_they_differ(tmp_path: Path) -> None:
    long = "word " * 100
    before = identity_of(job(tmp_path, f"prompt.system={long}before{long}"), survey())
    now = identity_of(job(tmp_path, f"prompt.system={long}after{long}"), survey())
    line = difference(before, now)
    old, new = line.removeprefix("  prompt.system: ").split(" → ")
    assert old != new
    assert (" before" in old, " after" in new) == (True, True)
    assert len(line) < 250
    assert (old[0], old[-1]) == ("…", "…")
    grown = identity_of(job(tmp_path, f"prompt.system={long}before{long}more"), survey())
    assert 'more"' in difference(before, grown)


def test_a_fingerprint_is_of_contents_in_their_order() -> None:
    assert input_fingerprint(survey("aa", "bb")) == input_fingerprint(survey("aa", "bb", path="moved"))
    assert input_fingerprint(survey("aa", "bb")) != input_fingerprint(survey("bb", "aa"))
    assert len(input_fingerprint(survey())) == 64


def test_an_identity_survives_json(tmp_path: Path) -> None:
    given = job(tmp_path, "request.x=[1, 1.0, 1e16, 1e-7, true, {}, []]", "request.seed=99999999999999999999")
    now = identity_of(given, survey())
    assert difference(noted(given, survey()), now) == ""
    assert difference(json.loads(json.dumps(now)), now) == ""
