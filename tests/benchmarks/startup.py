"""What starting costs, what a million rows take in one process, and what running them again does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import contenders
from contenders import COMMAND, Case
from endpoint import serving
from memory import EARLY, LATE, rss_at, watch, wrong_with
from report import table
from rows import Rows
from timed import Used, cores, pinned, timed

MANY, CHARS, SLOTS = 1_000_000, 60, 64
REPEATED = 5
HEADS = ("what", "CPU s", "wall s", "peak MB")
MEMORY_HEADS = ("who", "CPU s for 10,000", "requests/s", "peak MB", "MB at 20 %", "MB at 90 %", "rows right")


def _line(what: str, some: Sequence[Used]) -> list[str]:
    cpu_s, wall_s = (median(getattr(one, name) for one in some) for name in ("cpu_s", "wall_s"))
    failed = next((f"; exit status {one.exit_status}: {one.said[-200:]}" for one in some if one.exit_status), "")
    return [what + failed, f"{cpu_s:.2f}", f"{wall_s:.2f}", f"{max(one.peak_mb for one in some):.0f}"]


def _repeated(words: Callable[[], list[str]], folder: Path) -> list[Used]:
    return [timed(words(), on=cores()[0], folder=folder) for _ in range(REPEATED)]


def start_up(_rounds: int, _rows: int | None, folder: Path) -> tuple[str, bool]:
    """Measure what starting costs; the loop with no rows is what a process with the same libraries needs at least."""
    rows = Rows(0, chars=CHARS)
    source = folder / "rows.jsonl"
    rows.write_jsonl(source)
    case = Case(folder, source, rows, "http://127.0.0.1:9/v1", SLOTS, None)
    loop, plain = contenders.reference(), contenders.run("batchrun", all_on=False)
    measured = {
        "`python -c pass`": _repeated(lambda: [sys.executable, "-c", "pass"], folder),
        "`batchrun --help`": _repeated(lambda: [*COMMAND, "--help"], folder),
        "the hand-written loop, 0 rows": _repeated(lambda: loop.words(case), folder),
        "batchrun, 0 rows": _repeated(lambda: plain.words(case), folder),
    }
    text = f"**Start-up**: medians of {REPEATED}.\n\n" + table(HEADS, [_line(*one) for one in measured.items()])
    return text, not any(one.exit_status for some in measured.values() for one in some)


def many(_rounds: int, count: int | None, folder: Path) -> tuple[str, bool]:
    """Send a million short rows once by the loop and once by batchrun, then run batchrun's job again."""
    count = count or MANY
    rows, source = Rows(count, chars=CHARS), folder / "rows.jsonl"
    rows.write_jsonl(source)
    client, server = cores()
    loop, run = contenders.reference(), contenders.run("batchrun, all on")
    with serving(core=min(server)) as served:
        case = Case(folder, source, rows, served.base_url, SLOTS, None)
        used = timed(loop.words(case), on=client, folder=folder)
        span_s = served.stats()["span_s"]
    wrong = used.said[-200:] if used.exit_status else loop.wrong(case)
    lines = [[loop.name, f"{used.cpu_s / count * 10_000:.2f}", f"{count / span_s:,.0f}", f"{used.peak_mb:.0f}", "", "",
              wrong or "all"]]  # fmt: skip
    (folder / "reference.parquet").unlink(missing_ok=True)
    with serving(core=min(server)) as served:
        case = case._replace(base_url=served.base_url)
        run.words(case)
        with pinned(client):
            exit_status, samples, _, cpu_s = watch(folder / "job.toml", folder / "out")
        stats = served.stats()
        ours_wrong = wrong_with(folder / "out", rows, exit_status, {**stats, "latency_s": float("inf")})
        again = _repeated(lambda: [*COMMAND, "run", str(folder / "job.toml"), "--quiet"], folder)
        again_asked = served.stats()["requests"] - stats["requests"]
    lines.append([
        run.name, f"{cpu_s / count * 10_000:.2f}", f"{count / stats['span_s']:,.0f}",
        f"{max(sample.peak_mb for sample in samples):.0f}", f"{rss_at(samples, count, EARLY):.0f}",
        f"{rss_at(samples, count, LATE):.0f}", ours_wrong or "all",
    ])  # fmt: skip
    text = "\n\n".join([
        f"**{count:,} short rows**: one run each, prompts of {CHARS} characters, {SLOTS} slots, no latency.",
        table(MEMORY_HEADS, lines),
        f"**Running that again**, which sends nothing: medians of {REPEATED}.",
        table(HEADS, [_line("batchrun, finished", again)]),
    ])  # fmt: skip
    return text, not (wrong or ours_wrong or again_asked or any(one.exit_status for one in again))
