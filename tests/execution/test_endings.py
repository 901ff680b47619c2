"""Why a run ends early: the first reason is told, once whoever sends a second signal on it would be heard."""

from __future__ import annotations

import asyncio
import signal

from batchrun.errors import ExitStatus
from batchrun.events import Unwatched
from batchrun.execution.ending import Ending
from batchrun.execution.endings import Endings, stopped_by

DEADLINE = Ending(status=ExitStatus.DEADLINE, reason="it is late")


class Heard(Unwatched):
    """A Watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.facts: list[dict[str, str | float | None]] = []
        self.told = asyncio.Event()

    def noted(self, event: str, **facts: str | float | None) -> None:
        assert event == "draining"
        self.facts.append(facts)
        self.told.set()


def test_the_first_is_told_with_what_is_in_flight_once_the_echo_of_a_signal_is_past() -> None:
    async def main() -> None:
        heard, in_flight = Heard(), [7]
        endings = Endings(heard, in_flight=lambda: in_flight[0])
        assert not endings.all
        endings.add(DEADLINE)
        endings.add(stopped_by(signal.SIGINT))
        assert not heard.facts
        in_flight[0] = 5
        await heard.told.wait()
        assert heard.facts == [{"exit_status": 5, "in_flight": 5, "why": "it is late"}]
        assert endings.all == [DEADLINE, Ending(status=ExitStatus.SIGINT, reason="stopped by SIGINT")]

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_signal_is_known_among_other_reasons() -> None:
    async def main() -> None:
        endings = Endings(Unwatched(), in_flight=lambda: 0)
        endings.add(DEADLINE)
        assert not endings.have_signal
        endings.add(stopped_by(signal.SIGHUP))
        assert endings.have_signal

    asyncio.run(main())
