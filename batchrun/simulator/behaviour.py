"""A try of a prompt into how it is treated: answered, failed or left hanging, and how late."""

from __future__ import annotations

import math
from enum import Enum
from statistics import NormalDist
from typing import TYPE_CHECKING

from batchrun.simulator.draws import draw

if TYPE_CHECKING:
    from batchrun.job.settings import SimulatorSettings

_NORMAL = NormalDist()
_SMALLEST = 2.0**-53


class Treatment(Enum):
    """What becomes of an admitted request; all values but the first are words that /stats counts under."""

    ANSWER = "answer"
    TRUNCATE = "truncated"
    ERROR = "500"
    RESET = "reset"
    HANG = "hang"


def treatment(settings: SimulatorSettings, digest: str, nth: int) -> Treatment:
    """Return how the nth try of a prompt is treated.

    One draw decides between hang, reset and error, so that each has its whole share of the requests while
    the shares sum up to 1 or less (beyond that the first of them win); another draw cuts its share of the
    replies that are left.
    """
    if settings.hang_rate or settings.reset_rate or settings.error_rate:
        chance = draw(settings.seed, digest, nth, "treatment")
        for share, named in (
            (settings.hang_rate, Treatment.HANG),
            (settings.reset_rate, Treatment.RESET),
            (settings.error_rate, Treatment.ERROR),
        ):
            if chance < share:
                return named
            chance -= share
    if settings.truncate_rate and draw(settings.seed, digest, nth, "truncate") < settings.truncate_rate:
        return Treatment.TRUNCATE
    return Treatment.ANSWER


def latency_s(settings: SimulatorSettings, digest: str, nth: int) -> float:
    """Return the seconds until the nth try of a prompt is answered: fixed, or lognormal with that median."""
    median_s = settings.latency_ms / 1000
    if not median_s or not settings.latency_sigma:
        return median_s
    chance = max(_SMALLEST, draw(settings.seed, digest, nth, "latency"))
    return median_s * math.exp(settings.latency_sigma * _NORMAL.inv_cdf(chance))
