"""Templates into messages: what they can do, what a null does to them, what the sandbox keeps from them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import JobError, RecordError
from batchrun.model.record import Record
from batchrun.prompt.prompter import Prompter
from batchrun.prompt.settings import PromptSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET_TEXT = "the row's own text"
ROW: dict[str, object] = {
    "text": "good",
    "tags": ["a", "b"],
    "about": {"size": 3, "none": None, "items": "its items"},
    "holes": ["a", None],
    "gone": None,
    "count": 3,
    "private": SECRET_TEXT,
}


def record(values: Mapping[str, object] | None, problem: str | None = None) -> Record:
    return Record(row=0, values=values, problem=problem)


def filled(template: str, values: Mapping[str, object] = ROW) -> str:
    prompter = Prompter(PromptSettings(user=template), values)
    (message,) = json.loads(prompter.messages(record(values)).plain)
    assert message["role"] == "user"
    return str(message["content"])


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("no variable", "no variable"),
        ("", ""),
        ("Review: {{ text }}", "Review: good"),
        ("{{ text | upper }} {{ text ~ '!' }}", "GOOD good!"),
        ("{% for tag in tags %}{{ loop.index }}{{ tag }} {% endfor %}", "1a 2b "),
        ("{% if count > 2 %}many{% else %}few{% endif %}", "many"),
        ("{{ tags | join(', ') }} {{ about.size }} {{ about['items'] }}", "a, b 3 its items"),
        ("{% set n = count * 2 %}{{ n }}", "6"),
        ("{% macro twice(x) %}{{ x }}{{ x }}{% endmacro %}{{ twice(text) }}", "goodgood"),
        ("{{ 'a<b>&\"' }} {{ '<' ~ text }}", 'a<b>&" <good'),
        ("{# a comment #}{% raw %}{{ text }}{% endraw %}", "{{ text }}"),
        ("{{ range(3) | list }}", "[0, 1, 2]"),
        ("line\n", "line"),
    ],
)
def test_templates(template: str, text: str) -> None:
    assert filled(template) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ '<a> & b' | tojson }}", '"<a> & b"'),
        ("{{ about | tojson }}", '{"size": 3, "none": null, "items": "its items"}'),
        ("{{ gone | tojson }} {{ holes | tojson(indent=1) }}", 'null [\n "a",\n null\n]'),
        ("{{ 'größe' | tojson }}", '"größe"'),
    ],
)
def test_tojson_writes_json_not_html(template: str, text: str) -> None:
    """A null inside JSON is JSON's null; nothing is escaped for a web page."""
    assert filled(template) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ about }}", '{"size": 3, "none": null, "items": "its items"}'),
        ("{{ holes }}", '["a", null]'),
        ("{{ [about.none, {'a': holes}] }}", '[null, {"a": ["a", null]}]'),
        ("{{ [gone] }} {{ {'a': gone} }}", '[null] {"a": null}'),
        ("{{ [none] }} {{ (gone, none, 'b') }}", '[null] [null, null, "b"]'),
        ("{{ about.items() | list }}", '[["size", 3], ["none", null], ["items", "its items"]]'),
    ],
)
def test_a_null_in_a_list_or_object_that_is_printed_is_that_of_json(template: str, text: str) -> None:
    assert filled(template) == text


@pytest.mark.parametrize("name", ["range", "dict", "lipsum", "cycler", "joiner", "namespace"])
def test_a_column_is_meant_where_jinja_has_a_helper_of_its_name(name: str) -> None:
    assert filled(f"{{{{ {name} }}}}", {name: "10-20"}) == "10-20"
    with pytest.raises(RecordError, match=f"`{name}`, which is null"):
        filled(f"{{{{ {name} }}}}", {name: None})


