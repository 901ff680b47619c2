"""DEMAND.md R13 and R14: a run never spends more than its budget, forgets no spending, and goes on when it is raised.

What was spent is what the endpoint counts, a process of its own: not what batchrun believes.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from client_raw_server import Peer, Script, raw_server_beside, whole
from command_server import CRASHED
from e2e_tools import Endpoint, endpoint, job_file, prompts, summary_of, table_of, write_rows
from e2e_tools import batchrun as command

import batchrun
from batchrun.events import Progress, Summary
from batchrun.job.options import RunOptions
from batchrun.pricing import usd_text

IN_FLIGHT = 50
ROWS = 300
PRICE = {"input": 0.12, "output": 0.30}
BUDGET_USD = 0.001
"""About half of what the rows cost: some 8 tokens in and 14 out each."""


class Told:
    """A Watcher that remembers."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def progressed(self, progress: Progress) -> None: ...

    def noted(self, event: str, **facts: str | float | None) -> None:
        self.events.append(event)


def budget_job(folder: Path, base_url: str, rows: int = ROWS, **tables: Any) -> Path:
    write_rows(folder, prompts(rows))
    limits = {"concurrency": IN_FLIGHT, "max_cost_usd": BUDGET_USD, "max_ambiguous_attempts": 0}
    return job_file(
        folder,
        **{
            "endpoint": {"base_url": base_url},
            "request": {"max_tokens": 16},
            **tables,
            "limits": {**limits, **tables.get("limits", {})},
        },
    )


def ran(job: Path, *overrides: str, told: Told | None = None, **options: Any) -> Summary:
    return batchrun.run(batchrun.load_job(job, overrides=overrides), RunOptions(**options), watcher=told or Told())


def one_pass(folder: Path) -> float:
    """What the rows cost with no limit."""
    with endpoint() as served:
        assert ran(budget_job(folder, served.base_url), "limits.max_cost_usd=1000.0").exit_status == 0
        return float(served.stats()["cost_usd"])


@pytest.fixture(scope="module")
def whole_usd(tmp_path_factory: pytest.TempPathFactory) -> float:
    return one_pass(tmp_path_factory.mktemp("whole"))


def check_raised(job: Path, served: Endpoint, whole_usd: float, *, lost: int = 0) -> None:
    """With the limit raised the run completes, and no row but the lost ones was paid twice."""
    assert ran(job, "limits.max_cost_usd=1000.0").exit_status == 0
    stats = served.stats()
    assert stats["paid_twice"] <= lost
    if not lost:
        assert float(stats["cost_usd"]) == pytest.approx(whole_usd, abs=1e-12)
    assert table_of(job.parent / "out").column("row").to_pylist() == list(range(ROWS))


def test_r13_with_a_price_nothing_is_overspent_with_50_in_flight(tmp_path: Path, whole_usd: float) -> None:
    with endpoint("latency_ms=60", "latency_sigma=0.7") as served:
        job = budget_job(tmp_path, served.base_url, price=PRICE)
        summary = ran(job)
        spent = float(served.stats()["cost_usd"])
        assert summary.exit_status == 4
        assert summary.state == "partial"
        assert "max_cost_usd = 0.001 does not cover the next attempt" in summary.reason
        assert f"{usd_text(round(summary.cost_usd * 1e9))} USD are spent" in summary.reason
        assert summary.cost_usd == spent
        assert BUDGET_USD - 0.00002 < spent <= BUDGET_USD
        assert served.stats()["max_in_flight"] > IN_FLIGHT / 2
        again = ran(job)
        assert again.exit_status == 4
        assert float(served.stats()["cost_usd"]) <= BUDGET_USD
        check_raised(job, served, whole_usd)


def test_r13_by_the_servers_figures_no_more_is_overspent_than_was_in_flight(tmp_path: Path, whole_usd: float) -> None:
    """The dearest attempt so far counts for each in flight; over several runs the limit stays the same."""
    with endpoint("latency_ms=20", "latency_sigma=0.7") as served:
        job, told = budget_job(tmp_path, served.base_url), Told()
        summary = ran(job, told=told)
        assert summary.exit_status == 4
        spent = float(served.stats()["cost_usd"])
        assert spent > BUDGET_USD - 0.00002
        assert spent <= BUDGET_USD + 0.00001, "rows that cost about the same: no more than the last is over"
        assert "the budget is kept by the costs that the server reports" in told.events
        for _ in range(3):
            assert ran(job).exit_status == 4
        assert float(served.stats()["cost_usd"]) <= BUDGET_USD + 0.00001
        check_raised(job, served, whole_usd)


