"""The body of a 200 into a reply (PROTOCOL.md 0.1, 2.1, 2.2 #20 to #23, 2.4)."""

from __future__ import annotations

import json
import sys
from types import FrameType
from typing import Any

import msgspec
import pytest
from client_replies import GOOD, MODEL, REFERENCE, body, reader
from hypothesis import given
from hypothesis import strategies as st

from batchrun.client.body import UnusableReplyError
from batchrun.client.usage import read_usage
from batchrun.model.attempt import Cost, Reply, Usage
from batchrun.pricing import Price

PRICE = Price(input=0.12, output=0.30)


def read(data: bytes, *, price: Price | None = None, **headers: str) -> Reply:
    return reader(price=price).read(data, {name.replace("_", "-"): value for name, value in headers.items()})


def usage_of(fields: object, *, price: Price | None = None, **headers: str) -> tuple[Usage, Cost | None, list[str]]:
    """Read a usage; `fields` is JSON text, or what becomes it."""
    text = fields if isinstance(fields, str) else json.dumps(fields)
    flags: list[str] = []
    given_headers = {name.replace("_", "-"): value for name, value in headers.items()}
    rates = price.rates() if price else None
    usage, cost = read_usage(msgspec.Raw(text.encode()), given_headers, rates, flags)
    assert len(flags) == len(set(flags))
    return usage, cost, flags


def test_the_reference_reply() -> None:
    reply = read(GOOD)
    assert (reply.status, reply.text, reply.finish_reason, reply.model) == ("ok", "Jalapeño.", "stop", MODEL)
    assert reply.response_id == REFERENCE["id"]
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (13, 536, 549)
    assert (reply.usage.cached_tokens, reply.usage.reasoning_tokens) == (None, None)
    assert reply.cost == Cost(nanousd=162_360, source="server")
    assert (reply.reasoning, reply.tool_calls, reply.flags, reply.raw) == (None, None, (), None)
    assert json.loads(reply.usage.raw or "") == REFERENCE["usage"]


@pytest.mark.parametrize("spoiled", [b" \r\n\t" + GOOD, GOOD + b"\n\n", json.dumps(REFERENCE, indent=2).encode()])
def test_the_reference_reply_with_harmless_bytes_around_it_is_the_same(spoiled: bytes) -> None:
    reply, plain = read(spoiled), read(GOOD)
    assert msgspec.structs.replace(reply, usage=plain.usage) == plain
    assert msgspec.structs.replace(reply.usage, raw=None) == msgspec.structs.replace(plain.usage, raw=None)


def test_the_price_where_the_server_reports_no_cost() -> None:
    usage = {"prompt_tokens": 13, "completion_tokens": 536}
    reply = read(body(usage=usage), price=PRICE)
    assert reply.cost == Cost(nanousd=162_360, source="price")
    assert reply.usage.total_tokens == 549
    assert read(body(usage=usage)).cost is None
    assert read(GOOD, price=Price(input=9, output=9)).cost == Cost(nanousd=162_360, source="server")


def test_keep_raw_keeps_the_body() -> None:
    assert reader(keep_raw=True).read(GOOD, {}).raw == GOOD.decode()


@pytest.mark.parametrize(
    ("message", "text", "reasoning"),
    [
        ({"content": "a"}, "a", None),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", None),
        ({"content": ["a", "b"]}, "ab", None),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
                    {"type": "text", "text": "a"},
                ]
            },
            "a",
            "hm",
        ),
        ({"content": "a", "reasoning_content": "r"}, "a", "r"),
        ({"content": "a", "reasoning": "r"}, "a", "r"),
        ({"content": "a", "reasoning_content": None, "reasoning": "r"}, "a", "r"),
        ({"content": "a", "reasoning_content": "first", "reasoning": "second"}, "a", "first"),
        ({"content": "a", "reasoning_content": "", "reasoning": "second"}, "a", ""),
        ({"content": "a", "reasoning_details": [{"text": "d"}, {"text": "e"}]}, "a", "de"),
        ({"content": "a", "reasoning": None, "reasoning_details": [{"text": "d"}, {"data": "?"}]}, "a", "d"),
        ({"content": "a", "reasoning": "r", "reasoning_details": [{"text": "d"}]}, "a", "r"),
        ({"content": "a\0b"}, "a\0b", None),
        ({"content": "😀"}, "😀", None),
    ],
)
def test_text_and_reasoning(message: dict[str, Any], text: str, reasoning: str | None) -> None:
    reply = read(body(message))
    assert (reply.status, reply.text, reply.reasoning, reply.flags) == ("ok", text, reasoning, ())


