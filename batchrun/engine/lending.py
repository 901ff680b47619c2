"""The budget of a job between the process that holds its output and its worker processes."""

from __future__ import annotations

from collections.abc import Sequence

from batchrun.budget import Spent
from batchrun.engine.bank import Bank
from batchrun.engine.member import Member
from batchrun.engine.messages import Lend, Recall, Returned, Short
from batchrun.errors import ExitStatus
from batchrun.execution.ending import Ending
from batchrun.spending import used_up


class Lending:
    """Lends to members out of a bank, and sees when there is nothing more to lend."""

    def __init__(self, bank: Bank) -> None:
        """Lend out of `bank`."""
        self._bank = bank

    def hear(self, member: Member, word: Short | Returned) -> None:
        """Take note of what a member lacks or gives back."""
        if isinstance(word, Short):
            self._bank.ask(member.number, word.nanousd, word.out, word.spent)
        else:
            self._bank.returned(member.number, word.nanousd, word.spent)

    def settle(self, member: Member, spent: Spent) -> None:
        """Have one member less; `spent` is what the main ledger says once it has adopted that of the member."""
        self._bank.close(member.number, spent)

    def go_on(self, working: Sequence[Member], *, recalling: bool) -> Ending | None:
        """Lend what is there, or, `recalling`, ask for what others do not need.

        Return why the run ends when nothing is to come. What was just given back is no reason to ask again: each second
        is often enough.
        """
        bank, channels = self._bank, {member.number: member.channel for member in working}
        for number, nanousd in bank.lend(channels).items():
            channels[number].send(Lend(nanousd=nanousd))
        if bank.is_used_up(channels):
            reason = used_up(bank.limit_nanousd, bank.spent, bank.shortest)
            return Ending(status=ExitStatus.BUDGET, reason=reason)
        for number in bank.recall(channels) if recalling else ():
            channels[number].send(Recall())
        return None

    def used(self, working: Sequence[Member]) -> float:
        """Return the share of the budget that is spent or reserved, by the last reports."""
        taken = sum(one.report.taken_nanousd for one in working if one.report is not None)
        return (self._bank.adopted_nanousd + taken) / self._bank.limit_nanousd
