"""`batchrun plan` says what a million tokens cost and whose price that is, or that none is known."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import COMMAND, PATIENCE_S, job_file, prompts, wait_for, write_rows

from batchrun.cli.plan import plan_job_file
from batchrun.errors import JobError

OPENAI = {"base_url": "https://api.openai.com/v1"}
HINT = "a cost is unknown where the server reports none"


def planned(folder: Path, capsys: pytest.CaptureFixture[str], **tables: Any) -> tuple[str, dict[str, Any]]:
    """The line about the price, and the plan as JSON."""
    write_rows(folder, prompts(2))
    path = str(job_file(folder, **tables))
    plan_job_file(path, (), None, limit=None, shown=1, as_json=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  price ")]
    plan_job_file(path, (), None, limit=None, shown=1, as_json=True)
    return line.removeprefix("  price    "), json.loads(capsys.readouterr().out)


def test_the_price_of_the_job(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, plan = planned(tmp_path, capsys, price={"input": 0.12, "output": 0.30, "cached_input": 0.06})
    assert line == "0.12 in, 0.3 out, 0.06 cached USD per million tokens ([price])"
    assert plan["unpriced"] is None
    assert plan["price"] == {
        "source": "[price]",
        "input": "0.12",
        "output": "0.3",
        "cached_input": "0.06",
        "cache_write": None,
    }


def test_r11_the_price_of_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, plan = planned(
        tmp_path, capsys, endpoint=OPENAI, request={"model": "gpt-4o"}, price={"auto": True, "output": 100.0}
    )
    assert line.startswith("2.5 in, 100 out, 1.25 cached USD per million tokens (genai-prices 0.2.")
    assert line.endswith(": OpenAI, gpt-4o, but output of [price])")
    assert plan["price"]["output"] == "100"


def test_r11_a_price_with_tiers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    google = {"base_url": "https://generativelanguage.googleapis.com/v1beta/openai"}
    line, _ = planned(tmp_path, capsys, endpoint=google, request={"model": "gemini-2.5-pro"}, price={"auto": True})
    assert line.startswith(
        "1.25 (2.5 above 200,000 prompt tokens) in, 10 (15 above 200,000 prompt tokens) out, "
        "0.125 (0.25 above 200,000 prompt tokens) cached USD per million tokens (genai-prices"
    )


def test_r11_no_price_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, plan = planned(tmp_path, capsys, endpoint=OPENAI, request={"model": "no-such"}, price={"auto": True})
    assert line.startswith("none known: genai-prices 0.2.")
    assert line.endswith(f" knows no model no-such at api.openai.com; {HINT}")
    assert plan["price"] is None
    assert line.startswith(f"none known: {plan['unpriced']}; ")
    line, _ = planned(tmp_path, capsys)
    assert line == f"none known: the job gives no [price]; {HINT}"


@pytest.mark.parametrize(
    ("budget_usd", "will"),
    [
        (0.000011, "max_cost_usd = 0.000011 covers one attempt for each row"),
        (0.000005, "max_cost_usd = 0.000005 may not cover all rows"),
        (0.0000005, "max_cost_usd = 0.0000005 will not cover all rows"),
    ],
)
def test_r13_the_cost_and_whether_the_budget_covers_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], budget_usd: float, will: str
) -> None:
    """Two rows of a message of 35 bytes: 8 tokens in by guess and none out, to 51 in and 8 out."""
    write_rows(tmp_path, prompts(2))
    tables = {"price": {"input": 0.06, "output": 0.25}, "request": {"max_tokens": 4, "n": 2}}
    path = str(job_file(tmp_path, limits={"max_cost_usd": budget_usd}, **tables))
    plan_job_file(path, (), None, limit=None, shown=0, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    assert "  cost     about 0.000001 with no output, at most 0.000010 USD, for one attempt a row" in lines
    assert f"  budget   {will}" in lines
    plan_job_file(path, (), None, limit=None, shown=0, as_json=True)
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost == {
        "least_usd": 2 * 480 / 1e9,
        "most_usd": 2 * (51 * 60 + 8 * 250) / 1e9,
        "looked_at": 2,
        "unpriced": 0,
    }


def test_r13_without_a_price_a_plan_says_what_keeps_the_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path, prompts(1))
    path = str(job_file(tmp_path, limits={"max_cost_usd": 1.0}))
    plan_job_file(path, (), None, limit=None, shown=0, as_json=False)
    assert "max_cost_usd = 1 is kept by the costs that the server reports: no price is known" in capsys.readouterr().out


def test_without_the_extra_a_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    write_rows(tmp_path, prompts(1))
    path = str(job_file(tmp_path, endpoint=OPENAI, price={"auto": True}))
    with pytest.raises(JobError, match="pip install 'genai-prices==0") as refused:
        plan_job_file(path, (), None, limit=None, shown=1, as_json=False)
    assert refused.value.status == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("limits", "told", "by_then"),
    [
        ({"deadline": "1h", "requests_per_minute": 1}, "; requests_per_minute lets all rows be sent until then", 2),
        (
            {"deadline": "90s", "requests_per_minute": 1},
            "; too soon: requests_per_minute lets 1 of 2 rows be sent until then",
            1,
        ),
        (
            {"deadline": "25h", "requests_per_minute": 1, "requests_per_day": 1},
            "; requests_per_minute and requests_per_day let all rows be sent until then",
            2,
        ),
        (
            {"deadline": "1h", "requests_per_day": 1},
            "; too soon: requests_per_day lets 1 of 2 rows be sent until then",
            1,
        ),
        ({"deadline": "06:00"}, "", None),
    ],
)
def test_the_deadline_and_whether_the_pace_allowed_can_make_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limits: dict[str, Any], told: str, by_then: int | None
) -> None:
    write_rows(tmp_path, prompts(2))
    path = str(job_file(tmp_path, limits=limits))
    plan_job_file(path, (), None, limit=None, shown=0, as_json=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  deadline ")]
    plan_job_file(path, (), None, limit=None, shown=0, as_json=True)
    plan = json.loads(capsys.readouterr().out)
    at = datetime.fromisoformat(plan["deadline"])
    assert re.fullmatch(r"  deadline [-0-9]+ [0-9:]+[+-][0-9:]+, in [0-9]+:[0-9]{2}:[0-9]{2}" + re.escape(told), line)
    assert plan["rows_by_deadline"] == by_then
    assert plan["deadline_s"] > 0
    assert f"{at:%H:%M}" == "06:00" or limits["deadline"] != "06:00"


@pytest.mark.parametrize(
    ("limits", "days", "told"),
    [
        ({"requests_per_day": 2}, 3, "at least 3: requests_per_day does not let all rows be sent in one"),
        ({"requests_per_day": 5}, 1, "one is enough: requests_per_day lets all rows be sent in it"),
        ({"requests_per_minute": 5}, None, None),
    ],
)
def test_the_days_that_a_limit_a_day_makes_of_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], limits: dict[str, Any], days: int | None, told: str | None
) -> None:
    write_rows(tmp_path, prompts(5))
    path = str(job_file(tmp_path, limits=limits))
    plan_job_file(path, (), None, limit=None, shown=0, as_json=False)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  days ")]
    assert lines == ([] if told is None else [f"  days     {told}"])
    plan_job_file(path, (), None, limit=None, shown=0, as_json=True)
    plan = json.loads(capsys.readouterr().out)
    assert (plan["days"], plan["paced_by"]) == (days, list(limits))


def test_a_plan_without_a_deadline_tells_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, plan = planned(tmp_path, capsys)
    assert (plan["deadline"], plan["deadline_s"], plan["rows_by_deadline"]) == (None, None, None)


def test_rows_that_would_fail_before_they_are_sent_are_counted_beyond_those_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path, [*prompts(3), {"id": 3, "prompt": None}, "no JSON", *prompts(2)])
    path = str(job_file(tmp_path))
    plan_job_file(path, (), None, limit=None, shown=0, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    why = "row 3: no prompt: `prompt` null in this row"
    assert f"  failing  2 of all 7 rows would fail before they are sent, first {why}" in lines
    plan_job_file(path, (), None, limit=None, shown=0, as_json=True)
    plan = json.loads(capsys.readouterr().out)
    assert (plan["looked_at"], plan["unsendable"], plan["problem"]) == (7, 2, why)


def test_a_plan_of_rows_that_can_be_sent_says_nothing_of_failing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, plan = planned(tmp_path, capsys)
    assert (plan["looked_at"], plan["unsendable"], plan["problem"]) == (2, 0, None)


def test_where_no_row_can_be_sent_the_plan_is_shown_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path, [{"text": None}] * 2)
    path = str(job_file(tmp_path, prompt={"user": "{{ text }}"}))
    with pytest.raises(
        JobError, match=r"^input: none of the 2 rows can be sent; row 0: prompt\.user: it prints `text`"
    ):
        plan_job_file(path, (), None, limit=None, shown=1, as_json=False)
    assert "  failing  2 of all 2 rows" in capsys.readouterr().out


def test_a_plan_that_did_not_look_at_all_rows_is_not_refused_for_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others may well be sent."""
    write_rows(tmp_path, [{"prompt": None}] * 1001)
    plan_job_file(str(job_file(tmp_path)), (), None, limit=None, shown=0, as_json=False)
    assert "  failing  1,000 of the first 1,000 rows would fail" in capsys.readouterr().out


def test_a_template_that_never_ends_is_ended_by_the_first_sigint(tmp_path: Path) -> None:
    """Also where it was started in the background of a script: a shell has SIGINT ignored there."""
    write_rows(tmp_path, prompts(1))
    endless = "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}"
    words = [*COMMAND, "plan", str(job_file(tmp_path, prompt={"user": endless * 9}))]
    plan = subprocess.Popen(
        ["/bin/sh", "-c", "trap '' INT; exec \"$@\"", "sh", *words], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: catches_sigint(plan.pid), plan)
        plan.send_signal(signal.SIGINT)
        _, told = plan.communicate(timeout=PATIENCE_S)
    finally:
        plan.kill()
    assert (plan.returncode, told) == (130, "\nbatchrun: stopped by SIGINT\n")


def catches_sigint(pid: int) -> bool:
    """Say whether a process has a handler for it."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (signal.SIGINT - 1) & 1)