@pytest.mark.parametrize("priced", [True, False])
def test_r13_killed_again_and_again_a_run_spends_no_more_than_its_budget(
    tmp_path: Path, whole_usd: float, *, priced: bool
) -> None:
    """As by kill -9: the endpoint's own count stays within the budget, what was in flight at each kill included."""
    step = ("batchrun.ledger.store:Store.commit", "after", 3)
    lost = 0
    with endpoint("latency_ms=10", "latency_sigma=0.5") as served:
        job = budget_job(tmp_path, served.base_url, **({"price": PRICE} if priced else {}), limits={"concurrency": 10})
        for _ in range(3):
            ended = command("run", job, step=step)
            if ended.returncode != CRASHED:
                break
            lost += 10
        assert lost
        ended = command("run", job)
        assert ended.returncode == 4, ended.stderr
        spent = float(served.stats()["cost_usd"])
        assert spent <= BUDGET_USD
        assert spent > BUDGET_USD - (lost + 2) * whole_usd / ROWS * 2
        summary = summary_of(tmp_path / "out")
        assert summary["cost_usd"] <= spent <= summary["cost_usd"] + summary["held_usd"]
        assert summary["lost_attempts"] == lost
        assert f"; at most {lost} more were in flight when a process was killed" in ended.stdout
        assert f"; the budget holds {summary['held_usd']:.6f} USD more for attempts of unknown cost" in ended.stdout
        check_raised(job, served, whole_usd, lost=lost)
        assert summary_of(tmp_path / "out")["lost_attempts"] == lost


@pytest.mark.parametrize("processes", [1, 2])
def test_r13_killed_again_and_again_before_its_first_answer_a_run_spends_no_more_than_its_budget(
    tmp_path: Path, processes: int
) -> None:
    """What nobody saw the cost of counts as the output that it may have had: a supervisor's loop comes to an end."""
    step = ("batchrun.ledger.store:Store.commit", "before", 1)
    runs = 0
    with endpoint("latency_ms=10") as served:
        job = budget_job(
            tmp_path,
            served.base_url,
            price=PRICE,
            request={"max_tokens": 64},
            limits={"concurrency": 10},
            output={"rows_per_part": 20},
        )
        while (ended := command("run", job, "--processes", str(processes), step=step)).returncode == CRASHED:
            assert served.stats()["requests"]
            runs += 1
            assert runs < 20
        assert ended.returncode == 4, ended.stderr
        assert runs > 1
        assert float(served.stats()["cost_usd"]) <= BUDGET_USD
    if processes == 1:
        assert summary_of(tmp_path / "out")["held_usd"] == pytest.approx(runs * 10 * 64 * PRICE["output"] / 1e6)


def test_without_a_budget_lost_attempts_are_counted_and_nothing_is_held_for_them(tmp_path: Path) -> None:
    """A run that was only stopped loses none; a complete output tells the same each time it is asked."""
    with endpoint("latency_ms=10") as served:
        write_rows(tmp_path, prompts(60))
        job = job_file(tmp_path, endpoint={"base_url": served.base_url}, limits={"concurrency": 10})
        assert command("run", job, step=("batchrun.ledger.store:Store.commit", "after", 2)).returncode == CRASHED
        ended = command("run", job, "--json")
        assert ended.returncode == 0, ended.stderr
        summary = json.loads(ended.stdout)
        assert (summary["lost_attempts"], summary["held_usd"]) == (10, None)
        assert command("run", job, "--json").stdout == ended.stdout
        again = ran(job, fresh=True)
        assert (again.lost_attempts, again.held_usd, again.maybe_billed) == (0, None, 0)


