"""Progress and events on standard error: lines at their interval, a bar only where someone looks at it."""

from __future__ import annotations

import io
import json
import sys

import msgspec
import pytest

from batchrun.cli.bar import BarTeller
from batchrun.cli.watch import PLAIN_EVERY_S, LineTeller, Teller, teller
from batchrun.cli.wording import duration, progress_text
from batchrun.events import TOTAL_NAMES, Progress, Totals, Unwatched

PROGRESS = Progress(
    run_id="r",
    job="label",
    rows=12_000,
    settled=3_400,
    failed=2,
    in_flight=64,
    slots=64,
    used={"slots": 1.0},
    bound_by=None,
    waiting=5,
    parts=2,
    parts_sealed=0,
    requests_sent=3_500,
    retries=90,
    throttled=10,
    maybe_billed=0,
    prompt_tokens=1_000_000,
    completion_tokens=234_567,
    cost_usd=0.19037,
    unpriced_rows=0,
    elapsed_s=100.0,
    paused_s=0.0,
    rows_per_s=34.04,
    eta_s=3_725.9,
    draining=False,
    oldest=[],
    at="2026-01-02T03:04:05+00:00",
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Gone(io.StringIO):
    """A pipe whose reader has gone."""

    def write(self, text: str, /) -> int:
        raise BrokenPipeError


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def told(clock: Clock, *at_s: float, every_s: float | None = 30.0, as_json: bool = False, silent: bool = False) -> str:
    """What is written when the run tells its progress at these seconds."""
    stream = io.StringIO()
    watcher = LineTeller(stream, every_s=every_s, as_json=as_json, silent=silent, clock=clock)
    with watcher:
        start_s = clock.now_s
        for moment_s in at_s:
            clock.now_s = start_s + moment_s
            watcher.progressed(PROGRESS)
        watcher.noted("part sealed", part=3, seconds=0.5, why=None)
    return stream.getvalue()


def test_a_plain_line_an_interval() -> None:
    lines = told(Clock(), *range(96)).splitlines()
    assert lines[:-1] == [f"batchrun: {progress_text(PROGRESS)}"] * 3
    assert lines[-1] == "batchrun: part sealed part=3 seconds=0.5 why=None"


def test_lines_have_no_carriage_returns_and_no_escapes() -> None:
    written = told(Clock(), 30, 60) + told(Clock(), 30, as_json=True)
    assert "\r" not in written
    assert "\x1b" not in written
    assert written.endswith("\n")


def test_json_lines() -> None:
    first, last = (json.loads(line) for line in told(Clock(), 1, 31, as_json=True).splitlines())
    assert first == {"event": "progress", **json.loads(msgspec.json.encode(PROGRESS))}
    assert last == {"event": "part sealed", "part": 3, "seconds": 0.5, "why": None}


def test_no_progress_but_events_when_none() -> None:
    assert told(Clock(), *range(100), every_s=None) == "batchrun: part sealed part=3 seconds=0.5 why=None\n"
    assert told(Clock(), *range(100), every_s=None, silent=True) == ""


def test_a_reader_that_has_gone_does_not_end_the_run() -> None:
    watcher = LineTeller(Gone(), every_s=0.0, as_json=False)
    watcher.progressed(PROGRESS)
    watcher.noted("still here")


def test_the_text_of_progress() -> None:
    assert progress_text(PROGRESS) == (
        "3,400/12,000 rows, 2 failed, 64/64 in flight, 5 waiting to retry, 34.0 rows/s, "
        "1,234,567 tokens, 0.1904 USD, 1:02:05 left"
    )
    unknown = msgspec.structs.replace(PROGRESS, eta_s=None)
    assert progress_text(unknown).endswith("0.1904 USD")
    streamed = msgspec.structs.replace(PROGRESS, first_token_ms=230.6)
    assert progress_text(streamed).endswith("0.1904 USD, first token after 231 ms, 1:02:05 left")
    due = msgspec.structs.replace(PROGRESS, deadline_s=7_199.0)
    assert progress_text(due).endswith("0.1904 USD, 1:59:59 to the deadline, 1:02:05 left")
    paused = msgspec.structs.replace(PROGRESS, draining=True, paused_s=12.3)
    assert progress_text(paused).endswith("0.1904 USD, paused for 12 s, draining")


def test_r11_a_cost_that_is_not_known_is_not_told_as_0() -> None:
    unpriced = msgspec.structs.replace(PROGRESS, cost_usd=None, unpriced_rows=3_400, eta_s=None)
    assert progress_text(unpriced).endswith(", cost unknown")
    partly = msgspec.structs.replace(PROGRESS, unpriced_rows=1_200, eta_s=None)
    assert progress_text(partly).endswith(", at least 0.1904 USD (1,200 rows unpriced)")
    free = msgspec.structs.replace(PROGRESS, cost_usd=0.0, unpriced_rows=7, eta_s=None)
    assert progress_text(free).endswith(", at least 0.0000 USD (7 rows unpriced)")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3600, "1:00:00"), (1e6, "277:46:40")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("progress", "log_format", "terminal", "ci", "bar"),
    [
        ("auto", "text", True, None, True),
        ("auto", "text", True, "", True),
        ("auto", "text", True, "true", False),
        ("auto", "json", True, None, False),
        ("auto", "text", False, None, False),
        ("plain", "text", True, None, False),
        ("none", "text", True, None, False),
        ("bar", "text", False, "true", True),
    ],
)
def test_a_bar_only_where_someone_looks_at_it(
    monkeypatch: pytest.MonkeyPatch,
    progress: str,
    log_format: str,
    terminal: bool,  # noqa: FBT001 - parameters of the test
    ci: str | None,
    bar: bool,  # noqa: FBT001
) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    chosen: Teller = teller(progress=progress, log_format=log_format, verbose=False, quiet=False)
    assert isinstance(chosen, BarTeller) is bar


@pytest.mark.parametrize(("verbose", "every_s"), [(False, PLAIN_EVERY_S), (True, 5.0)])
def test_more_lines_when_verbose(verbose: bool, every_s: float) -> None:  # noqa: FBT001
    chosen = teller(progress="plain", log_format="text", verbose=verbose, quiet=False)
    assert isinstance(chosen, LineTeller)
    assert chosen._every_s == every_s


def test_the_bar_tells_and_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with BarTeller() as bar:
        bar.progressed(PROGRESS)
        bar.noted("part sealed", part="[red]3[/red]")
    assert "batchrun: part sealed part=[red]3[/red]" in screen.getvalue()
    assert "label" in screen.getvalue()


def test_totals_add_up() -> None:
    ones = Totals(**dict.fromkeys(TOTAL_NAMES, 1))
    assert Totals.sum_of([ones, Totals(), ones]) == Totals(**dict.fromkeys(TOTAL_NAMES, 2))
    assert Totals.sum_of([]) == Totals()


def test_nobody_watches() -> None:
    nobody = Unwatched()
    nobody.progressed(PROGRESS)
    nobody.noted("anything", n=1)
