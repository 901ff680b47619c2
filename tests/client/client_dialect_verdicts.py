"""Every line of PROTOCOL.md 2.2 as replies on the wire, with the bodies of 1D; the line's number stands in the id."""

from __future__ import annotations

from client_dialect import ECHO, FINE, HTML, Case, Wire, error, failed, ok, pending, refused, reply, stop, useless
from client_replies import GOOD, MODEL, REFERENCE, body

QUOTA = ("insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded")
QUOTA += ("project_spend_limit_exceeded", "organization_usage_limit_exceeded", "billing_hard_limit_reached")
QUOTA += ("budget_exceeded",)
ONCE_S, BACKOFF_S, BUSY_S = (1.0, 1.25), (0.25, 1.3), (1.0, 2.1)
NO_KEY = ("NO_SUCH_KEY",)
TOO_LONG = "This model's maximum context length is 8192 tokens"
BUSY = {
    "message": "Model busy, retry later",
    "type": "invalid_request_error",
    "param": None,
    "code": "engine_overloaded",
}
NESTED = '{"error":{"message":"' + TOO_LONG + '"}}'
GEMINI_QUOTA = {
    "code": 429,
    "message": "You exceeded your current quota",
    "status": "RESOURCE_EXHAUSTED",
    "details": [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaValue": "0"}]}],
}
GEMINI_FREE = [{"error": {"code": 429, "message": "* Quota exceeded for metric: x, limit: 0, model: gemini\nPlease"}}]
CREDIT = {"error": {"message": "Insufficient credits", "code": 402}}
MODERATED = {
    "code": 403,
    "message": "Your input was refused",
    "metadata": {"reasons": ["violence"], "flagged_input": ECHO, "provider_name": "x"},
}
AZURE_FILTER = {
    "code": "content_filter",
    "message": "The response was filtered",
    "param": "prompt",
    "type": None,
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
}
BROKEN = [
    ("nothing", b""),
    ("only blanks", b" \r\n\t"),
    ("cut by its own text", GOOD[:-30]),
    ("two values", GOOD + GOOD),
    ("no object", b"[1, 2]"),
    ("too deep", b'{"choices":' + b"[" * 100_000),
]
AFTER = {"after": True}


def inside(tree: object) -> Wire:
    return reply("200 OK", tree)


def chosen(**choice: object) -> Wire:
    return reply("200 OK", body=body(choices=[{"index": 0, "message": {"content": "x"}, **choice}]))


CASES: list[Case] = [
    failed("2.2 #1 x-should-retry: false on a 500", "server", error("500 Oops", "x-should-retry: false")),
    failed("2.2 #1 x-should-retry: false on a 429", "rate_limited", error("429 Slow", "X-Should-Retry: false")),
    stop("2.2 #1 x-should-retry: false on a 401", error("401 No", "x-should-retry: false"), says=NO_KEY, **AFTER),
    failed("2.2 #1 x-should-retry: true on a 400", "server", error("400 Bad", "x-should-retry: true"), sent=5),
    ok("2.2 #1 x-should-retry: true on a 403", error("403 No", "x-should-retry: TRUE"), FINE, wait_s=BACKOFF_S),
    pending("2.2 #1 x-should-retry: true on a 429", error("429 Slow", "x-should-retry: true"), wait_s=BUSY_S),
    failed("2.2 #1 x-should-retry: maybe", "rejected", error("400 Bad", "x-should-retry: maybe")),
    *(
        stop(f"2.2 #2 {status} {code}", error(status, code=code), says=(code, "no credit?"))
        for code in QUOTA
        for status in ("429 Slow", "403 No")
    ),
    stop("2.2 #2 OpenAI", error("429 Slow", type="insufficient_quota", code=None, param=None), **AFTER),
    stop("2.2 #2 LiteLLM", error("400 Bad", type="budget_exceeded", code="400", message="Budget has been exceeded")),
    stop("2.2 #2 inside a 200", inside({"error": {"message": "m", "code": "insufficient_quota"}})),
    pending("2.2 #3 402 with Retry-After", error("402 Pay", "Retry-After: 40"), sent=1, pause_s=40),
    ok("2.2 #3 402 that passes", error("402 Pay", "Retry-After: 0.01"), FINE),
    pending(
        "2.2 #3 402 of an in-flight budget",
        error("402 Pay", code=402, metadata={"limit_source": "openrouter_in_flight_budget"}),
        wait_s=BUSY_S,
    ),
    stop("2.2 #4 402 DeepInfra", reply("402 Pay", {"detail": {"error": f"add credit {ECHO}"}}), says=("add credit",)),
    stop("2.2 #4 402 without a body", reply("402 Pay"), says=("HTTP 402", "no credit?")),
    stop("2.2 #4 402 whose text names a time", error("402 Pay", message="retry in 5 seconds, or pay"), **AFTER),
    stop("2.2 #4 402 OpenRouter", reply("402 Pay", CREDIT)),
    stop("2.2 #4 412 suspended", error("412 No", message="Account is suspended"), says=("suspended",)),
    failed("2.2 #4 412 for another reason", "rejected", error("412 No", message="precondition")),
    stop("2.2 #5 401 before a success", error("401 No", message=f"Incorrect API key: {ECHO}"), says=NO_KEY),
    stop("2.2 #5 401 DeepInfra", error("401 No", message="Not authenticated", code=None), says=NO_KEY),
    stop("2.2 #5 LiteLLM without a database", error("400 Bad", type="no_db_connection", code="400"), says=NO_KEY),
    stop("2.2 #5 401 TGI, an empty body", reply("401 No"), says=NO_KEY),
    stop("2.2 #5 401 after a success", error("401 No"), sent=2, wait_s=(1.0, 1.2), says=NO_KEY, **AFTER),
    ok("2.2 #5 401 that passes", error("401 No"), FINE, wait_s=(1.0, 1.2), **AFTER),
    stop("2.2 #5 401 after another trouble of the row", error("404 No"), error("401 No"), sent=3, **AFTER),
    refused("2.2 #6 403 OpenRouter", reply("403 No", {"error": MODERATED})),
    refused("2.2 #6 403 guardrail", error("403 No", message=f"Blocked by a Guardrail: {ECHO}"), **AFTER),
    refused("2.2 #6 403 content policy", error("403 No", code="content_policy_violation")),
    stop("2.2 #7 403 before a success", error("403 No", message="region not supported"), says=("region", *NO_KEY)),
    failed("2.2 #7 403 after a success", "rejected", error("403 No", message="not you"), says=("not you",), **AFTER),
    stop("2.2 #8 404 before a success", error("404 No", message="model unknown"), says=("unknown", "request.model?")),
    stop("2.2 #8 404 Azure", error("404 No", code="DeploymentNotFound"), says=("DeploymentNotFound",)),
    stop("2.2 #8 405 with an empty body", reply("405 No"), says=("HTTP 405", "endpoint.base_url")),
    failed("2.2 #8 404 after a success", "rejected", error("404 No"), sent=2, wait_s=BACKOFF_S, **AFTER),
    failed("2.2 #8 405 after a success", "rejected", reply("405 No"), sent=2, **AFTER),
    ok("2.2 #8 404 that passes", error("404 No"), FINE, **AFTER),
    *(
        failed(f"2.2 #9 text under {status}", "context_overflow", error(f"{status} Bad", message=f"{TOO_LONG} {ECHO}"))
        for status in (400, 413, 422, 500)
    ),
    *(
        failed(f"2.2 #9 {text}", "context_overflow", error("400 Bad", message=text))
        for text in (
            "Requested input length 9000 exceeds maximum input length 8191",
            "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
            "the input length exceeds the context length",
            "prompt is too long: 214850 tokens > 200000 maximum",
            "The input token count (1100000) exceeds the maximum number of tokens allowed (1048575).",
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096",
            "litellm.ContextWindowExceededError: x",
        )
    ),
    failed("2.2 #9 OpenAI", "context_overflow", error("400 Bad", code="context_length_exceeded", message="m")),
    failed(
        "2.2 #9 llama.cpp",
        "context_overflow",
        error("400 Bad", code=400, type="exceed_context_size_error", n_prompt_tokens=9, n_ctx=8),
    ),
    failed("2.2 #9 SGLang, flat", "context_overflow", reply("400 Bad", {"object": "error", "message": TOO_LONG})),
    failed(
        "2.2 #9 OpenRouter, from the server behind it",
        "context_overflow",
        error("400 Bad", code=400, message="Provider returned error", metadata={"raw": NESTED}),
        says=("Provider returned error", TOO_LONG),
    ),
    failed(
        "2.2 #9 llama.cpp's full pool is none",
        "server",
        error("500 Oops", message="Context size has been exceeded."),
        sent=5,
    ),
    refused("2.2 #10 400 Azure", reply("400 Bad", {"error": AZURE_FILTER})),
    refused("2.2 #10 400 content_policy_violation", error("400 Bad", type="content_policy_violation")),
    refused("2.2 #10 400 refusal", error("400 Bad", code="refusal")),
    refused("2.2 #10 inside a 200", inside({"error": {"code": 400, "metadata": {"error_type": "refusal"}}})),
    ok("2.2 #11 retryable", error("400 Bad", availability={"retryable": True, "retry_after": 0.01}), FINE),
    failed("2.2 #11 retryable, in vain", "server", error("400 Bad", availability={"retryable": True}), sent=5),
    pending("2.2 #11 retryable 429", error("429 Slow", availability={"retryable": True}), wait_s=BUSY_S),
    failed("2.2 #11 not retryable", "rejected", error("503 Oops", availability={"retryable": False, "code": "x"})),
    pending("2.2 #12 429 DeepInfra", reply("429 Slow", {"error": BUSY}), wait_s=BUSY_S),
    pending("2.2 #12 498 Groq", error("498 Full", code="capacity_exceeded"), wait_s=BUSY_S),
    pending("2.2 #12 498 pauses no lane", error("498 Full", "Retry-After: 40"), sent=1, wait_s=(40, 48)),
    failed("2.2 #12 503 overloaded", "server", error("503 Oops", message="overloaded"), sent=5, wait_s=BACKOFF_S),
    failed("2.2 #12 503 slow_down", "server", error("503 Oops", code="slow_down"), sent=5),
    failed("2.2 #12 529", "server", reply("529 Full"), sent=5),
    ok("2.2 #12 503 SGLang's full queue", reply("503 Oops", {"object": "error", "message": "The queue is full"}), FINE),
    pending("2.2 #13 429 DeepInfra", reply("429 Slow", {"error": "Rate limited"}), wait_s=BUSY_S),
    pending("2.2 #13 429 with a hint", error("429 Slow", "Retry-After: 40"), sent=1, pause_s=40, wait_s=(40, 48)),
    pending("2.2 #13 429 busy with a hint", reply("429 Slow", {"error": BUSY}, "Retry-After: 40"), sent=1, pause_s=40),
    ok("2.2 #13 429 spends no tries", *[error("429 Slow", "Retry-After: 0.01")] * 7, FINE),
    pending("2.2 #13 429 nginx", reply("429 Slow", body=HTML), wait_s=BUSY_S),
    pending(
        "2.2 #13 429 LiteLLM", error("429 Slow", code="429", type=None, message="OpenAIException - no deployments")
    ),
    pending("2.2 #13 429 Together", error("429 Slow", error_type="dynamic_request_limited"), sent=2),
    pending("2.2 #13 429 TGI", reply("429 Slow", {"error": "Model is overloaded", "error_type": "overloaded"})),
    pending(
        "2.2 #13 429 Mistral, flat", reply("429 Slow", {"object": "error", "message": "no", "code": "1300"}), sent=2
    ),
    failed(
        "2.2 #13 429 spends the row's time",
        "rate_limited",
        error("429 Slow", "Retry-After: 40"),
        limits={"max_row_time_s": 30.0},
        pause_s=40,
    ),
    stop("2.2 #14 429 Gemini, limit: 0", reply("429 Slow", GEMINI_FREE), says=("limit: 0",)),
    stop("2.2 #14 429 Gemini, quotaValue 0", reply("429 Slow", [{"error": GEMINI_QUOTA}]), **AFTER),
    pending("2.2 #14 429 limit: 0.5", error("429 Slow", message="limit: 0.5 a second")),
    pending("2.2 #14 429 limit: 05", error("429 Slow", message="limit: 05")),
    stop("2.2 #14 429 for too long", error("429 Slow", "Retry-After: 4000"), says=("4000 s", "until 20", "UTC", "300")),
    stop("2.2 #14 503 for too long", error("503 Oops", "Retry-After: 301"), says=("301 s",), **AFTER),
    failed("2.2 #15 400 vLLM", "rejected", error("400 Bad", code=400, type="BadRequestError"), **AFTER),
    failed("2.2 #15 400 Ollama", "rejected", error("400 Bad", code=None, type="invalid_request_error")),
    failed(
        "2.2 #15 400 quotes the prompt", "rejected", error("400 Bad", message=f"invalid: {ECHO}"), says=("invalid",)
    ),
    failed("2.2 #15 400 quotes it without an envelope", "rejected", reply("400 Bad", body=HTML), says=("Bad Gateway",)),
    failed(
        "2.2 #15 422 DeepInfra",
        "rejected",
        error("422 Bad", param="messages.0.role", message=f"Input should be 'user' {ECHO}"),
    ),
    failed(
        "2.2 #15 422 FastAPI",
        "rejected",
        reply("422 Bad", {"detail": [{"loc": ["body", "messages", 0], "msg": f"wrong {ECHO}", "type": "missing"}]}),
        says=("HTTP 422: body.messages.0: wrong",),
    ),
    failed("2.2 #15 422 TGI", "rejected", reply("422 Bad", {"error": "bad template", "error_type": "template_error"})),
    failed("2.2 #15 422 Groq", "rejected", error("422 Bad", "x-groq-region: fra"), sent=2),
    failed("2.2 #15 400 Groq's tool use", "rejected", error("400 Bad", failed_generation=ECHO), sent=2),
    failed("2.2 #15 400 vLLM's engine", "rejected", error("400 Bad", type="InternalServerError"), sent=2),
    *(
        failed(f"2.2 #16 {status}", "server", reply(f"{status} Oops", body=HTML), sent=5, wait_s=BACKOFF_S)
        for status in (408, 409, 425, 500, 502, 503, 520, 521, 522, 523, 530)
    ),
    failed("2.2 #16 500 Ollama", "server", reply("500 Oops", {"error": "the runner stopped"}), sent=5),
    failed("2.2 #16 503 llama.cpp loads", "server", error("503 Oops", type="unavailable_error", code=503), sent=5),
    failed("2.2 #16 502 with an empty body", "server", reply("502 Oops"), sent=5, says=("HTTP 502",)),
    failed(
        "2.2 #16 424 TGI",
        "server",
        reply("424 Oops", {"error": "CUDA", "error_type": "generation"}),
        sent=5,
    ),
    failed("2.2 #16 424 of another server", "rejected", error("424 Oops")),
    *(
        failed(
            f"2.2 #16 {status} again and again",
            "server",
            reply(f"{status} Slow", body=HTML),
            sent=5,
            flags=("maybe_billed", "gateway_timeouts"),
            says=("use streaming or lower max_tokens",),
        )
        for status in (504, 524)
    ),
    ok("2.2 #16 504 once", reply("504 Slow"), FINE, flags=("maybe_billed",)),
    ok("2.2 #16 504 twice", reply("504 Slow"), reply("504 Slow"), FINE, flags=("maybe_billed", "gateway_timeouts")),
    ok("2.2 #16 504 inside a 200", inside({"error": {"code": 504}}), FINE, flags=("maybe_billed",)),
    *(stop(f"2.2 #17 {status}", reply(f"{status} No"), says=(f"HTTP {status}", "base_url")) for status in (501, 505)),
    *(
        stop(
            f"2.2 #17 {status} to another host",
            reply(f"{status} Moved", None, f"Location: https://me:{ECHO}@elsewhere.example/v2?key={ECHO}"),
            says=(f"HTTP {status}, a redirect to https://elsewhere.example (",),
        )
        for status in (301, 302, 303, 307, 308)
    ),
    stop("2.2 #17 302 to another path", reply("302 Moved", None, "Location: /login"), says=("same server",), **AFTER),
    stop("2.2 #17 302 to a key", reply("302 Moved", None, f"Location: http://{ECHO}/")),
    stop("2.2 #17 302 to no URL", reply("302 Moved", None, "Location: http://[")),
    stop("2.2 #17 304 to nowhere", reply("304 Same")),
    Case(
        id="2.2 #18 nobody listens",
        at="closed port",
        ends="failed",
        error_class="connect",
        sent=0,
        has={"account.attempts": 5},
        says=("refused",),
        wait_s=BACKOFF_S,
    ),
    Case(id="2.2 #18 no such host", at="no host", ends="stop", sent=0, says=("host",)),
    Case(
        id="2.2 #18 no such host after a success",
        at="no host",
        after=True,
        ends="failed",
        error_class="connect",
        sent=0,
        has={"account.attempts": 5},
    ),
    Case(id="2.2 #18 TLS that is none", at="plain http", ends="stop", sent=0, says=("TLS failed",)),
    Case(
        id="2.2 #18 TLS that is none after a success",
        at="plain http",
        after=True,
        ends="failed",
        error_class="connect",
        sent=0,
        has={"account.attempts": 5},
    ),
    useless("2.2 #20 a page after a success", reply("200 OK", body=HTML), **AFTER),
    stop("2.2 #20 a page before a success", reply("200 OK", body=HTML), says=("not JSON", "base_url?")),
    stop("2.2 #20 plain text before a success", reply("200 OK", body=b"upstream is fine")),
    stop("2.2 #20 a JSON string before a success", reply("200 OK", body=b'"fine"')),
    *(useless(f"2.2 #20 {name}", reply("200 OK", body=data), wait_s=BACKOFF_S) for name, data in BROKEN),
    useless("2.2 #20 a 204", Wire(raw=b"HTTP/1.1 204 Nothing\r\n\r\n")),
    ok("2.2 #20 twice broken, then whole", reply("200 OK"), reply("200 OK"), FINE, flags=("maybe_billed",)),
    useless(
        "2.2 #20 tries are counted apart from those of #8",
        *[error("404 No"), reply("200 OK")],
        sent=4,
        **AFTER,
    ),
    useless("2.2 #20 tries end with the row's", *[error("500 No")] * 3, reply("200 OK"), sent=5),
    pending("2.2 #21 an int code", inside({"error": {"code": 429, "message": "busy"}})),
    pending("2.2 #21 a digit string", inside({"error": {"code": "429", "message": "no"}}), wait_s=BUSY_S),
    pending(
        "2.2 #21 a hint beside it", reply("200 OK", {"error": {"code": 429}}, "Retry-After: 40"), sent=1, pause_s=40
    ),
    failed("2.2 #21 no code", "server", inside({"error": {"message": ECHO}}), sent=5, says=("HTTP 200 with error",)),
    failed("2.2 #21 a text", "server", inside({"error": f"it broke {ECHO}"}), sent=5, says=("it broke",)),
    failed("2.2 #21 OpenRouter's choice", "server", chosen(error={"code": 502, "message": "no"}), sent=5),
    failed("2.2 #21 OpenRouter's choice, for good", "rejected", chosen(error={"code": 400, "message": "no"})),
    pending("2.2 #21 error_type rate_limit_exceeded", inside({"error": {"error_type": "rate_limit_exceeded"}})),
    failed(
        "2.2 #21 error_type invalid_prompt", "rejected", chosen(error={"metadata": {"error_type": "invalid_prompt"}})
    ),
    failed("2.2 #21 http_status", "rejected", inside({"error": {"message": "m", "http_status": 400}})),
    failed("2.2 #21 TGI", "server", inside({"error": "m", "error_type": "overloaded"}), sent=5),
    failed(
        "2.2 #21 flat", "rejected", inside({"object": "error", "message": f"bad {ECHO}", "code": 400}), says=("bad",)
    ),
    failed("2.2 #21 Gemini's array", "rejected", inside([{"error": {"code": 400, "message": "no", "status": "X"}}])),
    pending("2.2 #21 Gemini's status", inside([{"error": {"status": "RESOURCE_EXHAUSTED"}}])),
    failed("2.2 #21 context overflow", "context_overflow", inside({"error": {"code": "context_length_exceeded"}})),
    failed("2.2 #21 a lying type", "server", inside({"error": {"type": "invalid_request_error"}}), sent=5),
    stop("2.2 #21 401 inside", inside({"error": {"code": 401, "message": ECHO}}), says=("with error 401", *NO_KEY)),
    *(
        failed(f"2.2 #21 finish_reason {reason}", "server", chosen(finish_reason=reason), sent=5, says=(reason,))
        for reason in ("error", "abort", "insufficient_system_resource")
    ),
    ok("2.2 #21 finish_reason abort that passes", chosen(finish_reason="abort"), FINE),
    *(
        useless(f"2.2 #22 {name}", inside(tree), says=("empty_choices",))
        for name, tree in (
            ("no choices", {"id": ECHO}),
            ("choices null", {"choices": None}),
            ("choices []", {"choices": []}),
            ("choices {}", {"choices": {}}),
        )
    ),
    useless(
        "2.2 #22 what it cost is kept",
        inside({"choices": [], "usage": REFERENCE["usage"]}),
        flags=(),
        has={"account.cost_nanousd": 3 * 162_360, "usage.completion_tokens": 536},
    ),
    refused("2.2 #22b content_filter", chosen(finish_reason="content_filter", message={})),
    Case(
        id="2.2 #22b a refusal",
        wires=(chosen(message={"content": None, "refusal": "I can't"}),),
        ends="refused",
        has={"reply.text": "I can't"},
    ),
    Case(id="2.2 #22b length", wires=(chosen(finish_reason="length", message={"content": ""}),), ends="truncated"),
    Case(
        id="2.2 #23 empty with a reason", wires=(chosen(finish_reason="stop", message={"content": None}),), ends="empty"
    ),
    Case(
        id="2.2 #23 reasoning alone",
        wires=(chosen(message={"content": None, "reasoning": "hm"}),),
        ends="empty",
        has={"reply.reasoning": "hm"},
    ),
    ok("2.2 #23 tool calls are no emptiness", chosen(message={"content": None, "tool_calls": [{"id": "1"}]})),
]
WARM = reply("200 OK", body=body({"content": ""}, finish=None, usage={"prompt_tokens": 1, "completion_tokens": 0}))
CASES += [
    ok("2.2 #23 a model that warms up", WARM, FINE, wait_s=BACKOFF_S, flags=("maybe_billed",)),
    Case(
        id="2.2 #23 a model that stays cold",
        wires=(WARM,),
        ends="empty",
        sent=2,
        flags=("maybe_billed",),
        has={"reply.usage.prompt_tokens": 1, "reply.model": MODEL},
    ),
    ok("2.2 #25 499 that passes", reply("499 Gone"), FINE, flags=("maybe_billed",)),
    failed("2.2 #25 499 again and again", "disconnected", reply("499 Gone"), sent=2, flags=("maybe_billed",)),
    failed("2.2 other 507", "server", reply("507 Full"), sent=5),
    failed("2.2 other 418", "rejected", error("418 Teapot")),
    failed("2.2 other 413", "rejected", reply("413 Large", body=HTML)),
]
