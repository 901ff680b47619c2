"""`limits.deadline` into a moment: forms, daylight saving, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_files import loaded, refusal

from batchrun.job.deadline import EXPECTED, MOST_S, deadline_at, is_deadline

NEW_YORK = ZoneInfo("America/New_York")
"""Set forward on 2026-03-08 from 02:00 to 03:00, back on 2026-11-01 from 02:00 to 01:00."""
START = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


def at(text: str, start: str, zone: ZoneInfo = NEW_YORK) -> str:
    """The deadline as the clocks of the zone show it, for a start given as ISO 8601."""
    return deadline_at(text, datetime.fromisoformat(start), zone=zone).astimezone(zone).isoformat(timespec="minutes")


@pytest.mark.parametrize(
    ("text", "start", "moment"),
    [
        ("06:00", "2026-07-01T05:59:59-04:00", "2026-07-01T06:00-04:00"),
        ("06:00", "2026-07-01T06:00:00-04:00", "2026-07-02T06:00-04:00"),  # just now is tomorrow
        ("06:00", "2026-07-01T06:00:01-04:00", "2026-07-02T06:00-04:00"),
        ("00:00", "2026-07-01T00:00:00-04:00", "2026-07-02T00:00-04:00"),
        ("06:00", "2026-07-01T23:00:00+00:00", "2026-07-02T06:00-04:00"),  # 19:00 there
        ("06:00", "2026-12-31T12:00:00-05:00", "2027-01-01T06:00-05:00"),
        ("06:00", "2026-03-07T22:00:00-05:00", "2026-03-08T06:00-04:00"),  # 7 hours later, not 8
        ("06:00", "2026-10-31T22:00:00-04:00", "2026-11-01T06:00-05:00"),  # 9 hours later
        ("02:30", "2026-03-07T22:00:00-05:00", "2026-03-08T03:30-04:00"),  # skipped: as long after midnight as ever
        ("02:30", "2026-03-08T03:10:00-04:00", "2026-03-08T03:30-04:00"),
        ("02:30", "2026-03-08T03:30:00-04:00", "2026-03-09T02:30-04:00"),
        ("01:30", "2026-11-01T00:00:00-04:00", "2026-11-01T01:30-04:00"),  # the first of the two
        ("01:30", "2026-11-01T01:40:00-04:00", "2026-11-01T01:30-05:00"),  # the second
        ("01:30", "2026-11-01T01:40:00-05:00", "2026-11-02T01:30-05:00"),
    ],
)
def test_a_time_of_day_is_the_next_such_time_on_local_clocks(text: str, start: str, moment: str) -> None:
    assert at(text, start) == moment


def test_a_time_skipped_before_midnight_is_still_to_come_after_it() -> None:
    """Where the hour before midnight is skipped, 23:30 of yesterday is 00:30 of today."""
    nuuk = ZoneInfo("America/Nuuk")
    assert at("23:30", "2024-03-31T00:10:00-01:00", nuuk) == "2024-03-31T00:30-01:00"


@given(
    start=st.integers(1_577_836_800, 2_082_758_400).map(lambda moment: datetime.fromtimestamp(moment, tz=UTC)),
    clock=st.times(),
    zone=st.sampled_from(["America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "America/Nuuk"]),
)
def test_it_comes_after_the_start_and_at_most_a_day_and_an_hour_later(
    start: datetime, clock: object, zone: str
) -> None:
    """The clocks then show the time, but in the hour that they skip."""
    text, local = f"{clock:%H:%M}", ZoneInfo(zone)
    moment = deadline_at(text, start, zone=local)
    assert timedelta(0) < moment - start <= timedelta(hours=25)
    shown = moment.astimezone(local)
    before = (moment - timedelta(hours=2)).astimezone(local)
    assert f"{shown:%H:%M}" == text or shown.utcoffset() != before.utcoffset()


@given(hours=st.integers(0, 400), minutes=st.integers(0, 59), seconds=st.integers(1, 59))
def test_a_duration_is_counted_from_the_start_whatever_the_clocks_do(hours: int, minutes: int, seconds: int) -> None:
    moment = deadline_at(f"{hours}h{minutes}m{seconds}s", START, zone=NEW_YORK)
    assert moment - START == timedelta(hours=hours, minutes=minutes, seconds=seconds)


@given(st.text(max_size=12) | st.text("0123456789:.hmsd", max_size=8))
def test_whatever_is_taken_for_a_deadline_is_a_moment_after_the_start(text: str) -> None:
    if is_deadline(text):
        assert timedelta(0) < deadline_at(text, START) - START <= timedelta(seconds=MOST_S)
    else:
        with pytest.raises(ValueError, match="expected a local time"):
            deadline_at(text, START)


@pytest.fixture
def in_new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_new_york")
def test_without_a_zone_the_clocks_are_those_of_this_machine() -> None:
    for start in ("2026-03-07T22:00:00-05:00", "2026-10-31T22:00:00-04:00", "2026-11-01T01:40:00-04:00"):
        moment = datetime.fromisoformat(start).astimezone(timezone(timedelta(hours=9)))
        for text in ("06:00", "02:30", "01:30"):
            assert deadline_at(text, moment) == deadline_at(text, moment, zone=NEW_YORK)


@pytest.mark.parametrize("value", ["06:00", "23:59", "5h30m", '"06:00"', "90s", "365d", "0.5s"])
def test_forms_of_the_deadline(tmp_path: Path, value: str) -> None:
    assert loaded(tmp_path, f"limits.deadline={value}").limits.deadline == value.strip('"')


@pytest.mark.parametrize(
    "value",
    [
        "never",
        "6:00",
        "24:00",
        "06:60",
        "06:00:00",
        '"06:00\\n"',
        '" 06:00"',
        "0s",
        "-5h",
        "5",
        "5h 30m",
        "366d",
        "3600",
    ],
)
def test_what_is_no_deadline(tmp_path: Path, value: str) -> None:
    assert refusal(tmp_path, f"limits.deadline={value}") == f"limits.deadline: {EXPECTED}"


@pytest.mark.parametrize("most", ["0", '"0%"', '"0.0%"'])
def test_stopping_early_needs_failures_that_may_be(tmp_path: Path, most: str) -> None:
    message = refusal(tmp_path, "limits.stop_early=true", f"limits.max_failed={most}")
    assert message == "limits.stop_early: expected limits.max_failed above 0 with it"
    assert loaded(tmp_path, "limits.stop_early=true", "limits.max_failed=0.1%").limits.stop_early