@pytest.mark.parametrize(
    ("calls", "kept"), [("null", None), ("[]", None), ("[ ]", None), ("[\n]", None), ('[{"id":"1"}]', '[{"id":"1"}]')]
)
@pytest.mark.parametrize("junk", ["", "\ndata: [DONE]"])
def test_tool_calls(calls: str, kept: str | None, junk: str) -> None:
    head, tail = '{"choices":[{"message":{"content":null,"tool_calls":', '},"finish_reason":"tool_calls"}]}'
    reply = read((head + calls + tail + junk).encode())
    assert reply.tool_calls == kept
    assert reply.status == ("empty" if kept is None else "ok")


@pytest.mark.parametrize(
    ("given_reason", "reason", "status"),
    [
        ("stop", "stop", "ok"),
        ("eos", "stop", "ok"),
        ("eos_token", "stop", "ok"),
        ("stop_sequence", "stop", "ok"),
        ("length", "length", "truncated"),
        ("model_length", "length", "truncated"),
        ("max_tokens", "length", "truncated"),
        ("content_filter", "content_filter", "refused"),
        ("tool_calls", "tool_calls", "ok"),
        ("function_call", "tool_calls", "ok"),
        ("novel", "other", "ok"),
        (None, None, "ok"),
        (7, None, "ok"),
    ],
)
def test_finish_reasons(given_reason: object, reason: str | None, status: str) -> None:
    reply = read(body(finish=given_reason))
    assert (reply.finish_reason, reply.status) == (reason, status)
    assert ("unknown_finish_reason" in reply.flags) == (reason == "other")


@pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
def test_broken_finish_reasons_are_errors(reason: str) -> None:
    with pytest.raises(UnusableReplyError, match=reason) as caught:
        read(body(finish=reason))
    assert caught.value.inner is not None


@pytest.mark.parametrize(
    ("message", "finish", "status", "text"),
    [
        ({"content": None, "refusal": "no"}, "stop", "refused", "no"),
        ({"content": "", "refusal": "no"}, "stop", "refused", ""),
        ({"content": "part", "refusal": "no"}, "stop", "refused", "part"),
        ({"content": "x", "refusal": ""}, "stop", "ok", "x"),
        ({"content": None}, "content_filter", "refused", None),
        ({"refusal": "no"}, "length", "refused", "no"),
        ({"content": ""}, "length", "truncated", ""),
        ({"content": None, "reasoning": "long"}, "length", "truncated", None),
        ({"content": None, "reasoning": "long"}, "stop", "empty", None),
        ({"content": None}, "stop", "empty", None),
        ({"content": ""}, "stop", "empty", ""),
        ({}, None, "empty", None),
    ],
)
def test_refused_before_truncated_before_empty(
    message: dict[str, Any], finish: str | None, status: str, text: str | None
) -> None:
    reply = read(body(message, finish=finish))
    assert (reply.status, reply.text) == (status, text)


def test_nothing_at_all_is_tried_once_more() -> None:
    """#23: no text, no tokens and no reason to finish is a model that warms up."""
    for usage in ({"prompt_tokens": 1, "completion_tokens": 0}, None):
        with pytest.raises(UnusableReplyError) as caught:
            read(body({"content": ""}, finish=None, usage=usage))
        assert caught.value.useless == "nothing"
    assert read(body({"content": "", "reasoning": "r"}, finish=None, usage=None)).status == "empty"


def test_the_choice_with_the_lowest_index_counts() -> None:
    many = [{"index": n, "message": {"content": f"{n}"}, "finish_reason": "stop"} for n in (2, 0, 1)]
    assert read(body(choices=many)).text == "0"
    assert read(body(choices=many) + b"data: [DONE]").text == "0"
    assert read(body(choices=[{**choice, "index": None} for choice in many])).text == "2"


@pytest.mark.parametrize("nothing", [None, {}, "", False])
def test_an_empty_error_beside_a_completion_is_no_error(nothing: object) -> None:
    """What was paid for is kept."""
    assert read(body(error=nothing)).status == "ok"
    choice = {"message": {"content": "x"}, "finish_reason": "stop", "error": nothing}
    assert read(body(choices=[choice])).status == "ok"


