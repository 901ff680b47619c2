"""HTTP requests into replies, refusals, and the failures that a job has to survive."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from batchrun.errors import JobError
from batchrun.simulator.address import base_url, loopback
from batchrun.simulator.admission import Admission
from batchrun.simulator.asked import Asked, Refusal, read_request
from batchrun.simulator.behaviour import Treatment, latency_s, treatment
from batchrun.simulator.pauses import Pauses
from batchrun.simulator.replies import Replies
from batchrun.simulator.tally import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import RawRequestMessage
    from aiohttp.streams import StreamReader

    from batchrun.job.settings import SimulatorSettings

COMPLETION_PATHS = frozenset({"/v1/openai/chat/completions", "/v1/chat/completions", "/chat/completions"})
STATS_PATH = "/stats"
MODEL_PATHS = frozenset({"/v1/openai/models", "/v1/models", "/models"})

_BACKLOG = 4096
_BODY_BYTES = 256 * 1024 * 1024
_KEEPALIVE_S = 3600.0
_STOP_WITHIN_S = 1.0
# As in the reference transcript (PROTOCOL.md 0.1): no charset. A Server header of one's own spares aiohttp's.
_HEADERS = {"Content-Type": "application/json", "Server": "batchrun-simulator"}
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "Server": "batchrun-simulator",
}
_LINGER_ZERO = struct.pack("ii", 1, 0)


class Endpoint:
    """One simulated endpoint: answers the requests of all its connections and counts them."""

    def __init__(self, settings: SimulatorSettings) -> None:
        """Bind to the running loop; JobError where the settings contradict each other."""
        self._settings = settings
        self._replies = Replies(settings)
        self._admission = Admission(settings)
        self._tally = Tally()
        self._clock = asyncio.get_running_loop().time
        self._retry_after = _seconds_text(settings.retry_after_s) if settings.retry_after_s else None
        self.pauses = Pauses()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one HTTP request."""
        path = request.raw_path.partition("?")[0]
        if request.method == "POST":
            return await self._post(request, path)
        if request.method != "GET":
            return self._refuse(Refusal(status=405, message="Method Not Allowed"))
        if path == STATS_PATH:
            counts = self._tally.stats(in_flight=self._admission.in_flight, max_in_flight=self._admission.max_in_flight)
            return web.Response(body=counts, headers=_HEADERS)
        if path in MODEL_PATHS:
            return web.Response(body=_models(self._settings), headers=_HEADERS)
        if path in COMPLETION_PATHS:
            return self._refuse(Refusal(status=405, message="Method Not Allowed"))
        return self._refuse(Refusal(status=404, message="Not Found"))

    async def _post(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        asked: Asked | Refusal
        try:
            if "Expect" in request.headers:
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            body = await request.read()
        except web.HTTPRequestEntityTooLarge:
            asked = Refusal(status=413, message="The body is too large")
        except web.RequestPayloadError:
            asked = Refusal(status=400, message="The body could not be read")
        except ConnectionError:
            return _closed(request)
        else:
            if path in COMPLETION_PATHS:
                asked = read_request(body, reject_containing=self._settings.reject_containing)
            else:
                asked = Refusal(status=404, message="Not Found")
        self._tally.receive(time.time())
        if isinstance(asked, Asked):
            refusal = self._admission.enter(self._clock())
            if refusal is None:
                try:
                    return await self._complete(request, asked)
                finally:
                    self._admission.leave()
            asked = refusal
        self._tally.end(str(asked.status))
        return self._refuse(asked)

    async def _complete(self, request: web.BaseRequest, asked: Asked) -> web.StreamResponse:
        nth = self._tally.begin(asked.digest)
        treated = treatment(self._settings, asked.digest, nth)
        if treated in {Treatment.HANG, Treatment.RESET}:
            return await self._leave(request, treated)
        delay_s = latency_s(self._settings, asked.digest, nth)
        if asked.stream and treated is not Treatment.ERROR:
            return await self._stream(request, asked, nth, delay_s, is_cut=treated is Treatment.TRUNCATE)
        if delay_s > 0 and not await self.pauses.sleep(delay_s):
            return _closed(request)
        if treated is Treatment.ERROR:
            self._tally.end("500")
            return self._refuse(Refusal(status=500, message="Internal server error", type="server_error"))
        reply = self._replies.reply(asked, nth, created=int(time.time()))
        # From here on it is paid, whether or not the client is still there.
        self._tally.pay(asked.digest, reply)
        if treated is Treatment.TRUNCATE:
            self._tally.end("truncated")
            return await _truncated(request, reply.body)
        self._tally.end("200")
        return web.Response(body=reply.body, headers=_HEADERS)

    async def _leave(self, request: web.BaseRequest, treated: Treatment) -> web.Response:
        self._tally.end(treated.value)
        if treated is Treatment.RESET:
            return _reset(request)
        if _is_there(request):
            await self.pauses.hang(request.protocol)
        return _closed(request)

    async def _stream(
        self, request: web.BaseRequest, asked: Asked, nth: int, delay_s: float, *, is_cut: bool
    ) -> web.StreamResponse:
        """Send a reply's events spread over its latency, the last at its end; of one that is to be cut only half."""
        reply = self._replies.reply(asked, nth, created=int(time.time()))
        step_s = delay_s / len(reply.events)
        if step_s > 0 and not await self.pauses.sleep(step_s):
            return _closed(request)
        self._tally.pay(asked.digest, reply)  # as with a whole reply: from its first byte on
        self._tally.end("truncated" if is_cut else "200")
        response = web.StreamResponse(headers=_STREAM_HEADERS)
        sent = reply.events[: len(reply.events) // 2] if is_cut else reply.events
        with suppress(ConnectionError):
            await response.prepare(request)
            for at, event in enumerate(sent):
                if at and step_s > 0 and not await self.pauses.sleep(step_s):
                    is_cut = True
                    break
                await response.write(event)
        if is_cut and request.transport is not None:
            request.transport.close()
        return response

    def _refuse(self, refusal: Refusal) -> web.Response:
        headers = _HEADERS
        if refusal.status == 429 and self._retry_after is not None:  # noqa: PLR2004 - an HTTP status
            headers = {**_HEADERS, "Retry-After": self._retry_after}
        return web.Response(status=refusal.status, body=refusal.body(), headers=headers)


class _Server(web.Server):
    """aiohttp's low-level server, without a router; it tells the endpoint of lost connections."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(
            endpoint.answer,
            request_factory=_make_request,
            access_log=None,
            keepalive_timeout=_KEEPALIVE_S,
        )
        self._pauses = endpoint.pauses

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._pauses.gone(handler)


@asynccontextmanager
async def serve(settings: SimulatorSettings, *, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[int]:
    """Serve on loopback while the context is open and yield the port; 0 takes a free one.

    On leaving, requests that still wait are dropped unpaid. JobError when `host` is not a loopback address,
    when it can't be bound, or when the settings contradict each other.
    """
    address = loopback(host)
    endpoint = Endpoint(settings)
    runner = web.ServerRunner(_Server(endpoint), shutdown_timeout=_STOP_WITHIN_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, address, port, backlog=_BACKLOG).start()
        except (OSError, OverflowError) as error:
            raise JobError(f"can't listen on {address}, port {port}: {error}") from None
        yield int(runner.addresses[0][1])
    finally:
        endpoint.pauses.stop()
        await runner.cleanup()


async def serve_forever(settings: SimulatorSettings, *, host: str, port: int, announce: Callable[[str], None]) -> None:
    """Serve until cancelled and call `announce` with the base URL once the port is bound.

    JobError as in `serve`.
    """
    async with serve(settings, host=host, port=port) as bound:
        announce(base_url(host, bound))
        await asyncio.get_running_loop().create_future()


def _make_request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    return web.BaseRequest(
        message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=_BODY_BYTES
    )


def _is_there(request: web.BaseRequest) -> bool:
    return request.transport is not None and not request.transport.is_closing()


def _closed(request: web.BaseRequest) -> web.Response:
    """Close the connection without an answer: aiohttp can't write the response that it is handed."""
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _reset(request: web.BaseRequest) -> web.Response:
    """Close the connection with a TCP RST, which a lingering time of 0 s asks for."""
    if request.transport is not None:
        wire = request.transport.get_extra_info("socket")
        if wire is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        request.transport.abort()
    return web.Response()


async def _truncated(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    """Send the headers of the whole body, half of it, and close the connection."""
    response = web.StreamResponse(headers={**_HEADERS, "Content-Length": str(len(body))})
    with suppress(ConnectionError):
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _seconds_text(seconds: float) -> str:
    text = format(Decimal(str(seconds)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _models(settings: SimulatorSettings) -> bytes:
    prices = {"input_tokens": settings.input_usd_per_mtok, "output_tokens": settings.output_usd_per_mtok}
    model = {
        "id": "simulator",
        "object": "model",
        "created": 0,
        "owned_by": "batchrun",
        "metadata": {"pricing": prices},
    }
    return msgspec.json.encode({"object": "list", "data": [model]})
