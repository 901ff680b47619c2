"""What is filled in without Jinja is what Jinja makes of it, and what is anything more is left to Jinja."""

from __future__ import annotations

import builtins
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrun.errors import RecordError
from batchrun.prompt.compiling import compiled, needs_jinja
from batchrun.prompt.plain import Printed, pieces_of
from batchrun.prompt.template import Template, template_environment

PRINTS = ["{{ text }}", "{{text}}", "{{\n a_1 }}", "{{ b }}"]
ODD = [
    "{",
    "}",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "-",
    "+",
    " ",
    "\n",
    "\r",
    "x",
    "%",
    "#",
    "'",
    "|",
    "none",
    "range",
]
VALUES: dict[str, object] = {"text": "<good>", "a_1": "{{ b }}", "b": "", "x": "ex"}


def by_jinja(source: str, known: tuple[str, ...] = tuple(VALUES)) -> Template:
    return Template(template_environment(), "prompt.user", source, known)


@pytest.mark.parametrize(
    ("source", "pieces"),
    [
        ("", ()),
        ("\n", ()),
        ("line\n\n", ("line\n",)),
        ("Review: {{ text }}!\n", ("Review: ", "text", "!")),
        ("{{a}}{{  b  }}", ("a", "b")),
        ("a } b }} { c", ("a } b }} { c",)),
        ("{{ a }}}", ("a", "}")),
    ],
)
def test_what_only_prints_is_known_by_its_text(source: str, pieces: tuple[str, ...]) -> None:
    assert pieces_of(source) == pieces
    assert not needs_jinja(source)


@pytest.mark.parametrize(
    "source",
    [
        *(
            "{{ a | upper }}",
            "{{ a.b }}",
            "{{- a }}",
            "{% if a %}{% endif %}",
            "{# a #}",
            "{{ a",
            "{{{ a }}",
            "{{ 1 }}",
        ),
        *("a\r\nb", "{{ None }}", "{{ self }}", "{{ range }}", "{{ ä }}", "{{ a b }}", "{{ }}"),
    ],
)
def test_what_may_do_more_is_left_to_jinja(source: str) -> None:
    assert pieces_of(source) is None
    assert needs_jinja(source)


@given(st.lists(st.sampled_from(PRINTS + ODD), max_size=12).map("".join))
def test_what_is_taken_for_plain_is_what_jinja_makes_of_it(source: str) -> None:
    if pieces_of(source) is not None:
        plain, other = compiled("prompt.user", source, VALUES), by_jinja(source)
        assert plain is not None
        assert plain.names == other.names
        assert plain.render(VALUES) == other.render(VALUES)


def names_that_mean_something() -> list[str]:
    environment = template_environment()
    words = {*keyword.kwlist, *keyword.softkwlist, *environment.globals, *environment.filters, *environment.tests}
    return sorted(words | set(dir(builtins)) | {"self", "super", "loop", "caller", "varargs", "kwargs", "context"})


@pytest.mark.parametrize("name", names_that_mean_something())
def test_no_name_of_jinjas_or_pythons_is_taken_for_a_columns(name: str) -> None:
    source = f"{{{{ {name} }}}}"
    if (pieces := pieces_of(source)) is not None:
        assert pieces == (Printed(name),)
        assert by_jinja(source, (name,)).names == {name}
        assert by_jinja(source, (name,)).render({name: "its text"}) == "its text"


@pytest.mark.parametrize("value", [3, True, ["a"], {"b": 1}, 0.5, ["a", None], {"b": [None]}])
def test_a_value_that_is_no_text_is_printed_by_jinja(value: object) -> None:
    plain = compiled("prompt.user", "it: {{ text }}", ["text"])
    assert plain is not None
    assert plain.render({"text": value}) == by_jinja("it: {{ text }}").render({"text": value})
    assert plain.render({"text": "again"}) == "it: again"


def test_a_null_fails_its_row_with_jinjas_words() -> None:
    plain = compiled("prompt.user", "it: {{ text }}", ["text"])
    assert plain is not None
    for values in ({}, {"text": None}):
        with pytest.raises(RecordError, match="prints `text`, which is null"):
            plain.render(values)
