"""Where the CPU of a row goes: that of a whole run, by stage of the row's way and by thread.

The command runs under `sampled.py`, which counts all that the process uses for the places where its threads are seen.
A place belongs to the stage of the innermost module of the package on its stack, so aiohttp counts as sending. What is
done in C counts for the Python after it, since signals wait until then. A whole run rewrites the table in README.md;
with other options only --write does.

    python tests/benchmarks/stages.py [--rounds 3] [--rows 20000] [--concurrency 64] [--places 40] [--transport lean]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

import contenders
from contenders import Case, Contender
from endpoint import serving
from report import measured_on, rewrite, table
from rows import Rows
from timed import cores, timed

SAMPLED = Path(__file__).with_name("sampled.py")
CHARS = 200
OTHER = "decide"
STAGES: dict[str, tuple[str, ...]] = {
    "start": (
        "start", "startup", "import", "cli", "job", "engine.access", "execution.opening", "execution.examine",
        "client.opening",
    ),
    "read": ("reader", "execution.chunks", "execution.aside", "execution.backlog", "model.record", "writer.spool"),
    "render": ("prompt", "client.given"),
    "encode": ("model.request", "execution.requesting"),
    "admit": (
        "client.lanes", "client.limiter", "client.limits", "client.rate", "client.window", "client.waits",
        "client.waking", "client.slots", "client.pacing", "client.pace", "client.estimate", "budget", "spending",
        "pricing",
    ),
    "send": (
        "client.transport", "client.lean", "client.hearing", "client.session", "client.connecting", "client.rehearsal",
        "client.flights", "client.receiving", "client.arriving", "client.proxy",
    ),
    "decode": (
        "client.interpret", "client.reply", "client.body", "client.usage", "client.verdict", "client.hints",
        "client.sse", "client.folding", "client.choice", "client.chunk", "client.error_body", "client.masking",
    ),
    "record": ("ledger", "model.outcome", "execution.pulse", "execution.parts", "execution.suspects", "events"),
    "seal": ("writer", "execution.sealing"),
    "loop": ("loop",),
    OTHER: (),
}  # fmt: skip
MEANINGS = {
    "start": "imports, job, opening and the end of the process",
    "read": "the survey, lines into records, the rows that wait, the spool",
    "render": "the template",
    "encode": "the body and its digest",
    "admit": "slots, limits, estimate, budget",
    "send": "aiohttp and what is around it",
    "decode": "the reply into completion, usage and cost",
    "record": "packing, SQLite, what follows from a commit",
    "seal": "parts, their columns and files",
    "loop": "uvloop between callbacks, its reads and polls",
    OTHER: "worker, lane, accounting, tasks of the run",
}

Shares = Counter[tuple[str, str]]
"""CPU in µs for a row, by stage and thread."""


def stage_of(thread: str, ours: str, innermost: str) -> str:
    """Return the stage that a place of `sampled.py` belongs to."""
    if not ours:
        return {"main": "start", "ledger": "record"}.get(thread, "loop")
    is_in_loop, name = ours.startswith("loop:"), ours.removeprefix("loop:").removeprefix("batchrun.")
    fits = [
        (len(prefix), stage)
        for stage, prefixes in STAGES.items()
        for prefix in prefixes
        if name == prefix or name.startswith(prefix + ".")
    ]
    stage = max(fits, default=(0, OTHER))[1]
    if thread == "main" and not is_in_loop:
        return stage if stage == "read" else "start"
    return "send" if stage == "loop" and innermost.startswith("aiohttp.") else stage


def sampled(case: Case, who: Contender, places: Counter[str]) -> tuple[Shares, float]:
    """Run a contender once; return its shares and the CPU of the whole process, in µs for a row."""
    report = case.folder / "sampled.json"
    client, _ = cores()
    words = who.words(case)
    words = [sys.executable, str(SAMPLED), str(report), *words[len(contenders.COMMAND) :]]
    used = timed(words, on=client, folder=case.folder)
    if used.exit_status or (wrong := who.wrong(case)):
        raise RuntimeError(used.said[-500:] if used.exit_status else wrong)
    shares: Shares = Counter()
    for thread, ours, innermost, spent_s in json.loads(report.read_bytes())["found"]:
        spent_us = spent_s / case.rows.count * 1e6
        kind = thread if thread in {"main", "ledger"} else "others"
        shares[stage_of(thread, ours, innermost), kind] += spent_us
        places[f"{kind}: {ours or '-'} > {innermost}"] += spent_us
    return shares, used.cpu_s / case.rows.count * 1e6


def measure(who: Contender, options: argparse.Namespace, folder: Path, places: Counter[str]) -> tuple[Shares, float]:
    """Return the medians of the shares, and of the whole."""
    rows = Rows(options.rows, chars=CHARS)
    source = folder / "rows.jsonl"
    rows.write_jsonl(source)
    found: list[tuple[Shares, float]] = []
    for _ in range(options.rounds):
        with serving(core=min(cores()[1])) as served:
            case = Case(folder, source, rows, served.base_url, options.concurrency, None)
            found.append(sampled(case, who, places))
    keys = {key for shares, _ in found for key in shares}
    return Counter({key: median(shares[key] for shares, _ in found) for key in keys}), median(w for _, w in found)


def lines_of(found: dict[str, tuple[Shares, float]]) -> list[list[str]]:
    """Return the lines of the table: for each job the loop's thread, the ledger's, the others, and their sum."""
    lines: list[list[str]] = []
    for stage in STAGES:
        line = [stage, MEANINGS[stage]]
        for shares, _ in found.values():
            parts = [shares[stage, kind] for kind in ("main", "ledger", "others")]
            line += [f"{part:.1f}" if part >= 0.05 else "" for part in (*parts, sum(parts))]
        lines.append(line)
    total = ["all", "CPU of the whole process, start included"]
    for shares, whole in found.values():
        sums = [sum(us for (_, kind), us in shares.items() if kind == one) for one in ("main", "ledger", "others")]
        total += [*(f"{one:.1f}" for one in sums), f"{whole:.1f}"]
    return [*lines, total]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--transport")
    parser.add_argument("--job", choices=("all on", "plain"), action="append")
    parser.add_argument("--places", type=int, default=0, help="print that many places with the most CPU, for each job")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, help="default: if nothing else is given")
    options = parser.parse_args()
    write = options.write if options.write is not None else len(sys.argv) == 1
    found: dict[str, tuple[Shares, float]] = {}
    with tempfile.TemporaryDirectory(prefix="batchrun-stages-") as folder:
        for name in options.job or ("all on", "plain"):
            places: Counter[str] = Counter()
            who = contenders.run(name, all_on=name == "all on", transport=options.transport)
            if who.lacks:
                parser.error(who.lacks)
            found[name] = measure(who, options, Path(folder), places)
            for place, spent_us in places.most_common(options.places):
                print(f"{name}: {spent_us / options.rounds:7.1f}  {place}")
        on = measured_on(Path(folder))
    heads = ["stage", "what"]
    heads += [f"{name}: {thread}" for name in found for thread in ("loop's thread", "ledger's", "others", "sum")]
    what = (
        f"µs of CPU for a row: {options.rows:,} rows, {options.concurrency} slots, no latency, {options.rounds} rounds."
    )
    text = "\n\n".join([what, table(heads, lines_of(found)), on])
    print(text)
    if write:
        rewrite("stages", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
