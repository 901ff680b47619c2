"""Columns that hold messages or parameters, from JSONL and from Arrow, and what a row falls back to."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import pytest

from batchrun.errors import JobError, RecordError
from batchrun.model.record import Record
from batchrun.prompt.prompter import Prompter
from batchrun.prompt.settings import PromptSettings

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "S"}
SECRET_TEXT = "the row's own text"


def messages_of(
    value: object, *, system: str | None = None, from_arrow: bool = False, column: str = "m"
) -> list[object]:
    settings = PromptSettings(system=system, messages=column)
    prompter = Prompter(settings, [column], from_arrow=from_arrow)
    encoded = prompter.messages(Record(row=0, values={column: value}))
    decoded: list[object] = json.loads(encoded.plain)
    assert json.loads(encoded.canonical) == decoded
    return decoded


def params_of(value: object, *, from_arrow: bool = False) -> object:
    prompter = Prompter(PromptSettings(user="u", params="p"), ["p"], from_arrow=from_arrow)
    return prompter.params(Record(row=0, values={"p": value}))


def fallen_back(values: dict[str, object], settings: PromptSettings | None = None) -> list[object]:
    encoded = Prompter(settings, ["messages", "prompt"]).messages(Record(row=0, values=values))
    decoded: list[object] = json.loads(encoded.plain)
    return decoded


@pytest.mark.parametrize("from_arrow", [False, True])
@pytest.mark.parametrize("as_text", [False, True])
def test_messages_as_list_and_as_json_text(as_text: bool, from_arrow: bool) -> None:  # noqa: FBT001 - parameters of the test
    given = [SYSTEM, USER, {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    assert messages_of(json.dumps(given) if as_text else given, from_arrow=from_arrow) == given


def test_system_goes_first_unless_the_messages_start_with_one() -> None:
    other = {"role": "system", "content": "of the row"}
    assert messages_of([USER], system="S") == [SYSTEM, USER]
    assert messages_of([other, USER], system="S") == [other, USER]
    assert messages_of([USER, other], system="S") == [SYSTEM, USER, other]
    assert messages_of(json.dumps([other]), system="S") == [other]


def test_the_system_template_sees_the_row() -> None:
    prompter = Prompter(PromptSettings(system="for {{ who }}", messages="m"), ["m", "who"])
    encoded = prompter.messages(Record(row=0, values={"m": [USER], "who": "Ada"}))
    assert json.loads(encoded.plain)[0] == {"role": "system", "content": "for Ada"}


def test_nulls_of_an_arrow_struct_are_fields_that_are_not_there() -> None:
    given = [{"role": "user", "content": "hi", "name": None, "tool_calls": None}]
    assert messages_of(given, from_arrow=True) == [USER]
    assert messages_of(given) == given
    assert messages_of(json.dumps(given), from_arrow=True) == given
    call = [{"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": None}]}]
    assert messages_of(call, from_arrow=True) == [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]


def test_arrow_maps_and_decimals_within_messages() -> None:
    given = [{"role": "user", "content": "hi", "metadata": [("a", "b"), ("c", "d")], "weight": Decimal("0.5")}]
    assert messages_of(given, from_arrow=True) == [{**USER, "metadata": {"a": "b", "c": "d"}, "weight": 0.5}]
    assert messages_of([[("role", "user"), ("content", "hi")]], from_arrow=True) == [USER]


@pytest.mark.parametrize(
    "value",
    [
        SECRET_TEXT,
        "",
        "null",
        "{}",
        "[]",
        [],
        {},
        3,
        ["hi"],
        [USER, SECRET_TEXT],
        [{"content": SECRET_TEXT}],
        [{"role": 1, "content": SECRET_TEXT}],
        [{"role": "user", "content": math.nan}],
        [{"role": "user", "content": [SECRET_TEXT, {"x": math.inf}]}],
        [{"role": "user", "content": b"bytes"}],
        [{"role": "user", "content": [{3: "no string"}]}],
        '[{"role": "user", "content": NaN}]',
        '[{"role": "user", "content": 1e999}]',
        f'[{{"role": "user", "content": "{SECRET_TEXT}\\ud800"}}]',
        f'[{{"role": "user", "content": "{SECRET_TEXT}',
        "[" * 100_000,
        '[{"role": "user", "content": ' + "[" * 5000 + "]" * 5000 + "}]",
        None,
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("from_arrow", [False, True])
def test_what_is_no_list_of_messages_fails_the_row(value: object, from_arrow: bool) -> None:  # noqa: FBT001
    with pytest.raises(RecordError) as failed:
        messages_of(value, from_arrow=from_arrow)
    assert str(failed.value)
    assert SECRET_TEXT not in str(failed.value)


def test_values_nested_too_deeply_fail_the_row() -> None:
    nested: list[object] = []
    for _ in range(5000):
        nested = [nested]
    for from_arrow in (False, True):
        with pytest.raises(RecordError, match="nested too deeply"):
            messages_of([{"role": "user", "content": nested}], from_arrow=from_arrow)
        with pytest.raises(RecordError, match="nested too deeply"):
            params_of({"stop": nested}, from_arrow=from_arrow)


def test_nul_emoji_and_large_numbers_come_through() -> None:
    given = [{"role": "user", "content": "\x00 😀 \u2028 שלום", "n": 2**70}]
    assert messages_of(given) == given
    assert messages_of(json.dumps(given)) == given


def test_a_column_of_messages_that_no_row_has() -> None:
    with pytest.raises(JobError, match=r"^prompt\.messages: no row has a column `m`"):
        Prompter(PromptSettings(messages="m"), ["text"])
    with pytest.raises(JobError, match=r"^prompt\.params: no row has a column `p`"):
        Prompter(PromptSettings(user="u", params="p"), ["text"])


def test_messages_then_prompt() -> None:
    """Without [prompt], or with one that has neither user nor messages (SPEC.md, section 2, Prompts)."""
    assert fallen_back({"messages": [USER], "prompt": "other"}) == [USER]
    assert fallen_back({"messages": None, "prompt": "other"}) == [{"role": "user", "content": "other"}]
    assert fallen_back({"prompt": "other"}) == [{"role": "user", "content": "other"}]
    settings = PromptSettings(system="S")
    assert fallen_back({"prompt": "other"}, settings) == [SYSTEM, {"role": "user", "content": "other"}]
    assert fallen_back({"messages": [USER]}, settings) == [SYSTEM, USER]


def test_a_row_with_neither_fails() -> None:
    with pytest.raises(RecordError, match="`messages` and `prompt` null"):
        fallen_back({"messages": None, "prompt": None})
    with pytest.raises(RecordError, match="`prompt` holds a number, expected a string"):
        fallen_back({"prompt": 3})


def test_an_input_with_neither_is_a_job_error() -> None:
    for settings in (None, PromptSettings(), PromptSettings(system="S")):
        with pytest.raises(JobError, match=r"set prompt\.user or prompt\.messages"):
            Prompter(settings, ["text"])


def test_a_chosen_column_of_messages_does_not_fall_back() -> None:
    prompter = Prompter(PromptSettings(messages="m"), ["m", "prompt"])
    with pytest.raises(RecordError, match="`m` null"):
        prompter.messages(Record(row=0, values={"m": None, "prompt": "other"}))


def test_params_as_object_as_text_and_as_map() -> None:
    wanted = {"temperature": 0.5, "stop": ["a"]}
    assert params_of(wanted) == wanted
    assert params_of(json.dumps(wanted)) == wanted
    assert params_of([("temperature", 0.5), ("top_p", 1.0)], from_arrow=True) == {"temperature": 0.5, "top_p": 1.0}
    assert params_of([("a", [("b", "c")])], from_arrow=True) == {"a": {"b": "c"}}


def test_no_params() -> None:
    assert params_of(None) is None
    assert params_of({}) == {}
    assert params_of([], from_arrow=True) == {}
    assert Prompter(PromptSettings(user="u"), ["p"]).params(Record(row=0, values={"p": {"n": 1}})) is None


def test_nulls_in_params() -> None:
    """A struct's null is a field that is not there; one that is spelled out in JSON stands."""
    assert params_of({"temperature": 0, "stop": None}, from_arrow=True) == {"temperature": 0}
    assert params_of({"temperature": 0, "stop": None}) == {"temperature": 0, "stop": None}
    assert params_of('{"stop": null}', from_arrow=True) == {"stop": None}


def test_a_decimal_is_sent_as_a_number() -> None:
    """DuckDB writes 0.7 as DECIMAL(2, 1)."""
    assert params_of({"temperature": Decimal("0.7")}, from_arrow=True) == {"temperature": 0.7}


@pytest.mark.parametrize(
    "value",
    [
        {"messages": []},
        {"stream": False},
        '{"stream": true}',
        [("messages", "x")],
        SECRET_TEXT,
        "[]",
        3,
        [1],
        {"temperature": math.inf},
        {"stop": b"x"},
        {3: "x"},
        [(3, "x")],
    ],
    ids=str,
)
def test_params_that_fail_the_row(value: object) -> None:
    with pytest.raises(RecordError, match=r"^column `p` ") as failed:
        params_of(value, from_arrow=True)
    assert SECRET_TEXT not in str(failed.value)


def test_a_row_that_could_not_be_read_has_no_params() -> None:
    prompter = Prompter(PromptSettings(user="u", params="p"), ["p"])
    with pytest.raises(RecordError, match="line 2"):
        prompter.params(Record(row=0, values=None, problem="line 2: not JSON"))
