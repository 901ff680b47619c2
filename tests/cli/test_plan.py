"""`batchrun plan` says what a million tokens cost and whose price that is, or that none is known."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import job_file, prompts, write_rows

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


def test_without_the_extra_a_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    write_rows(tmp_path, prompts(1))
    path = str(job_file(tmp_path, endpoint=OPENAI, price={"auto": True}))
    with pytest.raises(JobError, match="pip install 'genai-prices==0") as refused:
        plan_job_file(path, (), None, limit=None, shown=1, as_json=False)
    assert refused.value.status == 2
    assert not (tmp_path / "out").exists()
