"""The README says what is true: its commands run, its floors are the linter's, its keys and statuses are the code's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest

import batchrun
from batchrun.errors import ExitStatus
from batchrun.job.settings import Job

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the files of the tree, without what git ignores, to a folder of their own."""
    copy = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.mark.timeout(400)
def test_the_first_command_sets_up_and_runs_the_main_job_and_again_sends_nothing(clone: Path) -> None:
    command = next(block for block in blocks("sh") if "label-packages" in block and "venv" in block).strip()
    assert "\n" not in command
    for _ in range(2):
        ended = subprocess.run(
            ["bash", "-c", command], cwd=clone, capture_output=True, text=True, timeout=380, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert "600 ok" in ended.stdout
    summary = (clone / "out" / "labels" / "_batchrun" / "summary.json").read_bytes()
    assert msgspec.json.decode(summary)["by_status"] == {"ok": 600}


def test_the_tour_runs_as_it_is_written(clone: Path) -> None:
    tour = next(block for block in blocks("sh") if "batchrun init" in block)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    ended = subprocess.run(
        ["bash", "-ec", tour], cwd=clone, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "50 ok" in ended.stdout
    assert "600 ok" in ended.stdout


def test_the_test_command_is_the_one_that_ci_calls() -> None:
    command = next(block for block in blocks("sh") if "pytest" in block).strip()
    assert "\n" not in command
    assert command.startswith("python3 -m venv")
    assert command.endswith("-m pytest")
    assert "grep -m1 -E '^python3 -m venv .*-m pytest' README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_python_examples_run(clone: Path) -> None:
    code = "\n".join(reversed(blocks("python")))  # the second makes the output that the first reads
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=clone, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_the_drawn_floors_are_the_linters() -> None:
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    assert blocks("text")[0].splitlines() == contract["layers"]


def test_the_job_file_is_valid_and_shows_every_key() -> None:
    shown = tomllib.loads(blocks("toml")[0])
    msgspec.convert(shown, Job)
    known = msgspec.json.schema(Job)["$defs"]
    left_out = {
        "EndpointSettings": {"api_key_file"},
        "OutputSettings": {"state_dir"},
    }
    for table, settings in {
        "input": "InputSettings",
        "endpoint": "EndpointSettings",
        "limits": "LimitSettings",
        "price": "Price",
        "output": "OutputSettings",
    }.items():
        assert set(shown[table]) | left_out.get(settings, set()) >= set(known[settings]["properties"]), table


def test_every_providers_url_is_one_that_a_job_takes() -> None:
    table = README.split("## Providers")[1].split("\n## ")[0]
    urls = re.findall(r"^\| [^|]+ \| `(https?://[^`]+)` \|", table, re.MULTILINE)
    assert len(urls) == table.count("\n| ") - 2 >= 15
    for url in urls:
        job = batchrun.load_job(ROOT / "jobs" / "local-server.toml", overrides=[f"endpoint.base_url={url}"])
        assert job.endpoint.base_url == url


def test_the_endpoints_are_valid_and_show_every_key_of_their_own() -> None:
    shown, several = (tomllib.loads(block) for block in blocks("toml"))
    msgspec.convert({**shown, **several}, Job)
    known = msgspec.json.schema(Job)["$defs"]
    own = set(known["LaneSettings"]["properties"]) - set(known["EndpointSettings"]["properties"])
    assert set(several["endpoint"][1]) >= own


def test_every_exit_status_that_can_happen_is_listed() -> None:
    table = README.split("## Exit statuses")[1].split("\n## ")[0]
    listed = {int(number) for row in re.findall(r"^\| ([0-9, ]+) \|", table, re.MULTILINE) for number in row.split(",")}
    assert listed == {int(status) for status in ExitStatus}


def test_every_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[<>=;~ ]", dependency)[0] for dependency in project["dependencies"]}
    table = README.split("| dependency | why |")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| ([A-Za-z0-9]+) \|", table, re.MULTILINE)) == names


def test_nobody_is_told_to_install_somebody_elses_package() -> None:
    """The name batchrun on PyPI is not ours."""
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("jobs/*"),
        *ROOT.glob("sample_data/*.md"),
        *ROOT.glob("batchrun/**/*.py"),
    ]:
        assert not re.search(r"pip install (-\S+ )*['\"]?batchrun(?!-llm)\b", path.read_text(encoding="utf-8")), path


def test_nothing_else_stands_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    top = {name.split("/")[0] for name in listed.splitlines() if not name.startswith(".")}
    assert top <= {"pyproject.toml", "README.md", "LICENSE", "batchrun", "jobs", "tests", "sample_data"}