def test_another_model_is_flagged() -> None:
    assert read(body(model="other")).flags == ("model_mismatch",)
    assert reader().read(body(model="other"), {}, model="other").flags == ()
    assert reader().read(body(), {}, model="other").flags == ("model_mismatch",)
    assert read(body(model=None)).flags == ()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b'{"choices":[{"message":{"content":"a\\ud800b"}}],"usage":{}}', "a\ufffdb"),
        (b'{"choices":[{"message":{"content":"a\\udc00\\ud800b"}}],"usage":{}}', "a\ufffd\ufffdb"),
        (b'{"choices":[{"message":{"content":"a\xffb"}}],"usage":{}}', "a\ufffdb"),
        (b'{"choices":[{"message":{"content":["\\ud800"]}}],"usage":{}}', "\ufffd"),
    ],
)
def test_text_that_no_file_takes_is_replaced_and_flagged(data: bytes, text: str) -> None:
    reply = read(data)
    assert (reply.text, reply.flags) == (text, ("text_replaced",))


def test_surrogates_never_come_through_anywhere() -> None:
    bad = "\\ud800"
    text = (
        f'{{"id":"{bad}","model":"{bad}","choices":[{{"finish_reason":"{bad}","message":{{"content":"{bad}",'
        f'"reasoning":"{bad}","refusal":"{bad}","tool_calls":["{bad}"]}}}}],"usage":{{"x":"{bad}"}}}}'
    )
    msgspec.json.encode(read(text.encode()))
    raw_only = body({"content": "x", "tool_calls": ["\ud800"]}, usage={"prompt_tokens": 1, "x": "\ud800"})
    msgspec.json.encode(read(raw_only))


def test_valid_pairs_are_one_code_point_and_nul_stays() -> None:
    assert read(b'{"choices":[{"message":{"content":"\\ud83d\\ude00\\u0000"}}],"usage":{}}').text == "😀\0"


def test_of_duplicate_keys_the_last_counts() -> None:
    twice = b'{"choices":[],"choices":[{"message":{"content":"a","content":"b"}}],"usage":{}}'
    assert read(twice).text == "b"
    assert read(twice + b" data: [DONE]").text == "b"


def test_a_trailing_done_is_flagged() -> None:
    reply = read(GOOD + b"\n\ndata: [DONE]\n\n")
    assert (reply.text, reply.flags, reply.cost) == ("Jalapeño.", ("trailing_junk",), read(GOOD).cost)


@pytest.mark.parametrize(
    ("data", "is_page"),
    [
        (b"", False),
        (b" \n", False),
        (b"<html>", True),
        (b"upstream error", True),
        (b'"text"', True),
        (GOOD[:-20], False),
        (GOOD + GOOD, False),
        (GOOD + b"<html>", False),
        (b"{}", False),
        (b"[]", False),
        (b"[1]", False),
        (b'{"choices":null}', False),
        (b'{"choices":[]}', False),
        (b'{"choices":{}}', False),
        (b'{"choices":["x"]}', False),
        (b'{"choices":' + b"[" * 100_000, False),
        (b'{"choices":[{"message":{"tool_calls":' + b"[" * 3000 + b"]" * 3000 + b"}}]}", False),
    ],
)
def test_what_holds_no_completion_is_bounded_trouble(data: bytes, is_page: bool) -> None:  # noqa: FBT001
    with pytest.raises(UnusableReplyError) as caught:
        read(data)
    assert (caught.value.useless == "page") is is_page
    assert caught.value.inner is None


@pytest.mark.parametrize(
    ("data", "inner"),
    [
        (b'{"error":{"code":429,"message":"m"}}', {"code": 429, "message": "m"}),
        (b'{"error":"text"}', {"message": "text"}),
        (b'[{"error":{"code":"503"}}]', {"code": "503"}),
        (b'[1,{"error":{"code":"503"}}]', {"code": "503"}),
        (b'{"choices":[],"error":{"code":1}}', {"code": 1}),
        (b'{"choices":[{"message":{"content":"x"},"error":{"code":502}}]}', {"code": 502}),
        (b'{"choices":[{"error":{"code":502}}]} data: [DONE]', {"code": 502}),
    ],
)
def test_errors_inside_a_200(data: bytes, inner: dict[str, object]) -> None:
    with pytest.raises(UnusableReplyError) as caught:
        read(data)
    assert caught.value.inner == inner


