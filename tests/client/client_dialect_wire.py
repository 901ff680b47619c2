"""Broken HTTP (PROTOCOL.md 2.2 #19), the body grammar (2.4) and what 2.1 says of the reply record, on the wire."""

from __future__ import annotations

import gzip
import json
import zlib
from typing import Any

from client_dialect import ECHO, FINE, Case, Wire, error, failed, ok, reply, stop, useless
from client_replies import GOOD, MODEL, REFERENCE, body

RULES = (
    "accept-encoding",
    "gzip",
    "deflate",
    "decompressed cap",
    "UTF-8 with replacement",
    "BOM",
    "leading blanks",
    "one JSON value",
    "[DONE]",
    "content type",
    "duplicate keys",
    "NaN and Infinity",
    "lone surrogate",
    "surrogate pair",
    "NUL",
)
TEXT = "reply.text"
BILLED = ("maybe_billed",)
REF = "Jalapeño."
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = (
    HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (GOOD[:7], GOOD[7:]))
)
USAGE = {"prompt_tokens": 10, "completion_tokens": 1, "total_tokens": 11}


def bomb(size_mib: int) -> bytes:
    """A gzip stream of so many MiB of blanks; its end does not matter."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    block = packer.compress(b" " * (1 << 20)) + packer.flush(zlib.Z_SYNC_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + block * size_mib


def raw(data: bytes, then: Any = "close") -> Wire:
    return Wire(raw=data, then=then)


def cut(case_id: str, wire: Wire, **more: Any) -> Case:
    """Sent, and no whole reply: once more at most, and it may have been billed."""
    return failed(f"2.2 #19 {case_id}", more.pop("error_class", "disconnected"), wire, sent=2, flags=BILLED, **more)


def text(case_id: str, data: bytes, content: str | None, *flags: str, headers: tuple[str, ...] = ()) -> Case:
    wire = reply("200 OK", None, *headers, body=data)
    return ok(f"2.4 {case_id}", wire, has={TEXT: content}, flags=flags)


def content(inner: bytes) -> bytes:
    return b'{"choices":[{"message":{"content":"' + inner + b'"},"finish_reason":"stop"}],"usage":{}}'


def cached(case_id: str, tokens: int | None, *, usage: dict[str, object] | None = None, **fields: object) -> Case:
    wire = reply("200 OK", body=body(usage={**USAGE, **(usage or {})}, **fields))
    return ok(f"2.1 cached_tokens: {case_id}", wire, has={"reply.usage.cached_tokens": tokens})


def tier(case_id: str, asked: object, used: object, *flags: str) -> Case:
    wire = reply("200 OK", body=body(service_tier=used))
    return ok(f"2.1 service_tier: {case_id}", wire, ask={} if asked is None else {"service_tier": asked}, flags=flags)


def told(case_id: str, message: str, tree: object = None, data: bytes | None = None) -> Case:
    """Where the message of an error stands, in the order of PROTOCOL.md 2.1."""
    return failed(f"2.1 error: {case_id}", "rejected", reply("400 Bad", tree, body=data), says=(message,))


def named(case_id: str, shown: str, *headers: str, status: str = "400 Bad", **fields: object) -> Case:
    wire = reply(status, {"error": {"message": "m"}, **fields}, *headers)
    return failed(f"2.1 request id: {case_id}", "rejected", wire, says=(shown,))


CASES: list[Case] = [
    cut("closed without a word", raw(b"")),
    cut("reset without a word", raw(b"", "reset")),
    cut("reset in the body", Wire(body=GOOD, cut=10, then="reset")),
    cut("silence", raw(b"", "hang"), error_class="timeout", timeout_s=0.1, says=("0.1 s",)),
    cut("silence in the body", Wire(body=GOOD, cut=9, then="hang"), error_class="timeout", timeout_s=0.1),
    cut("shorter than its length", Wire(body=GOOD, cut=9, then="close")),
    cut("a head that is cut", raw(HEAD + b"Content-Le")),
    cut("chunks without the last", raw(CHUNKED)),
    cut("a chunk that is cut", raw(CHUNKED[:-60])),
    cut("a chunk without a size", raw(CHUNKED + b"zz\r\n")),
    cut("no HTTP at all", raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")),
    cut("no status", raw(f"HTTP/1.1 {ECHO} OK\r\n\r\n".encode())),
    cut("a negative length", raw(HEAD + b"Content-Length: -1\r\n\r\n")),
    cut("a header bomb of one line", raw(HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n")),
    cut("a header bomb of many lines", raw(HEAD + b"X: x\r\n" * 10_000 + b"\r\n")),
    cut("gzip that is none", reply("200 OK", None, "Content-Encoding: gzip", body=GOOD)),
    cut("an encoding that was not offered", reply("200 OK", None, "Content-Encoding: br", body=GOOD)),
    ok("2.1 http_status: that of the last head", raw(b"HTTP/1.1 103 Early\r\n\r\n" + FINE.data())),
    ok("2.2 #19 a cut that passes", Wire(body=GOOD, cut=9, then="close"), FINE, flags=BILLED, wait_s=(0.25, 1.3)),
    cut("no budget for it", raw(b""), limits={"max_ambiguous_attempts": 1, "max_attempts": 9}),
    cut("longer than its length", raw(HEAD + b"Content-Length: 10\r\n\r\n" + GOOD)),
    useless(
        "2.2 #20 gzip that is cut by its own length",
        reply("200 OK", None, "Content-Encoding: gzip", body=gzip.compress(GOOD)[:-20]),
    ),
    ok("2.4 accept-encoding", FINE),
    text("gzip", gzip.compress(GOOD), REF, headers=("Content-Encoding: gzip",)),
    text("deflate", zlib.compress(GOOD), REF, headers=("Content-Encoding: deflate",)),
    useless(
        "2.4 decompressed cap",
        reply("200 OK", None, "Content-Encoding: gzip", body=bomb(65)),
        limits={"max_ambiguous_attempts": 0},
        sent=1,
        says=("64 MiB",),
    ),
    text("UTF-8 with replacement", content(b"a\xffb"), "a\ufffdb", "text_replaced"),
    text("UTF-8 with replacement: whatever the charset says", GOOD, REF, headers=("Content-Type: x; charset=latin-1",)),
    text("BOM", b"\xef\xbb\xbf" + GOOD, REF, "leading_junk"),
    useless("2.4 BOM: two of them", reply("200 OK", body=b"\xef\xbb\xbf" * 2 + GOOD), after=True),
    text("leading blanks: a gateway keeps alive", b" \n\r\n\t " * 50 + GOOD, REF),
    text("one JSON value: blanks after it", GOOD + b"\r\n \t", REF),
    *(
        useless(f"2.4 one JSON value: followed by {name}", reply("200 OK", body=GOOD + junk))
        for name, junk in (("a page", b"<html>"), ("another", GOOD), ("NUL", b"\0"), ("a form feed", b"\f"))
    ),
    text("[DONE]", GOOD + b"\n\ndata: [DONE]\n\n", REF, "trailing_junk"),
    text("[DONE]: without the blank", GOOD + b"data:[DONE]", REF, "trailing_junk"),
    *(
        text(f"content type: {kind}", GOOD, REF, headers=(f"Content-Type: {kind}",))
        for kind in ("text/html", "text/event-stream; charset=utf-8", "", "nonsense")
    ),
    text("duplicate keys", b'{"choices":[],' + content(b"a")[1:-1] + b',"choices":[{"message":{"content":"b"}}]}', "b"),
    *(
        text(f"NaN and Infinity: {word}", content(b"x")[:-1] + b',"score":' + word.encode() + b"}", "x", "nan")
        for word in ("NaN", "Infinity", "-Infinity")
    ),
    text("lone surrogate", content(b"a\\ud800b"), "a\ufffdb", "text_replaced"),
    text("surrogate pair", content(b"\\ud83d\\ude00"), "\U0001f600"),
    text("NUL", content(b"a\\u0000b"), "a\0b"),
    cached(
        "prompt_tokens_details first", 4, usage={"prompt_tokens_details": {"cached_tokens": 4}, "num_cached_tokens": 9}
    ),
    cached(
        "prompt_token_details second",
        5,
        usage={"prompt_tokens_details": {"audio_tokens": 0}, "prompt_token_details": {"cached_tokens": 5}},
    ),
    cached("num_cached_tokens third", 6, usage={"num_cached_tokens": 6, "prompt_cache_hit_tokens": 9}),
    cached("prompt_cache_hit_tokens fourth", 7, usage={"prompt_cache_hit_tokens": 7}, timings={"cache_n": 9}),
    cached("x_groq.usage fifth", 5, x_groq={"usage": {"dram_cached_tokens": 2, "sram_cached_tokens": 3}}),
    cached("x_groq.usage before timings", 0, x_groq={"usage": {"sram_cached_tokens": 0}}, timings={"cache_n": 8}),
    cached("timings.cache_n last", 8, timings={"cache_n": 8, "prompt_n": 2}, x_groq={"id": "req_1"}),
    cached("nowhere", None),
    tier("the one asked for", "priority", "priority"),
    tier("another one", "priority", "default", "tier_downgraded"),
    tier("none for flex", "flex", "standard", "tier_downgraded"),
    tier("auto takes any", "auto", "default"),
    tier("default has many names", "default", "on_demand"),
    tier("not echoed", "priority", None),
    tier("not asked for", None, "default"),
    ok("2.1 model: another answers", reply("200 OK", body=body(model="other")), flags=("model_mismatch",)),
    ok("2.1 model: the row's own", reply("200 OK", body=body(model="other")), ask={"model": "other"}),
    ok("2.1 model: the row's own, not answered", FINE, ask={"model": "other"}, flags=("model_mismatch",)),
    ok("2.1 model: none", reply("200 OK", body=body(model=None))),
    ok(
        "2.1 finish_reason in capitals",
        reply("200 OK", body=body(finish="STOP")),
        has={"reply.finish_reason": "stop"},
    ),
    ok("2.1 finish_reason unknown", reply("200 OK", body=body(finish="novel")), flags=("unknown_finish_reason",)),
    ok(
        "2.1 tool_calls in the older form",
        reply("200 OK", body=body({"content": None, "function_call": {"name": "f"}}, finish="function_call")),
        has={"reply.tool_calls": '[{"type":"function","function":{"name": "f"}}]', "reply.finish_reason": "tool_calls"},
    ),
    ok(
        "2.1 reasoning: details before thinking",
        reply(
            "200 OK",
            body=body({"content": [{"type": "thinking", "thinking": "t"}, "x"], "reasoning_details": [{"text": "d"}]}),
        ),
        has={"reply.reasoning": "d", TEXT: "x"},
    ),
    told("error.message", "HTTP 400: m", {"error": {"message": "m"}, "message": "n", "detail": "o"}),
    told("error.message that is an object", "HTTP 400: m", {"error": {"message": {"message": "m"}}}),
    told("error that is a text", "HTTP 400: m", {"error": "m", "message": "n"}),
    told("an empty error is none", "HTTP 400: n", {"error": "", "message": "n"}),
    told("the first error of an array", "HTTP 400: m", [{}, {"error": {"message": "m"}}, {"error": {"message": "n"}}]),
    told("a flat message", "HTTP 400 c: m", {"object": "error", "message": "m", "code": "c", "detail": "n"}),
    told("a message that is an object", "body.x: wrong", {"object": "error", "message": {"detail": "body.x: wrong"}}),
    told("detail that is a text", "HTTP 400: m", {"detail": "m"}),
    told("detail that is a list", "HTTP 400: body.0: m; n", {"detail": [{"loc": ["body", 0], "msg": "m"}, "n"]}),
    told("detail.error", "HTTP 400: m", {"detail": {"error": "m", "message": "n"}}),
    told("detail.error that is an object", "HTTP 400 c: m", {"detail": {"error": {"message": "m", "code": "c"}}}),
    told("detail.message", "HTTP 400: m", {"detail": {"message": "m"}}),
    told("no JSON", "HTTP 400: <html>no", data=b"<html>\n\x00no"),
    told("JSON with a BOM", "HTTP 400: m", data=b'\xef\xbb\xbf{"error":"m"}'),
    told("JSON with a lone surrogate", "HTTP 400 c: m", data=b'{"error":{"message":"m\\ud83d","code":"c"}}'),
    told("JSON that is no UTF-8", "HTTP 400 c: m", data=b'{"error":{"message":"m\xff","code":"c"}}'),
    told("JSON as an event", "HTTP 400: m", data=b'data: {"error":{"message":"m"}}\n\ndata: [DONE]'),
    told("nothing", "HTTP 400", data=b""),
    named("first of five", "[request r1]", "x-request-id: r1", "x-generation-id: r2", "cf-ray: r6"),
    named("OpenRouter", "[request gen-2]", "X-Generation-Id: gen-2", "x-litellm-call-id: r3"),
    named("LiteLLM", "[request r3]", "x-litellm-call-id: r3", "apim-request-id: r4"),
    named("Azure", "[request r4]", "apim-request-id: r4", x_groq={"id": "req_5"}),
    named("Groq, in the body", "[request req_5]", "cf-ray: r6", x_groq={"id": "req_5"}),
    named("Cloudflare", "[request 8f-FRA]", "cf-ray: 8f-FRA"),
    named("nonsense is none", "HTTP 400: m", "x-request-id: <script>"),
    stop("2.1 request id where the run ends", error("401 No", "x-request-id: r1"), says=("(key from", "[request r1]")),
    useless(
        "2.1 request id of a useless success",
        reply("200 OK", {"choices": []}, "x-request-id: r1"),
        says=("[request r1]",),
    ),
    failed("2.1 message cut to 2,000", "rejected", error("400 Bad", message="x y " * 5000), says=("x y " * 400,)),
    ok(
        "2.1 the reference reply",
        FINE,
        has={
            TEXT: REF,
            "reply.model": MODEL,
            "reply.response_id": REFERENCE["id"],
            "account.cost_nanousd": 162_360,
            "account.cost_source": "server",
            "reply.usage.raw": json.dumps(REFERENCE["usage"]),
        },
    ),
]