@pytest.mark.parametrize(
    "template",
    [
        "{{ gone }}",
        "{{ gone | upper }}",
        "{{ gone | trim }}",
        "{{ gone | int }}",
        "{{ gone | length }}",
        "{{ gone | string }}",
        "{{ gone | pprint }}",
        "{{ gone ~ 'a' }}",
        "{{ 'a' ~ gone }}",
        "{{ gone + 'a' }}",
        "{{ gone < 3 }}",
        "{{ [gone] | join }}",
        "{{ '%s' | format(gone) }}",
        "{{ '%r' | format(gone) }}",
        "{{ '{}'.format(gone) }}",
        "{% for a in gone %}{{ a }}{% endfor %}",
        "{{ gone.size }}",
        "{{ gone['size'] }}",
        "{% set x = gone %}{{ x }}",
        "{{ missing_here }}",
    ],
)
def test_printing_a_null_fails_the_row(template: str) -> None:
    """Plain, through a filter, joined to a text, or looped over; a missing key is the same."""
    prompter = Prompter(PromptSettings(user=template), [*ROW, "missing_here"])
    with pytest.raises(
        RecordError, match=r"^prompt\.user: it prints `(gone|missing_here)`, which is null in this row$"
    ):
        prompter.messages(record(ROW))


@pytest.mark.parametrize(
    "template",
    [
        "{{ about.none }}",
        "{{ about.none | upper }}",
        "{{ about.none ~ 'x' }}",
        "{{ holes ~ 'x' }}",
        "{{ holes | join(',') }}",
        "{{ holes | map('upper') | join }}",
        "{% for hole in holes %}{{ hole ~ ',' }}{% endfor %}",
        "{{ about.get('none') | upper }}",
        "{{ about.get('nothing') ~ 'x' }}",
    ],
)
def test_printing_a_null_within_a_value_fails_the_row(template: str) -> None:
    with pytest.raises(RecordError, match="null in this row"):
        filled(template)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% if gone %}a{% else %}b{% endif %}", "b"),
        ("{% if not gone %}b{% endif %}", "b"),
        ("{{ gone is none }} {{ text is none }}", "True False"),
        ("{{ gone is not none }}", "False"),
        ("{{ gone == none }} {{ gone == 'a' }}", "True False"),
        ("{{ gone != none }} {{ gone != 'a' }}", "False True"),
        ("{{ gone is defined }} {{ gone is undefined }}", "True False"),
        ("{{ gone or 'd' }}", "d"),
        ("{{ gone | default('d') }}", "d"),
        ("{{ gone | default('d', true) }}", "d"),
        ("{{ gone if gone else 'd' }}", "d"),
        ("{{ gone in ['a', none] }} {{ gone in ['a'] }}", "True False"),
        ("{{ about.none is none }} {{ about.none | default('d') }}", "True d"),
        ("{{ about.nothing is defined }} {{ about.nothing | default('d') }}", "False d"),
        ("{{ holes | length }} {{ holes | reject('none') | join }} {{ none in holes }}", "2 a True"),
        ("{{ holes == ['a', none] }}", "True"),
    ],
)
def test_testing_a_null_does_not(template: str, text: str) -> None:
    assert filled(template) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{ text.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ text | attr('__class__') }}",
        "{{ tags.append('c') }}",
        "{{ about.clear() }}",
        "{{ range(10**9) | length }}",
        "{{ '{0.__class__}'.format(text) }}",
        "{{ count / 0 }}",
        "{{ about.nothing }}",
        "{{ about[private] }}",
        "{{ none }}",
        "{{ [private] | sum }}",
    ],
)
def test_what_the_sandbox_refuses_fails_the_row_without_telling_it(template: str) -> None:
    with pytest.raises(RecordError) as failed:
        filled(template)
    assert SECRET_TEXT not in str(failed.value)
    assert failed.value.__suppress_context__ or failed.value.__cause__ is None
    assert ROW["tags"] == ["a", "b"]


