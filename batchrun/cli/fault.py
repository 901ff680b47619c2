"""A fault of batchrun itself, told so that it can be reported without telling a prompt or a key."""

from __future__ import annotations

import traceback

from batchrun import __version__
from batchrun.cli.say import say
from batchrun.errors import innermost


def show_fault(error: BaseException) -> None:
    """Print the places in the code where an unexpected error passed; never its values."""
    say(f"batchrun {__version__}: a fault of batchrun itself: {type(error).__name__}; please report it:")
    for frame in traceback.extract_tb(innermost(error).__traceback__):
        say(f"  {frame.filename}:{frame.lineno} {frame.name}")
