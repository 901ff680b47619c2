"""How late batchrun's event loop is while it sends, reads, decodes and seals large rows, and what holds it up.

The command runs under `lagged.py`, on all cores, over replies of 200 kB, over prompts of 200 kB, and over both,
with parts of few rows, so that the writer is always at work. Latency lets the loop be idle in between: a loop that is
always busy is late by what its ready callbacks take together. The delays are told as seen and without the time for
which a thread of the process stood in line for a core. Exit status 1 when of these p99 reaches 20 ms or one 100 ms.

    python tests/benchmarks/lag.py [--only CASE]... [--rows N] [--culprits 8] [--write]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import contenders
from contenders import COMMAND, Case
from endpoint import serving
from report import measured_on, rewrite, table
from rows import Rows
from timed import cores, timed

LAGGED = Path(__file__).with_name("lagged.py")
P99_MS, MOST_MS = 20.0, 100.0
WORD_BYTES = 6
LARGE = 200_000
HEADS = ("rows", "requests/s", "p50 ms", "p99 ms", "most ms", "own p99 ms", "own most ms", "own over 20 ms", "of",
         "rows right")  # fmt: skip


class Large(NamedTuple):
    """Rows with prompts and replies of so many characters."""

    title: str
    rows: int
    chars: int
    reply_chars: int
    rows_per_part: int
    concurrency: int = 32
    latency_ms: int = 200


CASES = {
    "replies": Large("replies of 200 kB", 3_000, 200, LARGE, 100),
    "prompts": Large("prompts of 200 kB", 3_000, LARGE, 80, 100),
    "both": Large("both", 2_000, LARGE, LARGE, 100),
    "small": Large("200 characters, parts of 500 rows", 20_000, 200, 80, 500, concurrency=64, latency_ms=20),
}


def at(sorted_values: Sequence[float], share: float) -> float:
    """Return the value that this share of all is not above."""
    return sorted_values[min(len(sorted_values) - 1, int(share * len(sorted_values)))]


def measure(large: Large, count: int, folder: Path) -> tuple[list[str], list[tuple[str, int]], bool]:
    """Run one case; return its line of the table, the culprits, and whether all is well."""
    rows, source, report = Rows(count, chars=large.chars), folder / "rows.jsonl", folder / "lag.json"
    rows.write_jsonl(source)
    words = ("--words", str(large.reply_chars // WORD_BYTES), "--latency-ms", str(large.latency_ms))
    who, everywhere = contenders.run("batchrun"), frozenset(os.sched_getaffinity(0))
    with serving(*words, core=min(cores()[1])) as served:
        case = Case(folder, source, rows, served.base_url, large.concurrency, None)
        command = who.words(case)[len(COMMAND) :]
        command += ["--set", f"output.rows_per_part={large.rows_per_part}"]
        used = timed([sys.executable, str(LAGGED), str(report), *command], on=everywhere, folder=folder)
        span_s = served.stats()["span_s"]
    wrong = used.said[-300:] if used.exit_status else who.wrong(case)
    found = json.loads(report.read_bytes())
    seen_ms, own_ms = (sorted(one[kind] * 1000 for one in found["late_s"]) for kind in (0, 1))
    p99, most = at(own_ms, 0.99), own_ms[-1]
    line = [large.title, f"{count / span_s:,.0f}", f"{at(seen_ms, 0.5):.2f}", f"{at(seen_ms, 0.99):.1f}",
            f"{seen_ms[-1]:.0f}", f"{p99:.1f}", f"{most:.0f}", str(sum(one > P99_MS for one in own_ms)),
            f"{len(own_ms):,}", wrong or "all"]  # fmt: skip
    return line, found["culprits"], not wrong and p99 < P99_MS and most < MOST_MS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=CASES, help="repeatable")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--culprits", type=int, default=8, help="print that many stacks of long delays")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, help="default: if nothing else is given")
    options = parser.parse_args()
    write = options.write if options.write is not None else len(sys.argv) == 1
    lines, good = [], True
    for name in options.only or CASES:
        with tempfile.TemporaryDirectory(prefix="batchrun-lag-") as folder:
            line, culprits, is_good = measure(CASES[name], options.rows or CASES[name].rows, Path(folder))
            on = measured_on(Path(folder))
        lines.append(line)
        good = good and is_good
        for stack, times in culprits[: options.culprits]:
            print(f"{name}: {times:4} times  {stack}")
    text = table(HEADS, lines) + "\n\n" + on
    print(text)
    if write:
        rewrite("lag", text)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
