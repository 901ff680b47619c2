"""What one exchange brought, or how it broke off, into a reply or a trouble: the decision, without any I/O."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from batchrun.client.arriving import ExchangeError
from batchrun.client.body import UnusableReplyError
from batchrun.client.error_body import facts_of, inner_status, read_error, request_id
from batchrun.client.hints import unreadable_hints
from batchrun.client.masking import Masks
from batchrun.client.reply import ReplyReader, asked_tier
from batchrun.client.verdict import Facts, judge, refused, trouble
from batchrun.events import Watcher
from batchrun.model.attempt import Exchange, Reply, Then, Trouble

MOST_CODE_CHARS = 100
_MOST_NOTES = 100


class Ask(msgspec.Struct, frozen=True, gc=False):
    """A request as it was sent, and the model it asks for, None for the job's."""

    body: bytes
    model: str | None = None


class Interpreter:
    """Reads what came of one lane's exchanges.

    It remembers whether any request was answered yet, which changes what a refusal means, and what it has told.
    """

    def __init__(
        self,
        *,
        replies: ReplyReader,
        most_pause_s: float,
        secrets: tuple[str, ...],
        key_source: str | None,
        watcher: Watcher,
    ) -> None:
        """See `Lane` for what these are."""
        self._replies = replies
        self._most_pause_s = most_pause_s
        self._masks = Masks(secrets)
        self._key_source = key_source
        self._watcher = watcher
        self._noted: set[tuple[str, ...]] = set()
        self.succeeded = False

    def cut(self, error: ExchangeError) -> Trouble:
        """Judge an exchange without a whole reply (PROTOCOL.md 2.2, #18 and #19)."""
        facts = Facts(phase=error.phase, sent=error.sent, message=str(error), succeeded=self.succeeded)
        return trouble(facts, judge(facts))

    def read(self, exchange: Exchange, ask: Ask) -> Reply | Trouble:
        """Judge a whole exchange; the key is masked where the server echoed it, before anything is read or kept."""
        body, status = self._masks.body(exchange.body), exchange.status
        if body is not exchange.body or status >= 300:  # noqa: PLR2004 - nothing of a success's headers is shown
            exchange = self._masked(exchange, body)
        if not 200 <= status < 300:  # noqa: PLR2004 - a success can hold a completion, nothing else can
            came_to = self._refused(exchange, ask, read_error(body))
        elif exchange.problem is not None:
            came_to = self._unusable(exchange, ask, UnusableReplyError(exchange.problem))
        else:
            try:
                came_to = self._replies.read(
                    body, exchange.headers, model=ask.model, ask=ask.body, noted=exchange.flags
                )
            except UnusableReplyError as error:
                came_to = self._unusable(exchange, ask, error)
            except Exception as error:  # noqa: BLE001 - a reply nobody foresaw fails its row, never the run
                what = f"the reply can't be read: {type(error).__name__}"
                came_to = self._unusable(exchange, ask, UnusableReplyError(what))
        if isinstance(came_to, Reply):
            self.succeeded = True
            if came_to.flags:
                self._note_odd(came_to, ask)
        return came_to

    def _masked(self, exchange: Exchange, body: bytes) -> Exchange:
        headers = exchange.headers
        if exchange.status >= 300:  # noqa: PLR2004 - nothing of a success's headers is shown
            headers = {name: self._masks.text(value) for name, value in headers.items()}
        return msgspec.structs.replace(exchange, body=body, headers=headers)

    def _refused(
        self, exchange: Exchange, ask: Ask, error: Mapping[str, object], *, inner: int | None = None
    ) -> Reply | Trouble:
        """Judge an error; `inner` is the status that it stands for where it stands in a success."""
        now = datetime.now(tz=UTC)
        facts = self._facts(exchange, error, inner, now)
        for name in unreadable_hints(exchange.headers, now=now):
            self._note("a wait that the server asks for can't be read", header=name)
        verdict = judge(facts)
        if verdict.ruling.then is Then.REFUSE_ROW:
            return msgspec.structs.replace(refused(), raw=self._replies.kept(exchange.body))
        shown = msgspec.structs.replace(
            facts,
            message=self._masks.text(facts.message, ask=ask.body),
            code=self._masks.text(facts.code, ask=ask.body)[:MOST_CODE_CHARS],
            points_to=self._masks.text(facts.points_to, ask=ask.body)[:MOST_CODE_CHARS],
        )
        return self._ended(trouble(shown, verdict, now=now), exchange, facts.status)

    def _facts(self, exchange: Exchange, error: Mapping[str, object], inner: int | None, now: datetime) -> Facts:
        try:
            return facts_of(
                exchange,
                error,
                inner=inner,
                now=now,
                succeeded=self.succeeded,
                most_pause_s=self._most_pause_s,
            )
        except Exception as odd:  # noqa: BLE001 - an error nobody foresaw is judged by its status alone
            return Facts(
                status=inner or exchange.status,
                inside=exchange.status if inner else 0,
                message=f"the error can't be read: {type(odd).__name__}",
                succeeded=self.succeeded,
            )

    def _ended(self, came_to: Trouble, exchange: Exchange, status: int) -> Trouble:
        """Return the trouble with what helps to mend it at the end of its message, and the body where it is kept."""
        message = came_to.message
        if self._key_source and (came_to.line == "5" or status in {401, 403}):
            message = f"{message} (key from {self._key_source})"
        elif came_to.line == "5":
            message = f"{message} (no key was sent: neither endpoint.api_key_env nor endpoint.api_key_file is set)"
        if found := self._masks.text(request_id(exchange.headers, exchange.body) or ""):
            message = f"{message} [request {found}]"
        return msgspec.structs.replace(came_to, message=message, raw=self._replies.kept(exchange.body))

    def _unusable(self, exchange: Exchange, ask: Ask, error: UnusableReplyError) -> Reply | Trouble:
        """Judge a 200 without a completion (PROTOCOL.md 2.2, #20 to #23); what it cost is not forgotten."""
        usage, cost = self._replies.salvage(exchange.body, exchange.headers, model=ask.model)
        maybe_billed = cost is None and error.inner is None
        if error.inner is not None:
            found = {**read_error(exchange.body), **error.inner}
            came_to = self._refused(exchange, ask, found, inner=inner_status(found))
        else:
            facts = Facts(
                useless=error.useless,
                code=error.useless,
                inside=exchange.status,
                message=str(error),
                succeeded=self.succeeded,
            )
            came_to = self._ended(trouble(facts, judge(facts)), exchange, exchange.status)
        if isinstance(came_to, Reply):
            return msgspec.structs.replace(came_to, usage=usage, cost=cost)
        return msgspec.structs.replace(
            came_to,
            usage=usage,
            cost=cost,
            instead=error.instead,
            maybe_billed=came_to.maybe_billed or maybe_billed,
        )

    def _note_odd(self, reply: Reply, ask: Ask) -> None:
        """Tell once of each model and service tier that answered instead of another."""
        if "model_mismatch" in reply.flags:
            asked = self._replies.asked_model(ask.model)[:MOST_CODE_CHARS]
            self._note("another model answered", asked=asked, answered=self._shown(reply.model))
        if "tier_downgraded" in reply.flags:
            self._note("another service tier was used", asked=self._shown(asked_tier(ask.body)))

    def _shown(self, text: str | None) -> str:
        return self._masks.text(text or "")[:MOST_CODE_CHARS]

    def _note(self, event: str, **facts: str) -> None:
        """Tell an event once with each set of facts, and no more than a hundred of them."""
        key = (event, *facts.values())
        if key not in self._noted and len(self._noted) < _MOST_NOTES:
            self._noted.add(key)
            self._watcher.noted(event, **facts)
