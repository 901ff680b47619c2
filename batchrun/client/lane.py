"""One endpoint and model: its gate, its transport, and each attempt's verdict. Nothing above reads a status again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import msgspec

from batchrun.client.arriving import ExchangeError
from batchrun.client.breaker import Breaker
from batchrun.client.estimate import Estimate
from batchrun.client.interpret import Ask, Interpreter
from batchrun.client.limiter import Gate
from batchrun.client.outage import OUTAGES, Outage, Weather, may_be_outage
from batchrun.client.pace import pace_gap_s
from batchrun.client.reply import ReplyReader
from batchrun.client.transport import Transport
from batchrun.events import Unwatched, Watcher
from batchrun.job.settings import LimitSettings
from batchrun.model.attempt import Reply, Spends, Then, Trouble
from batchrun.model.request import with_model

if TYPE_CHECKING:
    from batchrun.client.retry import RetryPolicy

OUT_AFTER_S = 5.0
"""A lane that its server pauses for longer is out: another one takes its rows, where there is one."""
SHORTAGE_S = 60.0
"""How long the lane makes do with the connections it has, before it tries whether this machine can open more."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one attempt came to; `latency_ms` is from its slot to its end.

    `excused` says that it failed in an outage of the endpoint or for want of a connection on this machine, neither of
    which spends its row's budgets.
    `first_token_ms` is from the slot to the first text of a reply that was streamed.
    """

    came_to: Reply | Trouble
    http_status: int | None
    latency_ms: float
    weather: Weather = Weather.FAIR
    excused: bool = False
    first_token_ms: float | None = None


class Lane:
    """What a limit, a pause and a verdict belong to."""

    def __init__(  # noqa: PLR0913 - the parts a lane is made of
        self,
        *,
        gate: Gate,
        transport: Transport,
        replies: ReplyReader,
        limits: LimitSettings,
        clock: Callable[[], float],
        outage: Outage | None = None,
        breaker: Breaker | None = None,
        estimate: Estimate | None = None,
        most_pause_s: float = 300.0,
        secrets: tuple[str, ...] = (),
        key_source: str | None = None,
        watcher: Watcher | None = None,
        name: str = "",
        number: int = 0,
        model: str | None = None,
    ) -> None:
        """Join the parts; `clock` is monotonic, in seconds.

        Where there are several, `name` and `number` say which it is, and requests for the job's model ask for `model`.
        `secrets` are masked wherever a server echoes them; `key_source` is named where a server refuses the key;
        `watcher` is told once of each thing that is not as it was asked for.
        """
        self.gate = gate
        self._limits = limits
        self.breaker = breaker or Breaker()
        self._estimate = estimate or Estimate(most_output_tokens=None)
        self.name = name
        self.number = number
        self.retired: str | None = None
        self._model = model
        self._out_until = 0.0
        self._transport = transport
        self._clock = clock
        self._interpreter = Interpreter(
            replies=replies,
            most_pause_s=most_pause_s,
            secrets=secrets,
            key_source=key_source,
            watcher=watcher or Unwatched(),
        )
        self._outage = outage or Outage(max_outage_s=900.0, clock=clock)
        self._exchanging = 0
        self._crowded = False

    @cached_property
    def retries(self) -> RetryPolicy:
        """When its rows try again."""
        from batchrun.client.retry import RetryPolicy  # noqa: PLC0415 - tenacity takes 6 ms of CPU; few runs need it

        return RetryPolicy(self._limits)

    @property
    def condition(self) -> Literal["open", "paused", "outage", "retired"]:
        """What would become of an attempt now."""
        if self.retired is not None:
            return "retired"
        if self._outage.is_on:
            return "outage"
        return "paused" if self.gate.paused_s else "open"

    @property
    def is_out(self) -> bool:
        """Say whether its rows are another lane's for now: it is retired, in an outage, or paused for a while."""
        return self.retired is not None or self._outage.is_on or self._clock() < self._out_until

    @property
    def room(self) -> int:
        """Attempts that could begin now, as far as slots and pauses go."""
        return 0 if self.retired is not None or self.gate.paused_s else self.gate.slots - self.gate.in_flight

    def expected_tokens(self, body: bytes) -> float:
        """Return the tokens that an attempt is to take at the gate, 0 where they are not limited."""
        return self._estimate.tokens(len(body)) if self.gate.counts_tokens else 0.0

    async def attempt(self, body: bytes, *, model: str | None = None, tokens: float = 0.0) -> Attempt:
        """Make one exchange, whose slot and `tokens` the caller has taken at the gate, and judge it.

        `model` is the one that the request asks for, None for the job's.
        """
        if self._model is not None and model is None:
            body = with_model(body, self._model)
        began, sent_at = self._clock(), self.gate.now()
        status: int | None = None
        short = False
        self._exchanging += 1
        try:
            exchange = await self._transport.exchange(body)
        except ExchangeError as error:
            trouble = self._interpreter.cut(error)
            short = error.phase == "shortage"
        else:
            came_to = self._interpreter.read(exchange, Ask(body, model))
            if isinstance(came_to, Reply):
                return Attempt(
                    came_to=came_to,
                    http_status=exchange.status,
                    latency_ms=(self._clock() - began) * 1000,
                    weather=self._answered(came_to, exchange.headers, len(body), tokens, sent_at),
                    first_token_ms=exchange.first_token_ms,
                )
            trouble, status = came_to, exchange.status
        finally:
            self._exchanging -= 1
        latency_ms = (self._clock() - began) * 1000
        self._hold_back(trouble, tokens, sent_at)
        weather = self._short(trouble) if short else self._weather(trouble)
        if weather is Weather.TOO_LONG:
            what = "the endpoint has been failing" if trouble.sent else "no connection could be opened"
            message = f"{what} for longer than max_outage_s, last with: {trouble.message}"
            trouble = msgspec.structs.replace(trouble, then=Then.STOP_RUN, message=message)
        return Attempt(
            came_to=trouble,
            http_status=status,
            latency_ms=latency_ms,
            weather=weather,
            excused=short or weather in OUTAGES,
        )

    def _answered(
        self, reply: Reply, headers: Mapping[str, str], body_bytes: int, tokens: float, sent_at: float
    ) -> Weather:
        """Let the gate know what a reply was worth and what it says of limits: the endpoint is there."""
        gate, used = self.gate, reply.usage.total_tokens
        if gap_s := pace_gap_s(headers, tokens=tokens or used or 0.0):
            gate.space(gap_s)
        gate.succeeded()
        if gate.counts_tokens:
            self._estimate.learn(body_bytes, reply.usage)
            if used is not None:
                gate.correct(used - tokens, sent_at)
        return self._fair() if self._outage.in_a_row else Weather.FAIR

    def _hold_back(self, trouble: Trouble, tokens: float, sent_at: float) -> None:
        """Let the gate know what trouble asks of it, and what an attempt was worth that can't have been billed."""
        if trouble.pauses:
            self._pause(trouble.hint_s or 0.0)
        if trouble.spends is Spends.THROTTLE and trouble.hint_s is None:
            self.gate.refused(self._exchanging)
        used = trouble.usage.total_tokens
        if used is None and not trouble.maybe_billed:
            used = 0
        if used is not None:
            self.gate.correct(used - tokens, sent_at)

    def _pause(self, wait_s: float) -> None:
        self.gate.pause(wait_s)
        if wait_s > OUT_AFTER_S:
            self._out_until = max(self._out_until, self._clock() + wait_s)

    def _short(self, trouble: Trouble) -> Weather:
        """Admit no more attempts than there are connections; where there is none, that is an outage like others."""
        weather = Weather.FAIR
        if self._exchanging:
            self.gate.fit(self._exchanging, for_s=SHORTAGE_S)
        else:
            weather = self._weather(trouble)
        if weather is Weather.FAIR and not self._crowded:
            self._crowded = True
            return Weather.CROWDED
        return weather

    def _fair(self) -> Weather:
        """Take note that the endpoint is there."""
        weather = self._outage.answered()
        if weather is Weather.ENDS:
            self.gate.widen()
        return weather

    def _weather(self, trouble: Trouble) -> Weather:
        """Take note of what trouble says about the endpoint; during an outage only one probe at a time goes."""
        if not may_be_outage(trouble):
            return self._fair()
        weather = self._outage.failed()
        if self._outage.is_on:
            self.gate.narrow(self._exchanging + 1)  # what hangs is no probe, and must not keep the one from going
            if not self.gate.paused_s:  # what was in flight when it began is no probe
                self.gate.pause(self._outage.probe_wait_s())
        return weather
