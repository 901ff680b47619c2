"""Bodies of replies, and a lane over a transport that hands out what it is given."""

from __future__ import annotations

import json
from typing import Any

from batchrun.client.arriving import ExchangeError
from batchrun.client.lane import Lane
from batchrun.client.limiter import Gate
from batchrun.client.reply import ReplyReader
from batchrun.events import Watcher
from batchrun.job.settings import LimitSettings
from batchrun.model.attempt import Exchange
from batchrun.pricing import Price

MODEL = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
REFERENCE: dict[str, Any] = {
    "id": "chatcmpl-8ef0fbd6ec894a6ab0d1d0ae6a7a2dc5",
    "object": "chat.completion",
    "created": 1736794523,
    "model": MODEL,
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Jalapeño.", "name": None, "tool_calls": None},
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 13,
        "total_tokens": 549,
        "completion_tokens": 536,
        "estimated_cost": 0.00016236,
    },
}
GOOD = json.dumps(REFERENCE).encode()


def body(message: dict[str, Any] | None = None, *, finish: Any = "stop", **fields: Any) -> bytes:
    """A completion with these fields beside or instead of the usual ones."""
    choice = {"index": 0, "message": {"content": "x"} if message is None else message, "finish_reason": finish}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return json.dumps({"model": MODEL, "choices": [choice], "usage": usage, **fields}).encode()


def reader(*, price: Price | None = None, keep_raw: bool = False) -> ReplyReader:
    rates = price.rates() if price else None
    return ReplyReader(model=MODEL, tariff=lambda *_: rates, keep_raw=keep_raw)


class Scripted:
    """A Transport that hands out given exchanges and errors, one each."""

    def __init__(self, *script: Exchange | ExchangeError) -> None:
        self._script = list(script)

    async def exchange(self, body: bytes) -> Exchange:
        came = self._script.pop(0)
        if isinstance(came, ExchangeError):
            raise came
        return came


def lane(
    *script: Exchange | ExchangeError,
    secrets: tuple[str, ...] = (),
    keep_raw: bool = False,
    watcher: Watcher | None = None,
    tokens_per_minute: float | None = None,
) -> Lane:
    """A lane over a scripted transport; must be made inside a loop."""
    return Lane(
        gate=Gate(slots=8, requests_per_minute=None, tokens_per_minute=tokens_per_minute),
        transport=Scripted(*script),
        replies=reader(keep_raw=keep_raw),
        limits=LimitSettings(),
        clock=lambda: 0.0,
        secrets=secrets,
        watcher=watcher,
    )


def got(status: int, body: bytes = b"", **headers: str) -> Exchange:
    """An exchange; `retry_after="5"` is the header retry-after."""
    return Exchange(
        status=status, headers={name.replace("_", "-"): value for name, value in headers.items()}, body=body
    )
