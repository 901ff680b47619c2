"""What a row costs: batchrun's command beside a tuned hand-written loop, in the same minutes on the same server.

Each scenario is measured in rounds and printed as a table, with the machine and the commit. A whole run rewrites the
tables in README.md; a part does with --write. Exit status 1 when a row came out wrong.

    python tests/benchmarks/speed.py [--only SCENARIO]... [--rounds 3] [--rows N] [--write | --no-write]
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path

import sending
import startup
from report import measured_on, rewrite

MEASURES: dict[str, Callable[[int, int | None, Path], tuple[str, bool]]] = {
    **{name: functools.partial(sending.told, scenario) for name, scenario in sending.SCENARIOS.items()},
    "start-up": startup.start_up,
    "many": startup.many,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=MEASURES, help="repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="instead of each scenario's own number")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, help="default: if nothing else is given")
    parser.add_argument("--folder", help="where input and output lie while it runs")
    options = parser.parse_args()
    write = options.write if options.write is not None else not (options.only or options.rows or options.rounds < 3)
    good = True
    for name in options.only or MEASURES:
        with tempfile.TemporaryDirectory(prefix="batchrun-speed-", dir=options.folder) as folder:
            text, is_right = MEASURES[name](options.rounds, options.rows, Path(folder))
            text += "\n\n" + measured_on(Path(folder))
        print(text, end="\n\n", flush=True)
        good = good and is_right
        if write:
            rewrite(name, text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
