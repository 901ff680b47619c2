"""What a server sent back is shown without keys and without echoes of the prompt (DEMAND.md R32)."""

from __future__ import annotations

import html
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.masking import ECHO_CHARS, MOST_MESSAGE_CHARS, Masks, texts_of, without_echoes

KEY = "Ab/3-x+y=z_0123456789"
PROMPT = 'Translate:\n\t"Où est la gare, s\'il vous plaît?" <b>now</b> & C:\\new\\text.txt 😀 done'


def escaped(key: str) -> str:
    return "".join(f"\\u{ord(char):04X}" for char in key)


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        KEY.replace("/", "\\/"),
        KEY.replace("-", "\\u002d").replace("+", "\\u002B"),
        escaped(KEY),
        KEY.replace("/", "\\\\\\/"),
        escaped(KEY).replace("\\", "\\\\"),
        KEY.replace("/", "%2F").replace("+", "%2b").replace("=", "%3D"),
    ],
)
def test_a_key_is_masked_as_json_or_a_url_may_write_it(written: str) -> None:
    masks = Masks([KEY])
    assert masks.body(f'{{"error":"no {written}."}}'.encode()) == b'{"error":"no ***."}'
    assert masks.text(f"no {written}.") == "no ***."


def test_a_body_without_the_key_is_left_alone() -> None:
    for body in (b"", b"caf\\u00e9", b"a\\/b", b"\xff\xfe", KEY[:-1].encode()):
        assert Masks([KEY]).body(body) is body
        assert Masks([]).body(body) is body


@pytest.mark.parametrize("word", ["ollama", "EMPTY", "none", "sk-1234"])
def test_a_word_that_stands_for_no_key_stays_in_completions(word: str) -> None:
    """Local servers take any key: a completion must not change for it."""
    assert Masks([word]).body(f"I am {word}".encode()) == f"I am {word}".encode()
    assert Masks([word]).text(f"wrong key {word}") == "wrong key ***"


def test_texts_of_a_request() -> None:
    messages = [
        {"role": "system", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}, {"image_url": {"url": "data:image/png;base64,x"}}]},
        {"role": "tool", "content": None, "tool_calls": [{"function": {"arguments": "c"}}]},
    ]
    assert texts_of(json.dumps({"model": "m", "messages": messages, "user": "d"}).encode()) == ("a", "b", "c")
    for nothing in (b"", b"[]", b"{}", b'{"messages":5}', b'{"messages":' + b"[" * 5000):
        assert texts_of(nothing) == ()


WAYS: list[Callable[[str], str]] = [
    str,
    json.dumps,
    lambda text: json.dumps(text, ensure_ascii=False),
    lambda text: json.dumps(json.dumps(text)),
    repr,
    html.escape,
    lambda text: " ".join(text.split()),
    lambda text: text.replace("\n", "").replace(" ", "_"),
    lambda text: f"{text[4:60]}… (cut)",
]


@pytest.mark.parametrize("way", WAYS)
def test_an_echo_is_masked_however_it_is_written(way: Callable[[str], str]) -> None:
    shown = without_echoes(f"Invalid value: {way(PROMPT)}; expected less", [PROMPT])
    assert shown.startswith("Invalid value: ")
    assert shown.endswith("; expected less")
    assert "[…]" in shown
    for word in ("gare", "plait", "plaît", "now", "text"):
        assert word not in shown


def test_what_is_no_echo_stays() -> None:
    message = "This model's maximum context length is 8192 tokens, you asked for 9000"
    assert without_echoes(message, [PROMPT, "maximum of context", "the model is good", "is", ""]) == message
    assert without_echoes(message, []) == message
    assert without_echoes("", [PROMPT]) == ""


def test_a_short_text_is_masked_where_it_stands_whole() -> None:
    assert without_echoes("can't take 'Jane Doe'", ["Jane Doe"]) == "can't take '[…]'"
    assert without_echoes("can't take 'yes'", ["yes"]) == "can't take 'yes'"


def test_what_stands_encoded_in_a_message_is_no_use_to_anybody() -> None:
    ask = json.dumps({"messages": [{"content": [{"image_url": {"url": "data:image/png;base64," + "iVBORw0K" * 90}}]}]})
    assert Masks([]).text("bad image " + "iVBORw0K" * 90, ask=ask.encode()) == "bad image […]"


@given(st.text(max_size=90), st.text('ab \\n"', max_size=60), st.text(max_size=40), st.integers(0, 60))
def test_no_run_of_the_texts_is_left(message: str, text: str, more: str, at: int) -> None:
    for quoted in (text, text[at:], json.dumps(text)):
        whole = message[:at] + quoted + message[at:]
        shown = without_echoes(whole, [text, more])
        assert len(shown) <= len(whole) + 3
        for one in (text, more):
            for first in range(len(one) - ECHO_CHARS + 1):
                assert one[first : first + ECHO_CHARS] not in shown
        Masks([KEY]).text(whole, ask=json.dumps({"messages": [{"content": text}]}).encode())


def test_a_large_prompt_and_a_large_message_are_taken_in_good_time() -> None:
    text = "Once upon a time there was a row. " * 30_000
    ask = json.dumps({"messages": [{"role": "user", "content": text}]}).encode()
    assert Masks([KEY]).text("bad:" + text, ask=ask) == "bad:[…]"
    assert len(Masks([KEY]).text("x y " * 1_000_000, ask=ask)) == 200
    assert len(Masks([KEY]).text("x y " * 1_000_000, ask=b"{}")) == MOST_MESSAGE_CHARS