def test_r13_a_run_that_waits_for_its_budget_drains_on_a_signal(tmp_path: Path) -> None:
    """The rest covers two attempts at a time, so all other rows wait; SIGTERM sends them away, grace time or not."""
    with endpoint("latency_ms=30") as served:
        job = budget_job(tmp_path, served.base_url, price=PRICE, limits={"max_cost_usd": 0.000025})
        step = ("batchrun.spending:Spending.settle", "sigterm", 1)
        ended = command("run", job, "--grace", "600", step=step)
        assert ended.returncode == 143, ended.stderr
        assert summary_of(tmp_path / "out")["by_status"] == {"ok": served.stats()["requests"]}


def test_r13_fresh_starts_at_nothing(tmp_path: Path) -> None:
    with endpoint() as served:
        job = budget_job(tmp_path, served.base_url, price=PRICE)
        assert ran(job).exit_status == 4
        spent = float(served.stats()["cost_usd"])
        assert ran(job, fresh=True).exit_status == 4
        assert spent < float(served.stats()["cost_usd"]) <= 2 * BUDGET_USD


def scripted(replies: list[bytes | None]) -> Script:
    """Answer with each in turn, the last for ever; None closes the connection without an answer."""
    turns = itertools.chain(replies, itertools.repeat(replies[-1]))

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            reply = next(turns)
            if reply is None:
                return
            await peer.send(reply)

    return script


def answered(cost: float | None) -> bytes:
    usage = {} if cost is None else {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "estimated_cost": cost}}
    choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
    return whole(json.dumps({"id": "1", "model": "test-model", "choices": [choice], **usage}).encode())


BOUND_USD = (len('[{"role":"user","content":"say 0"}]') + 16) * 0.12e-6 + 16 * 0.30e-6
"""What the first ten rows can cost each."""


def test_r13_replies_of_unknown_cost_keep_what_was_reserved_for_them(tmp_path: Path) -> None:
    """Three are covered, over two runs too; they are told of, and the cost stays unknown."""
    with raw_server_beside(scripted([answered(None)])) as server:
        limit = f"limits.max_cost_usd={BOUND_USD * 3.5}"
        job, told = budget_job(tmp_path, server.base_url, 10, price=PRICE), Told()
        summary = ran(job, limit, told=told)
        assert (summary.exit_status, summary.unpriced_rows, summary.cost_usd) == (4, 3, None)
        assert f"{usd_text(round(BOUND_USD * 3e9))} of them for attempts whose cost is not known" in summary.reason
        assert told.events.count("a reply's cost is not known; the budget counts what it may have been") == 1
        assert ran(job, limit).exit_status == 4
        assert len(server.requests) == 3


def test_r13_without_a_price_replies_of_unknown_cost_count_at_the_dearest(tmp_path: Path) -> None:
    with raw_server_beside(scripted([answered(0.3), answered(None)])) as server:
        job = budget_job(tmp_path, server.base_url, 10, limits={"concurrency": 1, "max_cost_usd": 1.0})
        summary = ran(job)
        assert (summary.exit_status, summary.unpriced_rows, summary.cost_usd) == (4, 2, 0.3)
        assert summary.held_usd == pytest.approx(0.6)
        assert ran(job).exit_status == 4
        assert len(server.requests) == 3
        assert ran(job, "limits.max_cost_usd=1.3").exit_status == 4
        assert len(server.requests) == 4


def test_r14_attempts_that_were_sent_and_cut_stay_spent(tmp_path: Path) -> None:
    with raw_server_beside(scripted([None])) as server:
        job = budget_job(tmp_path, server.base_url, 10, price=PRICE)
        summary = ran(job, f"limits.max_cost_usd={BOUND_USD * 2.5}")
        assert summary.exit_status == 4
        assert (summary.maybe_billed, summary.cost_usd) == (2, None)
        assert summary.held_usd == pytest.approx(2 * BOUND_USD)
        assert len(server.requests) == 2


def test_r13_refused_attempts_give_their_reservation_back(tmp_path: Path) -> None:
    """429 and 400 cost nothing: the rest of the budget, which covers one attempt, does for all rows."""
    busy = whole(b'{"error":{"message":"busy"}}', status="429 Too Many Requests", headers="Retry-After: 0\r\n")
    bad = whole(b'{"error":{"message":"bad"}}', status="400 Bad Request")
    with raw_server_beside(scripted([busy, bad, bad, answered(0.0)])) as server:
        job = budget_job(tmp_path, server.base_url, 10, price=PRICE)
        summary = ran(job, f"limits.max_cost_usd={BOUND_USD * 1.5}")
        assert (summary.exit_status, summary.by_status) == (1, {"ok": 8, "failed": 2})
        assert len(server.requests) == 11


