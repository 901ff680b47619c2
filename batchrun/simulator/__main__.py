"""The child of `child.py`: what it needs is imported as lightly as a command's."""

from __future__ import annotations

import sys

from batchrun.startup import loading, start_light


def main() -> int:
    """Serve until stdin ends or a signal comes, and return the exit status."""
    start_light()
    with loading():
        from batchrun.simulator.piped import serve_piped  # noqa: PLC0415
    return serve_piped()


if __name__ == "__main__":
    sys.exit(main())
