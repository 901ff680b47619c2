"""A worker process kept to its share of the limits; what it gives up goes with its past, slots as they come back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

from batchrun.client.lane import Lane
from batchrun.client.lanes import Lanes
from batchrun.client.window import Sent
from batchrun.engine.channel import Channel
from batchrun.engine.messages import Begin, Fitting, Order, Reshare
from batchrun.engine.shares import Past, Share, name_of, slots_in
from batchrun.events import Bound
from batchrun.execution.company import Steered
from batchrun.ledger.store import SENDING

_PIECES = 8
"""Slots that are given up go in about so many pieces, so that others need not wait for the last of them."""
_RATES: tuple[Bound, ...] = ("requests", "tokens", "daily requests", "daily tokens")


def take_on(lanes: Lanes, past: Past) -> None:
    """Count what was let in elsewhere, whose times are the machine's, as if it had been by these lanes."""
    ago_s = asyncio.get_running_loop().time() - time.monotonic()
    for lane in lanes:
        lane.gate.take_on(
            {
                bound: [Sent(at + ago_s, amount) for at, amount in past.get(name_of(lane.number, bound), ())]
                for bound in _RATES
            }
        )


class Keeping:
    """Keeps the lanes of one process to what the holder of the output lets it use; must be made inside the loop."""

    def __init__(
        self, begin: Begin, lanes: Lanes, channel: Channel[Order], reshares: asyncio.Queue[Reshare | None]
    ) -> None:
        """Hold to the share of `begin`, then to those that come by `reshares`; tell the holder over `channel`."""
        self._loop = asyncio.get_running_loop()
        self._lanes = lanes
        self._channel = channel
        self._reshares = reshares
        self._share = begin.share
        self._kept: Share | None = None
        self._given_up: dict[str, list[tuple[float, float]]] = {}
        if not begin.is_first:  # the first has all, as its lanes were opened
            self._resize()
            for lane in lanes:
                lane.breaker.answered()  # another process has seen that the endpoint does answer this job
        take_on(lanes, begin.past)

    async def attend(self, flow: Steered) -> None:
        """Change the share as the holder asks; what may be in flight is noted in the ledger before it is more."""
        noted = slots_in(self._share)
        while True:
            order = await self._reshares.get()
            slots = slots_in(self._share if order is None else order.share)
            if slots > noted or order is None:
                await flow.ask(lambda store, slots=slots: store.note(**{SENDING: str(slots)}))  # type: ignore[misc]
                noted = slots
            if order is not None:
                self._take(order)

    def _take(self, order: Reshare) -> None:
        before, narrower = self._share, any(units < self._share.get(name, 0) for name, units in order.share.items())
        self._share = order.share
        given = self._resize()
        if narrower:
            self._kept, self._given_up = before, given
        take_on(self._lanes, order.past)
        self.tell_if_fitting()

    def _resize(self) -> dict[str, list[tuple[float, float]]]:
        """Hold the gates to the share; return the past that goes with what they give up."""
        share = self._share
        given: dict[str, list[tuple[float, float]]] = {}
        for lane in self._lanes:
            limits: dict[Bound, float] = {
                bound: float(share[name]) for bound in _RATES if (name := name_of(lane.number, bound)) in share
            }
            self._add_past(given, lane, lane.gate.resize(share[name_of(lane.number, "slots")], limits))
        return given

    def _add_past(
        self, past: dict[str, list[tuple[float, float]]], lane: Lane, sent: Mapping[Bound, Iterable[Sent]]
    ) -> None:
        """Add what a lane let in, in the machine's time; what is of a day is all lanes' and stands with the first."""
        ahead_s = time.monotonic() - self._loop.time()
        for bound, some in sent.items():
            if (name := name_of(lane.number, bound)) in self._share:
                past[name] = [(at + ahead_s, amount) for at, amount in some]

    def tell_if_fitting(self) -> None:
        """Tell what is kept on the way to a narrower share: at first, then by each eighth of the slots, and at last."""
        if self._kept is None:
            return
        names = {name_of(lane.number, "slots"): lane.gate.in_flight for lane in self._lanes}
        kept = {name: max(units, min(names.get(name, 0), self._kept[name])) for name, units in self._share.items()}
        least = max(1, (slots_in(self._kept) - slots_in(self._share)) // _PIECES)
        if kept != self._share and not self._given_up and slots_in(self._kept) - slots_in(kept) < least:
            return
        self._channel.send(Fitting(share=kept, past=self._given_up))
        self._kept, self._given_up = kept, {}
        if kept == self._share:
            self._kept = None
            self._reshares.put_nowait(None)  # less may be in flight now: that is noted too

    def whole_past(self) -> Past:
        """Return all that was let in of late, for those who take the share over; nothing is let in any more."""
        past: dict[str, list[tuple[float, float]]] = {}
        for lane in self._lanes:
            self._add_past(past, lane, lane.gate.past())
        return past
