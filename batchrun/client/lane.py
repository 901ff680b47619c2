"""One endpoint and model: its gate, its transport, and each attempt's verdict. Nothing above reads a status again."""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Mapping
from datetime import UTC, datetime

import msgspec

from batchrun.client.body import UnusableReplyError
from batchrun.client.breaker import Breaker
from batchrun.client.hints import wait_hint_s
from batchrun.client.limiter import Gate
from batchrun.client.outage import OUTAGE_ERRORS, Outage, Weather
from batchrun.client.provider import most_in_flight
from batchrun.client.reply import ReplyReader
from batchrun.client.retry import RetryPolicy
from batchrun.client.transport import ExchangeError, Transport, open_transport
from batchrun.client.verdict import MOST_CODE_CHARS, Ruling, facts_of, judge, masked, read_error, trouble
from batchrun.events import Unwatched, Watcher
from batchrun.job.settings import Job
from batchrun.model.attempt import Exchange, Reply, Spends, Then, Trouble
from batchrun.pricing import Tariff

SHORTAGE_S = 60.0
"""How long the lane makes do with the connections it has, before it tries whether this machine can open more."""
_STATUS = re.compile("[3-5][0-9]{2}")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """What one attempt came to; `latency_ms` is from its slot to its end.

    `excused` says that it failed in an outage of the endpoint or for want of a connection on this machine, neither of
    which spends its row's budgets.
    """

    came_to: Reply | Trouble
    http_status: int | None
    latency_ms: float
    weather: Weather = Weather.FAIR
    excused: bool = False


class Lane:
    """What a limit, a pause and a verdict belong to."""

    def __init__(  # noqa: PLR0913 - the parts a lane is made of
        self,
        *,
        gate: Gate,
        transport: Transport,
        replies: ReplyReader,
        retries: RetryPolicy,
        clock: Callable[[], float],
        outage: Outage | None = None,
        breaker: Breaker | None = None,
        most_pause_s: float = 300.0,
        secrets: tuple[str, ...] = (),
        key_source: str | None = None,
    ) -> None:
        """Join the parts; `clock` is monotonic, in seconds.

        `secrets` are masked wherever a server echoes them; `key_source` is named where a server refuses the key.
        """
        self.gate = gate
        self.retries = retries
        self.breaker = breaker or Breaker()
        self._transport = transport
        self._replies = replies
        self._clock = clock
        self._most_pause_s = most_pause_s
        self._secrets = secrets
        self._key_source = key_source
        self._outage = outage or Outage(max_outage_s=900.0, clock=clock)
        self._succeeded = False
        self._exchanging = 0
        self._crowded = False

    async def attempt(self, body: bytes, *, model: str | None = None) -> Attempt:
        """Make one exchange, whose slot the caller holds, and judge it.

        `model` is the one that the request asks for, None for the job's.
        """
        began = self._clock()
        status: int | None = None
        short = False
        self._exchanging += 1
        try:
            exchange = await self._transport.exchange(body)
        except ExchangeError as error:
            came_to: Reply | Trouble = self._cut(error)
            short = error.phase == "shortage"
        else:
            status = exchange.status
            came_to = self._judged(self._without_secrets(exchange), model)
        finally:
            self._exchanging -= 1
        latency_ms = (self._clock() - began) * 1000
        if isinstance(came_to, Reply):
            self._succeeded = True
        elif came_to.spends is Spends.THROTTLE and came_to.hint_s is not None and came_to.then is Then.RETRY:
            self.gate.pause(came_to.hint_s)
        weather = self._short(came_to) if short else self._weather(came_to)
        if weather is Weather.TOO_LONG and isinstance(came_to, Trouble):
            what = "the endpoint has been failing" if came_to.sent else "no connection could be opened"
            message = f"{what} for longer than max_outage_s, last with: {came_to.message}"
            came_to = msgspec.structs.replace(came_to, then=Then.STOP_RUN, message=message)
        return Attempt(
            came_to=came_to,
            http_status=status,
            latency_ms=latency_ms,
            weather=weather,
            excused=short or self._outage.is_on,
        )

    def _short(self, came_to: Reply | Trouble) -> Weather:
        """Admit no more attempts than there are connections; where there is none, that is an outage like others."""
        weather = Weather.FAIR
        if self._exchanging:
            self.gate.fit(self._exchanging, for_s=SHORTAGE_S)
        else:
            weather = self._weather(came_to)
        if weather is Weather.FAIR and not self._crowded:
            self._crowded = True
            return Weather.CROWDED
        return weather

    def _weather(self, came_to: Reply | Trouble) -> Weather:
        """Take note of what an exchange says about the endpoint; during an outage only one probe at a time goes."""
        failing = isinstance(came_to, Trouble) and came_to.error_class in OUTAGE_ERRORS and came_to.then is Then.RETRY
        if not failing:
            weather = self._outage.answered()
            if weather is Weather.ENDS:
                self.gate.widen()
            return weather
        weather = self._outage.failed()
        if self._outage.is_on:
            self.gate.narrow(1)
            if not self.gate.paused_s:  # what was in flight when it began is no probe
                self.gate.pause(self._outage.probe_wait_s())
        return weather

    def _without_secrets(self, exchange: Exchange) -> Exchange:
        """Return the exchange with the key masked where the server echoed it, before anything is read or kept."""
        body = exchange.body
        for secret in self._secrets:
            if secret.encode() in body:
                body = body.replace(secret.encode(), b"***")
        return exchange if body is exchange.body else msgspec.structs.replace(exchange, body=body)

    def _cut(self, error: ExchangeError) -> Trouble:
        """Judge an exchange without a whole reply (PROTOCOL.md 2.2, #18 and #19)."""
        if error.phase in {"dns", "proxy", "tls"} and not self._succeeded:
            return Trouble(error_class="connect", message=str(error), then=Then.STOP_RUN, sent=False)
        if not error.sent:
            return Trouble(error_class="connect", message=str(error), then=Then.RETRY, sent=False)
        return Trouble(
            error_class="timeout" if error.phase == "timeout" else "disconnected",
            message=str(error),
            then=Then.RETRY,
            spends=Spends.AMBIGUOUS,
            maybe_billed=True,
        )

    def _judged(self, exchange: Exchange, model: str | None) -> Reply | Trouble:
        if 200 <= exchange.status < 300:  # noqa: PLR2004 - a success can hold a completion, nothing else can
            try:
                return self._replies.read(exchange.body, exchange.headers, model=model)
            except UnusableReplyError as error:
                return self._unusable(exchange, error, model)
            except Exception as error:  # noqa: BLE001 - a reply nobody foresaw fails its row, never the run
                return Trouble(
                    error_class="bad_reply",
                    message=f"the reply can't be read: {type(error).__name__}",
                    then=Then.RETRY,
                    http_status=exchange.status,
                    most_tries=2,
                    maybe_billed=True,
                    raw=self._replies.kept(exchange.body),
                )
        return self._refused(exchange, exchange.status, read_error(exchange.body))

    def _refused(self, exchange: Exchange, status: int, error: Mapping[str, object]) -> Reply | Trouble:
        facts = facts_of(
            status=status,
            headers=exchange.headers,
            error=error,
            hint_s=wait_hint_s(exchange.headers, now=datetime.now(tz=UTC)),
            succeeded=self._succeeded,
            most_pause_s=self._most_pause_s,
        )
        ruling = judge(facts)
        if ruling.then is Then.REFUSE_ROW:
            return Reply(status="refused", text=None, finish_reason="content_filter")
        message, code = masked(facts.message, self._secrets), masked(facts.code, self._secrets)
        if status in {401, 403} and self._key_source:
            message = f"{message} (key from {self._key_source})".lstrip()
        return trouble(msgspec.structs.replace(facts, message=message, code=code[:MOST_CODE_CHARS]), ruling)

    def _unusable(self, exchange: Exchange, error: UnusableReplyError, model: str | None) -> Reply | Trouble:
        """Judge a 200 without a completion (PROTOCOL.md 2.2, #20 to #23)."""
        usage, cost = self._replies.salvage(exchange.body, exchange.headers, model=model)
        if error.inner is not None:
            code = error.inner.get("code")
            inner = int(code) if isinstance(code, int | str) and _STATUS.fullmatch(str(code)) else 500
            came_to = self._refused(exchange, inner, error.inner)
            if isinstance(came_to, Reply):
                return msgspec.structs.replace(came_to, usage=usage, cost=cost, raw=self._replies.kept(exchange.body))
        else:
            stops = error.is_page and not self._succeeded
            ruling = Ruling(Then.STOP_RUN if stops else Then.RETRY, "bad_reply", most_tries=error.tries)
            came_to = Trouble(
                error_class=ruling.error_class,
                message=f"{error} (wrong URL?)" if stops else str(error),
                then=ruling.then,
                most_tries=ruling.most_tries,
            )
        return msgspec.structs.replace(
            came_to,
            http_status=exchange.status,
            usage=usage,
            cost=cost,
            maybe_billed=came_to.maybe_billed or (cost is None and error.inner is None),
            raw=self._replies.kept(exchange.body),
        )


