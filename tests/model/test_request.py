"""The envelope: the bytes that are sent, and a digest that anyone can compute again."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from batchrun.model.request import Envelope, Request, encode_messages, encode_texts

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = TEXTS | st.sampled_from(["a", "message", "messages_", "model", "n", "stream_options", "temperature", "zz"])
FIELDS = st.dictionaries(NAMES.filter(lambda name: name not in {"messages", "stream"}), VALUES, max_size=6)


def digest(identity: str, body: dict[str, object]) -> str:
    """The column `request_sha256` as SPEC.md, section 3 describes it."""
    named = {name: value for name, value in body.items() if name not in {"stream", "stream_options"}}
    text = json.dumps(named, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(f"{identity}\n{text}".encode()).hexdigest()


def sealed(
    fields: dict[str, object],
    params: dict[str, object] | None = None,
    *,
    identity: str = "https://api.deepinfra.com/v1/openai",
    system: str | None = "S",
    user: str = "U",
    stream: bool = False,
) -> Request:
    return Envelope(identity=identity, fields=fields, stream=stream).seal(7, encode_texts(system, user), params)


@given(fields=FIELDS, params=st.none() | FIELDS, system=st.none() | TEXTS, user=TEXTS, stream=st.booleans())
@example(fields={}, params={"stream_options": None}, system=None, user="", stream=False)
def test_body_and_digest_say_the_same(
    fields: dict[str, object], params: dict[str, object] | None, system: str | None, user: str, *, stream: bool
) -> None:
    request = sealed(fields, params, system=system, user=user, stream=stream)
    messages = [{"role": "user", "content": user}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    asked = {**fields, **(params or {}), "messages": messages, "stream": stream}
    if stream:
        asked.setdefault("stream_options", {"include_usage": True})
    else:
        asked.pop("stream_options", None)  # servers refuse it where no stream is asked for
    body = json.loads(request.body)
    assert body == asked
    assert list(body) == list(asked)
    assert body["stream"] is stream
    assert request.sha256 == digest("https://api.deepinfra.com/v1/openai", asked)


@given(st.lists(st.dictionaries(TEXTS, TEXTS | st.none() | st.lists(TEXTS), max_size=4), max_size=4))
def test_given_messages_are_sent_as_they_stand(messages: list[object]) -> None:
    request = Envelope(identity="simulator", fields={"model": "m"}).seal(0, encode_messages(messages), None)
    body = json.loads(request.body)
    assert body["messages"] == messages
    assert [list(message) for message in body["messages"]] == [list(message) for message in messages]
    assert request.sha256 == digest("simulator", body)


@given(system=st.none() | TEXTS, user=TEXTS)
def test_two_encodings_of_the_same_texts_agree(system: str | None, user: str) -> None:
    messages: list[object] = [{"role": "user", "content": user}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    assert encode_texts(system, user) == encode_messages(messages)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "m"},
        {"model": "m", "temperature": 0, "max_tokens": 64},
        {"a": 1, "model": "m"},
        {"messagf": 1, "messager": 2, "message": 3, "messages0": 4},
        {"zz": {"b": 1, "a": [1, {"d": None, "c": 2}]}, "model": "m"},
        {"model": "größe-😀", "stop": ["\u0000", "\u2028", '"\\/']},
        {"model": "m", "temperature": 1e-5, "seed": 2**70, "x": 1e16, "y": -0.0, "z": 5e-324},
        {"model": "m", "stream": False, "stream_options": {"include_usage": True}},
        {},
    ],
)
def test_digest_of_chosen_bodies(fields: dict[str, object]) -> None:
    """Names on both sides of `messages`, none at all, numbers with exponents, fields that are never in the digest."""
    request = sealed(fields)
    body = json.loads(request.body)
    assert request.sha256 == digest("https://api.deepinfra.com/v1/openai", body)
    assert request.sha256 == sealed({name: value for name, value in fields.items() if "stream" not in name}).sha256
    assert b'"stream":false' in request.body
    assert request.body.count(b'"stream":') == 1


def test_a_stream_is_asked_for_with_its_usage_and_has_the_digest_of_the_plain_request() -> None:
    fields: dict[str, object] = {"model": "m", "temperature": 0}
    asked = sealed(fields, stream=True)
    assert asked.body.endswith(b',"stream":true,"stream_options":{"include_usage":true}}')
    assert asked.sha256 == sealed(fields).sha256
    assert asked.sha256 == sealed({**fields, "stream_options": {"include_usage": False}}, stream=True).sha256


@pytest.mark.parametrize("given_options", [{"include_usage": False}, {}, None])
def test_stream_options_of_the_job_or_of_a_row_stand_as_they_are(given_options: object) -> None:
    """Mistral, for one, refuses include_usage and reports usage without it."""
    own: dict[str, object] = {"stream_options": given_options}
    for request in (sealed({"model": "m", **own}, stream=True), sealed({"model": "m"}, own, stream=True)):
        assert json.loads(request.body)["stream_options"] == given_options
        assert request.body.count(b"stream_options") == 1
        assert json.loads(request.body)["stream"] is True
    assert b"include_usage" in sealed({"model": "m"}, {"seed": 1}, stream=True).body


def test_a_known_digest() -> None:
    """Frozen: outputs that users keep hold these."""
    text = (
        'simulator\n{"max_tokens":8,"messages":[{"content":"Größe 😀","role":"user"}],"model":"m","temperature":1e-05}'
    )
    request = sealed(
        {"model": "m", "temperature": 0.00001, "max_tokens": 8}, identity="simulator", system=None, user="Größe 😀"
    )
    assert request.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert request.sha256 == "288fe8bade971bc5d2a6efb152ba069320ad796a03191a8104c909c3742a19e0"


def test_order_of_keys_is_no_part_of_the_digest() -> None:
    one = sealed({"model": "m", "temperature": 0, "response_format": {"type": "json_object", "a": 1}})
    other = sealed({"response_format": {"a": 1, "type": "json_object"}, "temperature": 0, "model": "m"})
    assert one.sha256 == other.sha256
    assert one.body != other.body


def test_params_override_in_place_and_leave_the_next_row_alone() -> None:
    fields: dict[str, object] = {"model": "m", "temperature": 0}
    envelope = Envelope(identity="simulator", fields=fields)
    messages = encode_texts(None, "hello")
    plain = envelope.seal(0, messages, None)
    hot = envelope.seal(1, messages, {"temperature": 1, "logit_bias": {"50256": -100}})
    assert json.loads(hot.body)["temperature"] == 1
    assert list(json.loads(hot.body)) == ["model", "temperature", "logit_bias", "messages", "stream"]
    assert hot.row == 1
    assert envelope.seal(2, messages, {}).body == plain.body
    assert envelope.seal(2, messages, None).sha256 == plain.sha256 != hot.sha256
    assert fields == {"model": "m", "temperature": 0}


def test_a_request_names_its_model_where_that_is_not_the_jobs() -> None:
    messages = encode_texts(None, "hello")
    envelope = Envelope(identity="simulator", fields={"model": "m"})
    assert envelope.seal(0, messages, None).model is None
    assert envelope.seal(0, messages, {"n": 1}).model is None
    assert envelope.seal(0, messages, {"model": "m"}).model is None
    assert envelope.seal(0, messages, {"model": "other"}).model == "other"
    assert Envelope(identity="simulator", fields={}).seal(0, messages, {"model": "m"}).model == "m"


def test_digest_tells_endpoints_apart() -> None:
    assert sealed({"model": "m"}, identity="simulator").sha256 != sealed({"model": "m"}, identity="https://a").sha256
