"""A small process that runs one command and says what it used, as JSON in the file that is named first.

The peak of a process counts what it was forked from, so a benchmark that holds tables must not start it itself.
"""

from __future__ import annotations

import json
import os
import sys
import time

if __name__ == "__main__":
    began = time.monotonic()
    _, status, used = os.wait4(os.posix_spawnp(sys.argv[2], sys.argv[2:], os.environ), 0)
    with open(sys.argv[1], "w", encoding="ascii") as file:  # noqa: PTH123 - pathlib would take memory of its own
        json.dump(
            {
                "exit_status": os.waitstatus_to_exitcode(status),
                "wall_s": time.monotonic() - began,
                "cpu_s": used.ru_utime + used.ru_stime,
                "peak_mb": used.ru_maxrss * 1024 / 1e6,
            },
            file,
        )
