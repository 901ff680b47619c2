"""Where the embedded endpoint may be served: loopback only."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

from batchrun.errors import JobError


def base_url(host: str, port: int) -> str:
    """Return the URL to give to a client, up to and without /chat/completions."""
    address = loopback(host)
    return f"http://[{address}]:{port}/v1/openai" if ":" in address else f"http://{address}:{port}/v1/openai"


def loopback(host: str) -> str:
    """Return the address to bind for `host`; JobError for all but localhost, 127.0.0.0/8 and ::1."""
    if host.lower() == "localhost":
        # One address, not one a family: two sockets on port 0 would be two ports.
        return "127.0.0.1"
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return host
    raise JobError(f"the simulator listens on loopback only (127.0.0.0/8, ::1 or localhost), not on {host!r}")
