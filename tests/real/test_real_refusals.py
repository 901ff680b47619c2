"""What a real model server refuses: a key ends the run and fails no row, a row fails alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import batchrun, prompts, summary_of, table_of, write_rows
from real_llama import CONTEXT_TOKENS, KEY, KEY_ENV, Llama, job_against, run

pytestmark = pytest.mark.real

TOO_LONG = (1, 4)
IMAGE, NUMBER, BAD_ROLE = 2, 6, 7
ROWS = 12


def _messages(number: int) -> list[dict[str, object]]:
    if number in TOO_LONG:
        return [{"role": "user", "content": "word " * 900}]
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]
    content = {IMAGE: image, NUMBER: 5}.get(number, f"Say {number}")
    return [{"role": 7 if number == BAD_ROLE else "user", "content": content}]


@pytest.fixture(scope="module")
def refused(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Sequence[Mapping[str, Any]]:
    """Run rows of which some can't be answered, each for a reason of its own."""
    folder = tmp_path_factory.mktemp("refused")
    write_rows(folder, [{"messages": _messages(number)} for number in range(ROWS)])
    limits = {"concurrency": 4, "max_attempts": 2}
    summary = run(job_against(llama, folder, request={"max_tokens": 3}, limits=limits))
    assert (summary.exit_status, summary.by_status) == (1, {"failed": 5, "truncated": ROWS - 5})
    return table_of(folder / "out").to_pylist()


def test_a_prompt_longer_than_the_context_fails_alone_and_says_the_numbers(
    refused: Sequence[Mapping[str, Any]], llama: Llama
) -> None:
    for number in TOO_LONG:
        row = refused[number]
        assert (row["error_class"], row["http_status"], row["attempts"]) == ("context_overflow", 400, 1)
        assert f"{llama.prompt_tokens('word ' * 900)} tokens" in row["error_message"]
        assert f"{CONTEXT_TOKENS} tokens" in row["error_message"]
        assert (row["completion"], row["prompt_tokens"], row["usage_json"]) == (None, None, None)


@pytest.mark.parametrize(
    ("number", "error_class", "http_status", "attempts", "says"),
    [
        (IMAGE, "server", 500, 2, "image input is not supported"),  # it says 500, so it is tried again
        (NUMBER, "rejected", 400, 1, "Expected 'content' to be a string or an array"),
        (BAD_ROLE, "input", None, 0, "role"),  # it is not sent; the server would answer 500
    ],
)
def test_a_message_that_the_server_cannot_take_fails_alone_and_says_why(
    refused: Sequence[Mapping[str, Any]], number: int, error_class: str, http_status: int, attempts: int, says: str
) -> None:
    row = refused[number]
    assert (row["error_class"], row["http_status"], row["attempts"]) == (error_class, http_status, attempts)
    assert says in row["error_message"]


def test_the_neighbours_of_refused_rows_are_answered(refused: Sequence[Mapping[str, Any]]) -> None:
    """Also those behind a connection that the server closed with its refusal."""
    assert [row["row"] for row in refused] == list(range(ROWS))
    for number in set(range(ROWS)) - {*TOO_LONG, IMAGE, NUMBER, BAD_ROLE}:
        row = refused[number]
        assert (row["status"], row["completion_tokens"], row["attempts"]) == ("truncated", 3, 1)
        assert (row["error_class"], row["error_message"], row["flags"]) == (None, None, [])


def test_a_wrong_key_ends_the_run_and_names_its_variable(llama: Llama, tmp_path: Path) -> None:
    """Exit 3, no row failed; with the right key the same command goes on."""
    write_rows(tmp_path, prompts(3))
    job = job_against(llama, tmp_path, request={"max_tokens": 2})
    wrong = "sk-not-the-key-9876543210"
    ended = batchrun("run", job, env={KEY_ENV: wrong})
    assert ended.returncode == 3, ended.stderr
    assert KEY_ENV in ended.stderr
    assert "401" in ended.stderr
    summary = summary_of(tmp_path / "out")
    assert (summary["state"], summary["by_status"]) == ("partial", {})
    state = b"".join(path.read_bytes() for path in (tmp_path / "out" / "_batchrun").rglob("*") if path.is_file())
    for key in (wrong, KEY):
        assert key not in ended.stderr + ended.stdout
        assert key.encode() not in state
    assert run(job).by_status == {"truncated": 3}


def test_a_wrong_url_ends_the_run_and_fails_no_row(llama: Llama, tmp_path: Path) -> None:
    write_rows(tmp_path, prompts(3))
    summary = run(job_against(llama, tmp_path, endpoint={"base_url": f"{llama.url}/v3"}))
    assert (summary.exit_status, summary.by_status) == (3, {})
    assert "404" in summary.reason
