"""The body of a 200 into a reply: normalised text, finish reason, tokens and cost (PROTOCOL.md 2.1). Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

import msgspec

from batchrun.client.body import ABSENT, Body, Choice, Message, UnusableReplyError, as_object, decode_body, json_text
from batchrun.client.usage import read_usage
from batchrun.model.attempt import Cost, FinishReason, Reply, Usage
from batchrun.pricing import Tariff

_Status = Literal["ok", "truncated", "refused", "empty"]
_REASONS: Mapping[str | None, FinishReason] = {
    "stop": "stop",
    "eos": "stop",
    "eos_token": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "model_length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
_ENDED: Mapping[FinishReason | None, _Status] = {"content_filter": "refused", "length": "truncated"}
_STANDARD_TIERS: Mapping[str | None, str | None] = {"standard": "default", "on_demand": "default"}
_NO_CALLS = (ABSENT, msgspec.Raw(b"null"), msgspec.Raw(b"[]"))
_NO_ERROR = frozenset(["{}", '""', "false"])
_BROKEN_REASONS = frozenset(["error", "abort", "insufficient_system_resource"])


class _Asked(msgspec.Struct):
    service_tier: str | None = None


_ASKED = msgspec.json.Decoder(_Asked)
_TIER = b'"service_tier":'


class ReplyReader:
    """Reads the replies of one job; built once a run."""

    def __init__(self, *, model: str | None, tariff: Tariff | None, keep_raw: bool) -> None:
        """Expect answers of `model` where a request names no other; None where each request names one.

        `tariff` prices what the server does not; `keep_raw` keeps whole bodies.
        """
        self._model = model
        self._tariff = tariff
        self._keep_raw = keep_raw

    def read(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        model: str | None = None,
        ask: bytes = b"",
        noted: tuple[str, ...] = (),
    ) -> Reply:
        """Return the reply that a 200's body holds; raises UnusableReplyError when it holds none.

        `model` is the one that the request asked for, None for the job's; `ask` is the request's body; `noted` are
        flags that the row has already.
        """
        flags = list(noted)
        decoded = decode_body(body, flags)
        choices = decoded.choices
        if len(choices) == 1 and decoded.error is ABSENT and choices[0].error is ABSENT:
            choice = choices[0]
        else:
            choice = _first_choice(decoded)
        rates = None if self._tariff is None else self._tariff(decoded.model, model or self._model)
        usage, cost = read_usage(decoded.usage, headers, rates, flags, groq=decoded.x_groq, timings=decoded.timings)
        if decoded.model is not None and decoded.model != (model or self._model):
            flags.append("model_mismatch")
        if len(choices) > 1 and not self._keep_raw:
            flags.append("choices_dropped")
        if (
            decoded.service_tier is not None
            and _TIER in ask
            and _is_another_tier(decoded.service_tier, asked_tier(ask))
        ):
            flags.append("tier_downgraded")
        finish = _REASONS.get(choice.finish_reason) or _unusual_reason(choice.finish_reason, flags)
        message = choice.message
        reasoning = message.reasoning if message.reasoning_content is None else message.reasoning_content
        has_no_calls = message.tool_calls in _NO_CALLS and message.function_call in _NO_CALLS
        tool_calls = None if has_no_calls else _tool_calls(message)
        status: _Status = "ok" if message.content or tool_calls is not None else "empty"
        if message.refusal or finish in _ENDED:  # seen before emptiness (PROTOCOL.md 2.2, #22b)
            status = "refused" if message.refusal else _ENDED[finish]
        reply = Reply(
            status=status,
            text=(message.refusal or None) if message.content is None else message.content,
            reasoning=reasoning,
            tool_calls=tool_calls,
            finish_reason=finish,
            model=decoded.model,
            response_id=decoded.id,
            usage=usage,
            cost=cost,
            flags=tuple(flags),
            raw=self.kept(body) if self._keep_raw else None,
        )
        if status == "empty" and not reasoning and finish is None and not usage.completion_tokens:
            what = "the reply is empty: no text, no tokens, no finish_reason"
            raise UnusableReplyError(what, "nothing", instead=reply)
        return reply

    def asked_model(self, model: str | None) -> str:
        """Return the model that was to answer: the request's own, else the job's."""
        return model or self._model or ""

    def kept(self, body: bytes) -> str | None:
        """Return the body's text where the job keeps it."""
        return body.decode("utf-8", "replace") if self._keep_raw else None

    def salvage(
        self, body: bytes, headers: Mapping[str, str], *, model: str | None = None
    ) -> tuple[Usage, Cost | None]:
        """Return what a body without a completion still says of tokens and cost, so that no spending is forgotten."""
        try:
            tree = as_object(json.loads(body))
        except (ValueError, RecursionError):
            tree = as_object(None)
        answered = tree.get("model")
        answered = answered if isinstance(answered, str) else None
        rates = None if self._tariff is None else self._tariff(answered, model or self._model)
        return read_usage(_raw_json(tree.get("usage")), headers, rates, [])


def _raw_json(value: object) -> msgspec.Raw:
    return msgspec.Raw(json.dumps(value, separators=(",", ":")).encode("utf-8", "replace"))


def error_fields(text: str) -> Mapping[str, object]:
    """Return the error that JSON text holds as an object; a plain text becomes its `message`."""
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return as_object(value) or {"message": value if isinstance(value, str) else text}


def _error_text(raw: msgspec.Raw) -> str | None:
    """Return an error's JSON text; an empty one is none, and a paid completion beside it is kept."""
    if raw is ABSENT:
        return None
    text = json_text(raw)
    return None if text in _NO_ERROR else text


def _first_choice(decoded: Body) -> Choice:
    if (error := _error_text(decoded.error)) is not None:
        raise UnusableReplyError("the reply holds an error", inner=error_fields(error))
    if not decoded.choices:
        raise UnusableReplyError("empty_choices: the reply has no choices", "empty_choices")
    choices = decoded.choices
    choice = choices[0] if len(choices) == 1 else min(choices, key=lambda choice: choice.index)
    if (error := _error_text(choice.error)) is not None:
        raise UnusableReplyError("the reply's choice holds an error", inner=error_fields(error))
    return choice


def _unusual_reason(given: str | None, flags: list[str]) -> FinishReason | None:
    """Return a reason that is not written in one of the usual ways; an empty one is none, an unknown one is `other`."""
    if not given:
        return None
    if given in _BROKEN_REASONS:
        message = f"the reply ended with finish_reason {given}"
        raise UnusableReplyError(message, inner={"message": message})
    reason = _REASONS.get(given.lower(), "other")
    if reason == "other":
        flags.append("unknown_finish_reason")
    return reason


def _tool_calls(message: Message) -> str | None:
    """Return the calls as a JSON array; the one call of the older form becomes an array of one."""
    calls = json_text(message.tool_calls)
    if calls is not None and calls.strip("[] \t\r\n"):
        return calls
    call = json_text(message.function_call)
    return None if call is None or call in _NO_ERROR else f'[{{"type":"function","function":{call}}}]'


def asked_tier(ask: bytes) -> str | None:
    """Return the service tier that a request asks for."""
    try:
        return _ASKED.decode(ask).service_tier
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _is_another_tier(used: str, asked: str | None) -> bool:
    """Say whether another tier was used than the one asked for; any will do where that is none but the standard one."""
    wanted = _STANDARD_TIERS.get(asked, asked)
    return wanted not in {None, "auto", "default", _STANDARD_TIERS.get(used, used)}