@pytest.mark.parametrize("deep", range(950, 1010))
def test_depth_never_gets_out(deep: int) -> None:
    nest = b"[" * deep + b"]" * deep
    for data in (
        b'{"choices":[{"message":{"content":"x"}}],"usage":' + nest + b"}",
        b'{"choices":[{"message":{"content":"x"}}],"error":' + nest + b"}",
    ):
        try:
            read(data)
        except UnusableReplyError as error:
            assert str(error)  # noqa: PT017 - both ways are right


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("5", 5),
        ("13.0", 13),
        ("1e3", 1000),
        ('"5"', 5),
        ('" 5 "', 5),
        ("0", 0),
        ("null", None),
        ("-1", None),
        ("-1.0", None),
        ("1.5", None),
        ("NaN", None),
        ("Infinity", None),
        ("true", None),
        ('"many"', None),
        ('"-5"', None),
        ('""', None),
        ("[]", None),
        ("1" + "0" * 30, None),
        ('"' + "9" * 5000 + '"', None),
        ("1e99999999999", None),
        ("1e-99999999999", None),
    ],
)
def test_forms_of_a_token_count(value: str, count: int | None) -> None:
    usage, _, flags = usage_of(f'{{"prompt_tokens":{value}}}')
    assert usage.prompt_tokens == count
    assert flags == ([] if count is not None or value == "null" else ["usage_inconsistent"])


def test_the_total_is_summed_only_where_both_are_known() -> None:
    assert usage_of({"prompt_tokens": 3, "completion_tokens": 4})[0].total_tokens == 7
    assert usage_of({"prompt_tokens": 3})[0].total_tokens is None
    usage, _, flags = usage_of({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 8})
    assert (usage.total_tokens, flags) == (8, ["usage_inconsistent"])
    assert usage_of({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 8, "reasoning_tokens": -1})[2] == [
        "usage_inconsistent"
    ]


@pytest.mark.parametrize(
    ("fields", "cached", "reasoning"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 4}}, 4, None),
        ({"prompt_tokens_details": None}, None, None),
        ({"prompt_token_details": {"cached_tokens": 4}}, 4, None),
        ({"num_cached_tokens": 4}, 4, None),
        ({"prompt_cache_hit_tokens": 4}, 4, None),
        ({"prompt_tokens_details": {"cached_tokens": 1}, "num_cached_tokens": 4}, 1, None),
        ({"completion_tokens_details": {"reasoning_tokens": 5}}, None, 5),
        ({"reasoning_tokens": 5}, None, 5),
        ({"completion_tokens_details": {"reasoning_tokens": 5}, "reasoning_tokens": 9}, None, 5),
        ({"completion_tokens_details": "?"}, None, None),
    ],
)
def test_cached_and_reasoning_tokens(fields: dict[str, object], cached: int | None, reasoning: int | None) -> None:
    usage, _, flags = usage_of(fields)
    assert (usage.cached_tokens, usage.reasoning_tokens, flags) == (cached, reasoning, [])


@pytest.mark.parametrize(
    ("value", "nanousd"),
    [
        ("0.00016236", 162_360),
        ("0", 0),
        ('"0.00016236"', 162_360),
        ('" 0.5 "', 500_000_000),
        ("1.62E-4", 162_000),
        ("0.0000000005", 0),
        ("0.0000000015", 2),
        ("-0.1", None),
        ('"NaN"', None),
        ("NaN", None),
        ("Infinity", None),
        ('"abc"', None),
        ('"Infinity"', None),
        ("true", None),
        ("[]", None),
        ("1e999999", None),
        ('"1e999999999"', None),
    ],
)
@pytest.mark.parametrize("field", ["estimated_cost", "cost"])
def test_forms_of_a_cost(field: str, value: str, nanousd: int | None) -> None:
    _, cost, flags = usage_of(f'{{"{field}":{value}}}')
    assert cost == (None if nanousd is None else Cost(nanousd=nanousd, source="server"))
    assert flags == ([] if nanousd is not None else ["cost_unparsable"])


