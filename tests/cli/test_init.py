"""`batchrun init`: a job file that is right as it stands, and never on top of another."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrun.cli.init import EXAMPLE, write_example
from batchrun.errors import JobError
from batchrun.job.load import load_job
from batchrun.prompt.prompter import Prompter


def test_the_example_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "job.toml"
    write_example(str(path))
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"{path} written; next: batchrun plan {path}\n")
    job = load_job(path)
    assert (job.name, job.endpoint.base_url, job.input.path) == ("my-job", "simulator", str(tmp_path / "prompts.jsonl"))
    assert Prompter(job.prompt, ["text"]).columns == {"text"}


def test_what_the_example_comments_out_loads_too(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    text = EXAMPLE.replace('base_url = "simulator"', "#", 1)
    for key in ("key", "base_url", "api_key_env", "requests_per_minute"):
        assert f"# {key} = " in text
        text = text.replace(f"# {key} = ", f"{key} = ", 1)
    path.write_text(text, encoding="utf-8")
    job = load_job(path)
    assert (job.endpoint.api_key_env, job.input.key) == ("DEEPINFRA_API_KEY", "id")


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text("mine")
    with pytest.raises(JobError, match=r"job\.toml: is there already; name another file"):
        write_example(str(path))
    assert path.read_text() == "mine"
    with pytest.raises(JobError, match="is there already"):
        write_example(str(tmp_path))


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="can't be written: No such file or directory"):
        write_example(str(tmp_path / "none" / "job.toml"))


def test_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_example("-")
    assert capsys.readouterr() == (EXAMPLE, "")
    assert list(Path.cwd().iterdir()) == []
