"""What may be spent, in integer nano-USD: the most that each request can take, reserved before it is sent. Pure.

A request takes at most a prompt token for each UTF-8 byte of its messages and 16 a message for their frame, and
`max_tokens` for each of its `n` choices (DESIGN.md, section 4). Where no price is known, or the request sets no bound,
an attempt counts at the dearest one so far until its own cost is known.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from batchrun.model.request import Messages

TOKENS_PER_MESSAGE = 16
OUTPUT_BOUNDS = ("max_tokens", "max_completion_tokens")
_ENCODE = msgspec.json.Encoder().encode


class MostTokens(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What no attempt of a request takes more than; `completion` is None where the request does not bound it."""

    prompt: int
    completion: int | None


def most_tokens(fields: Mapping[str, object]) -> MostTokens:
    """Return the bounds of a request with these body `fields`, but for its messages.

    Lists and objects among the fields, such as `tools`, may become part of the prompt, so their bytes count too.
    """
    more = sum(len(_ENCODE(value)) for value in fields.values() if isinstance(value, list | dict))
    return MostTokens(prompt=more, completion=most_completion_tokens(fields))


def with_messages(most: MostTokens, messages: Messages) -> MostTokens:
    """Return the bounds of a request with these `messages` too."""
    prompt = most.prompt + len(messages.plain) + TOKENS_PER_MESSAGE * messages.count
    return MostTokens(prompt=prompt, completion=most.completion)


def most_completion_tokens(fields: Mapping[str, object]) -> int | None:
    """Return the tokens that all choices of a request may have, None where it does not bound them."""
    given = [_count(fields[name]) for name in OUTPUT_BOUNDS if fields.get(name) is not None]
    choices = 1 if fields.get("n") is None else _count(fields["n"])
    if not given or None in given or choices is None:
        return None
    return max(filter(None, given)) * choices


def _count(value: object) -> int | None:
    """Return a whole number of at least 1; None for what a server may take as no bound."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 1 else None


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """What an output has cost so far, over all its runs.

    `known_nanousd` is what is known. `held_nanousd` are the reservations of attempts that may have been billed for an
    amount nobody told; `uncosted` counts such attempts that had no upper bound. `dearest_nanousd` is the highest cost
    of one attempt.
    """

    known_nanousd: int = 0
    held_nanousd: int = 0
    uncosted: int = 0
    dearest_nanousd: int = 0

    @property
    def nanousd(self) -> int:
        """All of it, each attempt of unknown cost at its reservation or else at the dearest so far."""
        return self.known_nanousd + self.held_nanousd + self.uncosted * self.dearest_nanousd


class Reservation(msgspec.Struct, frozen=True, gc=False):
    """What one attempt may cost: at most `bound_nanousd`, or where that is None as much as the dearest so far."""

    bound_nanousd: int | None


class Budget:
    """Keeps what is spent and what is reserved within a limit; each reservation ends in just one of three ways."""

    def __init__(self, limit_nanousd: int, spent: Spent) -> None:
        """Start with what earlier runs spent."""
        self.limit_nanousd = limit_nanousd
        self._known = spent.known_nanousd
        self._held = spent.held_nanousd
        self._uncosted = spent.uncosted
        self._dearest = spent.dearest_nanousd
        self._certain = self._known + self._held
        """What is spent or reserved, but for what counts at the dearest attempt so far."""
        self._unbounded = 0
        self.out = 0
        """Reservations that have not ended."""

    @property
    def spent(self) -> Spent:
        """What is spent."""
        return Spent(
            known_nanousd=self._known,
            held_nanousd=self._held,
            uncosted=self._uncosted,
            dearest_nanousd=self._dearest,
        )

    @property
    def taken_nanousd(self) -> int:
        """What is spent and what is reserved."""
        return self._certain + (self._uncosted + self._unbounded) * self._dearest

    def cost_of(self, bound_nanousd: int | None) -> int:
        """Return what an attempt with this bound counts as before its cost is known."""
        return self._dearest if bound_nanousd is None else bound_nanousd

    def reserve(self, bound_nanousd: int | None) -> Reservation | None:
        """Reserve for one attempt, None where it is not covered.

        While nothing was seen to cost anything, one without a bound is covered as long as anything is left.
        """
        taken = self._certain + (self._uncosted + self._unbounded) * self._dearest
        if bound_nanousd is None:
            if taken >= self.limit_nanousd or taken + self._dearest > self.limit_nanousd:
                return None
            self._unbounded += 1
        else:
            if taken + bound_nanousd > self.limit_nanousd:
                return None
            self._certain += bound_nanousd
        self.out += 1
        return Reservation(bound_nanousd)

    def give_back(self, reservation: Reservation) -> None:
        """End the reservation of an attempt that cost nothing: it was not sent, or was refused."""
        self.pay(reservation, 0)

    def pay(self, reservation: Reservation, nanousd: int) -> None:
        """End the reservation of an attempt whose cost is known, be it more than was reserved."""
        self.out -= 1
        if (bound_nanousd := reservation.bound_nanousd) is None:
            self._unbounded -= 1
            self._certain += nanousd
        else:
            self._certain += nanousd - bound_nanousd
        self._known += nanousd
        self._dearest = max(self._dearest, nanousd)

    def keep(self, reservation: Reservation) -> None:
        """End the reservation of an attempt that may have been billed, nobody knows for how much: it stays spent."""
        self.pay(reservation, 0)
        if (bound_nanousd := reservation.bound_nanousd) is None:
            self._uncosted += 1
        else:
            self._held += bound_nanousd
            self._certain += bound_nanousd
