"""What a case of the dialect test is: replies on the wire, to the byte, and what a row that meets them comes to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from client_replies import GOOD

from batchrun.model.attempt import ErrorClass

ECHO = "<echo>"
"""Stands in a reply for what a server may quote: the test of secrets puts the key and the prompt there."""
Ends = Literal["ok", "truncated", "refused", "empty", "failed", "stop", "pending"]


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One reply: status, head and body, or `raw` bytes instead; `cut` takes bytes off the end; then what is done."""

    status: str = "200 OK"
    body: bytes = b""
    headers: tuple[str, ...] = ()
    raw: bytes | None = None
    cut: int = 0
    then: Literal["go on", "close", "reset", "hang"] = "go on"

    def data(self, echo: str = "", slash: str = "/") -> bytes:
        """Return the bytes to send, with `echo` where the reply quotes something, as JSON with slashes as `slash`."""
        quoted = json.dumps(echo)[1:-1].replace("/", slash).encode()
        if self.raw is not None:
            return self.raw.replace(ECHO.encode(), quoted)
        body = self.body.replace(ECHO.encode(), quoted)
        lines = [f"HTTP/1.1 {self.status}", f"Content-Length: {len(body)}", *self.headers, "", ""]
        whole = "\r\n".join(lines).replace(ECHO, "".join(echo.split())).encode() + body
        return whole[: len(whole) - self.cut]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A row and what it meets.

    `wires` answer its requests, one each, the last one again and again; with `after` the lane has answered another row
    before. `sent` counts the row's requests; "pending" is a row that still tries after that many. `wait_s` bounds the
    wait before its second try, `hint_s` is the wait that the server asked for and `pause_s` the lane's pause. `has` are
    attributes of its outcome, `says` stands in its message or in the run's. `at` is where the request goes instead of
    the scripted server, `ask` more fields of its request.
    """

    id: str
    wires: tuple[Wire, ...] = ()
    after: bool = False
    ends: Ends
    error_class: ErrorClass | None = None
    sent: int = 1
    wait_s: tuple[float, float] | None = None
    pause_s: float = 0.0
    flags: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    has: Mapping[str, object] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)
    ask: Mapping[str, object] = field(default_factory=dict)
    timeout_s: float = 5.0
    at: Literal["server", "closed port", "no host", "plain http"] = "server"


def reply(status: str, tree: object = None, *headers: str, body: bytes | None = None) -> Wire:
    """A reply with a JSON body, or with `body` as it is; none at all is an empty one."""
    if body is None:
        body = b"" if tree is None else json.dumps(tree).encode()
    return Wire(status=status, body=body, headers=headers)


def error(status: str, *headers: str, **fields: object) -> Wire:
    """A reply with `{"error": {…}}`; a message is given where the case has none of its own."""
    return reply(status, {"error": {"message": f"no {ECHO}", **fields}}, *headers)


FINE = Wire(body=GOOD)
HTML = f"<html><head><title>Bad Gateway</title></head><body>{ECHO}</body></html>".encode()


def ok(case_id: str, *wires: Wire, **more: Any) -> Case:
    return Case(id=case_id, wires=wires, ends="ok", sent=more.pop("sent", len(wires)), **more)


def failed(case_id: str, error_class: ErrorClass, *wires: Wire, **more: Any) -> Case:
    return Case(id=case_id, wires=wires, ends="failed", error_class=error_class, **more)


def useless(case_id: str, *wires: Wire, **more: Any) -> Case:
    """A success that holds nothing and says no cost: it may have been billed."""
    more = {"sent": 3, "flags": ("maybe_billed",), **more}
    return Case(id=case_id, wires=wires, ends="failed", error_class="bad_reply", **more)


def stop(case_id: str, *wires: Wire, **more: Any) -> Case:
    return Case(id=case_id, wires=wires, ends="stop", **more)


def pending(case_id: str, *wires: Wire, **more: Any) -> Case:
    """A row that a 429 or its like holds up: it spends none of its five attempts."""
    return Case(id=case_id, wires=wires, ends="pending", sent=more.pop("sent", 6), **more)


def refused(case_id: str, wire: Wire, **more: Any) -> Case:
    return Case(id=case_id, wires=(wire,), ends="refused", has={"reply.finish_reason": "content_filter"}, **more)