@pytest.mark.parametrize("template", ["{{ text.upper }}", "{{ about.items }}", "{{ range }}"])
def test_a_function_is_no_text(template: str) -> None:
    """`<built-in method items of dict object at 0x7f…>` would be paid for, and be another request each time."""
    with pytest.raises(RecordError, match="prints a function"):
        filled(template)


@pytest.mark.parametrize(
    "template",
    [
        *("{{ text", "{% if text %}", "{{ text | nofilter }}", "{% nonsense %}", "a\n{% endif %}"),
        *("{{ " + "(" * 3000, "{{ 1" + "0" * 5000 + " }}", "{{ range(a=1, a=2) }}", "{% if text %}" * 120),
        "{% if text %}" * 120 + "{% endif %}" * 120,
    ],
)
@pytest.mark.parametrize("key", ["system", "user"])
def test_a_wrong_template_is_a_job_error(key: str, template: str) -> None:
    settings = PromptSettings(**{"user": "u", key: template})
    with pytest.raises(JobError, match=rf"^prompt\.{key}: "):
        Prompter(settings, ROW)


def test_the_line_of_a_wrong_template_is_named() -> None:
    with pytest.raises(JobError, match="line 2"):
        Prompter(PromptSettings(user="a\n{% endif %}"), ROW)
    with pytest.raises(JobError, match=r"^prompt\.user, line 2: a template can't include"):
        Prompter(PromptSettings(user="a\n{% include 'b' %}"), ROW)


@pytest.mark.parametrize("template", ["{{ gone }}", "{{ gone ~ text }}", "{{ count / 0 }}", "{{ text.upper }}"])
@pytest.mark.parametrize("key", ["system", "user"])
def test_a_row_that_fails_tells_the_key_of_the_template(key: str, template: str) -> None:
    prompter = Prompter(PromptSettings(**{"user": "u", key: template}), ROW)
    with pytest.raises(RecordError, match=rf"^prompt\.{key}: "):
        prompter.messages(record(ROW))


def test_a_name_that_no_row_has() -> None:
    with pytest.raises(JobError, match=r"^prompt\.user: no row has a column `txet`; the input has text, id"):
        Prompter(PromptSettings(user="{{ text }} {% if txet %}{% endif %}"), ["text", "id"])
    with pytest.raises(JobError, match=r"^prompt\.system: no row has a column `a`; the input has no columns"):
        Prompter(PromptSettings(system="{{ a }}"), [])


def test_needed_columns() -> None:
    settings = PromptSettings(system="{{ a }}", user="{% for x in b %}{{ x }}{% endfor %}{{ range(2) }}", params="p")
    assert Prompter(settings, ["a", "b", "c", "p"]).columns == {"a", "b", "p"}


def test_a_constant_template_needs_no_column() -> None:
    prompter = Prompter(PromptSettings(system="S", user="always this"), ["text"])
    assert prompter.columns == frozenset()
    assert json.loads(prompter.messages(record({})).plain) == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "always this"},
    ]


def test_an_unreadable_row_tells_its_problem() -> None:
    prompter = Prompter(PromptSettings(user="{{ text }}"), ["text"])
    with pytest.raises(RecordError, match="line 3"):
        prompter.messages(record(None, "a.jsonl, line 3: not JSON"))
    with pytest.raises(RecordError, match="could not be read"):
        prompter.messages(record(None))


def test_text_that_is_not_unicode_fails_the_row() -> None:
    with pytest.raises(RecordError, match="not valid Unicode"):
        filled("{{ '\\ud800' }}")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_through(text: str) -> None:
    """NUL, BOM, right-to-left, emoji: DEMAND.md R34."""
    assert filled("<{{ text }}>", {"text": text}) == f"<{text}>"


@given(st.text(max_size=60))
def test_text_of_a_row_is_never_a_template(text: str) -> None:
    braced = "{{ text.__class__ }}{% raw %}" + text.encode("utf-8", "replace").decode()
    assert filled("{{ text }}", {"text": braced}) == braced
