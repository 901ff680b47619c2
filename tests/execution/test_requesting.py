"""Records into rows that are ready to be sent, some at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator

from batchrun.budget import MostTokens
from batchrun.execution.requesting import SLICE_BYTES, SLICE_S, Requests
from batchrun.model.attempt import Tries
from batchrun.model.record import Record
from batchrun.model.request import Envelope
from batchrun.prompt.prompter import Prompter
from batchrun.prompt.settings import PromptSettings

FIELDS = {"model": "m", "max_tokens": 7}


def requests(user: str = "{{ text }}", *, under_budget: bool = False) -> Requests:
    prompter = Prompter(PromptSettings(user=user, params="params"), ("text", "params"))
    return Requests(prompter, Envelope(identity="x", fields=FIELDS), bounded=FIELDS if under_budget else None)


def records(count: int, **values: object) -> Iterator[Record]:
    for row in range(count):
        yield Record(row=row, values={"text": f"text {row}", **values})


def test_a_row_has_its_request_and_what_is_known_of_it() -> None:
    record = Record(row=3, values={"text": "as it stands", "params": {"max_tokens": 9}}, replaced=True)
    row = requests().row(record, Tries(attempts=2))
    assert row.request is not None
    assert json.loads(row.request.body)["messages"] == [{"role": "user", "content": "as it stands"}]
    assert json.loads(row.request.body)["max_tokens"] == 9
    assert (row.row, row.request.row, row.replaced, row.tries.attempts) == (3, 3, True, 2)
    assert (row.unsendable, row.most) == ("", None)


def test_a_row_that_has_no_request_says_why_and_holds_up_no_other() -> None:
    nested: object = "deep"
    for _ in range(100_000):
        nested = [nested]
    given = [
        Record(row=0, values=None, problem="in.jsonl line 1: not JSON"),
        Record(row=1, values={"text": "one", "params": "no object"}),
        Record(row=2, values={"text": "two", "params": {"tools": nested}}),
        Record(row=3, values={"text": "three"}),
    ]
    ((rows, read),) = requests().slices(given, (), {})
    assert read == 4
    assert [row.request is None for row in rows] == [True, True, True, False]
    assert rows[0].unsendable == "in.jsonl line 1: not JSON"
    assert "`params`" in rows[1].unsendable
    assert "nested too deeply" in rows[2].unsendable


def test_a_budget_bounds_each_row_by_its_own_fields() -> None:
    job_s = requests(under_budget=True).row(Record(row=0, values={"text": "four"}))
    own = requests(under_budget=True).row(Record(row=1, values={"text": "four", "params": {"max_tokens": 9, "n": 2}}))
    size = len(b'[{"role":"user","content":"four"}]')
    assert job_s.most == MostTokens(prompt=size + 16, completion=7)
    assert own.most == MostTokens(prompt=size + 16, completion=18)


def test_rows_that_need_no_request_are_counted_and_the_others_keep_their_tries() -> None:
    slices = list(requests().slices(records(5), {0, 2, 4}, {3: Tries(attempts=1)}))
    assert [([row.row for row in rows], read) for rows, read in slices] == [([1, 3], 5)]
    assert [row.tries.attempts for row in slices[0][0]] == [0, 1]
    assert [(len(rows), read) for rows, read in requests().slices(records(3), range(3), {})] == [(0, 3)]


def test_long_requests_are_handed_on_before_many_of_them_lie_in_memory() -> None:
    """Whatever a template makes of short rows, about SLICE_BYTES of bodies are made at a time."""
    slices = requests("{{ text }}" + "x" * (SLICE_BYTES // 4)).slices(records(10), (), {})
    assert [(len(rows), read) for rows, read in slices] == [(4, 4), (4, 4), (2, 2)]


def test_rows_are_handed_on_when_their_requests_take_long_to_make() -> None:
    """A slot waits for no more than what was begun, and so does a signal."""
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += 0.4 * SLICE_S  # one look before each slice, one after each row
        return now

    prompter = Prompter(PromptSettings(user="{{ text }}"), ("text",))
    slices = Requests(prompter, Envelope(identity="x", fields=FIELDS), clock=clock).slices(records(10), (), {})
    assert [(len(rows), read) for rows, read in slices] == [(3, 3), (3, 3), (3, 3), (1, 1)]
