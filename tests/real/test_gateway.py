"""A real gateway between batchrun and a real model server: its cost header, its 429s, its refusal of a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2e_tools import summary_of, table_of, write_rows
from real_gateway import (
    COMMAND,
    GATEWAY_KEY,
    INPUT_USD_PER_MTOK,
    LIMITED,
    OUTPUT_USD_PER_MTOK,
    PACED,
    RPM,
    UNLIMITED,
    Gateway,
    gateway_before,
)
from real_llama import CONTEXT_TOKENS, KEY_ENV, Llama, job_against, packages

import batchrun
from batchrun.events import Summary

pytestmark = [pytest.mark.gateway, pytest.mark.timeout(400)]


@pytest.fixture(scope="session")
def gateway(llama: Llama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if not COMMAND.exists():
        pytest.skip("no LiteLLM proxy here: pip install -e '.[real,gateway]'")
    with gateway_before(llama, tmp_path_factory.mktemp("gateway")) as proxy:
        yield proxy


def job_through(gateway: Gateway, llama: Llama, folder: Path, model: str, **tables: Any) -> Path:
    endpoint = {"base_url": gateway.base_url, **tables.pop("endpoint", {})}
    request = {"model": model, "max_tokens": 4, **tables.pop("request", {})}
    return job_against(llama, folder, endpoint=endpoint, request=request, **tables)


def run(job: Path, *overrides: str, key: str = GATEWAY_KEY) -> Summary:
    return batchrun.run(batchrun.load_job(job, overrides=overrides), environ={KEY_ENV: key})


@pytest.mark.parametrize("stream", ["false", "true"])
def test_the_cost_is_the_gateways_figure(gateway: Gateway, llama: Llama, tmp_path: Path, stream: str) -> None:
    """From its header where it answers in one piece, from `usage.cost` where it streams; to the nano-USD."""
    write_rows(tmp_path, packages(6))
    summary = run(job_through(gateway, llama, tmp_path, UNLIMITED), f"endpoint.stream={stream}")
    assert (summary.exit_status, summary.by_status, summary.unpriced_rows) == (0, {"truncated": 6}, 0)
    for row, sent in zip(table_of(tmp_path / "out").to_pylist(), packages(6), strict=True):
        assert row["prompt_tokens"] == llama.prompt_tokens(sent["prompt"])
        assert row["completion_tokens"] == 4
        assert row["cost_source"] == "server"
        cost_usd = (row["prompt_tokens"] * INPUT_USD_PER_MTOK + 4 * OUTPUT_USD_PER_MTOK) / 1e6
        assert row["cost_usd"] == pytest.approx(cost_usd, abs=1e-12)
        assert (row["model"], row["flags"]) == (UNLIMITED, [])
    assert summary.cost_usd == pytest.approx(sum(table_of(tmp_path / "out").column("cost_usd").to_pylist()), abs=1e-12)


def test_rows_over_a_request_limit_wait_and_are_answered(
    gateway: Gateway, llama: Llama, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real 429s fail no row and spend none of its attempts; each is counted."""
    count = RPM + 3
    write_rows(tmp_path, packages(count))
    summary = run(job_through(gateway, llama, tmp_path, LIMITED, limits={"concurrency": count, "max_attempts": 1}))
    with capsys.disabled():
        print(f"\n{count} rows at {RPM} a minute: {summary.throttled} times 429, {summary.wall_s} s")  # noqa: T201
    assert (summary.exit_status, summary.by_status) == (0, {"truncated": count})
    assert summary.throttled >= count - RPM
    assert summary.requests_sent == count + summary.throttled
    rows = table_of(tmp_path / "out").to_pylist()
    assert sum(row["attempts"] for row in rows) == summary.requests_sent
    assert all((row["http_status"], row["error_class"], row["cost_source"]) == (200, None, "server") for row in rows)


def test_a_pace_that_is_the_gateways_is_never_refused(gateway: Gateway, llama: Llama, tmp_path: Path) -> None:
    write_rows(tmp_path, packages(RPM + 2))
    summary = run(job_through(gateway, llama, tmp_path, PACED, limits={"requests_per_minute": RPM}))
    assert (summary.exit_status, summary.by_status) == (0, {"truncated": RPM + 2})
    assert (summary.throttled, summary.requests_sent) == (0, RPM + 2)


def test_an_overflow_behind_the_gateway_is_known_for_one(gateway: Gateway, llama: Llama, tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "short"}, {"prompt": "word " * 900}])
    summary = run(job_through(gateway, llama, tmp_path, UNLIMITED))
    assert summary.by_error_class == {"context_overflow": 1}
    short, long = table_of(tmp_path / "out").to_pylist()
    assert short["status"] == "truncated"
    assert f"{CONTEXT_TOKENS} tokens" in long["error_message"]
    assert (long["http_status"], long["attempts"]) == (400, 1)


def test_a_wrong_key_ends_the_run_and_names_its_variable(gateway: Gateway, llama: Llama, tmp_path: Path) -> None:
    """Without a database the proxy says 400 `no_db_connection`; the key is wrong all the same, and no row's fault."""
    write_rows(tmp_path, packages(4))
    job = job_through(gateway, llama, tmp_path, UNLIMITED)
    refused = run(job, key="sk-not-the-key-9876543210")
    assert (refused.exit_status, refused.by_status) == (3, {})
    assert KEY_ENV in refused.reason
    assert "sk-not-the-key" not in summary_of(tmp_path / "out")["reason"]
    assert run(job).by_status == {"truncated": 4}
