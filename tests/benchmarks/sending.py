"""Scenarios of sending: the same rows by each contender, in rounds, in another order each.

In each round every contender sends all rows to a server of its own, which has a core; the client has another one. Where
one process is compared with several, they and the server share all cores, as for whoever types the two commands. CPU
is that of the whole command and its children, start included. Ratios are to the first contender of the same round; the
tables show medians. The output is checked row by row.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import contenders
from contenders import Case, Contender
from endpoint import serving
from report import table
from rows import Rows
from timed import cores, timed

LATENCY = ("--latency-ms", "1000", "--latency-sigma", "0.5")
KINDS = ",".join(["500", "cut", "503", "cut"] * 10 + ["429"])
"""One hint in 41 faults: each pauses the lane, and the slots are filled slowly after it."""
FAULTS = ("--faults", "0.05", "--fault-kinds", KINDS, "--retry-after-s", "1")
REPEATS = 200
PARTS = 40
"""Of the rows that several processes share: with few parts one of them works the last one alone."""
SWAYING = 3
"""How many times the rounds those get: what processes that share cores cost sways by a tenth from run to run."""
TEMPLATE = "{% for n in range(" + str(REPEATS) + ") %}{{ n }}. {{ prompt | upper }}\n{% endfor %}"
HEADS = ("who", "CPU s for 10,000", "ratio", "requests/s", "ratio", "wall s", "peak MB", "sum MB", "slots used",
         "ratio", "server's CPU s for 10,000", "rows right")  # fmt: skip


class Scenario(NamedTuple):
    """Some rows, a server, and who sends them; ratios are to the first.

    Where several processes are compared with one, the rows are `PARTS` parts and the rounds `SWAYING` times as many.
    """

    title: str
    rows: int
    concurrency: int
    who: Callable[[], list[Contender]]
    chars: int = 200
    server: Sequence[str] = ()
    template: str | None = None
    in_parts: bool = False


class Figures(NamedTuple):
    """What one sending came to; `used` is the latency that was served over slots times the time of sending."""

    cpu_s: float
    rate: float
    wall_s: float
    peak_mb: float
    sum_mb: float
    used: float
    server_cpu_s: float
    wrong: str


def asked_by_template(prompt: str) -> str:
    """Return what `TEMPLATE` makes of a prompt."""
    return "".join(f"{number}. {prompt.upper()}\n" for number in range(REPEATS))


def all_ways() -> list[Contender]:
    return [
        contenders.reference(),
        contenders.run("batchrun, all on"),
        contenders.run("batchrun, all on, lean", transport="lean"),
        contenders.run("batchrun, all on, session", transport="session"),
        contenders.run("batchrun, plain job", all_on=False),
        contenders.wrk(),
    ]


def both() -> list[Contender]:
    return [contenders.reference(), contenders.run("batchrun, all on")]


def one_and_two() -> list[Contender]:
    return [contenders.run("batchrun"), contenders.run("batchrun, 2 processes", processes=2)]


SCENARIOS = {
    "zero-64": Scenario("No latency, 64 slots", 20_000, 64, all_ways),
    "zero-256": Scenario("No latency, 256 slots", 20_000, 256, all_ways),
    "latency": Scenario("1 s lognormal latency, 1,000 slots", 20_000, 1000, both, server=LATENCY),
    "faults": Scenario("5 % faults: 500, cut connections, 429 with Retry-After", 10_000, 64, both, server=FAULTS),
    "processes": Scenario("Short rows, one process and two, 64 slots", 100_000, 64, one_and_two, in_parts=True),
    "processes-256": Scenario("Short rows, one process and two, 256 slots", 200_000, 256, one_and_two, in_parts=True),
    "template": Scenario(
        "Prompts of 20 kB made by a template", 30_000, 64, one_and_two, chars=90, template=TEMPLATE, in_parts=True
    ),
}


def send(scenario: Scenario, who: Contender, folder: Path, source: Path, rows: Rows) -> Figures:
    """Have one contender send all rows once."""
    client, server = cores()
    on = frozenset(os.sched_getaffinity(0)) if scenario.in_parts else client
    with serving(*scenario.server, core=None if scenario.in_parts else min(server)) as served:
        part = -(-rows.count // PARTS) if scenario.in_parts else None
        case = Case(folder, source, rows, served.base_url, scenario.concurrency, scenario.template, part)
        before = served.stats()
        used = timed(who.words(case), on=on, folder=folder, whole=who.processes > 1)
        stats = served.stats()
    wrong = f"exit status {used.exit_status}: {used.said[-300:]}" if used.exit_status else who.wrong(case)
    replies = stats["replies"]
    return Figures(
        cpu_s=used.cpu_s / replies * 10_000,
        rate=replies / stats["span_s"],
        wall_s=used.wall_s,
        peak_mb=used.peak_mb,
        sum_mb=used.sum_mb,
        used=stats["latency_s"] / scenario.concurrency / stats["span_s"],
        server_cpu_s=(stats["cpu_s"] - before["cpu_s"]) / replies * 10_000,
        wrong=wrong,
    )


def measure(scenario: Scenario, rounds: int, count: int, folder: Path) -> tuple[dict[str, list[Figures]], list[str]]:
    """Return the figures of each contender, one for each round, and why others were left out."""
    rows = Rows(count, chars=scenario.chars, asked=asked_by_template if scenario.template else lambda prompt: prompt)
    source = folder / "rows.jsonl"
    rows.write_jsonl(source)
    everybody = scenario.who()
    there = [who for who in everybody if not who.lacks]
    found: dict[str, list[Figures]] = {who.name: [] for who in there}
    for number in range(rounds):
        for who in there[number % len(there) :] + there[: number % len(there)]:
            figures = send(scenario, who, folder, source, rows)
            found[who.name].append(figures)
            print(f"  round {number + 1}: {who.name}: {figures.cpu_s:.2f} CPU s for 10,000, {figures.rate:,.0f} "
                  f"requests/s, {figures.wrong or 'all rows right'}", file=sys.stderr, flush=True)  # fmt: skip
    return found, [f"{who.name}: left out, {who.lacks}" for who in everybody if who.lacks]


def middle(some: Sequence[Figures], field: str, first: Sequence[Figures] | None = None) -> float:
    """Return the median of a figure, or of its ratios to that of the same round."""
    values = [getattr(one, field) for one in some]
    if first is not None:
        values = [value / getattr(one, field) for value, one in zip(values, first, strict=True)]
    return median(values)


def line_of(name: str, some: Sequence[Figures], first: Sequence[Figures], *, has_latency: bool) -> list[str]:
    """Return a line of a scenario's table."""
    sends_rows = name != "wrk"
    wrong = [one.wrong for one in some if one.wrong]
    return [
        name,
        f"{middle(some, 'cpu_s'):.2f}",
        f"{middle(some, 'cpu_s', first):.2f}",
        f"{middle(some, 'rate'):,.0f}",
        f"{middle(some, 'rate', first):.2f}",
        f"{middle(some, 'wall_s'):.1f}" if sends_rows else "",
        f"{max(one.peak_mb for one in some):.0f}",
        f"{max(one.sum_mb for one in some):.0f}" if some[0].sum_mb else "",
        f"{middle(some, 'used'):.3f}" if has_latency else "",
        f"{middle(some, 'used', first):.3f}" if has_latency else "",
        f"{middle(some, 'server_cpu_s'):.2f}",
        (wrong[0] if wrong else "all") if sends_rows else "",
    ]


def told(scenario: Scenario, rounds: int, rows: int | None, folder: Path) -> tuple[str, bool]:
    """Measure a scenario, with so many rows or its own; return its title and table, and whether all rows were right."""
    count = rows or scenario.rows
    rounds *= SWAYING if scenario.in_parts else 1
    found, left_out = measure(scenario, rounds, count, folder)
    first = next(iter(found.values()))
    has_latency = "--latency-ms" in scenario.server
    lines = [line_of(name, some, first, has_latency=has_latency) for name, some in found.items()]
    title = f"**{scenario.title}**: {count:,} rows, prompts of {scenario.chars} characters, {rounds} rounds."
    text = "\n\n".join([title, table(HEADS, lines), *left_out])
    return text, not any(one.wrong for some in found.values() for one in some)
