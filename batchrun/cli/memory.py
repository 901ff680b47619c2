"""How the process of a run takes memory from the system: so that what was freed is there for all, and given back.

Arrow's own allocator keeps what its threads freed, and glibc makes heaps for each thread that allocates; parts are
sealed now in one thread, now in another, so each of them comes to hold as much as a part needs. Measured over 250,000
rows of 1 kB: peak RSS 259 MB with Arrow's default, 218 MB with the system's allocator, 158 MB with that and one heap,
at the same CPU time.
"""

from __future__ import annotations

import ctypes
import os

_M_ARENA_MAX = -8
"""glibc's number for the most heaps; a C library without them has no `mallopt`, or knows no such number."""


def share_one_heap() -> None:
    """Have Arrow and all threads allocate from one heap; call it before Arrow is imported and threads are started.

    ARROW_DEFAULT_MEMORY_POOL and MALLOC_ARENA_MAX of the environment win.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    if "MALLOC_ARENA_MAX" not in os.environ and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 1)