def test_r13_a_server_that_is_dearer_than_the_price_counts_as_it_is(tmp_path: Path) -> None:
    with raw_server_beside(scripted([answered(BOUND_USD * 2)])) as server:
        job, told = budget_job(tmp_path, server.base_url, 10, price=PRICE, limits={"concurrency": 1}), Told()
        summary = ran(job, f"limits.max_cost_usd={BOUND_USD * 5.5}", told=told)
        assert summary.exit_status == 4
        assert len(server.requests) == 3
        assert told.events.count("an attempt cost more than its upper bound") == 1


def test_r13_a_ledger_of_the_version_before_is_taken_over(tmp_path: Path) -> None:
    """What it counted is spent; an attempt that may have been billed counts at the dearest from then on."""
    with raw_server_beside(scripted([answered(0.3), None, answered(0.3)])) as server:
        job = budget_job(tmp_path, server.base_url, 10, limits={"concurrency": 1, "max_cost_usd": 0.5})
        assert ran(job).exit_status == 4
        assert len(server.requests) == 1
        assert ran(job, "limits.max_cost_usd=0.7").exit_status == 4
        assert len(server.requests) == 2
        ledger = sqlite3.connect(tmp_path / "out" / "_batchrun" / "ledger.sqlite")
        for name in ("held_nanousd", "uncosted", "dearest_nanousd"):
            ledger.execute(f"ALTER TABLE totals DROP COLUMN {name}")
        ledger.execute("DROP TABLE spent")
        ledger.execute("DROP TABLE grouped")
        ledger.execute("PRAGMA user_version = 1")
        ledger.commit()
        ledger.close()
        summary = ran(job, "limits.max_cost_usd=1.0")
        assert (summary.exit_status, summary.cost_usd) == (4, 0.6)
        assert "0.3 of them for attempts whose cost is not known" in summary.reason
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"request": {}, "price": PRICE}, "request.max_tokens: it bounds no output"),
        ({"request": {"max_tokens": 8, "n": "2"}, "price": PRICE}, "request.max_tokens: it bounds no output"),
        (
            {"request": {}, "price": PRICE, "prompt": {"user": "{{ prompt }}", "params": "id"}},
            "neither does any of the first 100 rows",
        ),
        ({"limits": {"require_priced": True}}, "limits.require_priced: no price is known"),
        ({"limits": {"require_priced": True}, "price": {"auto": True}}, "limits.require_priced: no price is known"),
        ({"limits": {"max_cost_usd": 0.0}}, "limits.max_cost_usd: expected `float` >= 1e-09"),
    ],
)
def test_r13_a_budget_that_can_not_be_kept_is_refused(tmp_path: Path, tables: Any, message: str) -> None:
    write_rows(tmp_path, [{"prompt": "say", "id": {"top_p": 1}}])
    limits = {"max_cost_usd": 1.0, **tables.get("limits", {})}
    job = job_file(tmp_path, **{**tables, "limits": limits})
    with pytest.raises(batchrun.JobError, match=message):
        batchrun.run(batchrun.load_job(job))
    assert not (tmp_path / "out").exists()


def test_r13_a_row_without_a_bound_fails_and_the_others_are_sent(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"prompt": "a", "p": {"max_tokens": 4}}, {"prompt": "b", "p": {"max_tokens": None}}])
    with raw_server_beside(scripted([answered(0.0)])) as server:
        prompt = {"user": "{{ prompt }}", "params": "p"}
        limits = {"max_cost_usd": 1.0, "require_priced": True}
        job = job_file(tmp_path, endpoint={"base_url": server.base_url}, prompt=prompt, price=PRICE, limits=limits)
        assert ran(job).exit_status == 1
        assert len(server.requests) == 1
    _, row = table_of(tmp_path / "out").to_pylist()
    assert (row["status"], row["error_class"], row["attempts"]) == ("failed", "input", 0)
    assert "max_tokens" in row["error_message"]
