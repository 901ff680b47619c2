"""An error reply into the facts that the table of verdicts looks at (PROTOCOL.md 1D and 2.1). Pure; never raises."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal, cast
from urllib.parse import urlsplit

import msgspec

from batchrun.client.body import as_object
from batchrun.client.hints import hint_of
from batchrun.client.verdict import Facts
from batchrun.model.attempt import Exchange

_REQUEST_ID_HEADERS = ("x-request-id", "x-generation-id", "x-litellm-call-id", "apim-request-id")
_REQUEST_ID = r"[A-Za-z0-9_.:/+=@-]{1,128}"
_STATUS = "[45][0-9]{2}"
_NO_STATUS = 500
_NAMED_STATUS: Mapping[str, int] = {
    **dict.fromkeys(["invalid_request", "invalid_prompt", "invalid_argument", "badrequesterror"], 400),
    **dict.fromkeys(["max_tokens_exceeded", "token_limit_exceeded", "string_too_long", "failed_precondition"], 400),
    **dict.fromkeys(["context_length_exceeded", "exceed_context_size_error"], 400),
    **dict.fromkeys(["content_filter", "content_policy_violation", "refusal"], 400),
    **dict.fromkeys(["authentication", "authentication_error", "authenticationerror", "unauthenticated"], 401),
    **dict.fromkeys(["invalid_api_key", "unauthorized"], 401),
    "payment_required": 402,
    **dict.fromkeys(["permission_denied", "permission_error", "permissiondeniederror"], 403),
    **dict.fromkeys(["not_found", "not_found_error", "notfounderror", "model_not_found"], 404),
    "timeout": 408,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "unprocessable": 422,
    **dict.fromkeys(["rate_limit_exceeded", "rate_limit_error", "ratelimiterror", "rate_limited"], 429),
    **dict.fromkeys(["too_many_requests", "resource_exhausted", "engine_overloaded"], 429),
    **dict.fromkeys(["provider_overloaded", "overloaded", "overloaded_error", "slow_down"], 503),
    **dict.fromkeys(["provider_unavailable", "unavailable", "service_unavailable", "serviceunavailableerror"], 503),
    "deadline_exceeded": 504,
}
"""Codes and types of errors that stand in a 200 without a number. Not `invalid_request_error`: busy servers say it."""


def read_error(body: bytes) -> Mapping[str, object]:
    """Return the error that a body holds, by the extraction order of PROTOCOL.md 2.1."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff").lstrip()
    try:
        tree = json.JSONDecoder().raw_decode(text.removeprefix("data:").lstrip())[0]
    except (ValueError, RecursionError):
        return {"message": "".join(char for char in text[:400] if char.isprintable())[:200].strip()}
    if isinstance(tree, list):
        many = cast("list[object]", tree)
        tree = next((one for one in many if "error" in as_object(one)), None)
    fields = as_object(tree)
    error = fields.get("error")
    if isinstance(error, dict) and error:
        return cast("dict[str, object]", error)
    if isinstance(error, str) and error:
        return {"message": error, "type": fields.get("error_type"), "code": fields.get("code")}
    if fields.get("message") is not None:
        return fields
    return _in_detail(fields.get("detail"))


def facts_of(
    exchange: Exchange,
    error: Mapping[str, object],
    *,
    inner: int | None = None,
    now: datetime,
    succeeded: bool,
    most_pause_s: float,
) -> Facts:
    """Gather the facts of an error reply, whose `error` is what `read_error` found.

    `inner` is the status that an error inside of a success stands for.
    """
    status, headers = exchange.status if inner is None else inner, exchange.headers
    availability = as_object(error.get("availability"))
    available = availability.get("retryable")
    metadata = as_object(error.get("metadata"))
    message = _message(error, metadata)
    hint = hint_of(status, headers, error, message, now=now)
    return Facts(
        status=status,
        inside=0 if inner is None else exchange.status,
        code=_word(error.get("code")),
        kind=_kind(error, metadata),
        message=message,
        reasons=_reasons(error, metadata),
        limit_source=_word(metadata.get("limit_source")),
        points_to=points_to(headers.get("location")),
        zero_quota=_has_zero_quota(error),
        may_pass=error.get("failed_generation") is not None or (status == 422 and "x-groq-region" in headers),  # noqa: PLR2004
        hint_s=None if hint is None else hint.wait_s,
        hint_from="" if hint is None else hint.source,
        succeeded=succeeded,
        should_retry=_literal_bool(headers.get("x-should-retry")) if inner is None else None,
        available=available if isinstance(available, bool) else None,
        most_pause_s=most_pause_s,
    )