def test_the_order_of_costs() -> None:
    header = {"x_litellm_response_cost": "0.3"}
    tokens = {"prompt_tokens": 13, "completion_tokens": 536}
    for fields, nanousd, source in (
        ({"estimated_cost": 0.1, "cost": 0.2}, 100_000_000, "server"),
        ({"estimated_cost": None, "cost": 0.2}, 200_000_000, "server"),
        ({"estimated_cost": "abc", "cost": 0.2}, 200_000_000, "server"),
        ({"cost": "abc"}, 300_000_000, "server"),
        ({}, 300_000_000, "server"),
    ):
        _, cost, _ = usage_of({**fields, **tokens}, price=PRICE, **header)
        assert cost == Cost(nanousd=nanousd, source="server"), source
    for nothing in ("", "None"):
        assert usage_of(tokens, price=PRICE, x_litellm_response_cost=nothing)[1:] == (
            Cost(nanousd=162_360, source="price"),
            [],
        )
    _, cost, flags = usage_of(
        {**tokens, "cost": "abc", "estimated_cost": "x"}, price=PRICE, x_litellm_response_cost="?"
    )
    assert (cost, flags) == (Cost(nanousd=162_360, source="price"), ["cost_unparsable"])


def test_a_missing_usage_is_unknown_not_zero() -> None:
    reply = read(body(usage=None), price=PRICE)
    assert (reply.usage, reply.cost, reply.flags) == (Usage(), None, ("usage_missing",))
    assert read(body(usage=None), x_litellm_response_cost="0.1").cost == Cost(nanousd=100_000_000, source="server")


def test_salvage_finds_what_a_useless_reply_cost() -> None:
    useless = json.dumps({"choices": [], "usage": REFERENCE["usage"]}).encode()
    usage, cost = reader().salvage(useless, {})
    assert (usage.completion_tokens, cost) == (536, Cost(nanousd=162_360, source="server"))
    for nothing in (b"", b"<html>", b"[" * 100_000, b"[]", b"{}", b"\xff"):
        assert reader().salvage(nothing, {}) == (Usage(), None)
        assert reader().salvage(nothing, {"x-litellm-response-cost": "1"})[1] == Cost(nanousd=10**9, source="server")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["content", "text", "type"]), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = {
    "choices": JSON
    | st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "index": JSON,
                "finish_reason": JSON,
                "error": JSON,
                "message": JSON
                | st.fixed_dictionaries(
                    {},
                    optional=dict.fromkeys(
                        ["content", "reasoning", "reasoning_details", "refusal", "tool_calls", "function_call"], JSON
                    ),
                ),
            },
        ),
        max_size=2,
    ),
    "usage": JSON
    | st.fixed_dictionaries(
        {}, optional=dict.fromkeys(["prompt_tokens", "completion_tokens", "cost", "estimated_cost"], JSON)
    ),
    **dict.fromkeys(["id", "model", "error", "object", "service_tier", "x_groq", "timings"], JSON),
}


@given(st.fixed_dictionaries({}, optional=FIELDS), st.binary(max_size=3), st.integers(0, 400))
def test_any_body_is_a_reply_or_one_kind_of_trouble(tree: dict[str, object], junk: bytes, cut: int) -> None:
    data = json.dumps(tree).encode()
    for given_body in (data, data + junk, junk + data, data[:cut]):
        try:
            reply = reader().read(given_body, {}, ask=b'{"service_tier":"flex"}')
        except UnusableReplyError as error:
            assert str(error)  # noqa: PT017 - both ways are right
        else:
            msgspec.json.encode(reply)
        reader().salvage(given_body, {})


@pytest.mark.parametrize(
    ("text", "nanousd"),
    [
        ("0.00016236", 162_360),
        ("16236e-8", 162_360),
        ("0.0000000005", 0),
        ("0.0000000015", 2),
        ("0.00000000049999999999999999999", 0),
        ("0.00000000050000000000000000001", 1),
        ("0.30000000000000004", 300_000_000),
        ("1000000.0000000005", 1_000_000_000_000_000),
    ],
)
def test_a_cost_is_exact_as_it_is_written(text: str, nanousd: int) -> None:
    """Also where the nearest double stands on the other side of half a nano-USD, or on it."""
    usage, cost, flags = usage_of(f'{{"prompt_tokens":1,"completion_tokens":1,"estimated_cost":{text}}}')
    assert (cost, flags) == (Cost(nanousd=nanousd, source="server"), [])
    assert usage.total_tokens == 2


def test_a_usual_reply_takes_few_functions() -> None:
    """Each is called once a row: what is odd may cost more, what nearly every reply is may not."""
    called: list[str] = []
    replies = reader()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and "batchrun" in frame.f_code.co_filename:
            called.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        replies.read(GOOD, {})
    finally:
        sys.setprofile(before)
    assert called == ["read", "decode_body", "read_usage", "json_text", "nanousd_of_double"]
