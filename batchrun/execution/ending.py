"""Why a run ends before all rows are settled, as a value."""

from __future__ import annotations

import msgspec

from batchrun.errors import ExitStatus


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """Why a run ends before all rows are settled."""

    status: ExitStatus
    reason: str
