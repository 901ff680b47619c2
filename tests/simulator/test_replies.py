"""Replies: deterministic, and exact in usage and cost."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import JobError
from batchrun.job.settings import SimulatorSettings
from batchrun.simulator.asked import Asked
from batchrun.simulator.draws import draw, prompt_digest
from batchrun.simulator.replies import Replies, usd_text

MESSAGES: list[object] = [{"role": "user", "content": "Wo ist der Fjörd? 🦊"}]


def asked(**changes: Any) -> Asked:
    fields = {"model": "m", "digest": prompt_digest(MESSAGES), "prompt_chars": 52, "most_tokens": None}
    return Asked(**{**fields, **changes})


def answer(settings: SimulatorSettings, nth: int = 0, **changes: Any) -> Any:
    reply = Replies(settings).reply(asked(**changes), nth, created=1_736_800_000)
    return json.loads(reply.body, parse_float=Decimal)


def content(settings: SimulatorSettings, nth: int = 0, **changes: Any) -> str:
    return answer(settings, nth, **changes)["choices"][0]["message"]["content"]


def test_digest_is_sha256_over_sorted_json() -> None:
    """The digest can be computed with the standard library alone, and the order of keys does not matter."""
    text = json.dumps(MESSAGES, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert prompt_digest(MESSAGES) == hashlib.sha256(text.encode()).hexdigest()[:16]
    assert prompt_digest([{"a": 1, "b": 2}]) == prompt_digest([{"b": 2, "a": 1}])


@given(st.integers(), st.text(alphabet="0123456789abcdef"), st.integers(0, 10**9), st.text(max_size=8))
def test_draws_lie_in_the_unit_interval(seed: int, digest: str, nth: int, purpose: str) -> None:
    chance = draw(seed, digest, nth, purpose)
    assert 0 <= chance < 1
    assert chance == draw(seed, digest, nth, purpose)


def test_draws_never_change() -> None:
    """A drill written down with its seed means the same on another machine and in a later version."""
    assert draw(7, "0123456789abcdef", 2, "latency") == 0.5323915147431789


def test_draws_differ_by_every_argument() -> None:
    arguments = [(0, "a", 0, "x"), (1, "a", 0, "x"), (0, "b", 0, "x"), (0, "a", 1, "x"), (0, "a", 0, "y")]
    draws = [draw(*given) for given in arguments]
    assert len(set(draws)) == 5


def test_body_has_the_shape_of_the_reference() -> None:
    reply = answer(SimulatorSettings(), model="meta-llama/Llama-3.3-70B-Instruct-Turbo")
    assert list(reply) == ["id", "object", "created", "model", "choices", "usage"]
    assert reply["id"].startswith("chatcmpl-")
    assert len(reply["id"]) == len("chatcmpl-") + 32
    assert (reply["object"], reply["created"]) == ("chat.completion", 1_736_800_000)
    assert reply["model"] == "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    [choice] = reply["choices"]
    assert (choice["index"], choice["finish_reason"]) == (0, "stop")
    assert choice["message"]["role"] == "assistant"
    assert (choice["message"]["name"], choice["message"]["tool_calls"]) == (None, None)
    usage = reply["usage"]
    assert usage["prompt_tokens"] == 13
    assert usage["total_tokens"] == 13 + usage["completion_tokens"]


def data_of(events: tuple[bytes, ...]) -> list[Any]:
    """The JSON of each event but the last, which says that nothing more comes."""
    assert events[-1] == b"data: [DONE]\n\n"
    assert all(event.startswith(b"data: ") and event.endswith(b"\n\n") for event in events)
    return [json.loads(event.removeprefix(b"data: "), parse_float=Decimal) for event in events[:-1]]


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        (SimulatorSettings(), {}),
        (SimulatorSettings(completion_tokens=300), {}),
        (SimulatorSettings(), {"most_tokens": 5}),
        (SimulatorSettings(), {"most_tokens": 0}),
        (SimulatorSettings(reply="choices", choices=("é",)), {}),
        (SimulatorSettings(reply="json", schema={"type": "object"}), {}),
    ],
)
def test_a_stream_brings_the_same_reply(settings: SimulatorSettings, changes: dict[str, Any]) -> None:
    """PROTOCOL.md 0.1: the role first, usage null on all chunks but the last, which has the finish_reason too."""
    whole = answer(settings, 3, **changes)
    reply = Replies(settings).reply(asked(**changes, stream=True), 3, created=1_736_800_000)
    first, *deltas, last = data_of(reply.events)
    assert reply.body == b""
    assert first["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    texts = [chunk["choices"][0]["delta"]["content"] for chunk in deltas]
    assert "".join(texts) == whole["choices"][0]["message"]["content"]
    assert all(texts)
    assert len(texts) <= 8
    finish = whole["choices"][0]["finish_reason"]
    assert last["choices"] == [{"index": 0, "delta": {}, "finish_reason": finish}]
    assert last["usage"] == whole["usage"]
    for chunk in (first, *deltas):
        assert (chunk["usage"], chunk["choices"][0]["finish_reason"]) == (None, None)
    for chunk in (first, *deltas, last):
        assert list(chunk) == ["id", "object", "created", "model", "choices", "usage"]
        assert chunk["object"] == "chat.completion.chunk"
        assert {name: chunk[name] for name in ("id", "created", "model")} == {
            name: whole[name] for name in ("id", "created", "model")
        }
    assert (reply.completion_tokens, reply.cost_nanousd) == (
        whole["usage"]["completion_tokens"],
        whole["usage"]["estimated_cost"] * 10**9,
    )


def test_a_stream_that_was_asked_for_without_usage_has_none() -> None:
    reply = Replies(SimulatorSettings()).reply(asked(stream=True, with_usage=False), 0, created=1)
    assert all(chunk["usage"] is None for chunk in data_of(reply.events))


def test_a_retry_brings_the_same_text_under_another_id() -> None:
    settings = SimulatorSettings()
    assert content(settings, 0) == content(settings, 1)
    assert answer(settings, 0)["id"] != answer(settings, 1)["id"]
    assert answer(settings, 1) == answer(settings, 1)
    assert content(settings) != content(SimulatorSettings(seed=1))


@given(st.integers(1, 700), st.integers())
def test_text_starts_with_the_digest_and_counts_its_words(completion_tokens: int, seed: int) -> None:
    settings = SimulatorSettings(completion_tokens=completion_tokens, seed=seed)
    words = content(settings).split(" ")
    assert words[0] == prompt_digest(MESSAGES)
    assert completion_tokens * 3 / 4 <= len(words) <= completion_tokens
    assert answer(settings)["usage"]["completion_tokens"] == len(words)


def test_a_limit_below_the_words_cuts() -> None:
    settings = SimulatorSettings()
    whole = answer(settings)
    words = whole["usage"]["completion_tokens"]
    assert answer(settings, most_tokens=words) == whole
    cut = answer(settings, most_tokens=5)
    assert cut["choices"][0]["message"]["content"] == " ".join(content(settings).split()[:5])
    assert cut["choices"][0]["finish_reason"] == "length"
    assert cut["usage"]["completion_tokens"] == 5
    assert content(settings, most_tokens=0) == ""


def test_choices_are_all_drawn_and_stay() -> None:
    settings = SimulatorSettings(reply="choices", choices=("positive", "negative", "very mixed"))
    drawn = {f"{at:016x}": content(settings, digest=f"{at:016x}") for at in range(100)}
    assert set(drawn.values()) == set(settings.choices)
    assert all(content(settings, 3, digest=digest) == text for digest, text in drawn.items())


def test_choices_need_a_choice() -> None:
    with pytest.raises(JobError, match=r"simulator\.choices"):
        Replies(SimulatorSettings(reply="choices"))


def test_json_is_compact_and_follows_the_schema() -> None:
    schema = {"type": "object", "properties": {"label": {"enum": ["a", "b"]}, "score": {"type": "integer"}}}
    text = content(SimulatorSettings(reply="json", schema=schema))
    value = json.loads(text)
    assert set(value) == {"label", "score"}
    assert value["label"] in {"a", "b"}
    assert text == json.dumps(value, separators=(",", ":"))
    assert content(SimulatorSettings(reply="json")) == "{}"


@pytest.mark.parametrize(("completion_tokens", "usd"), [(536, "0.00016236"), (593, "0.00017946")])
def test_costs_of_the_reference_transcript(completion_tokens: int, usd: str) -> None:
    """Both rows of the reference transcript come out to the digit (PROTOCOL.md 0.1)."""
    assert usd_text(Replies(SimulatorSettings()).cost_nanousd(13, completion_tokens)) == usd


def test_cost_in_the_body_is_exact() -> None:
    settings = SimulatorSettings(input_usd_per_mtok=0.1234567, output_usd_per_mtok=3.3)
    usage = answer(settings)["usage"]
    exact = (13 * Decimal("0.1234567") + usage["completion_tokens"] * Decimal("3.3")) / 10**6
    assert usage["estimated_cost"] == round(exact, 9)


@given(st.integers(0, 2**63))
def test_usd_text_is_exact_and_plain(nanousd: int) -> None:
    text = usd_text(nanousd)
    assert Decimal(text) * 10**9 == nanousd
    assert set(text) <= set("0123456789.")
    assert json.loads(text) >= 0


def test_an_empty_prompt_has_one_token() -> None:
    assert answer(SimulatorSettings(), prompt_chars=0)["usage"]["prompt_tokens"] == 1
