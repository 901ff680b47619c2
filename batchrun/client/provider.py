"""What a provider tells about itself at the start: how many requests DeepInfra lets an account have in flight.

It is asked once a run, and only there (PROTOCOL.md 0, fact 1). Whatever comes back but a number is as good as no
answer: nothing that a run does, and no exit status, needs this one.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from batchrun.client.arriving import ExchangeError
from batchrun.client.transport import Inquirer

LIMIT_PATH = "/v1/me/rate_limit"
LIMIT_TIMEOUT_S = 5.0
_OK = 200


class _Limit(msgspec.Struct):
    """DeepInfra's reply; `rate_limit` is a number of requests in flight, for each model."""

    rate_limit: Annotated[int, Meta(ge=1)]


async def most_in_flight(inquirer: Inquirer, base_url: str) -> int | None:
    """Return how many requests the provider at `base_url` lets in flight; None where it does not tell."""
    host = urlsplit(base_url).hostname or ""
    if host != "deepinfra.com" and not host.endswith(".deepinfra.com"):
        return None
    try:
        exchange = await inquirer.look_up(LIMIT_PATH, timeout_s=LIMIT_TIMEOUT_S)
        return msgspec.json.decode(exchange.body, type=_Limit).rate_limit if exchange.status == _OK else None
    except (ExchangeError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