def inner_status(error: Mapping[str, object]) -> int:
    """Return the status that an error inside of a success stands for: its own number, else by its words, else 500.

    Not `http_status_code`: TGI's streams, and nothing else, have it, and it is 422 whatever went wrong.
    """
    metadata = as_object(error.get("metadata"))
    for name in ("code", "http_status", "status"):
        if re.fullmatch(_STATUS, word := _word(error.get(name))):
            return int(word)
    words = (error.get("code"), error.get("error_type"), metadata.get("error_type"))
    for value in (*words, error.get("status"), error.get("type")):
        if (status := _NAMED_STATUS.get(_word(value).lower())) is not None:
            return status
    return _NO_STATUS


def request_id(headers: Mapping[str, str], body: bytes) -> str:
    """Return the id by which the provider knows an exchange (PROTOCOL.md 2.1), or nothing."""
    for name in _REQUEST_ID_HEADERS:
        if re.fullmatch(_REQUEST_ID, headers.get(name, "")):
            return headers[name]
    if b'"x_groq"' in body:
        try:
            found = _word(as_object(as_object(msgspec.json.decode(body)).get("x_groq")).get("id"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            found = ""
        if re.fullmatch(_REQUEST_ID, found):
            return found
    ray = headers.get("cf-ray", "")
    return ray if re.fullmatch(_REQUEST_ID, ray) else ""


def points_to(location: str | None) -> str:
    """Return the server that a redirect leads to, without user, path and query; nothing where there is no redirect."""
    if not location:
        return ""
    try:
        url = urlsplit(location.strip())
    except ValueError:
        return "what is no URL"
    host = url.netloc.rpartition("@")[2]
    return f"{url.scheme}://{host}".removeprefix("://") if host else "another path of the same server"


def _in_detail(detail: object) -> Mapping[str, object]:
    """Read FastAPI's `detail`: a text, a list of places and what is wrong there, or an object."""
    if isinstance(detail, str):
        return {"message": detail}
    if isinstance(detail, list):
        return {"message": "; ".join(_located(part) for part in cast("list[object]", detail))}
    fields = as_object(detail)
    error = fields.get("error")
    if isinstance(error, dict):
        return cast("dict[str, object]", error)
    message = error if isinstance(error, str) and error else fields.get("message")
    return {
        "message": message if isinstance(message, str) else "",
        "type": fields.get("type"),
        "code": fields.get("code"),
    }


def _located(part: object) -> str:
    if isinstance(part, str):
        return part
    fields = as_object(part)
    steps = fields.get("loc")
    loc = ".".join(str(step) for step in cast("list[object]", steps)) if isinstance(steps, list) else str(steps or "")
    return f"{loc}: {fields.get('msg')}" if loc else str(fields.get("msg"))


def _message(error: Mapping[str, object], metadata: Mapping[str, object]) -> str:
    """Return the message; where a router passes on another server's error, that follows."""
    message = error.get("message")
    if isinstance(message, dict):
        message = as_object(cast("object", message)).get("message") or json.dumps(message, separators=(",", ":"))
    text = str(message) if message else ""
    if not text:
        text = next((word for name in ("error", "detail") if (word := _word(error.get(name)))), "")
    raw = metadata.get("raw")
    if isinstance(raw, str) and raw and raw not in text:
        text = f"{text}: {raw}" if text else raw
    return text


def _kind(error: Mapping[str, object], metadata: Mapping[str, object]) -> str:
    named = (error.get("type"), error.get("error_type"), metadata.get("error_type"), error.get("status"))
    return next((word for value in named if (word := _word(value))), "")


def _reasons(error: Mapping[str, object], metadata: Mapping[str, object]) -> str:
    """Return what OpenRouter's `reasons` or Azure's `innererror` say against the content."""
    reasons = metadata.get("reasons")
    listed = " ".join(_word(one) for one in cast("list[object]", reasons)) if isinstance(reasons, list) else ""
    azure = as_object(error.get("innererror"))
    return listed.strip() or ("content_filter_result" if "content_filter_result" in azure else "")


def _has_zero_quota(error: Mapping[str, object]) -> bool:
    """Say whether one of Gemini's quotas is nothing at all, so that no waiting helps."""
    details = error.get("details")
    for one in cast("list[object]", details) if isinstance(details, list) else []:
        violations = as_object(one).get("violations")
        for violation in cast("list[object]", violations) if isinstance(violations, list) else []:
            if _word(as_object(violation).get("quotaValue")) == "0":
                return True
    return False


def _word(value: object) -> str:
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _literal_bool(text: str | None) -> bool | None:
    named: dict[str, Literal[True, False]] = {"true": True, "false": False}
    return None if text is None else named.get(text.strip().lower())
