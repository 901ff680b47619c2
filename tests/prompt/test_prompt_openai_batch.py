"""Lines of an OpenAI batch into requests: which are sent, what of a body is a parameter, whose model is asked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import JobError, RecordError
from batchrun.model.record import Record
from batchrun.model.request import Envelope
from batchrun.prompt.openai_batch import BodyPrompter, refusal_of
from batchrun.prompt.prompter import Prompter

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "S"}
COLUMNS = ("custom_id", "method", "url", "body")
PROMPT_TEXT = "the row's own text, which is no URL"


def line(**changed: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}, **changed}


def record(body: object, **more: Any) -> Record:
    return Record(row=3, values=line(body=body, **more))


def prompter(*, system: str | None = None, model_known: bool = True) -> BodyPrompter:
    return BodyPrompter(system=system, model_known=model_known, columns=COLUMNS)


def messages_of(body: object, *, system: str | None = None) -> list[object]:
    decoded: list[object] = json.loads(prompter(system=system).messages(record(body)).plain)
    return decoded


@pytest.mark.parametrize(
    "url",
    ["/v1/chat/completions", "/v1/openai/chat/completions", "/chat/completions", "https://host/v1/chat/completions"],
)
def test_a_chat_completion_is_asked_for_whatever_comes_before_its_path(url: str) -> None:
    assert refusal_of(line(url=url)) is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"url": "/v1/embeddings"},
            "`url` is /v1/embeddings; only chat completions are supported: expected a url that",
        ),
        ({"url": "/v1/responses"}, "ends in /chat/completions"),
        ({"url": "/v1/completions"}, "`url` is /v1/completions"),
        ({"url": "/v1/chat/completions/"}, "ends in /chat/completions"),
        ({"url": None}, "`url` is missing or null"),
        ({"url": PROMPT_TEXT}, "`url` is another text"),
        ({"url": 3}, "`url` is a number"),
        ({"method": "GET"}, "`method` is GET; expected POST"),
        ({"method": "post"}, "`method` is post; expected POST"),
        ({"method": None}, "`method` is missing or null; expected POST"),
        ({"method": PROMPT_TEXT}, "`method` is another text; expected POST"),
        ({"body": None}, "`body` is missing or null; expected an object"),
        ({"body": PROMPT_TEXT}, "`body` is another text; expected an object"),
        ({"body": [1]}, "`body` is a list; expected an object"),
    ],
)
def test_a_line_that_asks_for_something_else_is_refused_without_its_text(changed: dict[str, Any], said: str) -> None:
    refusal = refusal_of(line(**changed))
    assert refusal is not None
    assert said in refusal
    assert PROMPT_TEXT not in refusal


def test_an_empty_line_is_refused() -> None:
    assert refusal_of({}) == "`method` is missing or null; expected POST"


def test_the_messages_of_the_body_are_sent_as_they_stand() -> None:
    given_messages = [SYSTEM, USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    assert messages_of({"messages": given_messages}) == given_messages


def test_the_jobs_system_text_goes_first_unless_the_body_brings_one() -> None:
    assert messages_of({"messages": [USER]}, system="S") == [SYSTEM, USER]
    assert messages_of({"messages": [{"role": "system", "content": "own"}, USER]}, system="S") == [
        {"role": "system", "content": "own"},
        USER,
    ]
    assert messages_of({"messages": [USER]}, system="for {{ custom_id }}")[0] == {"role": "system", "content": "for a"}


def test_all_other_fields_of_the_body_are_parameters_but_streaming() -> None:
    body = {
        "model": "m",
        "messages": [USER],
        "n": 2,
        "temperature": 0.5,
        "response_format": {"type": "json_object"},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert prompter().params(record(body)) == {
        "model": "m",
        "n": 2,
        "temperature": 0.5,
        "response_format": {"type": "json_object"},
    }


def test_the_body_overrides_the_jobs_request_and_never_decides_on_streaming() -> None:
    source = prompter()
    asked = record({"model": "of the row", "messages": [USER], "temperature": 1, "stream": True})
    fields: dict[str, object] = {"model": "of the job", "temperature": 0, "max_tokens": 8}
    request = Envelope(identity="simulator", fields=fields).seal(3, source.messages(asked), source.params(asked))
    assert json.loads(request.body) == {
        "model": "of the row",
        "temperature": 1,
        "max_tokens": 8,
        "messages": [USER],
        "stream": False,
    }
    assert request.model == "of the row"


def test_a_model_comes_from_the_body_or_from_the_job() -> None:
    assert prompter().params(record({"messages": [USER]})) == {}
    assert prompter().params(record({"messages": [USER], "model": None})) == {}
    assert prompter(model_known=False).params(record({"model": "m"})) == {"model": "m"}
    for body in ({"messages": [USER]}, {"model": None}):
        with pytest.raises(RecordError, match=r"neither request\.model nor the row's body names one"):
            prompter(model_known=False).params(record(body))


@pytest.mark.parametrize("model", ["", 3, ["m"], {}, True])
def test_a_model_that_is_no_name_fails_the_row(model: object) -> None:
    with pytest.raises(RecordError, match="expected the name of a model"):
        prompter().params(record({"model": model, "messages": [USER]}))


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        (None, "holds null, expected a list of messages"),
        (PROMPT_TEXT, "holds a string, expected a list of messages"),
        ([], "an empty list of messages"),
        ([PROMPT_TEXT], "each message must be an object with a `role`"),
        ([{"content": PROMPT_TEXT}], "each message must be an object with a `role`"),
        ([{"role": 1}], "each message must be an object with a `role`"),
    ],
)
def test_messages_that_are_none_fail_the_row(messages: object, said: str) -> None:
    with pytest.raises(RecordError, match=said) as failed:
        messages_of({"messages": messages})
    assert "`messages` in the row's body" in str(failed.value)
    assert PROMPT_TEXT not in str(failed.value)


def test_values_nested_too_deeply_fail_the_row() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    with pytest.raises(RecordError, match="messages are nested too deeply"):
        messages_of({"messages": [{"role": "user", "content": nested}]})
    with pytest.raises(RecordError, match="parameters are nested too deeply"):
        prompter().params(record({"messages": [USER], "stop": nested}))


def test_a_row_that_could_not_be_read_says_why() -> None:
    bad = Record(row=0, values=None, problem="x.jsonl line 2: not JSON")
    for take in (prompter().messages, prompter().params):
        with pytest.raises(RecordError, match=r"x\.jsonl line 2"):
            take(bad)


def test_columns_that_are_needed() -> None:
    assert prompter().columns == {"body"}
    assert prompter(system="{{ custom_id }}").columns == {"body", "custom_id"}
    assert BodyPrompter(system="{{ anything }}", model_known=True, columns=None).columns == frozenset()
    with pytest.raises(JobError, match=r"^prompt\.system: no row has a column `nope`"):
        prompter(system="{{ nope }}")
    with pytest.raises(JobError, match="no row has a column `body`"):
        BodyPrompter(system=None, model_known=True, columns=["custom_id"])


def test_batch_lines_read_as_plain_jsonl_are_told_of_the_format() -> None:
    with pytest.raises(JobError, match=r'set input\.format = "openai-batch"'):
        Prompter(None, COLUMNS)
    with pytest.raises(JobError) as other:
        Prompter(None, ["text"])
    assert "openai-batch" not in str(other.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(["model", "messages", "stream", "stream_options", "n", "role"]) | st.text(max_size=6)
MESSAGES = st.lists(st.fixed_dictionaries({"role": st.text(max_size=5)}, optional={"content": JSON}), max_size=3)


@given(st.dictionaries(NAMES, JSON | MESSAGES, max_size=6), st.booleans(), st.none() | st.just("S"))
def test_any_body_becomes_one_request_or_fails_its_row(
    body: dict[str, object],
    model_known: bool,  # noqa: FBT001
    system: str | None,
) -> None:
    """Nothing of a body is lost but what is not its to say, and nothing but RecordError comes out."""
    source = prompter(system=system, model_known=model_known)
    fields: dict[str, object] = {"model": "j"} if model_known else {}
    try:
        asked = record(body)
        request = Envelope(identity="simulator", fields=fields).seal(0, source.messages(asked), source.params(asked))
    except RecordError:
        return
    sent = json.loads(request.body)
    assert sent.pop("stream") is False
    assert sent.pop("messages")[-1] == body["messages"][-1]  # type: ignore[index]
    expected = {name: value for name, value in body.items() if name not in {"messages", "stream", "stream_options"}}
    if expected.get("model") is None:
        expected["model"] = "j"
    assert sent == expected