@contextlib.asynccontextmanager
async def open_lane(  # noqa: PLR0913 - what a run knows of its endpoint
    job: Job,
    *,
    base_url: str,
    key: str | None,
    trust_env: bool,
    clock: Callable[[], float],
    tariff: Tariff | None = None,
    watcher: Watcher = Unwatched(),  # noqa: B008 - it holds nothing
) -> AsyncGenerator[Lane, None]:
    """Open the lane of a job for one run; `key` goes into the job's auth header and nowhere else.

    `tariff` prices what the server does not. A provider that tells how much it lets in flight is asked first.
    """
    endpoint, limits = job.endpoint, job.limits
    source = endpoint.api_key_env or endpoint.api_key_file
    headers = dict(endpoint.headers)
    if key is not None:
        headers[endpoint.auth_header] = f"Bearer {key}" if endpoint.auth_header.lower() == "authorization" else key
    async with open_transport(
        base_url=base_url,
        headers=headers,
        query=endpoint.query,
        timeout_s=endpoint.timeout_s,
        concurrency=limits.concurrency,
        trust_env=trust_env,
    ) as transport:
        slots = limits.concurrency
        if (told := await most_in_flight(transport, base_url)) is not None:
            slots = min(slots, told)
            watcher.noted("the provider told its limit", in_flight=told, slots=slots)
        yield Lane(
            gate=Gate(slots=slots, requests_per_minute=limits.requests_per_minute),
            transport=transport,
            replies=ReplyReader(model=job.request.get("model"), tariff=tariff, keep_raw=endpoint.keep_raw),
            retries=RetryPolicy(limits),
            clock=clock,
            outage=Outage(max_outage_s=limits.max_outage_s, clock=clock),
            breaker=Breaker(enabled=limits.breaker),
            most_pause_s=limits.max_pause_s,
            secrets=(key,) if key else (),
            key_source=source,
        )
