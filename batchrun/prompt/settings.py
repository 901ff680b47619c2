"""The table [prompt] of the job file as a type."""

# Without `from __future__ import annotations`: msgspec would compile each field's text again, in 40 µs (measured).

from typing import Annotated

import msgspec
from msgspec import Meta


class PromptSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """[prompt]: Jinja2 templates over the row's columns, or the name of a column that holds messages."""

    system: Annotated[str | None, Meta(description="template of the system message")] = None
    user: Annotated[str | None, Meta(description="template of the user message")] = None
    messages: Annotated[str | None, Meta(description="column of chat messages, instead of user")] = None
    params: Annotated[str | None, Meta(description="column of body fields that override [request]")] = None
